#!/usr/bin/env python3
"""Debian's package index through a topic and back, with the broker killed half-way in both directions.

About 60 000 real records, one JSON per package, keyed by name. For each of gzip, snappy, lz4 and zstd:

1. kcat with an idempotent producer writes them into a new topic of 6 partitions; when half of them are on their way the broker
   is killed with -9 and restarted, while kcat goes on.
2. A consumer group of three kcat members reads the topic; when half has come out the broker is killed and restarted again.
3. Checked: each partition is, byte for byte and offset for offset, the input restricted to the keys of that partition, in the
   order of the input. So nothing is lost, nothing is there twice, and the order per key is kept. What a member was given again
   has to be the same as the first time. The batches are really compressed with the codec.

    tests/scenarios/debian.py [CODEC …]        ESKER_LANE=file|s3|kafka (default file), ESKER_BIN

Takes the index from apt's lists, fetching them where there are none. Exits non-zero on any difference.
"""

import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/clients"))
from broker import CACHE, Broker  # noqa: E402

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
PARTITIONS = 6
MEMBERS = 3
PATIENCE_S = 180


def say(words):
    print(words, flush=True)


# -- the data set


def paragraphs(index):
    """Debian control paragraphs as dictionaries; continuation lines are joined."""
    for block in index.split("\n\n"):
        fields, last = {}, None
        for line in block.split("\n"):
            if line[:1] in (" ", "\t"):
                if last:
                    fields[last] += "\n" + line[1:]
            elif ":" in line:
                last, _, value = line.partition(":")
                fields[last] = value.strip()
        if "Package" in fields:
            yield fields


def available():
    run = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True)
    return run.stdout.decode("utf-8", "replace")


def data_set():
    """(key, value) pairs in the order of the index; both without tab and newline."""
    index = available()
    if index.count("\nPackage: ") < 10_000:
        as_root = [] if os.geteuid() == 0 else ["sudo"]
        say("apt knows few packages: fetching its lists")
        subprocess.run([*as_root, "apt-get", "update", "-qq"], check=True)
        index = available()
    records = []
    for fields in paragraphs(index):
        value = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
        records.append((fields["Package"].encode(), value))
    if len(records) < 10_000:
        raise SystemExit(f"only {len(records)} packages in apt's index; `apt-get update` has to work here")
    return records


# -- the clients


def options(settings):
    return [word for key, value in settings.items() for word in ("-X", f"{key}={value}")]


