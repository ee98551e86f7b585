#!/usr/bin/env python3
"""Esker and Apache Kafka under the same programs on the same machine: `make bench`, which writes docs/benchmarks.md.

The programs are Kafka's own ProducerPerformance, ConsumerPerformance and EndToEndLatency, and librdkafka's rdkafka_performance
(Debian's copy of the example, compiled against Debian's library). In each round every broker is started on fresh data, goes
through all workloads and is stopped; the brokers take turns, and who goes first alternates. The table has medians over the rounds.

    benches/kafka/bench.py [--rounds N] [--scale X] [--brokers esker,kafka,kafka-fsync,esker-s3] [--only NAME,…] [--note TEXT] [--out FILE]

ESKER_BIN names the binary (default target/release/esker). Broker CPU is user + system time from /proc/PID/stat, peak memory is
VmHWM from /proc/PID/status, PUTs and GETs are Esker's own counters. Raw figures go to target/bench/results.json.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/clients"))
from broker import CACHE, SUITE_VARIABLES, Broker, kafka_lib, kafka_version  # noqa: E402

PARTITIONS = 6
TICKS = os.sysconf("SC_CLK_TCK")
CLIENT_HEAP = "-Xmx512m"
# What Kafka's own start script gives the JVM (kafka-run-class, kafka-server-start).
KAFKA_JVM = ["-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"]
BROKERS = {
    "esker": "Esker, local directory",
    "esker-s3": "Esker, S3 server on the same machine",
    "kafka": "Apache Kafka, defaults",
    "kafka-fsync": "Apache Kafka, flush.messages=1",
}


def say(words):
    print(words, file=sys.stderr, flush=True)


def run(command, timeout=300):
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\nended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


# -- the programs


def rdkafka_performance():
    """librdkafka's example, compiled once."""
    program = CACHE / "rdkafka_performance"
    if program.exists():
        return program
    example = pathlib.Path("/usr/share/doc/librdkafka-dev/examples/rdkafka_performance.c")
    if not example.exists() and not example.with_suffix(".c.gz").exists():
        subprocess.run(["bash", "-c", f"source {ROOT}/tests/clients/lib.sh && apt_install librdkafka-dev gcc zlib1g-dev"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        shutil.copytree(ROOT / "benches/kafka/rdkafka", folder / "src")
        (folder / "examples").mkdir()
        if example.exists():
            shutil.copy(example, folder / "examples")
        else:
            with open(folder / "examples" / example.name, "wb") as source:
                subprocess.run(["gzip", "-dc", f"{example}.gz"], check=True, stdout=source)
        run(["gcc", "-O2", "-o", str(folder / "program"), str(folder / "examples" / example.name), f"-I{folder}/src",
             "-I/usr/include/librdkafka", "-lrdkafka", "-lz", "-lpthread", "-lrt"])
        shutil.move(folder / "program", program)
    return program


def java(tool, *arguments):
    return ["java", CLIENT_HEAP, "-cp", f"{kafka_lib()}/*", f"org.apache.kafka.tools.{tool}", *map(str, arguments)]


def java_produce(broker, topic, count, size, throughput=-1, warmup=0, **settings):
    """ProducerPerformance; the figures of its last line."""
    properties = [f"{key.replace('_', '.')}={value}" for key, value in {"bootstrap_servers": broker.bootstrap, **settings}.items()]
    out = run(java("ProducerPerformance", "--topic", topic, "--num-records", count, "--record-size", size, "--throughput", throughput,
                   *(["--warmup-records", warmup] if warmup else []), "--command-property", *properties))
    line = [line for line in out.splitlines() if "99.9th" in line][-1]
    numbers = [float(n) for n in re.findall(r"([\d.]+(?:E\d+)?) (?:records/sec|ms)", line)]
    rate, _average, most, p50, _p95, p99, _p999 = numbers
    return {"records/s": rate, "MB/s": rate * size / 1e6, "p50 ms": p50, "p99 ms": p99, "max ms": most}


def java_consume(broker, topic, count, size):
    """ConsumerPerformance; the rate of fetching, without the time that joining a group took."""
    out = run(java("ConsumerPerformance", "--topic", topic, "--num-records", count, "--bootstrap-server", broker.bootstrap,
                   "--timeout", 60000, "--hide-header", "--group", f"g-{topic}-{time.monotonic_ns()}"))
    fields = [line.split(", ") for line in out.splitlines() if line.count(",") >= 9][-1]
    records, seconds = int(fields[4]), int(fields[7]) / 1000
    if records < count:
        raise RuntimeError(f"{records} of {count} records were read")
    return {"records/s": records / seconds, "MB/s": records * size / seconds / 1e6}


def rdkafka_produce(broker, topic, count, size, **settings):
    extra = [word for key, value in settings.items() for word in ("-X", f"{key.replace('_', '.')}={value}")]
    begin = time.monotonic()
    out = run([str(rdkafka_performance()), "-P", "-t", topic, "-b", broker.bootstrap, "-s", str(size), "-c", str(count), *extra])
    seconds = time.monotonic() - begin
    summary = re.findall(r"(\d+) delivered \(offset -?\d+, (\d+) failed\)", out)[-1]
    if summary != (str(count), "0"):
        raise RuntimeError(f"rdkafka_performance delivered {summary[0]} of {count}, {summary[1]} failed")
    return {"records/s": count / seconds, "MB/s": count * size / seconds / 1e6}


def rdkafka_consume(broker, topic, count, size):
    partitions = [word for p in range(PARTITIONS) for word in ("-p", str(p))]
    begin = time.monotonic()
    run([str(rdkafka_performance()), "-C", "-t", topic, "-b", broker.bootstrap, *partitions, "-o", "beginning", "-c", str(count), "-q"])
    seconds = time.monotonic() - begin
    return {"records/s": count / seconds, "MB/s": count * size / seconds / 1e6}


def percentiles(values_us):
    values = sorted(values_us)
    at = lambda share: values[min(len(values) - 1, math.ceil(share * len(values)) - 1)] / 1000  # noqa: E731
    return {"p50 ms": at(0.5), "p99 ms": at(0.99), "max ms": values[-1] / 1000}


def rdkafka_latency(broker, topic, rate, seconds, acks):
    """From produce() to the consumer's callback at a fixed rate, two instances of rdkafka_performance -l."""
    count = rate * seconds
    with tempfile.TemporaryDirectory() as folder:
        record = pathlib.Path(folder) / "latency"
        consumer = subprocess.Popen([str(rdkafka_performance()), "-C", "-l", "-A", str(record), "-t", topic, "-p", "0", "-b", broker.bootstrap,
                                     "-o", "end", "-c", str(count), "-X", "fetch.wait.max.ms=500"], stdout=subprocess.DEVNULL)
        time.sleep(2)  # the consumer has found the end of the log
        run([str(rdkafka_performance()), "-P", "-l", "-t", topic, "-p", "0", "-b", broker.bootstrap, "-s", "1024", "-c", str(count),
             "-r", str(rate), "-a", str(acks), "-X", "linger.ms=0"])
        consumer.wait(60)
        lines = record.read_text().split()
    if len(lines) < count * 0.99:
        raise RuntimeError(f"{len(lines)} latencies of {count} records")
    return {**percentiles([int(line) for line in lines]), "records/s": rate}


def end_to_end(broker, topic, count):
    """EndToEndLatency: one record at a time, there and back, before the next."""
    out = run(java("EndToEndLatency", broker.bootstrap, topic, count, "all", 1024))
    p50, p99 = re.search(r"50th = ([\d.]+), 99th = ([\d.]+)", out).groups()
    return {"p50 ms": float(p50), "p99 ms": float(p99)}


# -- what a broker used


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mb(pid):
    return int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024


def requests(broker):
    """(PUTs, GETs) that the broker has sent to its object store."""
    puts = gets = 0
    for line in broker.metrics().splitlines():
        found = re.match(r'esker_objstore_requests_total\{.*operation="(\w+)".*\} (\d+)', line)
        if found and found.group(1) in ("put", "create"):
            puts += int(found.group(2))
        elif found and found.group(1) == "get":
            gets += int(found.group(2))
    return puts, gets


def forget_pages(folder):
    """Drops the files of a folder from the kernel's page cache."""
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def create_topic(broker, topic, partitions=PARTITIONS):
    """Through Kafka's own tool."""
    config = broker.state.get("topic_config", [])
    run(java("TopicCommand", "--bootstrap-server", broker.bootstrap, "--create", "--topic", topic, "--partitions", partitions,
             *[word for entry in config for word in ("--config", entry)]))


# -- the workloads: name, what it is, bytes that pass, the run


def workloads(scale):
    large, small = int(300_000 * scale), int(1_500_000 * scale)
    throughput = {"batch_size": 131072, "linger_ms": 5, "buffer_memory": 67108864}
    return [
        ("produce-all", f"Java producer, acks=all, {large} × 1 KiB, batch 128 KiB, linger 5 ms, 6 partitions", large * 1024,
         lambda b: java_produce(b, "all", large, 1024, warmup=large // 10, acks="all", **throughput)),
        ("consume-warm", "Java consumer, the same records, just written", large * 1024, lambda b: java_consume(b, "all", large, 1024)),
        ("produce-1", f"Java producer, acks=1, {large} × 1 KiB, batch 128 KiB, linger 5 ms", large * 1024,
         lambda b: java_produce(b, "one", large, 1024, warmup=large // 10, acks="1", enable_idempotence="false", **throughput)),
        ("produce-small", f"Java producer, acks=all, {small} × 100 B, batch 128 KiB, linger 5 ms", small * 100,
         lambda b: java_produce(b, "small", small, 100, warmup=small // 10, acks="all", **throughput)),
        ("rdkafka-produce", f"librdkafka producer, acks=all, {large} × 1 KiB, linger 5 ms", large * 1024,
         lambda b: rdkafka_produce(b, "rd", large, 1024, acks="-1", linger_ms=5, batch_num_messages=10000, batch_size=131072)),
        ("rdkafka-consume", "librdkafka consumer, the same records, just written", large * 1024, lambda b: rdkafka_consume(b, "rd", large, 1024)),
        ("produce-steady", "Java producer, acks=all, 2000 records/s × 1 KiB, linger 0, 15 s", 30_000 * 1024,
         lambda b: java_produce(b, "steady", 30_000, 1024, throughput=2000, acks="all", linger_ms=0)),
        ("latency-steady", "librdkafka, producer to consumer, acks=all, 1000 records/s × 1 KiB, linger 0, 10 s, one partition", 10_000 * 1024,
         lambda b: rdkafka_latency(b, "latency", 1000, 10, -1)),
        ("latency-alone", "Java EndToEndLatency, acks=all, one 1 KiB record at a time, 500 of them", 500 * 1024,
         lambda b: end_to_end(b, "alone", 500)),
        ("consume-cold", "Java consumer after a restart of the broker, its files dropped from the page cache", large * 1024,
         lambda b: java_consume(b, "all", large, 1024)),
    ]


TOPICS = {"warm": PARTITIONS, "all": PARTITIONS, "one": PARTITIONS, "small": PARTITIONS, "rd": PARTITIONS, "steady": PARTITIONS, "latency": 1, "alone": 1}


def start(kind, folder):
    broker = Broker(folder)
    if kind.startswith("esker"):
        os.environ.setdefault("ESKER_BIN", str(ROOT / "target/release/esker"))
        broker.start("s3" if kind == "esker-s3" else "file")
    else:
        broker.start("kafka", heap="1g", jvm=KAFKA_JVM)
        if kind == "kafka-fsync":
            broker.state["topic_config"] = ["flush.messages=1"]
    return broker


def one_round(kind, selected, scale):
    """All workloads on one broker with fresh data."""
    results, peak = {}, 0.0
    with tempfile.TemporaryDirectory(prefix="esker-bench-", dir=os.environ.get("TMPDIR")) as folder:
        broker = start(kind, folder)
        try:
            for topic, partitions in TOPICS.items():
                create_topic(broker, topic, partitions)
            java_produce(broker, "warm", int(100_000 * scale), 1024, acks="all", linger_ms=5, batch_size=131072)  # not measured
            for name, _, size, action in workloads(scale):
                if name not in selected:
                    continue
                if name == "consume-cold":
                    peak = max(peak, peak_mb(broker.state["pid"]))
                    broker.end(signal.SIGTERM)
                    forget_pages(broker.state["data"])
                    broker.up()
                pid = broker.state["pid"]
                cpu, (puts, gets) = cpu_seconds(pid), requests(broker)
                figures = action(broker)
                more_puts, more_gets = requests(broker)
                figures["CPU s/GB"] = (cpu_seconds(pid) - cpu) / (size / 1e9)
                if kind.startswith("esker"):
                    figures["PUTs/GB"] = (more_puts - puts) / (size / 1e9)
                    figures["GETs/GB"] = (more_gets - gets) / (size / 1e9)
                results[name] = figures
                say(f"  {kind:12} {name:16} " + "  ".join(f"{k} {v:.4g}" for k, v in figures.items()))
            peak = max(peak, peak_mb(broker.state["pid"]))
            results["whole"] = {"peak RSS MB": peak, "start s": broker.state["start_seconds"]}
            server = broker.server()
        finally:
            broker.stop()
    return results, server


# -- the report


def machine():
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1)) / 1024 / 1024
    return f"{cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release().split('-')[0]}"


def build():
    """How the measured Esker was compiled, from the folder that cargo put it in."""
    folder = pathlib.Path(os.environ.get("ESKER_BIN", "target/release/esker")).resolve().parent.name
    return {"debug": "development build, **not optimised**: its figures say nothing about a release", "quick": "profile quick (opt-level 2, no LTO)",
            "release": "release build"}.get(folder, f"a binary from {folder}/")


def number(value):
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


COLUMNS = ["MB/s", "records/s", "p50 ms", "p99 ms", "max ms", "CPU s/GB", "PUTs/GB", "GETs/GB"]


def described(kind, server):
    """The server without the folder of the run."""
    return f"{server.split(' on file')[0]}, {build()}" if kind.startswith("esker") else server


# What profiles of the measured version say (perf on the broker, release build, ext4); change it with what it describes.
FINDINGS = """\
Where the rest goes, from profiles of the broker (perf, 2026-11-22, `flush.linger` still 5 ms):

- Producing with acks=all, 70 % of the CPU is spent in the kernel: about a fifth creates the segments' files, another sixth to
  fifth syncs file and directory, a tenth copies into the page cache. On a local directory each cut is a file with two syncs; Kafka's
  defaults sync nothing. So CPU per GB falls with the size of segments: a longer `flush.linger` buys CPU with latency. (ext4
  creates files slowly for some minutes after many were deleted nearby, which a run after another one meets.)
- Esker's own code (decoding, checksums, bookkeeping, waking tasks) is a fifth of it, a quarter with small records.
- A consumer that is behind costs what its pages cost: segments hold all partitions, so partitions that are read at different
  speeds read the same pages again once they left `cache.memory`. Kafka hands its files to the socket inside the kernel (sendfile).
- What a record waits for at acks=all is `flush.linger` and the syncs, 12 to 15 ms here; Kafka's defaults answer from the page cache
  in 1 to 5 ms.
- Memory is what the settings give: `memory.tail` and `cache.memory`, requests and replies under way, the open segments. Halving
  and quartering them (8 MiB, 16 MiB, `memory.unflushed` 32 MiB) brought the peak under 100 MB and doubled the CPU of a librdkafka
  consumer that is behind.
"""


def aims(median, selected):
    """The three aims, against Kafka with its defaults."""
    writers = [name for name in ("produce-all", "produce-small", "rdkafka-produce") if name in selected]
    ratio = lambda name, column: median("esker", name, column) / median("kafka", name, column)  # noqa: E731
    speed = {name: ratio(name, "MB/s") for name in writers}
    cost = {name: ratio(name, "CPU s/GB") for name in writers}
    memory = ratio("whole", "peak RSS MB")
    told = lambda values: ", ".join(f"{name} {value:.2f} ×" for name, value in values.items())  # noqa: E731
    verdict = lambda reached: "reached" if all(reached) else "reached in part" if any(reached) else "not reached"  # noqa: E731
    return ["## What was aimed at, and what was reached", "",
            "| aim, at acks=all against Kafka's defaults | measured | |", "|---|---|---|",
            f"| at least its throughput | {told(speed)} | {verdict([v >= 1 for v in speed.values()])} |",
            f"| a quarter of its CPU seconds per GB | {told(cost)} | {verdict([v <= 0.25 for v in cost.values()])} |",
            f"| a tenth of its memory | peak of the whole round {memory:.2f} × | {verdict([memory <= 0.1])} |", "", FINDINGS]


def report(rounds, servers, kinds, selected, scale, command, loads, note=""):
    """Markdown: one table per workload, medians over the rounds, and the ratio of the first broker to each other one."""
    median = lambda kind, name, column: statistics.median(values) if (  # noqa: E731
        values := [r[name][column] for r in rounds[kind] if column in r.get(name, {})]) else None
    lines = [
        "# Benchmarks", "",
        "Esker and Apache Kafka on the same machine under the same programs: Kafka's own `ProducerPerformance`, `ConsumerPerformance` and",
        "`EndToEndLatency`, and librdkafka's `rdkafka_performance`. Written by `make bench`; do not edit by hand.", "",
        "```", command, "```", "",
        f"- Machine: {machine()}; broker and load generators share it.",
        f"- Date: {time.strftime('%Y-%m-%d')}. Rounds: {len(loads)}, brokers in turn; medians below. Each round begins with 100 MB that are not",
        "  measured, so that both brokers are warm.",
        f"- Load average of the machine before each round: {', '.join(f'{x:.1f}' for x in loads)}. Without the benchmark it should be near 0;",
        "  where it is not, something else was running and the figures are rough.",
        *[f"- {BROKERS[kind]}: {described(kind, servers[kind])}." for kind in kinds],
        *([f"- {note}"] if note else []),
        "- Kafka runs with its defaults: it acknowledges from the page cache and never calls fsync on that path. Esker's `acks=all` is fsynced",
        "  before it is acknowledged" + (" (`kafka-fsync` is Kafka made to do the same)." if "kafka-fsync" in kinds else "."),
        "- CPU is the broker's own (user + system) per GB of record bytes that passed. PUTs and GETs are requests to the object store,",
        "  local or not, per GB.", "",
        *(aims(median, selected) if {"esker", "kafka"} <= set(kinds) else []),
        "## The whole round", "",
        "| | " + " | ".join(BROKERS[k] for k in kinds) + " |", "|---|" + "---:|" * len(kinds),
        *[f"| {column} | " + " | ".join(number(median(k, "whole", column)) for k in kinds) + " |" for column in ("peak RSS MB", "start s")], "",
    ]
    for name, what, _, _ in workloads(scale):
        if name not in selected:
            continue
        columns = [c for c in COLUMNS if any(median(k, name, c) is not None for k in kinds)]
        lines += [f"## {name}", "", what + ".", "", "| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
        for kind in kinds:
            lines.append(f"| {BROKERS[kind]} | " + " | ".join(number(median(kind, name, c)) for c in columns) + " |")
        for kind in kinds[1:]:
            ratios = [(median(kinds[0], name, c), median(kind, name, c)) for c in columns]
            lines.append(f"| *{BROKERS[kinds[0]]} / {BROKERS[kind]}* | "
                         + " | ".join(f"{a / b:.2f} ×" if a is not None and b else "–" for a, b in ratios) + " |")
        lines.append("")
    return "\n".join(lines)


def settings():
    """What the environment sets for Esker."""
    return {key: value for key, value in sorted(os.environ.items())
            if (key.startswith("ESKER_") and key not in SUITE_VARIABLES) or key == "_RJEM_MALLOC_CONF"}


def write(args, rounds, servers, kinds, selected, loads, default):
    raw = ROOT / "target/bench/results.json"
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_text(json.dumps({"machine": machine(), "servers": servers, "rounds": rounds}, indent=1))
    arguments = [f"--{key} {value}" for key, value in
                 (("rounds", len(loads)), ("scale", args.scale), ("brokers", args.brokers)) if str(value) != str(default(key))]
    command = "".join(f"{key}={value} " for key, value in settings().items())
    command += "make bench" + (f" ARGS='{' '.join(arguments)}'" if arguments else "")
    text = report(rounds, servers, kinds, selected, args.scale, command, loads, args.note)
    pathlib.Path(args.out).write_text(text + "\n" if not text.endswith("\n") else text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of records (default 1: about 300 MB per workload)")
    parser.add_argument("--brokers", default="esker,kafka", help=f"of {', '.join(BROKERS)}")
    parser.add_argument("--only", default="", help="names of workloads")
    parser.add_argument("--note", default="", help="a sentence for the report, about this run")
    parser.add_argument("--out", default=str(ROOT / "docs/benchmarks.md"))
    args = parser.parse_args()
    kinds = args.brokers.split(",")
    if unknown := set(kinds) - set(BROKERS):
        parser.error(f"no broker {', '.join(unknown)}; there are {', '.join(BROKERS)}")
    names = [name for name, *_ in workloads(args.scale)]
    selected = args.only.split(",") if args.only else names
    if unknown := set(selected) - set(names):
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(names)}")
    kafka_lib()
    rdkafka_performance()
    rounds, servers = {kind: [] for kind in kinds}, {}
    loads = []
    for lap in range(args.rounds):
        loads.append(os.getloadavg()[0])
        for kind in kinds if lap % 2 == 0 else reversed(kinds):
            say(f"round {lap + 1} of {args.rounds}: {BROKERS[kind]}")
            results, servers[kind] = one_round(kind, selected, args.scale)
            rounds[kind].append(results)
        # After each round, so that a run that is ended early has something to show.
        write(args, rounds, servers, kinds, selected, loads, parser.get_default)
    say(f"written: {args.out} (Kafka tools {kafka_version()})")


if __name__ == "__main__":
    main()
