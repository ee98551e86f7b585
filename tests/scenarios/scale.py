#!/usr/bin/env python3
"""A thousand topics, and a hundred consumers of one partition.

1. 100 consumers tail one partition while 16 MB are written to it; then the broker is killed with -9 and restarted, and 100
   consumers read them from the beginning. Checked on /metrics, each time: what they cost in bytes read from the object store is
   at most the data once, not a hundred times; and the second time it is the data once, not less.
2. 1 000 topics of 10 partitions are created, listed and written (one record a topic), the broker is killed with -9 and
   restarted; every record is still there. Printed and checked: seconds from restart to /readyz (limit 5), CPU while idle
   (limit 2 % of a core) and resident memory (limit 300 MB). The limits hold for every build, a debug build too.

    tests/scenarios/scale.py        ESKER_LANE=file|s3 (default file), ESKER_BIN

Run by the Python of the client suites (it needs confluent-kafka). Exits non-zero when a limit is broken.
"""

import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/clients"))
from broker import CACHE, Broker  # noqa: E402

try:
    from confluent_kafka import Consumer, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient, NewTopic
except ImportError:
    python = CACHE / "venv/bin/python"
    if not python.exists():
        sys.exit("first: tests/clients/python/run.sh install")
    os.execv(python, [python, "-B", *sys.argv])

TOPICS = 1000
PARTITIONS = 10
CONSUMERS = 100
FANOUT_BYTES = 16 << 20
RECORD_BYTES = 16 << 10
READ_TIMEOUT_S = 120
QUIET = {"log_level": 0}


def say(words):
    print(words, flush=True)


def metric(text, name):
    """Sum of a metric over its labels."""
    rows = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(name)]
    return sum(float(value) for key, value in rows if key == name or key.startswith(name + "{"))


def seconds_of_cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def ready(broker):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{broker.state['http']}/readyz", timeout=1) as reply:
            return reply.status == 200
    except OSError:
        return False


class Limits:
    """What was measured against what it may be; all is measured before anything fails."""

    def __init__(self):
        self.broken = []

    def check(self, what, value, limit, unit, least=0):
        good = least <= value <= limit
        bounds = f"{least:g} to {limit:g}" if least else f"at most {limit:g}"
        say(f"  {what}: {value:.2f} {unit} ({bounds}) {'ok' if good else 'BROKEN'}")
        if not good:
            self.broken.append(what)


def restart_to_ready(broker):
    """kill -9, then the seconds from the start of the new process to /readyz."""
    broker.end(signal.SIGKILL)
    begin = time.monotonic()
    starting = threading.Thread(target=broker.up)
    starting.start()
    while not ready(broker):
        assert time.monotonic() - begin < 60, "not ready within 60 s"
        time.sleep(0.01)
    took = time.monotonic() - begin
    starting.join()
    return took


def many_topics(broker, limits):
    bootstrap = f"127.0.0.1:{broker.state['port']}"
    admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})
    names = [f"scale-{n:04}" for n in range(TOPICS)]
    begin = time.monotonic()
    for at in range(0, TOPICS, 100):
        created = admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names[at:at + 100]], request_timeout=60)
        for future in created.values():
            future.result()
    say(f"  created {TOPICS} topics x {PARTITIONS} partitions in {time.monotonic() - begin:.1f} s")
    listed = admin.list_topics(timeout=60).topics
    missing = [name for name in names if name not in listed or len(listed[name].partitions) != PARTITIONS]
    assert not missing, f"not listed as created: {missing[:5]}"
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, **QUIET})
    for name in names:
        producer.produce(name, key=b"k", value=name.encode(), partition=len(name) % PARTITIONS)
    assert producer.flush(120) == 0, "not everything was acknowledged"

    limits.check("kill -9 and restart to ready", restart_to_ready(broker), 5, "s")

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "scale", "enable.auto.commit": False, **QUIET})
    consumer.assign([TopicPartition(name, len(name) % PARTITIONS, 0) for name in names])
    seen = set()
    while len(seen) < TOPICS:
        message = consumer.poll(30)
        assert message is not None, f"only {len(seen)} of {TOPICS} records came back"
        assert not message.error(), message.error()
        assert message.value() == message.topic().encode()
        seen.add(message.topic())
    consumer.close()

    pid = broker.state["pid"]
    time.sleep(5)  # let what the restart started come to rest; the measurement follows
    before, begin = seconds_of_cpu(pid), time.monotonic()
    time.sleep(20)
    limits.check("CPU while idle", 100 * (seconds_of_cpu(pid) - before) / (time.monotonic() - begin), 2, "% of a core")
    limits.check("resident memory", resident_mb(pid), 300, "MB")


