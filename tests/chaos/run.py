#!/usr/bin/env python3
"""Random faults on real brokers, etcd and MinIO, each on a host of its own, while real clients write and read; then what the
clients saw is checked (checker.py).

    tests/chaos/run.py [--minutes 20] [--seed N] [--brokers 3] [--kinds kill,pause,…] [--keep]

The seed decides which faults come when; it is printed, and given again it gives the same faults. What processes and clients
make of them is not repeatable. Logs, the history and the bucket are kept when something was found, and the place is printed.
Needs root and the binary that ESKER_BIN names (default target/debug/esker).
"""

import argparse
import heapq
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import hosts  # noqa: E402
from hosts import ROOT, Cluster, Process, say  # noqa: E402

TOPICS = {"chaos-a": 6, "chaos-b": 3}
# After everything has healed, until every partition is written and read again.
RECOVERY_S = 60
# A process that was killed before anybody knew of it holds its broker id until its lease ends.
ID_FREE_S = 40
# Of one broker: the limits of its queues and caches, and what a debug build adds.
MEMORY_MB = 1_500
# Members of groups by the gRPC door: beside librdkafka's, and among themselves.
GRPC_MEMBERS = {"g-range": 2, "g-grpc": 2}
# Of upkeep, counted over all brokers.
COUNTED = ("compacted_objects", "compacted_runs", "deleted_objects")
# A run of this length sees compaction.
COMPACTED_MINUTES = 3
# Checkpoints, compaction, collection of garbage and leases at a pace that a short run sees.
FLAGS = ["--checkpoint-interval", "20s", "--retention-check-interval", "10s", "--retention-delete-grace", "2min",
         "--compaction-interval", "2s", "--compaction-run-bytes", "1MiB", "--compaction-segments", "10", "--compaction-max-wait", "15s",
         "--topics-auto-create", "false", "--group-initial-rebalance-delay", "500ms"]


