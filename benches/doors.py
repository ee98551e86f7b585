#!/usr/bin/env python3
"""The gRPC door of a broker against its Kafka door, by `esker bench`: the same batches with as many under way through both.

Each lap starts a broker on fresh data, and the doors take turns on it, another one first in each lap; what is told is the median
over the laps of the ratio within a lap, because the machine is not equally fast all the time. Then: how much memory a broker takes
while readers of the gRPC door do not read on and megabytes are written. Rewrites its own sections of docs/benchmarks.md.

    benches/doors.py [--laps N] [--records N] [--readers N] [--only doors,memory] [--out FILE]

ESKER_BIN names the binary (default target/release/esker).
"""

import argparse
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/clients"))
sys.path.insert(0, str(ROOT / "benches/kafka"))
from bench import build, cpu_seconds, machine  # noqa: E402
from broker import Broker  # noqa: E402

HEADING = "## The gRPC door against the Kafka door"
AIM = 0.8
# Name, door, further flags.
WAYS = [("Kafka", "kafka", []), ("gRPC, batches", "grpc", []), ("gRPC, records", "grpc", ["--send", "records"])]
# Name, bytes of a record, bytes of a batch, acks, factor on the number of records.
LOADS = [("1 KiB records, batches of 128 KiB, acks=all", 1024, 131072, "all", 1.0),
         ("1 KiB records, batches of 16 KiB, acks=all", 1024, 16384, "all", 0.5),
         ("100 B records, batches of 16 KiB, acks=1", 100, 16384, "leader", 2.0)]
STOPPED_HEADING = "## gRPC readers that do not read on"
# Until the allocator has given back what is free, in seconds.
SETTLE_S = 15
# Records of the topic that readers stop in, when they begin.
HELD_RECORDS = 20_000
# Opens streams that are not limited by credit, each elsewhere, takes one answer of each, and then nothing more.
STOPPED = """
import sys, time, grpc
from esker.v1 import consumer_pb2 as c, consumer_pb2_grpc
address, topic, count, records = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
held = []
for at in range(count):
    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)])
    def open_(at=at):
        offset = at * (records // 6) // (count + 1)
        yield c.FetchRequest(open=c.FetchOpen(partitions=[c.FetchFrom(topic=topic, partition=p, offset=offset) for p in range(6)]))
        time.sleep(3600)
    answers = consumer_pb2_grpc.ConsumerStub(channel).Fetch(open_())
    next(answers)
    held.append((channel, answers))
print("held", flush=True)
sys.stdin.read()
"""


def say(words):
    print(words, file=sys.stderr, flush=True)