def fan_out(broker, limits):
    bootstrap = f"127.0.0.1:{broker.state['port']}"
    admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})
    admin.create_topics([NewTopic("fanout", 1, 1)])["fanout"].result()
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "compression.type": "none", **QUIET})
    payload = os.urandom(RECORD_BYTES)

    def write():
        for _ in range(FANOUT_BYTES // RECORD_BYTES):
            while True:
                try:
                    producer.produce("fanout", payload)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        assert producer.flush(120) == 0

    reads = read_by_all(broker, "tailing", write)
    limits.check("reads of the store, times the data", reads / FANOUT_BYTES, 1.1, "x")
    say(f"  kill -9 and restart: ready in {restart_to_ready(broker):.2f} s")
    reads = read_by_all(broker, "from the beginning", lambda: None)
    limits.check("reads of the store, times the data", reads / FANOUT_BYTES, 1.1, "x", least=1)


def read_by_all(broker, how, write):
    """Lets all consumers read the partition from offset 0 while `write` runs; bytes that this read from the object store."""
    bootstrap = f"127.0.0.1:{broker.state['port']}"
    records = FANOUT_BYTES // RECORD_BYTES
    counts = [0] * CONSUMERS
    started = threading.Barrier(CONSUMERS + 1)

    def tail(n):
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"fanout-{n}", "queued.max.messages.kbytes": 4096, **QUIET})
        started.wait()
        consumer.assign([TopicPartition("fanout", 0, 0)])
        end = time.monotonic() + READ_TIMEOUT_S
        while counts[n] < records and time.monotonic() < end:
            # Returns with 500, or with what there is when the time is over.
            counts[n] += sum(1 for message in consumer.consume(500, 0.2) if not message.error())
        consumer.close()

    threads = [threading.Thread(target=tail, args=(n,)) for n in range(CONSUMERS)]
    for thread in threads:
        thread.start()
    before = broker.metrics()
    started.wait()
    begin = time.monotonic()
    write()
    for thread in threads:
        thread.join()
    assert all(count == records for count in counts), f"of {records} records the consumers got {counts}"
    after = broker.metrics()
    say(f"  {CONSUMERS} consumers, {how}: {records} records of {RECORD_BYTES} bytes each in {time.monotonic() - begin:.1f} s")
    delta = {name: metric(after, name) - metric(before, name) for name in (
        "esker_fetch_memory_bytes_total", "esker_fetch_stored_bytes_total",
        "esker_cache_get_bytes_total", "esker_cache_direct_bytes_total")}
    for name, value in delta.items():
        say(f"    {name}: {value / 1e6:.1f} MB")
    return delta["esker_cache_get_bytes_total"] + delta["esker_cache_direct_bytes_total"]


def main():
    limits = Limits()
    with tempfile.TemporaryDirectory(prefix="esker-scale-") as folder:
        broker = Broker(folder)
        broker.start(os.environ.get("ESKER_LANE", "file"))
        try:
            say("100 consumers of one partition")
            fan_out(broker, limits)
            say(f"{TOPICS} topics")
            many_topics(broker, limits)
        finally:
            broker.end(signal.SIGTERM)
    if limits.broken:
        sys.exit(f"out of bounds: {', '.join(limits.broken)}")
    say("scale: all within limits")


if __name__ == "__main__":
    main()
