#!/usr/bin/env python3
"""The clients of a run: idempotent producers with acks=all, members of consumer groups, one reader without a group; beside
those of librdkafka some of the gRPC door (callers.py). All in this process, which runs on the clients' host and writes down what
it sees, as lines of JSON.

    clients.py PLAN     where PLAN is JSON: bootstrap, topics (name: partitions), seed, history (a file), producers, groups,
                        members, rate (records per second and producer), callers (producers of the gRPC door, with a reader),
                        grpc (its addresses), grpc_members (group: how many of its members, beside others, use the gRPC door);
perhaps even (partitions in turn), small (all records), tail (false: no reader without a group), metadata_ms (producers ask
who leads so often)

Commands come on stdin, each answered by one line on stdout:

    stats     {"acked": {partition: [when the newest acknowledged record was sent, its offset, when it was acknowledged]},
              "writing": {producer: when its newest acknowledged record was sent}, "read": {who: {partition: next offset}}, …}:
              enough to see who makes progress
    reset     slowest_s (send to acknowledgement) and longest_gap_s (between acknowledgements of a partition) begin again
    quiet     producers send no more; answered when nothing of theirs is open, or after 120 s with what is
    final     reads everything from the beginning as a new consumer, once; writes it down
    end       closes everything

What is written (one line each; `tp` is "topic/partition", `p` the producer's name, `n` its number of the record):

    sent p n tp            before the record is handed to the client library
    acked p n tp o         o: the offset that the broker told, -1 if it told none
    failed p n tp why      the library never took the record
    gave_up p n tp why patient    it took it and gave it up; the record may have been written. `patient`: longer than any fault
    fatal p why            the library says that it can not go on as idempotent
    assigned, revoked      c g tps
    polled c g r           r: [tp, o, p, n] of each record
    committed c g tps ok   offsets per partition; ok: answered without an error
    error c why            an error that a reader was told and that is not one of the network
    final r, ends tps      what a new reader finds, and the bounds [low, high) that the broker tells
"""

import json
import random
import sys
import threading
import time
import zlib

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

# The library gives up waiting earlier than by default, so that a short run sees many tries.
NETWORK = {"socket.timeout.ms": 10_000, "reconnect.backoff.max.ms": 1_000, "socket.connection.setup.timeout.ms": 5_000, "log_level": 0}
PASSING = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE, KafkaError._MSG_TIMED_OUT,
           KafkaError._PARTITION_EOF, KafkaError._STATE, KafkaError._TIMED_OUT_QUEUE, KafkaError._WAIT_COORD,
           KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
           KafkaError.REBALANCE_IN_PROGRESS, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE,
           KafkaError.REQUEST_TIMED_OUT, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.FENCED_LEADER_EPOCH,
           KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.BROKER_NOT_AVAILABLE, KafkaError.KAFKA_STORAGE_ERROR}


class History:
    """Lines in the order in which things were seen."""

    def __init__(self, path):
        self.file = open(path, "a")
        self.lock = threading.Lock()

    def write(self, event, **words):
        line = json.dumps({"e": event, "t": round(time.monotonic(), 3), **words}, separators=(",", ":"))
        with self.lock:
            self.file.write(line + "\n")

    def flush(self):
        with self.lock:
            self.file.flush()


def encode(producer, n, filling):
    """The record's name, a filling of so many bytes, and a checksum of both."""
    text = f"{producer} {n} ".encode() + b"x" * filling
    return text + b" %08x" % zlib.crc32(text)


def decode(value):
    text, checksum = value[:-9], int(value[-8:], 16)
    if zlib.crc32(text) != checksum:
        raise ValueError("the checksum is wrong")
    producer, n, _ = text.split(b" ", 2)
    return producer.decode(), int(n)


