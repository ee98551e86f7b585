#!/usr/bin/env python3
"""Asks a Prometheus whether it scrapes BROKERS brokers and knows every metric of the dashboard.

dashboard.py URL BROKERS
"""

import json
import pathlib
import re
import sys
import urllib.parse
import urllib.request

DASHBOARD = pathlib.Path(__file__).parents[2] / "docker/grafana/dashboards/esker.json"


def ask(url, path, **query):
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as reply:
        return json.load(reply)["data"]


def main():
    url, brokers = sys.argv[1], int(sys.argv[2])
    scraped = ask(url, "query", query='sum(up{job="esker"})')["result"]
    if not scraped or int(scraped[0]["value"][1]) != brokers:
        sys.exit(f"not every broker is scraped yet: {scraped}")
    known = set(ask(url, "label/__name__/values"))
    expressions = [
        target["expr"].replace("$__rate_interval", "30s")
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel["targets"]
    ]
    missing = set()
    for expression in expressions:
        ask(url, "query", query=expression)  # a query that cannot be parsed is an HTTP error
        missing |= set(re.findall(r"\b(?:esker_\w+|process_\w+|up)\b", re.sub(r"\"[^\"]*\"", "", expression))) - known
    if missing:
        sys.exit(f"the dashboard names metrics that no broker has: {sorted(missing)}")
    print(f"{len(expressions)} queries, {len(known)} metrics")


if __name__ == "__main__":
    main()
