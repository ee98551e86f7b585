"""Topics for suites whose client cannot make them: topic.py create NAME [--partitions N] [--config K=V …] | delete NAME"""

import argparse
import os
import time

from confluent_kafka.admin import AdminClient, NewTopic

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("action", choices=["create", "delete"])
parser.add_argument("name")
parser.add_argument("--partitions", type=int, default=1)
parser.add_argument("--config", action="append", default=[])
args = parser.parse_args()
admin = AdminClient({"bootstrap.servers": os.environ["ESKER_BOOTSTRAP"]})
if args.action == "delete":
    admin.delete_topics([args.name])[args.name].result(30)
else:
    config = dict(entry.split("=", 1) for entry in args.config)
    admin.create_topics([NewTopic(args.name, args.partitions, 1, config=config)])[args.name].result(30)
    end = time.monotonic() + 30
    while len(admin.list_topics(args.name, timeout=10).topics[args.name].partitions) != args.partitions:
        if time.monotonic() > end:
            raise SystemExit(f"topic {args.name} is not in the metadata after 30 s")
        time.sleep(0.05)