class Writer(threading.Thread):
    """A producer; a new one under a new name after a fatal error."""

    def __init__(self, plan, history, number):
        super().__init__(daemon=True)
        self.plan, self.history, self.number = plan, history, number
        self.random = random.Random(f"{plan['seed']} writer {number}")
        self.partitions = [(topic, at) for topic, count in plan["topics"].items() for at in range(count)]
        self.quiet = threading.Event()
        self.generation = 0
        self.newest = {}  # tp: (when it was sent, offset) of the newest record that was acknowledged
        self.slowest = 0.0
        self.longest_gap = 0.0
        self.counts = {"sent": 0, "acked": 0, "given up": 0}
        # One of them gives records up early, and begins anew then.
        self.patient = not (number == 0 and plan["producers"] > 1)
        self.open()

    def open(self):
        self.generation += 1
        self.name = f"w{self.number}.{self.generation}"
        self.n = 0
        self.broken = False
        self.producer = Producer({"bootstrap.servers": self.plan["bootstrap"], "enable.idempotence": True, "acks": "all",
                                  "linger.ms": self.plan.get("linger_ms", 5), "message.timeout.ms": 240_000 if self.patient else 15_000,
                                  "request.timeout.ms": 10_000, "retry.backoff.ms": 50,
                                  "compression.type": self.random.choice(("none", "lz4", "zstd")),
                                  "topic.metadata.refresh.interval.ms": self.plan.get("metadata_ms", 300_000),
                                  "error_cb": self.on_error, **NETWORK})

    def on_error(self, error):
        if error.fatal():
            self.history.write("fatal", p=self.name, why=error.str())
            self.broken = True

    def send(self):
        # In turn, where the time between two of a partition is measured.
        topic, at = self.partitions[self.n % len(self.partitions)] if self.plan.get("even") else self.random.choice(self.partitions)
        name, n, tp = self.name, self.n, f"{topic}/{at}"
        sent = time.monotonic()

        def delivered(error, message):
            if error is not None:
                self.counts["given up"] += 1
                self.history.write("gave_up", p=name, n=n, tp=tp, why=str(error), patient=self.patient)
                self.broken = True
                return
            now = time.monotonic()
            # None where the answer was lost and a later one showed that the record is there.
            offset = -1 if message.offset() is None else message.offset()
            self.counts["acked"] += 1
            self.slowest = max(self.slowest, now - sent)
            if (before := self.newest.get(tp)) is not None:
                self.longest_gap = max(self.longest_gap, now - before[2])
            self.newest[tp] = (sent, offset, now)
            self.history.write("acked", p=name, n=n, tp=tp, o=offset)

        value = encode(name, n, 100 if self.plan.get("small") else self.random.choice((10, 100, 100, 1_000, 10_000)))
        self.history.write("sent", p=name, n=n, tp=tp)
        try:
            self.producer.produce(topic, value, partition=at, on_delivery=delivered)
        except BufferError:
            # Never handed over.
            self.history.write("failed", p=name, n=n, tp=tp, why="the library's queue is full")
            self.producer.poll(0.2)
        self.n += 1
        self.counts["sent"] += 1

    def run(self):
        due = time.monotonic()
        while not self.quiet.is_set():
            # In bursts, so that batches have several records.
            for _ in range(1 if self.plan.get("even") else self.random.choice((1, 1, 2, 5))):
                # What waits for a broker is bounded: an outage is no reason to keep a minute of it in memory.
                if len(self.producer) < 5_000:
                    self.send()
                due += 1 / self.plan["rate"]
            pause = due - time.monotonic()
            if pause < -1:
                due = time.monotonic()
            try:
                self.producer.poll(max(0.0, pause))
            except KafkaException:
                pass
            if self.broken:
                self.producer.purge()
                self.producer.flush(10)
                self.open()

    def finish(self, timeout_s):
        """What is still open after that time."""
        self.quiet.set()
        self.join()
        return self.producer.flush(timeout_s)