class Clients:
    """The process of clients.py."""

    def __init__(self, cluster, history, seed, topics, **words):
        plan = {"bootstrap": cluster.bootstrap, "grpc": [f"{broker.address}:9094" for broker in cluster.brokers], "topics": topics, "seed": seed, "history": str(history), "producers": 4,
                "groups": ["g-range", "g-sticky"], "members": 3, "rate": 40, **words}
        self.process = Process("clients", [ROOT / "tests/clients/grpc/run.sh", "exec", "-B", ROOT / "tests/chaos/clients.py", json.dumps(plan)],
                               cluster.folder / "clients.log", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.child.stdout.readline().strip() == b"started", "the clients did not start: see clients.log"

    def ask(self, command):
        self.process.child.stdin.write(command.encode() + b"\n")
        self.process.child.stdin.flush()
        line = self.process.child.stdout.readline()
        assert line, "the clients have ended: see clients.log"
        return json.loads(line)


def create_topics(cluster, topics):
    from confluent_kafka.admin import AdminClient, NewTopic
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
    for future in admin.create_topics([NewTopic(name, count, -1) for name, count in topics.items()], request_timeout=30).values():
        future.result()


class Run:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.begin = time.monotonic()
        self.problems = []  # what is wrong apart from what clients saw
        self.history = folder / "history.jsonl"
        self.counted = {}  # (broker, name): (its process, the last value, what those before it counted)
        self.cluster = Cluster(folder, arguments.brokers, [*FLAGS, *arguments.flags], arguments.seed)

    def note(self, words):
        say(f"{time.monotonic() - self.begin:7.1f} s  {words}")

    def problem(self, words):
        self.note(f"PROBLEM: {words}")
        self.problems.append(words)

    def run(self):
        from faults import Hand, Plan
        self.cluster.start()
        create_topics(self.cluster, TOPICS)
        self.clients = Clients(self.cluster, self.history, self.arguments.seed, TOPICS, callers=2, grpc_members=GRPC_MEMBERS)
        self.note(f"{self.arguments.brokers} brokers serve")
        plan, hand = Plan(self.arguments.seed, self.arguments.brokers, self.arguments.kinds), Hand(self.cluster)
        self.recover(time.monotonic())
        steps, deadline = 0, time.monotonic() + self.arguments.minutes * 60
        while time.monotonic() < deadline and not self.problems:
            faults, rest_s = plan.step()
            steps += 1
            self.step(hand, faults)
            for words in hand.late:
                self.problem(words)
            self.cluster.heal()
            self.revive()
            self.recover(time.monotonic())
            self.count()
            self.wait(rest_s)
        self.finish()
        upkeep = {name: int(sum(last + before for (_, counted), (_, last, before) in self.counted.items() if counted == name)) for name in COUNTED}
        self.note("upkeep: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in upkeep.items()))
        if not upkeep["compacted_objects"] and self.arguments.minutes >= COMPACTED_MINUTES:
            self.problem("nothing was compacted")
        stats = self.final_stats["counts"]
        self.note(f"{steps} steps; records: {stats['sent']} sent, {stats['acked']} acknowledged, {stats['given up']} given up")

    def step(self, hand, faults):
        queue, now = [], time.monotonic()
        for at, fault in enumerate(faults):
            heapq.heappush(queue, (now + fault.delay_s, at, fault.kind, "begin", fault))
        while queue:
            due, at, kind, what, fault = heapq.heappop(queue)
            self.wait(due - time.monotonic())
            if what == "begin":
                self.note(str(fault))
                hand.begin(fault)
                heapq.heappush(queue, (time.monotonic() + fault.duration_s, at, kind, "end", fault))
            else:
                hand.end(fault)

    def wait(self, seconds):
        """Waits, and looks meanwhile whether brokers live and keep their bounds."""
        end = time.monotonic() + seconds
        while True:
            self.look()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.5, left))

    def look(self):
        for broker in self.cluster.brokers:
            if broker.process is None:
                continue
            ended = not broker.alive() and not broker.process.killed and not broker.process.asked
            if ended and time.monotonic() < broker.wiped + ID_FREE_S and "is in use by process" in broker.tail(500):
                # With another disk it is another broker to the others: a supervisor starts it until the old one's claim has ended.
                self.note(f"{broker.host} waits for its id")
                broker.spawn()
            elif ended:
                self.problem(f"{broker.host} ended by itself with {broker.process.child.returncode}: {broker.tail(500)}")
                broker.spawn()
            megabytes = broker.resident_mb()
            if megabytes > MEMORY_MB:
                self.problem(f"{broker.host} takes {megabytes:.0f} MB")

    def revive(self):
        for broker in self.cluster.brokers:
            if not broker.alive():
                broker.spawn()

    def count(self):
        """What the brokers' upkeep did; a process that is gone had done so at least."""
        for broker in self.cluster.brokers:
            for name in COUNTED:
                value = broker.metric(f"esker_upkeep_{name}_total")
                if value is None:
                    continue
                pid, last, before = self.counted.get((broker.host, name), (None, 0, 0))
                now = broker.process.pid
                self.counted[broker.host, name] = (now, value, before if pid == now else before + last)

    def recover(self, healed):
        """Until every partition has taken a record that was sent after `healed`, of every producer has been taken one, and every
        reader has read one of each partition."""
        deadline, behind = healed + RECOVERY_S, ["no answer of the clients"]
        needed = {}
        while time.monotonic() < deadline:
            stats = self.clients.ask("stats")
            behind = []
            for topic, count in TOPICS.items():
                for at in range(count):
                    tp = f"{topic}/{at}"
                    sent, offset, _ = stats["acked"].get(tp, (0, -1, 0))
                    if sent >= healed:
                        needed.setdefault(tp, offset)
                    else:
                        behind.append(f"no write of {tp} for {stats['now'] - sent:.0f} s" if sent else f"no write of {tp}")
            behind += [f"nothing of {who} was acknowledged for {stats['now'] - sent:.0f} s" for who, sent in stats["writing"].items()
                       if sent < healed]
            for who, positions in stats["read"].items():
                behind += [f"{who} is at {positions.get(tp)} of {tp}, and {offset} was acknowledged"
                           for tp, offset in needed.items() if positions.get(tp, 0) <= offset]
            if not behind:
                took = time.monotonic() - healed
                if took > 10:
                    self.note(f"all goes on after {took:.1f} s")
                return
            self.wait(0.5)
        self.problem(f"not everything goes on {RECOVERY_S} s after all healed: {'; '.join(behind[:12])}")

    def finish(self):
        self.note("healed for good: producers finish, groups catch up, everything is read once more")
        self.cluster.heal()
        self.revive()
        left = self.clients.ask("quiet")
        if any(left.values()):
            self.problem(f"not acknowledged within 120 s: {left}")
        ended = time.monotonic()
        whole = self.clients.ask("final")["whole"]
        stats = self.clients.ask("stats")
        lag = {}
        while time.monotonic() < ended + 120:
            lag = {f"{who} {tp}": f"{positions.get(tp, 0)} of {offset + 1}" for who, positions in stats["read"].items()
                   for tp, (_, offset, _) in stats["acked"].items() if positions.get(tp, 0) <= offset}
            if not lag:
                break
            time.sleep(0.5)
            stats = self.clients.ask("stats")
        if lag:
            self.problem(f"groups did not come to the end: {lag}")
        if not whole:
            self.problem("the final reader did not come to the end")
        self.final_stats = stats
        self.count()
        self.clients.ask("end")
        for broker in self.cluster.brokers:
            if not broker.process.terminate(60):
                self.problem(f"{broker.host} did not stop within 60 s of SIGTERM")
        for broker in self.cluster.brokers:
            text = broker.log.read_text(errors="replace")
            for line in text.splitlines():
                if "panicked at" in line:
                    self.problem(f"{broker.host}: {line}")

    def violations(self):
        from checker import check
        with open(self.history) as lines:
            return check(json.loads(line) for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--brokers", type=int, default=3)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=None)
    parser.add_argument("--keep", action="store_true", help="keep everything even when nothing is found")
    parser.add_argument("flags", nargs="*", help="more flags of the brokers (after --)")
    arguments = parser.parse_args()
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(1_000_000)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="esker-chaos-"))
    say(f"seed {arguments.seed}; again: make chaos SEED={arguments.seed}")
    run, failed = None, True
    try:
        run = Run(arguments, folder)
        run.run()
        from checker import report
        violations = run.violations()
        if violations:
            say(report(violations))
        failed = bool(violations or run.problems)
        say(f"{len(violations)} violations, {len(run.problems)} problems")
        for problem in run.problems:
            say(f"    {problem}")
    finally:
        if failed or arguments.keep:
            say(f"seed {arguments.seed}; logs, history and bucket: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    hosts.alone(os.path.abspath(__file__), sys.argv[1:])
    main()
