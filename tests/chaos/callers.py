"""The clients of a run that use the gRPC door, by stubs that grpcio made of proto/: idempotent producers, members of groups, a
reader without a group. They write the same history as those of librdkafka (clients.py), and stand beside them there.

A producer has a thread for each partition: `calls` sends a batch at a time to any broker, which passes it on; `stream` keeps a
stream to the leader open and sends up to three batches before it waits. What was not acknowledged is sent again, under the
same sequence numbers, until it is. The reader tails each partition in a stream of its own, with credit. Members are in one group
with those of librdkafka, or among themselves; they commit what they have read, and let go when they are told to, now and then
too late."""

import collections
import queue
import random
import threading
import time
import zlib

import grpc
from esker.v1 import admin_pb2, admin_pb2_grpc, common_pb2, consumer_pb2, consumer_pb2_grpc, producer_pb2, producer_pb2_grpc
from google.rpc import status_pb2

CHANNEL = [("grpc.keepalive_time_ms", 5_000), ("grpc.keepalive_timeout_ms", 3_000), ("grpc.keepalive_permit_without_calls", 1),
           ("grpc.http2.max_pings_without_data", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100),
           ("grpc.max_reconnect_backoff_ms", 1_000), ("grpc.max_receive_message_length", 64 << 20)]
# A call that is not answered for so long is given up and sent again.
CALL_S = 12
# A batch that was refused as out of order for so long, everything else being well, can never be written.
STUCK_S = 90
OUT_OF_ORDER = common_pb2.REASON_OUT_OF_ORDER_SEQUENCE
# A member that has left is told so within this time.
LEAVE_S = 45
# It lets go within this time, or the group goes on without waiting for it.
RELEASE_S = 4


class Refused(Exception):
    """What the door told: an esker.v1.Error."""

    def __init__(self, error):
        super().__init__(f"{common_pb2.Reason.Name(error.reason)}: {error.message}")
        self.error = error


class Lost(Exception):
    """No answer of a broker's: it may have happened."""


def explained(status):
    """The error in a failed call."""
    packed = dict(status.trailing_metadata() or ()).get("grpc-status-details-bin")
    if packed:
        error = common_pb2.Error()
        for detail in status_pb2.Status.FromString(packed).details:
            if detail.Unpack(error):
                return Refused(error)
    return Lost(f"{status.code()}: {status.details()}")


class Door:
    """Channels to brokers, and who leads what."""

    def __init__(self, addresses, seed):
        self.addresses, self.random, self.channels, self.leaders = addresses, random.Random(seed), {}, {}

    def any(self):
        return self.random.choice(self.addresses)

    def channel(self, address):
        if address not in self.channels:
            self.channels[address] = grpc.insecure_channel(address, options=CHANNEL)
        return self.channels[address]

    def give_up(self, address):
        if channel := self.channels.pop(address, None):
            channel.close()

    def leader(self, topic, partition):
        if (topic, partition) not in self.leaders:
            address = self.any()
            try:
                told = admin_pb2_grpc.AdminStub(self.channel(address)).DescribeTopic(admin_pb2.DescribeTopicRequest(name=topic), timeout=5)
            except grpc.RpcError as status:
                self.give_up(address)
                raise explained(status) from None
            found = next(one for one in told.partitions if one.partition == partition)
            if not found.HasField("leader"):
                raise Lost("nobody leads")
            self.leaders[topic, partition] = found.leader.grpc_endpoint
        return self.leaders[topic, partition]

    def follow(self, topic, partition, error=None):
        self.leaders.pop((topic, partition), None)
        if error is not None and error.HasField("leader"):
            self.leaders[topic, partition] = error.leader.grpc_endpoint


class Requests:
    """Messages to a stream, as they come; `end` ends it."""

    def __init__(self, *first):
        self.queue = queue.Queue()
        for one in first:
            self.send(one)

    def __iter__(self):
        return iter(self.queue.get, None)

    def send(self, request):
        self.queue.put(request)

    def end(self):
        self.queue.put(None)


