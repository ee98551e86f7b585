"""What goes wrong in a run, and when: drawn from a seed.

A plan is an endless sequence of steps; each is one to three faults that begin together, overlap, and end by themselves, and
a rest after them.
"""

import random
import shutil
import time

# Without its stores a stop takes its time, but not for ever: `stop_timeout` and `drain_timeout` are 30 s each.
STOP_S = 75

BROKER_FAULTS = ("kill", "kill", "pause", "pause", "stop", "wipe")
CUTS = ("cut-etcd", "cut-store", "cut-brokers", "cut-clients", "isolate")
SERVER_FAULTS = ("etcd-kill", "etcd-pause", "minio-kill", "minio-pause")
STORE_FAULTS = ("store-busy", "store-hang", "store-lose", "store-late", "store-slow")


class Fault:
    """One fault: what, whom, from when to when within its step."""

    def __init__(self, kind, brokers, delay_s, duration_s, share):
        self.kind, self.brokers, self.delay_s, self.duration_s, self.share = kind, brokers, delay_s, duration_s, share

    def __str__(self):
        whom = f" broker {', '.join(map(str, self.brokers))}" if self.brokers else ""
        share = f" ({self.share:.0%})" if self.kind in STORE_FAULTS and self.share < 1 else ""
        return f"{self.kind}{whom}{share} for {self.duration_s:.1f} s"


class Plan:
    def __init__(self, seed, brokers, kinds=None):
        self.random = random.Random(f"faults {seed}")
        self.brokers = brokers
        self.kinds = kinds

    def step(self):
        """Faults of the next step, then seconds of rest."""
        count = self.random.choices((1, 2, 3), (60, 30, 10))[0]
        return [self.fault() for _ in range(count)], self.random.uniform(1, 8)

    def fault(self):
        groups = (BROKER_FAULTS, CUTS, SERVER_FAULTS, STORE_FAULTS)
        kind = self.random.choice(self.random.choices(groups, (40, 25, 15, 20))[0])
        if self.kinds:
            kind = self.random.choice(self.kinds)
        # Short ones are as likely as long ones: seconds from 1 to 30 on a logarithmic scale.
        duration_s = 30 ** self.random.random()
        brokers = []
        if kind in BROKER_FAULTS or kind in CUTS:
            # A majority or all only now and then.
            count = self.random.choices((1, 2, self.brokers), (75, 15, 10))[0]
            brokers = sorted(self.random.sample(range(1, self.brokers + 1), min(count, self.brokers)))
        elif kind in STORE_FAULTS and self.random.random() < 0.5:
            brokers = [self.random.randint(1, self.brokers)]
        if kind == "wipe":
            brokers = brokers[:1]
        share = self.random.choice((0.1, 0.5, 1.0))
        return Fault(kind, brokers, self.random.choice((0, 0, self.random.uniform(0, 5))), duration_s, share)


class Hand:
    """Carries faults out on a cluster (hosts.Cluster)."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.late = []  # what did not end in time

    def each(self, fault):
        return [self.cluster.brokers[number - 1] for number in fault.brokers]

    def begin(self, fault):
        kind, cluster, network = fault.kind, self.cluster, self.cluster.network
        for broker in self.each(fault):
            if kind in ("kill", "wipe") and broker.alive():
                broker.process.kill()
            elif kind == "pause" and broker.alive():
                broker.process.pause()
            elif kind == "stop" and broker.alive():
                # Not waited for: what else happens may hit it while it stops.
                broker.process.ask_to_stop()
            elif kind in CUTS:
                for name in self.others(kind, broker):
                    network.cut(broker.host, name)
        if kind == "wipe":
            for broker in self.each(fault):
                shutil.rmtree(broker.folder / "data", ignore_errors=True)
                broker.wiped = time.monotonic()
        if kind in SERVER_FAULTS:
            name, what = kind.split("-")
            server = getattr(cluster, name)
            if server.pid is not None:
                server.kill() if what == "kill" else server.pause()
        if kind in STORE_FAULTS:
            mode = kind.removeprefix("store-")
            delay_s = {"hang": 30.0, "late": fault.duration_s, "slow": min(3.0, fault.duration_s / 3)}.get(mode, 0.0)
            for client in [broker.address for broker in self.each(fault)] or ["*"]:
                cluster.store_fault(mode, client, fault.share, delay_s)

    def end(self, fault):
        kind, cluster, network = fault.kind, self.cluster, self.cluster.network
        for broker in self.each(fault):
            if kind in BROKER_FAULTS:
                if broker.alive():
                    broker.process.resume()
                    if broker.process.asked and not broker.process.terminate(STOP_S):
                        self.late.append(f"{broker.host} did not stop within {STOP_S} s of SIGTERM")
                if not broker.alive():
                    broker.spawn()
            elif kind in CUTS:
                for name in self.others(kind, broker):
                    network.heal(broker.host, name)
        if kind in SERVER_FAULTS:
            server = getattr(cluster, kind.split("-")[0])
            if server.pid is None:
                server.up()
            server.resume()
        if kind in STORE_FAULTS:
            for client in [broker.address for broker in self.each(fault)] or ["*"]:
                cluster.store_fault("pass", client)

    def others(self, kind, broker):
        brokers = [other.host for other in self.cluster.brokers if other is not broker]
        return {"cut-etcd": ["etcd"], "cut-store": ["minio"], "cut-brokers": brokers, "cut-clients": ["clients"],
                "isolate": ["etcd", "minio", *brokers]}[kind]