class Reader(threading.Thread):
    """A member of a group, or (`group` None) a reader of everything from the beginning."""

    def __init__(self, plan, history, name, group, strategy):
        super().__init__(daemon=True)
        self.plan, self.history, self.name_, self.group, self.strategy = plan, history, name, group, strategy
        self.random = random.Random(f"{plan['seed']} {name}")
        self.stopping = threading.Event()
        self.lives = 0
        self.next = {}  # tp: next offset, of what was read

    def note(self, event, **words):
        self.history.write(event, c=self.life, g=self.group, **words)

    def run(self):
        while not self.stopping.is_set():
            self.lives += 1
            self.life = f"{self.name_}.{self.lives}"
            consumer = Consumer({"bootstrap.servers": self.plan["bootstrap"], "group.id": self.group or f"none-{self.name_}",
                                 "enable.auto.commit": False, "enable.auto.offset.store": False, "auto.offset.reset": "earliest",
                                 "session.timeout.ms": 6_000, "heartbeat.interval.ms": 1_000, "max.poll.interval.ms": 60_000,
                                 "partition.assignment.strategy": self.strategy, "fetch.wait.max.ms": 200, "error_cb": self.on_error,
                                 **NETWORK})
            try:
                self.live(consumer)
            finally:
                consumer.close()

    def on_error(self, error):
        if error.code() not in PASSING and not error.retriable():
            self.note("error", why=str(error))

    def live(self, consumer):
        if self.group is None:
            everything = [TopicPartition(topic, at, 0) for topic, count in self.plan["topics"].items() for at in range(count)]
            self.note("assigned", tps=[f"{p.topic}/{p.partition}" for p in everything])
            consumer.assign(everything)
            until = float("inf")
        else:
            named = lambda partitions: [f"{p.topic}/{p.partition}" for p in partitions]  # noqa: E731
            consumer.subscribe(list(self.plan["topics"]),
                               on_assign=lambda _, partitions: self.note("assigned", tps=named(partitions)),
                               on_revoke=lambda _, partitions: self.note("revoked", tps=named(partitions)),
                               on_lost=lambda _, partitions: self.note("revoked", tps=named(partitions)))
            # Members come and go.
            until = time.monotonic() + self.random.uniform(20, 120)
        done, committed = {}, time.monotonic()
        while not self.stopping.is_set() and time.monotonic() < until:
            found = []
            for message in consumer.consume(200, 0.2):
                if error := message.error():
                    self.on_error(error)
                    continue
                tp = f"{message.topic()}/{message.partition()}"
                try:
                    producer, n = decode(message.value())
                except ValueError as error:
                    self.note("error", why=f"{tp} at {message.offset()} is broken: {error}")
                    continue
                found.append([tp, message.offset(), producer, n])
                done[tp] = message.offset() + 1
            if found:
                self.note("polled", r=found)
                # As positions of the group, not of this member.
                for tp, offset, _, _ in found:
                    self.next[tp] = offset + 1
            if self.group is not None and done and time.monotonic() - committed > 0.5:
                self.commit(consumer, done)
                done, committed = {}, time.monotonic()

    def commit(self, consumer, done):
        try:
            mine = {f"{p.topic}/{p.partition}" for p in consumer.assignment()}
            offsets = [TopicPartition(*split(tp), offset) for tp, offset in done.items() if tp in mine]
            if not offsets:
                return
            answers = consumer.commit(offsets=offsets, asynchronous=False)
            good = {f"{p.topic}/{p.partition}": p.offset for p in answers if p.error is None}
            self.note("committed", tps=good, ok=True)
        except KafkaException as error:
            self.note("committed", tps={f"{p.topic}/{p.partition}": p.offset for p in offsets}, ok=False, why=str(error))


def split(tp):
    topic, _, at = tp.rpartition("/")
    return topic, int(at)