class Batch:
    def __init__(self, sequence, records):
        self.sequence, self.records, self.sent = sequence, records, time.monotonic()


class Lane(threading.Thread):
    """What one producer writes to one partition."""

    def __init__(self, caller, topic, at):
        super().__init__(daemon=True)
        self.caller, self.topic, self.at, self.tp = caller, topic, at, f"{topic}/{at}"
        seed = f"{caller.plan['seed']} {caller.name} {self.tp}"
        self.random, self.door = random.Random(seed), Door(caller.plan["grpc"], seed)
        self.sequence, self.open, self.answers = 0, collections.deque(), None
        self.in_order = time.monotonic()

    def run(self):
        due = time.monotonic()
        while True:
            while len(self.open) < self.caller.depth and not self.caller.quiet.is_set():
                if due > time.monotonic():
                    if self.open:
                        break
                    time.sleep(min(0.2, max(0.0, due - time.monotonic())))
                    continue
                records = self.caller.records(self.tp, self.random)
                self.open.append(Batch(self.sequence, records))
                self.sequence += len(records)
                due = max(due, time.monotonic() - 1) + len(records) / self.caller.rate
            if not self.open:
                if self.caller.quiet.is_set():
                    return
                continue
            try:
                self.exchange()
                self.in_order = time.monotonic()
            except Lost:
                time.sleep(self.random.uniform(0.02, 0.3))
            except Refused as refused:
                # The ones before it are not known to have arrived.
                late = refused.error.reason == OUT_OF_ORDER and time.monotonic() < self.in_order + STUCK_S
                if not refused.error.retriable and not late and refused.error.reason != common_pb2.REASON_UNKNOWN_TOPIC:
                    self.caller.history.write("fatal", p=self.caller.name, why=f"{self.tp}: {refused}")
                    return
                time.sleep(self.random.uniform(0.02, 0.3))

    def request(self, batch):
        state = producer_pb2.ProducerState(producer_id=self.caller.id, producer_epoch=self.caller.epoch, base_sequence=batch.sequence)
        records = [common_pb2.Record(value=value) for _, value in batch.records]
        return producer_pb2.ProduceRequest(id=batch.sequence, topic=self.topic, partition=self.at, records=records, producer=state,
                                           timeout_ms=10_000, compression=self.random.choice((0, 0, 3, 4)))

    def exchange(self):
        """Sends what is open; raises what kept the rest from being acknowledged."""
        if self.caller.way == "calls":
            address = self.door.any()
            try:
                answer = producer_pb2_grpc.ProducerStub(self.door.channel(address)).Produce(self.request(self.open[0]), timeout=CALL_S)
            except grpc.RpcError as status:
                why = explained(status)
                if isinstance(why, Lost):
                    self.door.give_up(address)
                raise why from None
            self.taken(answer)
            return
        leader = self.door.leader(self.topic, self.at)
        if self.answers is None:
            self.requests, self.watch = Requests(), None
            self.answers = producer_pb2_grpc.ProducerStub(self.door.channel(leader)).ProduceStream(iter(self.requests))
        count = len(self.open)
        for batch in self.open:
            self.requests.send(self.request(batch))
        # A stream has no deadline of its own: one that does not answer is cancelled.
        watch = threading.Timer(CALL_S, self.answers.cancel)
        watch.start()
        why = None
        try:
            for _ in range(count):
                try:
                    self.taken(next(self.answers), why is None)
                except Refused as refused:
                    why = why or refused
        except (grpc.RpcError, StopIteration) as ended:
            why = why or (explained(ended) if isinstance(ended, grpc.RpcError) else Lost("the stream has ended"))
            self.close(leader)
        finally:
            watch.cancel()
        if why is not None:
            if isinstance(why, Refused) and why.error.reason == common_pb2.REASON_NOT_LEADER:
                self.close(leader)
                self.door.follow(self.topic, self.at, why.error)
            raise why

    def close(self, leader):
        self.requests.end()
        self.answers.cancel()
        self.answers = None
        self.door.give_up(leader)
        self.door.follow(self.topic, self.at)

    def taken(self, answer, in_turn=True):
        """The first open batch is acknowledged; one behind a refused one is sent again, and then known as a duplicate."""
        (appended,) = answer.appended
        if appended.HasField("error"):
            raise Refused(appended.error)
        if in_turn:
            batch = self.open.popleft()
            assert batch.sequence == answer.id, f"an answer to {answer.id}, not to {batch.sequence}"
            self.caller.acknowledged(self.tp, batch, appended.base_offset)


