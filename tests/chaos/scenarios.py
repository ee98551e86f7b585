#!/usr/bin/env python3
"""What a cluster promises when brokers come and go, measured on real processes: brokers, etcd and MinIO on hosts of their own
(hosts.py), with real clients. Each scenario prints its figures and fails beyond its limits.

    tests/chaos/scenarios.py kill [--tries 20]      kill -9 of a leader under load: longest stall, median of the tries < 2 s
    tests/chaos/scenarios.py drain [--tries 5]      SIGTERM of a leader under load: longest stall < 500 ms
    tests/chaos/scenarios.py join                   a new broker has its fair share within 5 s, no produce fails
    tests/chaos/scenarios.py etcd-down              etcd is gone for 60 s under load: no produce and no fetch fails, nothing moves
    tests/chaos/scenarios.py fenced                 SIGSTOP for longer than the lease: fenced, back by itself, nothing is lost
    tests/chaos/scenarios.py leases                 etcd hangs for longer than the leases, so that every session ends at once, while
                                                    producers ask for brokers all the time: every one of them goes on
    tests/chaos/scenarios.py many                   1 000 topics x 10 partitions: those of a dead broker are served within 5 s;
                                                    etcd stays under 50 MB
    tests/chaos/scenarios.py etcd-size              as many segments and checkpoints as 3 busy brokers write in an hour: etcd does
                                                    not grow
    tests/chaos/scenarios.py all                    all of them

A stall is the longest time between two acknowledgements of one partition while records are sent to it all the time.
Needs root and the binary that ESKER_BIN names (default target/debug/esker).
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import hosts  # noqa: E402
from hosts import Cluster, say  # noqa: E402
from run import Clients, create_topics  # noqa: E402

KILL_LIMIT_S = 2.0
DRAIN_LIMIT_S = 0.5
JOIN_LIMIT_S = 5.0
ETCD_DOWN_S = 60
# Longest time to an acknowledgement while etcd is gone; without it, the flush interval and the store decide.
ETCD_DOWN_STALL_S = 2.0
LEASE_S = 10
TAKEOVER_LIMIT_S = 5.0
ETCD_LIMIT_MB = 50
# An hour of a busy broker: a segment per flush.linger (250 ms), a checkpoint per 512 segments.
HOUR_SEGMENTS = 3600 * 4
# Writes to etcd that have nothing to do with data: a controller, marks of upkeep, a member that comes back.
ETCD_WRITES = 100
# librdkafka sends a request per partition and has five of them in flight per connection, each for as long as a flush takes: with
# more than five partitions of one broker a producer would wait for itself, and that is not what is measured.
LOAD = {"load": 6}
FLAGS = ["--topics-auto-create", "false", "--group-initial-rebalance-delay", "500ms"]


class Limits:
    """What was measured against what it may be; all is measured before anything fails."""

    def __init__(self):
        self.broken = []

    def check(self, what, value, limit, unit):
        good = value <= limit
        say(f"  {what}: {value:.2f} {unit} (at most {limit:g}) {'ok' if good else 'BROKEN'}")
        if not good:
            self.broken.append(what)

    def need(self, what, good, why=""):
        say(f"  {what}: {'yes' if good else 'NO ' + str(why)}")
        if not good:
            self.broken.append(what)


class Leaders:
    """Who leads what, as clients are told."""

    def __init__(self, cluster):
        from confluent_kafka.admin import AdminClient
        self.cluster = cluster
        self.admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0, "socket.timeout.ms": 5_000})

    def of(self, prefix=""):
        """Broker numbers by partition; -1 for none."""
        topics = self.admin.list_topics(timeout=15).topics
        return {f"{name}/{at}": partition.leader for name, topic in topics.items() if name.startswith(prefix)
                for at, partition in topic.partitions.items()}

    def counts(self, prefix=""):
        return collections.Counter(self.of(prefix).values())

    def wait_even(self, among, timeout_s=60):
        """Until each of the brokers leads its share of all partitions, give or take one."""
        deadline = time.monotonic() + timeout_s
        while True:
            counts = self.counts()
            if set(counts) <= set(among) and max(counts.values()) - min(counts.get(number, 0) for number in among) <= 1:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"partitions are not even after {timeout_s} s: {dict(counts)}")
            time.sleep(0.1)


class Scene:
    """A cluster under load in a directory of its own."""

    keep = False

    def __init__(self, brokers, topics=LOAD, flags=(), **load):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="esker-scene-"))
        self.cluster = Cluster(self.folder, brokers, [*FLAGS, *flags])
        self.cluster.start()
        self.leaders = Leaders(self.cluster)
        self.clients = None
        if topics:
            create_topics(self.cluster, topics)
            load = {"producers": 2, "groups": ["g-range"], "members": 2, "rate": 150, "even": True, "small": True, **load}
            self.history = self.folder / "history.jsonl"
            self.clients = Clients(self.cluster, self.history, 1, topics, **load)
            self.topics = topics
            self.flowing()

    def flowing(self, since=None, timeout_s=60):
        """Seconds until every partition has taken a record that was sent after `since`."""
        since = since or time.monotonic()
        while True:
            stats = self.clients.ask("stats")
            fresh = sum(1 for sent, _, _ in stats["acked"].values() if sent >= since)
            if fresh >= sum(self.topics.values()):
                return time.monotonic() - since
            if time.monotonic() > since + timeout_s:
                raise RuntimeError(f"after {timeout_s} s only {fresh} partitions are written")
            time.sleep(0.05)

    def stall_of(self, act):
        """Longest stall while `act` happens and for as long as it has effects; and the longest time to an acknowledgement."""
        self.flowing()
        self.clients.ask("reset")
        act()
        self.flowing()
        time.sleep(1)
        stats = self.clients.ask("stats")
        return stats["longest_gap_s"], stats["slowest_s"]

    def finish(self, limits):
        """Producers finish, everything is read, the history is checked."""
        from checker import check, report
        self.cluster.heal()
        left = self.clients.ask("quiet")
        limits.need("every record was acknowledged", not any(left.values()), left)
        whole = self.clients.ask("final")["whole"]
        limits.need("everything could be read", whole)
        counts = self.clients.ask("stats")["counts"]
        self.clients.ask("end")
        with open(self.history) as lines:
            violations = check(json.loads(line) for line in lines)
        say(f"  records: {counts['sent']} sent, {counts['acked']} acknowledged, {counts['given up']} given up")
        limits.need("no violation in what clients saw", not violations, "\n" + report(violations))

    def close(self, keep):
        self.cluster.close()
        if keep or self.keep:
            say(f"  logs: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def restarts(limits, tries, what, end, limit_s):
    scene = Scene(3)
    try:
        gaps, slowest = [], []
        for at in range(tries):
            scene.leaders.wait_even([1, 2, 3])
            victim = scene.cluster.brokers[at % 3]
            gap, slow = scene.stall_of(lambda: end(victim))
            gaps.append(gap)
            slowest.append(slow)
            say(f"  {at + 1}: {victim.host}, longest stall {gap:.2f} s, longest time to an acknowledgement {slow:.2f} s")
            victim.process.child.wait()
            victim.spawn()
            victim.wait()
        say(f"  stalls: median {statistics.median(gaps):.2f} s, longest {max(gaps):.2f} s; "
            f"acknowledgements: median of the longest {statistics.median(slowest):.2f} s")
        limits.check(f"{what}: median of the longest stall of {tries} tries", statistics.median(gaps), limit_s, "s")
        scene.finish(limits)
    finally:
        scene.close(limits.broken)


def kill(limits, arguments):
    restarts(limits, arguments.tries or 20, "kill -9", lambda broker: broker.process.kill(), KILL_LIMIT_S)


def drain(limits, arguments):
    restarts(limits, arguments.tries or 5, "SIGTERM", lambda broker: broker.process.terminate(60), DRAIN_LIMIT_S)


def join(limits, _):
    scene = Scene(2, topics={"load": 30})
    try:
        scene.leaders.wait_even([1, 2])
        total = sum(scene.leaders.counts().values())
        scene.clients.ask("reset")
        new = scene.cluster.add_broker()
        begin = time.monotonic()
        new.spawn()
        ready = new.wait()
        while scene.leaders.counts().get(new.number, 0) < total // 3:
            if time.monotonic() - begin > 60:
                break
            time.sleep(0.05)
        took = time.monotonic() - begin
        say(f"  {dict(scene.leaders.counts())} of {total} partitions; ready {ready:.2f} s after it was started")
        limits.check("from its start to its fair share", took, JOIN_LIMIT_S, "s")
        scene.flowing()
        stats = scene.clients.ask("stats")
        say(f"  longest stall {stats['longest_gap_s']:.2f} s, longest time to an acknowledgement {stats['slowest_s']:.2f} s")
        limits.need("no produce failed", stats["counts"]["given up"] == 0, stats["counts"])
        scene.finish(limits)
    finally:
        scene.close(limits.broken)


def etcd_down(limits, _):
    scene = Scene(3)
    try:
        scene.leaders.wait_even([1, 2, 3])
        before = scene.leaders.of("load")
        scene.clients.ask("reset")
        scene.cluster.etcd.kill()
        read, standing = {}, 0.0
        end, last = time.monotonic() + ETCD_DOWN_S, time.monotonic()
        while time.monotonic() < end:
            time.sleep(0.5)
            stats = scene.clients.ask("stats")
            if all(stats["read"][who] != read.get(who) for who in stats["read"]):
                last = time.monotonic()
            standing = max(standing, time.monotonic() - last)
            read = stats["read"]
        during = scene.leaders.of("load")
        stats = scene.clients.ask("stats")
        limits.check("longest time to an acknowledgement without etcd", stats["slowest_s"], ETCD_DOWN_STALL_S, "s")
        limits.check("longest time without a read", standing, ETCD_DOWN_STALL_S, "s")
        limits.need("no produce failed", stats["counts"]["given up"] == 0, stats["counts"])
        limits.need("no partition moved", before == during)
        scene.cluster.etcd.up()
        time.sleep(LEASE_S)
        after = scene.leaders.of("load")
        limits.need("none moves after etcd is back", before == after, f"{before}, then {after}")
        create_topics(scene.cluster, {"after": 3})
        scene.finish(limits)
    finally:
        scene.close(limits.broken)


def fenced(limits, _):
    scene = Scene(3)
    try:
        scene.leaders.wait_even([1, 2, 3])
        victim = scene.cluster.brokers[1]
        session = victim.log.read_text(errors="replace").count("session started")
        scene.clients.ask("reset")
        victim.process.pause()
        begin = time.monotonic()
        others = scene.flowing()
        say(f"  its partitions are written again {others:.2f} s after SIGSTOP")
        time.sleep(max(0.0, begin + 1.5 * LEASE_S - time.monotonic()))
        resumed = time.monotonic()
        victim.process.resume()
        scene.leaders.wait_even([1, 2, 3])
        say(f"  it leads its share again {time.monotonic() - resumed:.2f} s after SIGCONT")
        begun = victim.log.read_text(errors="replace").count("session started") - session
        limits.need("it began a new session by itself", victim.alive() and begun >= 1)
        scene.flowing()
        stats = scene.clients.ask("stats")
        say(f"  longest stall {stats['longest_gap_s']:.2f} s")
        scene.finish(limits)
    finally:
        scene.close(limits.broken)


def leases(limits, _):
    scene = Scene(3, producers=4, metadata_ms=50)
    try:
        scene.leaders.wait_even([1, 2, 3])
        scene.cluster.etcd.pause()
        time.sleep(2.5 * LEASE_S)
        resumed = time.monotonic()
        scene.cluster.etcd.resume()
        # The first second is that of the old sessions.
        begun, late = resumed + 1, {}
        while time.monotonic() < resumed + 60:
            late = {who: round(sent - begun, 1) for who, sent in scene.clients.ask("stats")["writing"].items() if sent < begun}
            if not late:
                break
            time.sleep(0.1)
        ended = sum(broker.log.read_text(errors="replace").count("session is over") for broker in scene.cluster.brokers)
        say(f"  {ended} sessions ended")
        limits.need("every producer goes on", not late, late)
        say(f"  after {time.monotonic() - resumed:.1f} s, of which the first is not counted")
        scene.finish(limits)
    finally:
        scene.close(limits.broken)


def etcd_size(cluster):
    """Megabytes of the database in use, after compaction, and its revision."""
    revision = int(cluster.etcd_ask("/v3/maintenance/status", {})["header"]["revision"])
    try:
        cluster.etcd_ask("/v3/kv/compaction", {"revision": revision, "physical": True})
    except OSError:
        pass  # compacted already
    status = cluster.etcd_ask("/v3/maintenance/status", {})
    return int(status["dbSizeInUse"]) / 1e6, int(status["dbSize"]) / 1e6, revision


def many(limits, _):
    scene = Scene(3, topics=None)
    try:
        from confluent_kafka import Producer
        from confluent_kafka.admin import NewTopic
        names = [f"many-{n:04}" for n in range(1000)]
        begin = time.monotonic()
        for at in range(0, len(names), 100):
            created = scene.leaders.admin.create_topics([NewTopic(name, 10, -1) for name in names[at:at + 100]], request_timeout=60)
            for future in created.values():
                future.result()
        say(f"  1 000 topics x 10 partitions created in {time.monotonic() - begin:.1f} s: {dict(scene.leaders.counts('many'))}")
        used, size, _ = etcd_size(scene.cluster)
        limits.check("etcd's database", size, ETCD_LIMIT_MB, "MB")

        failures = []

        def write(partitions, producer):
            """Seconds until each has taken a record."""
            begin = time.monotonic()
            for topic, at in partitions:
                producer.produce(topic, b"x", partition=at, on_delivery=lambda error, _: error and failures.append(str(error)))
            left = producer.flush(120)
            return float("inf") if left or failures else time.monotonic() - begin

        # Not idempotent: with five requests in flight, of a partition each, the producer would be what is measured.
        producer = Producer({"bootstrap.servers": scene.cluster.bootstrap, "acks": "all", "log_level": 0,
                             "socket.connection.setup.timeout.ms": 2_000, "retry.backoff.ms": 50})
        everything = [(name, at) for name in names for at in range(10)]
        say(f"  a record to each of 10 000 partitions: {write(everything, producer):.2f} s")
        say(f"  once more: {write(everything, producer):.2f} s")
        led = scene.leaders.of("many")
        victim = scene.cluster.brokers[2]
        orphans = [(name.rpartition("/")[0], int(name.rpartition("/")[2])) for name, leader in led.items() if leader == victim.number]
        victim.process.kill()
        took = write(orphans, producer)
        limits.check(f"kill -9 until each of its {len(orphans)} partitions has taken a record", took, TAKEOVER_LIMIT_S, "s")
        limits.need("no produce failed", not failures, failures[:3])
        victim.spawn()
        victim.wait()
        scene.leaders.wait_even([1, 2, 3], 180)

        used, size, _ = etcd_size(scene.cluster)
        say(f"  etcd: {used:.2f} MB in use, {size:.2f} MB")
        limits.check("etcd's database in the end", size, ETCD_LIMIT_MB, "MB")
    finally:
        scene.close(limits.broken)


class Steady:
    """Records to every partition in turn, in a thread of its own."""

    def __init__(self, cluster, partitions, pause_s):
        from confluent_kafka import Producer
        self.producer = Producer({"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True, "linger.ms": 0, "log_level": 0})
        self.partitions, self.pause_s, self.failures, self.ended = partitions, pause_s, [], threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.ended.is_set():
            for topic, at in self.partitions:
                if len(self.producer) < 1_000:
                    self.producer.produce(topic, b"x" * 100, partition=at,
                                          on_delivery=lambda error, _: error and self.failures.append(str(error)))
                self.producer.poll(self.pause_s)

    def end(self):
        self.ended.set()
        self.thread.join()
        return self.producer.flush(60)


def etcd_size_of_an_hour(limits, _):
    # Segments are cut as fast as they can be uploaded; everything else is as it is by default.
    scene = Scene(3, topics=None, flags=["--flush-linger", "1ms", "--flush-put-rate", "unlimited"])
    try:
        create_topics(scene.cluster, {"hour": 30})
        scene.leaders.wait_even([1, 2, 3])
        brokers = scene.cluster.brokers

        def count(metric):
            return sum(broker.metric(metric) or 0 for broker in brokers)

        def written():
            return count("esker_log_committed_segments_total")

        writer = Steady(scene.cluster, [("hour", at) for at in range(30)], 0.001)
        while written() < 30:
            time.sleep(0.1)
        first, begin = written(), time.monotonic()
        used, size, revision = etcd_size(scene.cluster)
        checkpoints = count("esker_log_checkpoints_total")
        while written() - first < len(brokers) * HOUR_SEGMENTS and time.monotonic() - begin < 900:
            time.sleep(2)
        segments = written() - first
        checkpoints = count("esker_log_checkpoints_total") - checkpoints
        status = scene.cluster.etcd_ask("/v3/maintenance/status", {})
        before_compaction = int(status["dbSize"]) / 1e6
        used_after, size_after, revision_after = etcd_size(scene.cluster)
        left = writer.end()
        say(f"  {segments:.0f} segments and {checkpoints:.0f} checkpoints in {time.monotonic() - begin:.0f} s")
        say(f"  etcd: {used:.3f} -> {used_after:.3f} MB in use, {size:.3f} -> {before_compaction:.3f} MB before compaction, "
            f"{size_after:.3f} MB after; {revision_after - revision} writes")
        limits.need("as many segments as in an hour of three busy brokers", segments >= len(brokers) * HOUR_SEGMENTS, segments)
        limits.need("no produce failed", not left and not writer.failures, writer.failures[:3])
        limits.check("writes to etcd meanwhile", revision_after - revision, ETCD_WRITES, "")
        limits.check("growth of etcd with data", used_after - used, 0.1, "MB")
    finally:
        scene.close(limits.broken)


SCENARIOS = {"kill": kill, "drain": drain, "join": join, "etcd-down": etcd_down, "fenced": fenced, "leases": leases, "many": many,
             "etcd-size": etcd_size_of_an_hour}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=[*SCENARIOS, "all"])
    parser.add_argument("--tries", type=int, default=None)
    parser.add_argument("--keep", action="store_true", help="keep logs and histories even when all is well")
    arguments = parser.parse_args()
    Scene.keep = arguments.keep
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    limits = Limits()
    for name in SCENARIOS if arguments.scenario == "all" else [arguments.scenario]:
        say(f"{name}")
        SCENARIOS[name](limits, arguments)
    if limits.broken:
        sys.exit(f"out of bounds: {', '.join(limits.broken)}")
    say("all within limits")


if __name__ == "__main__":
    hosts.alone(os.path.abspath(__file__), sys.argv[1:])
    main()