def produce(broker, topic, codec, records):
    """Feeds kcat, kills the broker when half is fed, restarts it while kcat goes on."""
    settings = {"enable.idempotence": "true", "batch.num.messages": "500", "linger.ms": "5", "message.timeout.ms": "170000"}
    kcat = subprocess.Popen(["kcat", "-P", "-E", "-b", broker.bootstrap, "-t", topic, "-z", codec, "-K", "\\t", *options(settings)],
                            stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    half = len(records) // 2
    restart = threading.Thread(target=broker.restart, args=(signal.SIGKILL,))
    for n, (key, value) in enumerate(records):
        if n == half:
            kcat.stdin.flush()
            wait_until(lambda: sum(ends(broker, topic)) > 0, "the first records are written")
            restart.start()
        kcat.stdin.write(key + b"\t" + value + b"\n")
    kcat.stdin.close()
    restart.join()
    if kcat.wait(PATIENCE_S) != 0:
        raise AssertionError(f"kcat ended with {kcat.returncode} while producing")
    return half


class Member:
    """One kcat of the group. It is read only as far as the gate allows, so that the group can be stopped half-way."""

    def __init__(self, broker, topic, group, gate):
        settings = {"auto.offset.reset": "earliest", "session.timeout.ms": "45000", "auto.commit.interval.ms": "500",
                    "queued.min.messages": "1500", "fetch.message.max.bytes": "200000", "queued.max.messages.kbytes": "1000"}
        self.kcat = subprocess.Popen(
            ["kcat", "-E", "-u", "-b", broker.bootstrap, "-f", "%p\\t%o\\t%k\\t%s\\n", *options(settings), "-G", group, topic],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.gate, self.read = gate, []
        self.thread = threading.Thread(target=self._records, daemon=True)
        self.thread.start()

    def _records(self):
        for line in self.kcat.stdout:
            self.gate.wait()
            partition, offset, key, value = line.rstrip(b"\n").split(b"\t", 3)
            self.read.append((int(partition), int(offset), key, value))

    def stop(self):
        self.gate.set()
        self.kcat.terminate()
        self.kcat.wait(20)
        self.thread.join(20)


def consume(broker, topic, count):
    """Three members; the broker is killed when half of the records have come out."""
    gate = threading.Event()
    gate.set()
    group = f"{topic}-readers"
    members = [Member(broker, topic, group, gate) for _ in range(MEMBERS)]
    try:
        wait_until(lambda: sum(len(m.read) for m in members) >= count // 2, "half of the records are out")
        gate.clear()
        before = sum(len(m.read) for m in members)
        broker.restart(signal.SIGKILL)
        gate.set()
        wait_until(lambda: sum(len(m.read) for m in members) >= count
                   and len({r[:2] for m in members for r in m.read}) >= count, "all records are out")
    finally:
        for member in members:
            member.stop()
    shares = [len({r[0] for r in m.read}) for m in members]
    return [r for m in members for r in m.read], before, shares


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.05)


# -- the broker, asked in its own words


def receive(connection, count):
    parts = b""
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise OSError("the broker closed the connection")
        parts += part
    return parts


def ask(broker, key, version, body):
    """One request with header version 1; the reply after its correlation id."""
    request = struct.pack(">hhih", key, version, 1, -1) + body
    with socket.create_connection(("127.0.0.1", broker.state["port"]), timeout=30) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        return receive(connection, struct.unpack(">i", receive(connection, 4))[0])[4:]


def word(name):
    return struct.pack(">h", len(name)) + name.encode()


def ends(broker, topic):
    """End offsets of all partitions (ListOffsets version 1); -1 where there is an error."""
    partitions = b"".join(struct.pack(">iq", p, -1) for p in range(PARTITIONS))
    reply = ask(broker, 2, 1, struct.pack(">ii", -1, 1) + word(topic) + struct.pack(">i", PARTITIONS) + partitions)
    at = 4 + 2 + len(topic) + 4
    return [struct.unpack_from(">q", reply, at + n * 22 + 14)[0] for n in range(PARTITIONS)]


def codecs_used(broker, topic, partition):
    """The codecs of the first batches of a partition (Fetch version 4), from the batches' own attributes."""
    body = struct.pack(">iiiibi", -1, 1000, 1, 1 << 20, 0, 1) + word(topic) + struct.pack(">iiqi", 1, partition, 0, 1 << 20)
    reply = ask(broker, 1, 4, body)
    at = 4 + 4 + 2 + len(topic) + 4 + 4 + 2 + 8 + 8
    aborted = struct.unpack_from(">i", reply, at)[0]
    at += 4 + 16 * max(aborted, 0)
    end = at + 4 + struct.unpack_from(">i", reply, at)[0]
    at += 4
    found = set()
    while at + 61 <= end:
        length = struct.unpack_from(">i", reply, at + 8)[0]
        found.add(struct.unpack_from(">h", reply, at + 21)[0] & 7)
        at += 12 + length
    return found


def create_topic(broker, topic):
    """CreateTopics version 2."""
    body = struct.pack(">i", 1) + word(topic) + struct.pack(">ihii", PARTITIONS, 1, 0, 0) + struct.pack(">ib", 30_000, 0)
    reply = ask(broker, 19, 2, body)
    error = struct.unpack_from(">h", reply, 4 + 4 + 2 + len(topic))[0]
    if error:
        raise AssertionError(f"creating {topic} failed with error {error}")
    wait_until(lambda: ends(broker, topic) == [0] * PARTITIONS, "the topic is there")


# -- the comparison


def check(records, read):
    """The log against the input. Returns how many records a member was given more than once."""
    log = {}
    for partition, offset, key, value in read:
        known = log.setdefault((partition, offset), (key, value))
        if known != (key, value):
            raise AssertionError(f"partition {partition} offset {offset} was two different records: {known[0]} and {key}")
    home = {}
    for (partition, _), (key, _) in log.items():
        if home.setdefault(key, partition) != partition:
            raise AssertionError(f"key {key} is in partitions {home[key]} and {partition}")
    expected = {p: [] for p in range(PARTITIONS)}
    for key, value in records:
        if key not in home:
            raise AssertionError(f"key {key} is lost")
        expected[home[key]].append((key, value))
    for partition, want in expected.items():
        offsets = sorted(offset for p, offset in log if p == partition)
        if offsets != list(range(len(want))):
            raise AssertionError(f"partition {partition}: {len(offsets)} offsets up to {offsets[-1]}, expected {len(want)} without a gap")
        for offset, one in enumerate(want):
            other = log[partition, offset]
            if one != other:
                raise AssertionError(f"partition {partition} offset {offset}: expected {one[0]} {one[1][:80]}, "
                                     f"found {other[0]} {other[1][:80]}")
    return len(read) - len(log)


def run_codec(broker, codec, records):
    topic = f"debian-{codec}-{uuid.uuid4().hex[:6]}"
    create_topic(broker, topic)
    begin = time.monotonic()
    half = produce(broker, topic, codec, records)
    wrote = time.monotonic() - begin
    written = sum(ends(broker, topic))
    if written != len(records):
        raise AssertionError(f"{codec}: {len(records)} records were sent, the log has {written}")
    used = {c for p in range(PARTITIONS) for c in codecs_used(broker, topic, p)}
    if used != {CODECS[codec]}:
        raise AssertionError(f"{codec} is codec {CODECS[codec]}, the log has batches of {used}")
    begin = time.monotonic()
    read, before, shares = consume(broker, topic, len(records))
    took = time.monotonic() - begin
    again = check(records, read)
    say(f"{codec:7} ok: {len(records)} records in ({wrote:.1f} s, killed at {half}), out through members with {shares} partitions "
        f"({took:.1f} s, killed at {before}, {again} given again), every byte and offset as expected")


def main():
    codecs = sys.argv[1:] or list(CODECS)
    lane = os.environ.get("ESKER_LANE", "file")
    if unknown := set(codecs) - set(CODECS):
        raise SystemExit(f"no codec {', '.join(unknown)}; there are {', '.join(CODECS)}")
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(["bash", "-c", f"source {ROOT}/tests/clients/lib.sh && install_kcat"], check=True)
    records = data_set()
    size = sum(len(k) + len(v) for k, v in records)
    scratch = tempfile.mkdtemp(prefix="esker-debian-")
    broker = Broker(pathlib.Path(scratch) / "broker")
    try:
        broker.start(lane)
        say(f"lane {lane} · server {broker.server()} · {len(records)} records, {len({k for k, _ in records})} keys, {size / 1e6:.1f} MB")
        for codec in codecs:
            run_codec(broker, codec, records)
    except AssertionError as difference:
        say(f"FAILED: {difference}\nthe broker's log and data: {scratch}")
        raise SystemExit(1) from None
    finally:
        broker.stop()
    subprocess.run(["rm", "-rf", scratch], check=True)


if __name__ == "__main__":
    main()