class Caller(threading.Thread):
    """A producer; with the face of clients.Writer."""

    patient = True

    def __init__(self, plan, history, number, encode):
        super().__init__(daemon=True)
        self.plan, self.history, self.encode, self.way = plan, history, encode, ("stream", "calls")[number % 2]
        self.name, self.depth = f"{self.way}{number}.1", 3 if self.way == "stream" else 1
        self.partitions = [(topic, at) for topic, count in plan["topics"].items() for at in range(count)]
        self.rate = plan["rate"] / len(self.partitions)
        self.lock, self.n = threading.Lock(), 0
        self.quiet, self.lanes = threading.Event(), []
        self.newest, self.slowest, self.longest_gap = {}, 0.0, 0.0
        self.counts = {"sent": 0, "acked": 0, "given up": 0}

    @property
    def producer(self):
        """What is open."""
        return [batch for lane in self.lanes for batch in list(lane.open)]

    def run(self):
        door = Door(self.plan["grpc"], f"{self.plan['seed']} {self.name}")
        while True:
            address = door.any()
            try:
                init = producer_pb2_grpc.ProducerStub(door.channel(address)).InitProducer(producer_pb2.InitProducerRequest(), timeout=5)
                break
            except grpc.RpcError:
                door.give_up(address)
                time.sleep(0.2)
        self.id, self.epoch = init.producer_id, init.producer_epoch
        self.lanes = [Lane(self, topic, at) for topic, at in self.partitions]
        for lane in self.lanes:
            lane.start()
        for lane in self.lanes:
            lane.join()

    def records(self, tp, chance):
        """New records of one batch, written down as sent."""
        with self.lock:
            found = []
            for _ in range(chance.choice((1, 1, 2, 5))):
                found.append((self.n, self.encode(self.name, self.n, chance.choice((10, 100, 100, 1_000, 10_000)))))
                self.history.write("sent", p=self.name, n=self.n, tp=tp)
                self.n += 1
            self.counts["sent"] += len(found)
            return found

    def acknowledged(self, tp, batch, offset):
        now = time.monotonic()
        with self.lock:
            for at, (n, _) in enumerate(batch.records):
                self.history.write("acked", p=self.name, n=n, tp=tp, o=offset + at)
            self.counts["acked"] += len(batch.records)
            self.slowest = max(self.slowest, now - batch.sent)
            if (before := self.newest.get(tp)) is not None:
                self.longest_gap = max(self.longest_gap, now - before[2])
            self.newest[tp] = (batch.sent, offset + len(batch.records) - 1, now)

    def finish(self, timeout_s):
        self.quiet.set()
        self.join(timeout_s)
        return sum(len(batch.records) for batch in self.producer)