def read_everything(plan, history, timeout_s=120):
    """As a consumer that was never there before. Whether it came to the end."""
    consumer = Consumer({"bootstrap.servers": plan["bootstrap"], "group.id": "final", "enable.auto.commit": False,
                         "auto.offset.reset": "error", **NETWORK})
    deadline = time.monotonic() + timeout_s
    ends = {}
    for topic, count in plan["topics"].items():
        for at in range(count):
            while True:
                try:
                    ends[f"{topic}/{at}"] = consumer.get_watermark_offsets(TopicPartition(topic, at), timeout=10)
                    break
                except KafkaException as error:
                    if time.monotonic() > deadline:
                        history.write("stuck", who="the final reader", why=f"bounds of {topic}/{at}: {error}")
                        return False
    history.write("ends", tps=ends)
    consumer.assign([TopicPartition(*split(tp), low) for tp, (low, _) in ends.items()])
    position = {tp: low for tp, (low, _) in ends.items()}
    open_ = {tp for tp, (low, high) in ends.items() if low < high}
    while open_:
        if time.monotonic() > deadline:
            left = {tp: [position[tp], ends[tp][1]] for tp in sorted(open_)}
            history.write("stuck", who="the final reader", why=f"did not come to the end: {left}")
            return False
        found = []
        for message in consumer.consume(1_000, 0.5):
            tp = f"{message.topic()}/{message.partition()}"
            if error := message.error():
                if error.code() not in PASSING and not error.retriable():
                    history.write("error", c="final", g=None, why=str(error))
                    return False
                continue
            try:
                producer, n = decode(message.value())
            except ValueError as error:
                history.write("error", c="final", g=None, why=f"{tp} at {message.offset()} is broken: {error}")
                return False
            found.append([tp, message.offset(), producer, n])
            position[tp] = message.offset() + 1
            if position[tp] >= ends[tp][1]:
                open_.discard(tp)
        if found:
            history.write("final", r=found)
    consumer.close()
    return True


def main():
    plan = json.loads(sys.argv[1])
    history = History(plan["history"])
    writers = [Writer(plan, history, n) for n in range(plan["producers"])]
    readers = [Reader(plan, history, "tail", None, "range")] if plan.get("tail", True) else []
    for at, group in enumerate(plan["groups"]):
        strategy = ("range", "cooperative-sticky")[at % 2]
        readers += [Reader(plan, history, f"{group}-{n}", group, strategy) for n in range(plan["members"])]
    if plan.get("callers"):
        import callers
        writers += [callers.Caller(plan, history, n, encode) for n in range(plan["callers"])]
        readers.append(callers.Tail(plan, history, decode))
        for group, count in plan["grpc_members"].items():
            # One of those that are among themselves keeps its place when it comes back in time.
            named = lambda n: f"{group}-0" if n == 0 and group not in plan["groups"] else None  # noqa: B023, E731
            readers += [callers.Member(plan, history, f"{group}-grpc-{n}", group, decode, named(n)) for n in range(count)]
    for thread in writers + readers:
        thread.start()

    def stats():
        acked, read = {}, {}
        for writer in writers:
            for tp, newest in list(writer.newest.items()):
                acked[tp] = max(acked.get(tp, (0, -1, 0)), newest)
        for reader in readers:
            at = read.setdefault(reader.group or reader.name_, {})
            for tp, offset in list(reader.next.items()):
                at[tp] = max(at.get(tp, 0), offset)
        counts = {what: sum(writer.counts[what] for writer in writers) for what in ("sent", "acked", "given up")}
        writing = {writer.name: max((sent for sent, _, _ in list(writer.newest.values())), default=0.0) for writer in writers}
        return {"now": time.monotonic(), "writing": writing, "counts": counts, "acked": acked, "read": read,
                "open": sum(len(writer.producer) for writer in writers),
                "slowest_s": max((writer.slowest for writer in writers), default=0.0),
                "longest_gap_s": max((writer.longest_gap for writer in writers), default=0.0)}

    print("started", flush=True)
    for line in sys.stdin:
        command = line.strip()
        answer = {}
        if command == "stats":
            answer = stats()
        elif command == "reset":
            for writer in writers:
                writer.slowest = writer.longest_gap = 0.0
        elif command == "quiet":
            for writer in writers:
                writer.quiet.set()
            deadline = time.monotonic() + 120
            answer = {writer.name: writer.finish(max(1.0, deadline - time.monotonic())) for writer in writers}
        elif command == "final":
            answer = {"whole": read_everything(plan, history)}
        elif command == "end":
            for reader in readers:
                reader.stopping.set()
            for reader in readers:
                reader.join(20)
        history.flush()
        print(json.dumps(answer), flush=True)
        if command == "end":
            return


if __name__ == "__main__":
    main()