def children_seconds():
    """CPU of the processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def produce(broker, topic, door, records, record_bytes, batch_bytes, acks, flags):
    address = broker.bootstrap if door == "kafka" else f"127.0.0.1:{broker.state['grpc']}"
    command = [os.environ["ESKER_BIN"], "bench", "produce", "--door", door, "-b", address, "--topic", topic, "--records", str(records),
               "--record-bytes", str(record_bytes), "--batch-bytes", str(batch_bytes), "--acks", acks, "--json", *flags]
    cpu, own = cpu_seconds(broker.state["pid"]), children_seconds()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    told = json.loads(done.stdout)
    written_gb = told["mb_per_s"] * told["seconds"] / 1e3
    told["cpu_s_per_gb"] = (cpu_seconds(broker.state["pid"]) - cpu) / written_gb
    told["load_cpu_s_per_gb"] = (children_seconds() - own) / written_gb
    return told


def doors(args):
    laps = {load[0]: [] for load in LOADS}
    for lap in range(args.laps):
        with tempfile.TemporaryDirectory(prefix="esker-doors-") as folder:
            broker = Broker(folder)
            broker.start("file")
            try:
                for name, record_bytes, batch_bytes, acks, factor in LOADS:
                    found = {}
                    records = int(args.records * factor)
                    produce(broker, "warm", "kafka", records // 5, record_bytes, batch_bytes, acks, [])
                    for at in range(len(WAYS)):
                        way, door, flags = WAYS[(at + lap) % len(WAYS)]
                        topic = re.sub(r"\W+", "-", f"{way}-{record_bytes}-{batch_bytes}")
                        found[way] = produce(broker, topic, door, records, record_bytes, batch_bytes, acks, flags)
                        say(f"lap {lap + 1}: {name}: {way}: {found[way]['mb_per_s']:.0f} MB/s")
                    laps[name].append(found)
            finally:
                broker.stop()
    return laps


def resident_mb(pid):
    return int(re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024


def memory(readers, records):
    """Resident memory of a broker while so many readers hold on and so many records are written, in MB: the most, and what stays."""
    with tempfile.TemporaryDirectory(prefix="esker-doors-") as folder:
        broker = Broker(folder)
        broker.start("file")
        held = None
        try:
            address, pid = f"127.0.0.1:{broker.state['grpc']}", broker.state["pid"]
            produce(broker, "held", "grpc", HELD_RECORDS, 1024, 131072, "all", [])
            if readers:
                held = subprocess.Popen([ROOT / "tests/clients/grpc/run.sh", "exec", "-c", STOPPED, address, "held", str(readers),
                                         str(HELD_RECORDS)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                assert held.stdout.readline().strip() == b"held"
            peak, over = resident_mb(pid), threading.Event()

            def watch():
                nonlocal peak
                while not over.wait(0.05):
                    peak = max(peak, resident_mb(pid))
            watcher = threading.Thread(target=watch)
            watcher.start()
            produce(broker, "held", "grpc", records, 1024, 131072, "all", [])
            # What was freed goes back to the system meanwhile.
            time.sleep(SETTLE_S)
            over.set()
            watcher.join()
            return peak, resident_mb(pid)
        finally:
            if held is not None:
                held.kill()
                held.wait()
            broker.stop()


def section(args, laps):
    lines = [HEADING, "",
             "`make bench-doors`: one broker on a local directory, `esker bench produce` with 6 writers, 6 partitions, 5 batches of each under way.",
             "The batches are the same; *records* are sent as messages of their own, of which the broker makes batches. Medians of",
             f"{args.laps} laps; the ratio is the median of the ratios within a lap.", "",
             f"- Machine: {machine()}; broker and load share it. Load average at the end: {os.getloadavg()[0]:.1f}.",
             f"- Date: {time.strftime('%Y-%m-%d')}. {build()[0].upper() + build()[1:]}.", ""]
    for name, found in laps.items():
        lines += [f"**{name}**", "", "| | MB/s | records/s | p50 ms | p99 ms | broker CPU s/GB | load CPU s/GB | of Kafka's throughput |",
                  "|---|---:|---:|---:|---:|---:|---:|---:|"]
        for way, _, _ in WAYS:
            middle = lambda pick: statistics.median(pick(lap[way]) for lap in found)  # noqa: E731, B023
            ratio = statistics.median(lap[way]["mb_per_s"] / lap["Kafka"]["mb_per_s"] for lap in found)
            lines.append(f"| {way} | {middle(lambda r: r['mb_per_s']):.0f} | {middle(lambda r: r['records_per_s']):,.0f} | "
                         f"{middle(lambda r: r['latency_ms']['p50']):.1f} | {middle(lambda r: r['latency_ms']['p99']):.1f} | "
                         f"{middle(lambda r: r['cpu_s_per_gb']):.2f} | {middle(lambda r: r['load_cpu_s_per_gb']):.2f} | {ratio:.2f} × |")
        lines.append("")
    return "\n".join(lines)


def stopped_section(args, found):
    """`found`: records written, then (peak, what stays) in MB without readers and with them."""
    lines = [STOPPED_HEADING, "",
             f"`make bench-doors`: {args.readers} readers without a limit of credit, each elsewhere in the topic, take one answer and then nothing, while",
             "the topic is written to. The most that the broker takes holds segments that are not committed yet, too (`memory.unflushed`), and",
             f"is another one in each run; what stays is its resident memory {SETTLE_S} s after the last write.", "",
             f"- Machine: {machine()}. Date: {time.strftime('%Y-%m-%d')}. {build()[0].upper() + build()[1:]}.", "",
             "| written | most, no readers | most, with them | stays, no readers | stays, with them | stays, for each reader |",
             "|---:|---:|---:|---:|---:|---:|"]
    for records, alone, held in found:
        lines.append(f"| {records * 1024 / 1e6:.0f} MB | {alone[0]:.0f} MB | {held[0]:.0f} MB | {alone[1]:.0f} MB | {held[1]:.0f} MB | "
                     f"{max(0.0, held[1] - alone[1]) / args.readers:.1f} MB |")
    lines += ["",
              "What a stream holds does not depend on what is written or on how long it stands. One answer is with HTTP/2, as it is sent; one waits",
              "for that; one has been read. Each is of 1 MiB of batches (or of one batch that is larger), in memory of its own, so that no page",
              "of the cache and no segment is kept for it. Unpacked records take more: what they were compressed by, and about 150 bytes each.",
              "A reader with credit is sent one message more than its credit at most. There are at most `grpc.max_connections` connections",
              "(`grpc.max_connections_per_ip` of one address) with 1 024 calls each.", ""]
    return "\n".join(lines)


def replace(text, heading, section):
    """The text with another section of that heading: from it to the next one of its kind, or the end."""
    text = re.sub(rf"{re.escape(heading)}\n.*?(?=\n## |\Z)", "", text, flags=re.S).rstrip("\n")
    return f"{text}\n\n{section.rstrip()}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laps", type=int, default=5)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--only", default="doors,memory")
    parser.add_argument("--out", default=str(ROOT / "docs/benchmarks.md"))
    args = parser.parse_args()
    os.environ.setdefault("ESKER_BIN", str(ROOT / "target/release/esker"))
    os.environ["ESKER_BIN"] = os.path.abspath(os.environ["ESKER_BIN"])
    laps = doors(args) if "doors" in args.only else {}
    out = pathlib.Path(args.out)
    text = out.read_text() if out.exists() else "# Benchmarks\n"
    if laps:
        text = replace(text, HEADING, section(args, laps))
    if "memory" in args.only:
        subprocess.run([ROOT / "tests/clients/grpc/run.sh", "install"], check=True)
        found = []
        for records in (args.records, 3 * args.records):
            found.append((records, memory(0, records), memory(args.readers, records)))
            say(f"memory: {found[-1]}")
        text = replace(text, STOPPED_HEADING, stopped_section(args, found))
    out.write_text(text)
    for name, found in laps.items():
        ratio = statistics.median(lap["gRPC, batches"]["mb_per_s"] / lap["Kafka"]["mb_per_s"] for lap in found)
        say(f"{name}: gRPC {ratio:.2f} x of Kafka's throughput" + ("" if ratio >= AIM else f", less than {AIM}"))


if __name__ == "__main__":
    main()