class Tail(threading.Thread):
    """A reader of everything from the beginning; with the face of clients.Reader."""

    group, strategy, name_ = None, None, "grpc-tail"

    def __init__(self, plan, history, decode):
        super().__init__(daemon=True)
        self.plan, self.history, self.decode = plan, history, decode
        self.stopping, self.next, self.life = threading.Event(), {}, f"{self.name_}.1"

    def run(self):
        partitions = [(topic, at) for topic, count in self.plan["topics"].items() for at in range(count)]
        self.history.write("assigned", c=self.life, g=None, tps=[f"{topic}/{at}" for topic, at in partitions])
        threads = [threading.Thread(target=self.follow, args=one, daemon=True) for one in partitions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def follow(self, topic, at):
        door = Door(self.plan["grpc"], f"{self.plan['seed']} tail {topic}/{at}")
        while not self.stopping.is_set():
            address = None
            try:
                address = door.leader(topic, at)
                self.read(door, address, topic, at)
                why = Lost("the stream has ended")
            except grpc.RpcError as status:
                why = explained(status)
            except (Lost, Refused) as failed:
                why = failed
            if isinstance(why, Refused):
                # Leaders that are about to change do not know of each other's ends; the next one does.
                if not why.error.retriable and why.error.reason not in (common_pb2.REASON_UNKNOWN_TOPIC, common_pb2.REASON_OFFSET_OUT_OF_RANGE):
                    self.history.write("error", c=self.life, g=None, why=f"{topic}/{at}: {why}")
                door.follow(topic, at, why.error)
            else:
                door.follow(topic, at)
                if address is not None:
                    door.give_up(address)
            time.sleep(door.random.uniform(0.02, 0.3))

    def read(self, door, address, topic, at):
        tp = f"{topic}/{at}"
        begin = consumer_pb2.FetchFrom(topic=topic, partition=at, offset=self.next.get(tp, 0))
        requests = Requests(consumer_pb2.FetchRequest(open=consumer_pb2.FetchOpen(partitions=[begin], credit_bytes=100_000)))
        answers = consumer_pb2_grpc.ConsumerStub(door.channel(address)).Fetch(iter(requests))
        # An answer that waits is no reason not to end.
        watch = threading.Thread(target=lambda: (self.stopping.wait(), answers.cancel()), daemon=True)
        watch.start()
        try:
            for answer in answers:
                if answer.WhichOneof("kind") == "failure":
                    raise Refused(answer.failure.error)
                found = []
                for record in answer.data.records:
                    try:
                        found.append([tp, record.offset, *self.decode(record.value)])
                    except (ValueError, zlib.error) as error:
                        self.history.write("error", c=self.life, g=None, why=f"{tp} at {record.offset} is broken: {error}")
                if found:
                    self.history.write("polled", c=self.life, g=None, r=found)
                self.next[tp] = answer.data.next_offset
                requests.send(consumer_pb2.FetchRequest(credit=consumer_pb2.FetchCredit(bytes=answer.data.bytes)))
        finally:
            requests.end()
            answers.cancel()


def place(tp, offset):
    topic, _, at = tp.rpartition("/")
    return common_pb2.PartitionOffset(topic=topic, partition=int(at), offset=offset)


class Member(threading.Thread):
    """A member of a group, again and again; with the face of clients.Reader."""

    strategy = None

    def __init__(self, plan, history, name, group, decode, instance=None):
        super().__init__(daemon=True)
        self.plan, self.history, self.name_, self.group, self.decode, self.instance = plan, history, name, group, decode, instance
        self.random = random.Random(f"{plan['seed']} {name}")
        self.stopping, self.next, self.lives = threading.Event(), {}, 0

    def note(self, event, **words):
        self.history.write(event, c=self.life, g=self.group, **words)

    def run(self):
        door = Door(self.plan["grpc"], f"{self.plan['seed']} {self.name_}")
        while not self.stopping.is_set():
            self.lives += 1
            self.life = f"{self.name_}.{self.lives}"
            address, self.left = door.any(), threading.Event()
            try:
                self.live(door.channel(address))
                continue
            except grpc.RpcError as status:
                why = explained(status)
            except Refused as refused:
                why = refused
            if isinstance(why, Lost):
                door.give_up(address)
            elif not why.error.retriable and why.error.reason != common_pb2.REASON_UNKNOWN_TOPIC and not self.left.is_set():
                self.note("error", why=str(why))
            time.sleep(self.random.uniform(0.1, 1))

    def live(self, channel):
        """One call, from joining to leaving."""
        begin = consumer_pb2.ConsumeOpen(group=self.group, topics=list(self.plan["topics"]), credit_bytes=200_000, session_timeout_ms=6_000,
                                         release_timeout_ms=RELEASE_S * 1_000, instance_id=self.instance)
        self.requests, self.mine, self.done, self.open = Requests(consumer_pb2.ConsumeRequest(open=begin)), None, {}, {}
        self.committed, self.commits = time.monotonic(), 0
        answers = consumer_pb2_grpc.ConsumerStub(channel).Consume(iter(self.requests))
        over = threading.Event()
        # Members come and go.
        watch = threading.Thread(target=self.leave, args=(answers, over, self.random.uniform(20, 120)), daemon=True)
        watch.start()
        try:
            for answer in answers:
                self.take(answer)
            if not self.left.is_set():
                self.note("error", why="its call ended as if it had left")
        finally:
            over.set()
            self.requests.end()
            answers.cancel()
            if self.mine:
                self.note("revoked", tps=list(self.mine))
            watch.join()

    def leave(self, answers, over, after_s):
        until = time.monotonic() + after_s
        while time.monotonic() < until and not self.stopping.is_set():
            if over.wait(0.2):
                return
        self.left.set()
        self.requests.end()
        if not over.wait(LEAVE_S):
            self.note("error", why=f"its call did not end {LEAVE_S} s after it had left")
            answers.cancel()

    def take(self, answer):
        kind = answer.WhichOneof("kind")
        if kind == "assigned":
            if self.mine is not None:
                self.note("error", why="was given partitions before it was to let go of others")
            self.mine = {f"{place.topic}/{place.partition}" for place in answer.assigned.partitions}
            self.note("assigned", tps=list(self.mine))
        elif kind == "data":
            self.data(answer.data)
        elif kind == "committed":
            self.answered(answer.committed)
        elif kind == "revoking":
            self.let_go()
        elif kind == "failure":
            raise Refused(answer.failure.error)
        if self.mine is not None and time.monotonic() - self.committed > 0.5:
            self.commit()

    def data(self, data):
        tp = f"{data.topic}/{data.partition}"
        if self.mine is None or tp not in self.mine:
            self.note("error", why=f"data of {tp}, which it does not have")
        found = []
        for record in data.records:
            try:
                found.append([tp, record.offset, *self.decode(record.value)])
            except (ValueError, zlib.error) as error:
                self.note("error", why=f"{tp} at {record.offset} is broken: {error}")
        if found:
            self.note("polled", r=found)
            self.done[tp] = self.next[tp] = found[-1][1] + 1
        self.requests.send(consumer_pb2.ConsumeRequest(credit=consumer_pb2.FetchCredit(bytes=data.bytes)))

    def commit(self):
        if not self.done:
            return
        self.commits += 1
        offsets = [place(tp, offset) for tp, offset in self.done.items()]
        self.open[self.commits] = self.done
        self.requests.send(consumer_pb2.ConsumeRequest(commit=consumer_pb2.ConsumeCommit(id=self.commits, offsets=offsets)))
        self.done, self.committed = {}, time.monotonic()

    def answered(self, committed):
        # One that is refused is answered before those on their way.
        offsets = self.open.pop(committed.id, None)
        if offsets is None:
            self.note("error", why=f"an answer to commit {committed.id}, which waits for none")
            return
        failed = {f"{one.topic}/{one.partition}": common_pb2.Reason.Name(one.error.reason) for one in committed.failed}
        if good := {tp: offset for tp, offset in offsets.items() if tp not in failed}:
            self.note("committed", tps=good, ok=True)
        if failed:
            self.note("committed", tps={tp: offset for tp, offset in offsets.items() if tp in failed}, ok=False, why=str(failed))

    def let_go(self):
        if self.mine is None:
            self.note("error", why="is to let go of what it does not have")
        self.note("revoked", tps=list(self.mine or ()))
        self.mine = None
        # Too late: what it commits then must do nothing.
        if self.random.random() < 0.1:
            time.sleep(RELEASE_S + self.random.uniform(0, 4))
        self.commit()
        self.requests.send(consumer_pb2.ConsumeRequest(released=consumer_pb2.ConsumeReleased()))
