"""The gRPC door, spoken to by stubs that grpcio's own generator made of proto/, beside the Kafka door of the same broker."""

import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
import unittest
import urllib.request
import uuid

import grpc
from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import Producer as KafkaProducer
from confluent_kafka import TopicPartition
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from esker.v1 import admin_pb2, admin_pb2_grpc, common_pb2, consumer_pb2, consumer_pb2_grpc, producer_pb2, producer_pb2_grpc
from esker.v1.common_pb2 import Header, Record
from esker.v1.consumer_pb2 import ConsumeCommit, ConsumeOpen, ConsumeReleased, ConsumeRequest
from esker.v1.consumer_pb2 import FetchCredit, FetchFrom, FetchOpen, FetchRequest
from esker.v1.producer_pb2 import ProducerState, ProduceRequest

BOOTSTRAP = os.environ["ESKER_BOOTSTRAP"]
STATE = json.loads((pathlib.Path(os.environ["ESKER_BROKER_DIR"]) / "broker.json").read_text())
ADDRESS = f"127.0.0.1:{STATE['grpc']}"
ROOT = pathlib.Path(__file__).resolve().parents[3]
WAIT_S = 30
# Reading everything of a topic may take long on a busy machine.
READ_S = 120
MANY = 100_000
LARGE = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


class Case(unittest.TestCase):
    def setUp(self):
        self.channel = grpc.insecure_channel(ADDRESS, options=LARGE)
        self.addCleanup(self.channel.close)
        self.producer = producer_pb2_grpc.ProducerStub(self.channel)
        self.consumer = consumer_pb2_grpc.ConsumerStub(self.channel)
        self.admin = admin_pb2_grpc.AdminStub(self.channel)

    def topic(self, partitions=1, **configs):
        name = f"grpc-{uuid.uuid4().hex[:8]}"
        configs = {key.replace("_", "."): value for key, value in configs.items()}
        self.admin.CreateTopic(admin_pb2.CreateTopicRequest(name=name, partitions=partitions, configs=configs))
        return name

    def read(self, topic, partition=0, **start):
        """All that is there now."""
        begin = FetchFrom(topic=topic, partition=partition, **start)
        answers = self.consumer.Fetch(iter([FetchRequest(open=FetchOpen(partitions=[begin], stop_at_end=True))]), timeout=READ_S)
        kinds = list(answers)
        self.assertEqual(kinds[-1].WhichOneof("kind"), "end", kinds[-1])
        return [record for answer in kinds for record in answer.data.records]

    def refused(self, code, reason, call, *arguments, **more):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*arguments, **more)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        details = dict(caught.exception.trailing_metadata()).get("grpc-status-details-bin")
        status = status_pb2.Status.FromString(details)
        error = common_pb2.Error()
        self.assertTrue(status.details[0].Unpack(error))
        self.assertEqual(common_pb2.Reason.Name(error.reason), reason)
        self.assertTrue(error.message)
        return error


class Doors(Case):
    def test_reflection_and_health(self):
        services = set(ProtoReflectionDescriptorDatabase(self.channel).get_services())
        self.assertLessEqual({"esker.v1.Admin", "esker.v1.Consumer", "esker.v1.Producer", "grpc.health.v1.Health"}, services)
        health = health_pb2_grpc.HealthStub(self.channel)
        for service in ["", "esker.v1.Producer"]:
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)

    def test_grpcurl(self):
        def curl(*arguments, data=None, fails=False):
            command = [os.environ["GRPCURL"], "-plaintext", *([] if data is None else ["-d", json.dumps(data)]), ADDRESS, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
            self.assertEqual(done.returncode != 0, fails, done.stderr)
            return done.stderr if fails else done.stdout
        services = curl("list").split()
        self.assertLessEqual({"esker.v1.Admin", "esker.v1.Consumer", "esker.v1.Producer"}, set(services))
        for service in ["Admin", "Consumer", "Producer"]:
            self.assertIn(f"esker.v1.{service}.", curl("list", f"esker.v1.{service}"))
        self.assertIn("rpc Consume ( stream .esker.v1.ConsumeRequest )", curl("describe", "esker.v1.Consumer"))
        topic = self.topic(1)
        value = "aGVsbG8="  # bytes are base64 in JSON
        told = json.loads(curl("esker.v1.Producer/Produce", data={"topic": topic, "records": [{"value": value}]}))
        self.assertEqual(told, {"appended": [{}]})
        fetched = curl("esker.v1.Consumer/Fetch", data={"open": {"partitions": [{"topic": topic}], "stopAtEnd": True}})
        self.assertIn(f'"value": "{value}"', fetched)
        self.assertEqual(json.loads(curl("esker.v1.Admin/DescribeTopic", data={"name": topic}))["topic"]["name"], topic)
        error = curl("esker.v1.Admin/DescribeTopic", data={"name": "no-such-topic"}, fails=True)
        self.assertIn("NotFound", error)
        self.assertIn("REASON_UNKNOWN_TOPIC", error)

    def test_the_example(self):
        topic = self.topic()
        script = ROOT / "examples/python/tail.py"
        tail = subprocess.Popen([sys.executable, str(script), topic, "héllo", ADDRESS], stdout=subprocess.PIPE, text=True)
        self.addCleanup(tail.wait)
        self.addCleanup(tail.kill)
        self.addCleanup(tail.stdout.close)
        self.assertEqual(tail.stdout.readline(), "0 héllo\n")
        self.producer.Produce(ProduceRequest(topic=topic, records=[Record(value=b"again")]))
        self.assertEqual(tail.stdout.readline(), "1 again\n")

    def test_topics(self):
        topic = self.topic(3, retention_ms="60000")
        told = self.admin.DescribeTopic(admin_pb2.DescribeTopicRequest(name=topic))
        self.assertEqual([p.partition for p in told.partitions], [0, 1, 2])
        self.assertEqual({p.leader.grpc_endpoint for p in told.partitions}, {ADDRESS})
        self.assertEqual({c.name: c.value for c in told.configs if c.overridden}, {"retention.ms": "60000"})
        names = [t.name for t in self.admin.ListTopics(admin_pb2.ListTopicsRequest()).topics]
        self.assertIn(topic, names)
        self.refused(grpc.StatusCode.ALREADY_EXISTS, "REASON_CONFLICT", self.admin.CreateTopic,
                     admin_pb2.CreateTopicRequest(name=topic))
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "REASON_INVALID", self.admin.CreateTopic,
                     admin_pb2.CreateTopicRequest(name="a b"))
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "REASON_INVALID", self.admin.CreateTopic,
                     admin_pb2.CreateTopicRequest(name="ok", configs={"retention.ms": "soon"}))
        self.admin.DeleteTopic(admin_pb2.DeleteTopicRequest(name=topic))
        self.refused(grpc.StatusCode.NOT_FOUND, "REASON_UNKNOWN_TOPIC", self.admin.DescribeTopic,
                     admin_pb2.DescribeTopicRequest(name=topic))


class Topics(Case):
    def test_configs(self):
        topic = self.topic(retention_ms="60000")
        overridden = lambda: {c.name: c.value for c in self.admin.DescribeTopic(admin_pb2.DescribeTopicRequest(name=topic)).configs if c.overridden}
        alter = lambda name=topic, **change: self.admin.AlterTopicConfigs(admin_pb2.AlterTopicConfigsRequest(name=name, **change))
        alter(set={"segment.bytes": "1048576"}, validate_only=True)
        self.assertEqual(overridden(), {"retention.ms": "60000"})
        alter(set={"segment.bytes": "1048576"}, unset=["retention.ms"])
        self.assertEqual(overridden(), {"segment.bytes": "1048576"})
        invalid = (grpc.StatusCode.INVALID_ARGUMENT, "REASON_INVALID")
        self.refused(*invalid, alter, set={"retention.ms": "soon"})
        self.refused(*invalid, alter, set={"no.such.config": "1"})
        self.refused(*invalid, alter, set={"retention.ms": "1"}, unset=["retention.ms"])
        self.refused(grpc.StatusCode.NOT_FOUND, "REASON_UNKNOWN_TOPIC", alter, "no-such-topic", set={"retention.ms": "1"})

    def test_more_partitions(self):
        topic = self.topic(2)
        grow = lambda count, name=topic, **more: self.admin.CreatePartitions(admin_pb2.CreatePartitionsRequest(name=name, partitions=count, **more))
        count = lambda: len(self.admin.DescribeTopic(admin_pb2.DescribeTopicRequest(name=topic)).partitions)
        grow(4, validate_only=True)
        self.assertEqual(count(), 2)
        grow(4)
        self.assertEqual(count(), 4)
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "REASON_INVALID", grow, 4)
        self.refused(grpc.StatusCode.NOT_FOUND, "REASON_UNKNOWN_TOPIC", grow, 4, "no-such-topic")

    def test_offsets_and_deletion_of_records(self):
        topic = self.topic(2)
        for at in range(10):
            self.producer.Produce(ProduceRequest(topic=topic, partition=0, records=[Record(value=b"x", timestamp_ms=1_000 + at * 10)]))
        def offsets(**where):
            answer = self.admin.ListOffsets(admin_pb2.ListOffsetsRequest(topic=topic, **where))
            return {one.partition: one.offset for one in answer.offsets}
        self.assertEqual(offsets(), {0: 0, 1: 0})
        self.assertEqual(offsets(latest=True), {0: 10, 1: 0})
        self.assertEqual(offsets(latest=True, partitions=[0]), {0: 10})
        self.assertEqual(offsets(timestamp_ms=1_035), {0: 4, 1: 0})
        self.assertEqual(offsets(timestamp_ms=9_000), {0: 10, 1: 0})
        unknown = self.admin.ListOffsets(admin_pb2.ListOffsetsRequest(topic=topic, partitions=[7])).offsets[0].error
        self.assertEqual((common_pb2.Reason.Name(unknown.reason), unknown.retriable), ("REASON_UNKNOWN_PARTITION", False))
        self.refused(grpc.StatusCode.NOT_FOUND, "REASON_UNKNOWN_TOPIC", self.admin.ListOffsets,
                     admin_pb2.ListOffsetsRequest(topic="no-such-topic"))

        place = lambda partition, offset: common_pb2.PartitionOffset(topic=topic, partition=partition, offset=offset)
        def delete(*before):
            answer = self.admin.DeleteRecords(admin_pb2.DeleteRecordsRequest(before=before))
            return [common_pb2.Reason.Name(one.error.reason) if one.HasField("error") else one.offset for one in answer.log_start]
        self.assertEqual(delete(place(0, 4), place(1, 0), place(7, 0)), [4, 0, "REASON_UNKNOWN_PARTITION"])
        self.assertEqual(offsets(), {0: 4, 1: 0})
        self.assertEqual(delete(place(0, 11)), ["REASON_OFFSET_OUT_OF_RANGE"])
        self.assertEqual(delete(place(0, -1)), [10])
        self.assertEqual(self.read(topic), [])


class Member:
    """A group's member through gRPC, driven by a thread that does what a client should."""

    def __init__(self, case, group, *topics, **options):
        self.requests = Requests(ConsumeRequest(open=ConsumeOpen(group=group, topics=topics, **options)))
        self.answers = case.consumer.Consume(iter(self.requests))
        self.records, self.assigned, self.events, self.failures = [], None, [], []
        self.changed = threading.Condition()
        self.committed = {}
        self.error = None
        self.thread = threading.Thread(target=self.take, daemon=True)
        self.thread.start()
        case.addCleanup(self.answers.cancel)

    def take(self):
        try:
            for answer in self.answers:
                with self.changed:
                    self.note(answer)
                    self.changed.notify_all()
        except grpc.RpcError as error:
            self.error = error
        with self.changed:
            self.events.append("over")
            self.changed.notify_all()

    def note(self, answer):
        kind = answer.WhichOneof("kind")
        if kind == "data":
            assert self.assigned is not None, "data without an assignment"
            assert (answer.data.topic, answer.data.partition) in self.assigned
            self.records += [(answer.data.topic, answer.data.partition, r.offset, r.value) for r in answer.data.records]
            return
        self.events.append(kind)
        if kind == "assigned":
            assert self.assigned is None, "assigned twice"
            self.assigned = {(p.topic, p.partition): p.offset for p in answer.assigned.partitions}
        elif kind == "revoking":
            self.assigned = None
            self.requests.send(ConsumeRequest(released=ConsumeReleased()))
        elif kind == "committed":
            self.committed[answer.committed.id] = list(answer.committed.failed)
        elif kind == "failure":
            self.failures.append(answer.failure)

    def until(self, holds, what):
        with self.changed:
            assert self.changed.wait_for(lambda: holds(self), READ_S), f"not in time: {what}; {self.events} {self.assigned} {len(self.records)} {self.error}"

    def commit(self, id, at):
        places = [common_pb2.PartitionOffset(topic=topic, partition=partition, offset=offset)
                  for (topic, partition), offset in at.items()]
        self.requests.send(ConsumeRequest(commit=ConsumeCommit(id=id, offsets=places)))
        self.until(lambda me: id in me.committed, f"commit {id}")
        return self.committed[id]

    def close(self):
        self.requests.end()
        self.until(lambda me: "over" in me.events, "the end")


class Groups(Case):
    def setUp(self):
        super().setUp()
        self.group = f"group-{uuid.uuid4().hex[:8]}"

    def write(self, topic, partition, *values):
        records = [Record(value=value) for value in values]
        self.producer.Produce(ProduceRequest(topic=topic, partition=partition, records=records))

    def describe(self, group=None):
        return self.admin.DescribeGroup(admin_pb2.DescribeGroupRequest(group=group or self.group))

    def offsets(self):
        return {(o.topic, o.partition): (o.committed_offset, o.end_offset) for o in self.describe().offsets}

    def test_commit_and_resume(self):
        topic = self.topic(2)
        for partition in range(2):
            self.write(topic, partition, *[f"{partition}-{n}".encode() for n in range(10)])
        one = Member(self, self.group, topic)
        one.until(lambda me: len(me.records) == 20, "20 records")
        self.assertEqual(one.assigned, {(topic, 0): 0, (topic, 1): 0})
        by_partition = {p: [r[2] for r in one.records if r[1] == p] for p in range(2)}
        self.assertEqual(by_partition, {0: list(range(10)), 1: list(range(10))})
        self.assertEqual(one.commit(1, at={(topic, 0): 4}), [])
        failed = one.commit(2, at={(topic, 1): 10, (topic, 9): 1})
        self.assertEqual([(f.partition, common_pb2.Reason.Name(f.error.reason)) for f in failed], [(9, "REASON_UNKNOWN_PARTITION")])

        told = self.describe()
        self.assertEqual((told.summary.state, told.summary.protocol_type, told.assignor), ("Stable", "consumer", "range"))
        self.assertEqual(told.coordinator.grpc_endpoint, ADDRESS)
        (member,) = told.members
        self.assertEqual({a.topic: list(a.partitions) for a in member.assignment}, {topic: [0, 1]})
        self.assertEqual((member.client_id, member.host), ("esker-grpc", "127.0.0.1"))
        self.assertEqual(self.offsets(), {(topic, 0): (4, 10), (topic, 1): (10, 10)})
        one.close()
        self.assertIsNone(one.error)
        self.assertEqual(self.describe().summary.state, "Empty")

        two = Member(self, self.group, topic)
        two.until(lambda me: len(me.records) == 6, "what was not committed")
        self.assertEqual(two.assigned, {(topic, 0): 4, (topic, 1): 10})
        self.write(topic, 1, b"new")
        two.until(lambda me: len(me.records) == 7, "what is new")
        self.assertEqual(two.records[-1], (topic, 1, 10, b"new"))
        # Gone without a word: the broker leaves for it.
        two.answers.cancel()
        deadline = time.monotonic() + WAIT_S
        while self.describe().summary.state != "Empty":
            self.assertLess(time.monotonic(), deadline, "the member has not left")
            time.sleep(0.05)

    def test_three_members_of_both_doors_share_a_group(self):
        topic = self.topic(6)
        for partition in range(6):
            self.write(topic, partition, *[f"{partition}-{n}".encode() for n in range(50)])
        first = Member(self, self.group, topic, session_timeout_ms=6_000)
        first.until(lambda me: me.assigned and len(me.assigned) == 6 and len(me.records) == 300, "all of it")
        self.assertEqual(first.commit(1, at={(topic, p): 50 for p in range(6)}), [])
        second = Member(self, self.group, topic, session_timeout_ms=6_000)
        second.until(lambda me: me.assigned and len(me.assigned) == 3, "a half")
        first.until(lambda me: me.assigned and len(me.assigned) == 3, "the other half")
        self.assertEqual(first.events, ["assigned", "committed", "revoking", "assigned"])
        kafka = KafkaConsumer({"bootstrap.servers": BOOTSTRAP, "group.id": self.group, "auto.offset.reset": "earliest",
                               "partition.assignment.strategy": "range", "enable.auto.commit": False, "session.timeout.ms": 6_000})
        self.addCleanup(kafka.close)
        kafka.subscribe([topic])
        from_kafka = []
        def poll():
            message = kafka.poll(0.1)
            if message is not None and not message.error():
                from_kafka.append((message.partition(), message.offset(), message.value()))
        deadline = time.monotonic() + READ_S
        while len(kafka.assignment()) != 2 or len(first.assigned or []) != 2 or len(second.assigned or []) != 2:
            self.assertLess(time.monotonic(), deadline, f"{kafka.assignment()} {first.assigned} {second.assigned}")
            poll()
        parts = [{p for _, p in first.assigned}, {p for _, p in second.assigned}, {p.partition for p in kafka.assignment()}]
        self.assertEqual(sorted(sum(map(sorted, parts), [])), list(range(6)))
        self.assertEqual({offset for offset in list(first.assigned.values()) + list(second.assigned.values())}, {50})
        before = (len(first.records), len(second.records))
        for partition in range(6):
            self.write(topic, partition, b"last")
        first.until(lambda me: len(me.records) == before[0] + 2, "two of the last")
        second.until(lambda me: len(me.records) == before[1] + 2, "two of the last")
        while len(from_kafka) < 2:
            self.assertLess(time.monotonic(), deadline)
            poll()
        self.assertEqual(sorted(from_kafka), sorted((p, 50, b"last") for p in parts[2]))
        members = self.describe().members
        self.assertEqual(sorted(len(a.partitions) for m in members for a in m.assignment), [2, 2, 2])
        # The leader of the group leaves; the others have it all.
        first.close()
        while len(second.assigned or []) != 3 or len(kafka.assignment()) != 3:
            self.assertLess(time.monotonic(), deadline)
            poll()
        second.close()
        while len(kafka.assignment()) != 6:
            self.assertLess(time.monotonic(), deadline)
            poll()

    def test_a_topic_that_comes_later_and_one_that_grows(self):
        topic, later = self.topic(1), f"grpc-later-{uuid.uuid4().hex[:8]}"
        member = Member(self, self.group, topic, later)
        member.until(lambda me: me.assigned == {(topic, 0): 0}, "what is there")
        self.admin.CreateTopic(admin_pb2.CreateTopicRequest(name=later, partitions=1))
        member.until(lambda me: me.assigned and len(me.assigned) == 2, "the new topic")
        self.admin.CreatePartitions(admin_pb2.CreatePartitionsRequest(name=topic, partitions=3))
        member.until(lambda me: me.assigned and len(me.assigned) == 4, "the new partitions")
        self.write(topic, 2, b"x")
        self.write(later, 0, b"y")
        member.until(lambda me: {r[3] for r in me.records} == {b"x", b"y"}, "records of both")
        member.close()

    def test_reset_and_end(self):
        topic = self.topic(2)
        self.write(topic, 0, *[b"x"] * 5)
        def read(reset, **options):
            member = Member(self, f"{self.group}-{reset}", topic, reset=reset, stop_at_end=True, **options)
            member.until(lambda me: "assigned" in me.events and me.events.count("end") + len(me.failures) == 2, "the ends")
            offsets = sorted(r[2] for r in member.records)
            member.close()
            return offsets, [common_pb2.Reason.Name(f.error.reason) for f in member.failures]
        self.assertEqual(read("RESET_EARLIEST"), ([0, 1, 2, 3, 4], []))
        self.assertEqual(read("RESET_LATEST"), ([], []))
        self.assertEqual(read("RESET_NONE"), ([], ["REASON_OFFSET_OUT_OF_RANGE"] * 2))
        # Without a word from the client the stream ends by itself.
        member = Member(self, self.group, topic, stop_at_end=True, release_timeout_ms=300)
        member.until(lambda me: "over" in me.events, "the end")
        self.assertEqual((member.error, len(member.records)), (None, 5))
        # An offset that is gone.
        before = common_pb2.PartitionOffset(topic=topic, partition=0, offset=1)
        self.admin.SetGroupOffsets(admin_pb2.SetGroupOffsetsRequest(group=self.group, offsets=[before]))
        self.admin.DeleteRecords(admin_pb2.DeleteRecordsRequest(before=[common_pb2.PartitionOffset(topic=topic, partition=0, offset=3)]))
        member = Member(self, self.group, topic)
        member.until(lambda me: [r[2] for r in me.records] == [3, 4], "what is left")
        member.close()

    def test_groups_are_listed_and_deleted(self):
        topic = self.topic(2)
        place = lambda partition, offset: common_pb2.PartitionOffset(topic=topic, partition=partition, offset=offset)
        set_to = lambda *places: self.admin.SetGroupOffsets(admin_pb2.SetGroupOffsetsRequest(group=self.group, offsets=places)).failed
        listed = lambda: {g.group: (g.state, g.protocol_type) for g in self.admin.ListGroups(admin_pb2.ListGroupsRequest()).groups}
        missing = (grpc.StatusCode.NOT_FOUND, "REASON_UNKNOWN_GROUP")
        occupied = (grpc.StatusCode.FAILED_PRECONDITION, "REASON_CONFLICT")
        self.refused(*missing, self.describe)
        self.refused(*missing, self.admin.DeleteGroup, admin_pb2.DeleteGroupRequest(group=self.group))
        self.write(topic, 0, *[b"x"] * 5)
        self.assertEqual([f.partition for f in set_to(place(0, 3), place(1, 0), place(5, 0))], [5])
        self.assertEqual(listed()[self.group], ("Empty", ""))
        self.assertEqual(self.offsets(), {(topic, 0): (3, 5), (topic, 1): (0, 0)})
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "REASON_INVALID", set_to, place(0, -1))

        member = Member(self, self.group, topic)
        member.until(lambda me: len(me.records) == 2, "from where it was set")
        self.assertEqual(listed()[self.group], ("Stable", "consumer"))
        self.refused(*occupied, set_to, place(0, 0))
        self.refused(*occupied, self.admin.DeleteGroup, admin_pb2.DeleteGroupRequest(group=self.group))
        forget = lambda *partitions: self.admin.DeleteGroupOffsets(admin_pb2.DeleteGroupOffsetsRequest(
            group=self.group, partitions=[admin_pb2.AssignedTopic(topic=topic, partitions=partitions)])).failed
        self.assertEqual([common_pb2.Reason.Name(f.error.reason) for f in forget(0)], ["REASON_CONFLICT"])
        member.close()
        self.assertEqual(list(forget(0)), [])
        self.assertEqual(self.offsets(), {(topic, 1): (0, 0)})
        self.admin.DeleteGroup(admin_pb2.DeleteGroupRequest(group=self.group))
        self.assertNotIn(self.group, listed())

    def test_what_is_wrong_with_a_member(self):
        def first(*requests):
            return next(self.consumer.Consume(iter(Requests(*requests) if requests else ())))
        invalid = (grpc.StatusCode.INVALID_ARGUMENT, "REASON_INVALID")
        self.refused(*invalid, first)
        self.refused(*invalid, first, ConsumeRequest(released=ConsumeReleased()))
        self.refused(*invalid, first, ConsumeRequest(open=ConsumeOpen(topics=["t"])))
        self.refused(*invalid, first, ConsumeRequest(open=ConsumeOpen(group="g")))
        self.refused(*invalid, first, ConsumeRequest(open=ConsumeOpen(group=self.group, topics=["t"], session_timeout_ms=1)))
        # A group of another kind of members.
        topic = self.topic(1)
        kafka = KafkaConsumer({"bootstrap.servers": BOOTSTRAP, "group.id": self.group, "partition.assignment.strategy": "roundrobin"})
        self.addCleanup(kafka.close)
        kafka.subscribe([topic])
        deadline = time.monotonic() + READ_S
        while not kafka.assignment():
            self.assertLess(time.monotonic(), deadline)
            kafka.poll(0.1)
        self.refused(grpc.StatusCode.ABORTED, "REASON_CONFLICT", first, ConsumeRequest(open=ConsumeOpen(group=self.group, topics=[topic])))

    def test_a_member_that_does_not_read_stays_and_one_with_credit_gets_no_more(self):
        topic = self.topic(1, max_message_bytes="2000000")
        for _ in range(20):
            self.write(topic, 0, bytes(500_000))
        slow = self.consumer.Consume(iter(Requests(ConsumeRequest(open=ConsumeOpen(group=self.group, topics=[topic], session_timeout_ms=6_000)))))
        self.addCleanup(slow.cancel)
        self.assertEqual(next(slow).WhichOneof("kind"), "assigned")
        time.sleep(8)  # longer than the session
        self.assertEqual(self.describe().summary.state, "Stable")
        self.assertEqual(sum(len(answer.data.records) for answer in (next(slow) for _ in range(3))) > 0, True)
        slow.cancel()
        limited = Member(self, self.group + "-2", topic, credit_bytes=1_000_000)
        limited.until(lambda me: len(me.records) >= 2, "what there is credit for")
        time.sleep(0.5)
        self.assertLess(len(limited.records), 5)
        limited.requests.send(ConsumeRequest(credit=FetchCredit(bytes=100_000_000)))
        limited.until(lambda me: len(me.records) == 20, "the rest")
        limited.close()


class Writing(Case):
    def test_what_goes_in_comes_out(self):
        topic = self.topic()
        records = [
            Record(key=b"k", value=b"v", headers=[Header(key="h", value=b"1"), Header(key="h"), Header(key="", value=b"")], timestamp_ms=1_234),
            Record(value=b""),
            Record(key=b"gone"),
            Record(key=b"", value="ü".encode()),
        ]
        before = time.time() * 1000 - 1
        for codec in range(5):
            answer = self.producer.Produce(ProduceRequest(id=codec + 7, topic=topic, partition=0, records=records, compression=codec))
            self.assertEqual((answer.id, answer.appended[0].base_offset), (codec + 7, codec * 4))
        found = self.read(topic)
        self.assertEqual([record.offset for record in found], list(range(20)))
        for at, record in enumerate(found):
            sent = records[at % 4]
            self.assertEqual((record.HasField("key"), record.key), (sent.HasField("key"), sent.key))
            self.assertEqual((record.HasField("value"), record.value), (sent.HasField("value"), sent.value))
            self.assertEqual(list(record.headers), list(sent.headers))
            if sent.HasField("timestamp_ms"):
                self.assertEqual(record.timestamp_ms, 1_234)
            else:
                self.assertGreaterEqual(record.timestamp_ms, before)

    def test_keys_go_where_kafka_s_clients_send_them(self):
        topic = self.topic(6)
        keys = [f"key-{number}".encode() for number in range(200)]
        answer = self.producer.Produce(ProduceRequest(topic=topic, records=[Record(key=key, value=b"grpc") for key in keys]))
        self.assertEqual(sorted(at for part in answer.appended for at in part.records), list(range(200)))
        by_grpc = {keys[at]: part.partition for part in answer.appended for at in part.records}
        by_kafka = {}
        producer = KafkaProducer({"bootstrap.servers": BOOTSTRAP, "partitioner": "murmur2_random"})
        for key in keys:
            producer.produce(topic, b"kafka", key, on_delivery=lambda error, m: by_kafka.__setitem__(m.key(), m.partition()))
        self.assertEqual(producer.flush(WAIT_S), 0)
        self.assertEqual(by_grpc, by_kafka)

    def test_a_stream_is_answered_in_order(self):
        topic = self.topic()
        requests = (ProduceRequest(id=number, topic=topic, partition=0, records=[Record(value=str(number).encode())] * 3)
                    for number in range(2_000))
        answers = list(self.producer.ProduceStream(requests, timeout=60))
        self.assertEqual([answer.id for answer in answers], list(range(2_000)))
        self.assertEqual([answer.appended[0].base_offset for answer in answers], list(range(0, 6_000, 3)))

    def test_a_failed_request_does_not_end_the_stream(self):
        topic = self.topic()
        good = ProduceRequest(topic=topic, partition=0, records=[Record(value=b"x")])
        requests = [good, ProduceRequest(topic=topic, partition=9, records=good.records), ProduceRequest(topic=topic), good]
        answers = list(self.producer.ProduceStream(iter(requests), timeout=WAIT_S))
        reasons = [common_pb2.Reason.Name(answer.appended[0].error.reason) for answer in answers]
        self.assertEqual(reasons, ["REASON_UNSPECIFIED", "REASON_UNKNOWN_PARTITION", "REASON_INVALID", "REASON_UNSPECIFIED"])
        self.assertEqual(len(self.read(topic)), 2)

    def test_a_repeated_batch_is_written_once(self):
        topic = self.topic()
        init = self.producer.InitProducer(producer_pb2.InitProducerRequest())

        def write(sequence, value):
            state = ProducerState(producer_id=init.producer_id, producer_epoch=init.producer_epoch, base_sequence=sequence)
            request = ProduceRequest(topic=topic, partition=0, records=[Record(value=value)] * 2, producer=state)
            return self.producer.Produce(request).appended[0].base_offset

        self.assertEqual([write(0, b"a"), write(0, b"a"), write(2, b"b"), write(0, b"a")], [0, 0, 2, 0])
        self.assertEqual([record.value for record in self.read(topic)], [b"a", b"a", b"b", b"b"])
        with self.assertRaises(grpc.RpcError) as caught:
            write(9, b"c")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertIn("sequence 9 where 4 follows", caught.exception.details())

    def test_errors_say_what_is_wrong(self):
        topic = self.topic(max_message_bytes="10000")
        record = Record(value=b"x")
        refused = lambda code, reason, **fields: self.refused(code, reason, self.producer.Produce, ProduceRequest(topic=topic, **fields))
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        refused(invalid, "REASON_INVALID")
        refused(invalid, "REASON_INVALID", records=[record], batch=b"x", partition=0)
        refused(invalid, "REASON_INVALID", batch=b"x")
        refused(invalid, "REASON_INVALID", batch=b"nonsense", partition=0)
        refused(invalid, "REASON_INVALID", records=[record], acks=17)
        refused(invalid, "REASON_INVALID", records=[record], compression=99)
        refused(invalid, "REASON_INVALID", records=[record], producer=ProducerState(producer_id=1))
        refused(invalid, "REASON_INVALID", records=[record], partition=0, producer=ProducerState(producer_id=1, producer_epoch=70_000))
        refused(invalid, "REASON_TOO_LARGE", records=[Record(value=bytes(20_000))], partition=0)
        refused(grpc.StatusCode.NOT_FOUND, "REASON_UNKNOWN_PARTITION", records=[record], partition=1)
        refused(grpc.StatusCode.NOT_FOUND, "REASON_UNKNOWN_PARTITION", records=[record], partition=-1)
        self.assertEqual(self.read(topic), [])
        # Larger than any message may be: refused, and the connection stays.
        with self.assertRaises(grpc.RpcError) as caught:
            self.producer.Produce(ProduceRequest(topic=topic, records=[Record(value=bytes(17 << 20))]))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.OUT_OF_RANGE)
        self.producer.Produce(ProduceRequest(topic=topic, records=[record]))


class Ending(Case):
    def streams(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{STATE['http']}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("esker_grpc_streams ")))

    def until_streams_are(self, count):
        deadline = time.monotonic() + WAIT_S
        while self.streams() != count:
            self.assertLess(time.monotonic(), deadline, f"{self.streams()} streams")
            time.sleep(0.02)

    def test_a_call_that_is_dropped_leaves_nothing(self):
        topic = self.topic(2)
        self.until_streams_are(0)
        fetch = FetchRequest(open=FetchOpen(partitions=[FetchFrom(topic=topic)]))
        member = ConsumeRequest(open=ConsumeOpen(group=f"group-{uuid.uuid4().hex[:8]}", topics=[topic]))
        produce = ProduceRequest(topic=topic, partition=0, records=[Record(value=b"x")])
        begin = lambda: [self.consumer.Fetch(iter(Requests(fetch))), self.consumer.Consume(iter(Requests(member))),
                         self.producer.ProduceStream(iter(Requests(produce)))]
        calls = begin()
        for call in calls:
            next(call)
        self.assertEqual(self.streams(), 3)
        for call in calls:
            call.cancel()
        self.until_streams_are(0)
        # While they wait, and with a deadline.
        for call in begin()[:2]:
            call.cancel()
        late = [self.consumer.Fetch(iter(Requests(fetch)), timeout=0.5), self.producer.ProduceStream(iter(Requests(produce)), timeout=0.5)]
        for call in late:
            with self.assertRaises(grpc.RpcError) as caught:
                list(call)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.until_streams_are(0)


class Requests:
    """A stream of requests that grows as the test goes on."""

    def __init__(self, first):
        self.queue = queue.Queue()
        self.queue.put(first)

    def __iter__(self):
        return iter(self.queue.get, None)

    def send(self, request):
        self.queue.put(request)

    def end(self):
        self.queue.put(None)


class Reading(Case):
    def test_where_to_start(self):
        topic = self.topic()
        for at in range(10):
            self.producer.Produce(ProduceRequest(topic=topic, partition=0, acks="ACKS_LEADER" if at < 9 else "ACKS_ALL",
                                                 records=[Record(value=str(at).encode(), timestamp_ms=1_000 + at * 10)]))
        first = lambda **start: [record.offset for record in self.read(topic, **start)][:1]
        self.assertEqual(first(), [0])
        self.assertEqual(first(latest=False), [0])
        self.assertEqual(first(latest=True), [])
        self.assertEqual(first(offset=7), [7])
        self.assertEqual(first(timestamp_ms=1_035), [4])
        self.assertEqual(first(timestamp_ms=9_999), [])

    def test_a_waiting_reader_gets_a_record_at_once(self):
        topic = self.topic(3)
        partitions = [FetchFrom(topic=topic, partition=index, latest=True) for index in range(3)]
        answers = self.consumer.Fetch(iter([FetchRequest(open=FetchOpen(partitions=partitions))]))
        self.addCleanup(answers.cancel)
        found = queue.Queue()
        def take():
            try:
                for answer in answers:
                    found.put((time.monotonic(), answer.data))
            except grpc.RpcError:
                pass
        threading.Thread(target=take, daemon=True).start()
        time.sleep(0.5)  # nothing comes meanwhile
        self.assertTrue(found.empty())
        for index in [2, 0]:
            self.producer.Produce(ProduceRequest(topic=topic, partition=index, records=[Record(value=b"now")]))
            answered = time.monotonic()
            came, data = found.get(timeout=WAIT_S)
            self.assertEqual((data.partition, data.records[0].value, data.high_watermark), (index, b"now", 1))
            self.assertLess(came - answered, 1)

    def test_no_more_comes_than_there_is_credit_for(self):
        topic = self.topic()
        for _ in range(64):
            self.producer.Produce(ProduceRequest(topic=topic, partition=0, records=[Record(value=os.urandom(64 << 10))]))
        requests = Requests(FetchRequest(open=FetchOpen(partitions=[FetchFrom(topic=topic)], stop_at_end=True, credit_bytes=200_000)))
        answers = self.consumer.Fetch(iter(requests), timeout=WAIT_S)
        came = queue.Queue()
        def take():
            for answer in answers:
                came.put(answer)
            came.put(None)
        threading.Thread(target=take, daemon=True).start()

        def drain():
            """What comes until nothing has come for half a second."""
            got = []
            try:
                while True:
                    got.append(came.get(timeout=0.5))
            except queue.Empty:
                return got

        # A batch that has been begun is sent whole.
        batch = (64 << 10) + 1_000
        cost = sum(answer.data.bytes for answer in drain())
        self.assertTrue(200_000 - batch <= cost <= 200_000 + batch, cost)
        requests.send(FetchRequest(credit=FetchCredit(bytes=1_000_000)))
        more = sum(answer.data.bytes for answer in drain())
        self.assertTrue(1_200_000 - batch <= cost + more <= 1_200_000 + batch, (cost, more))
        requests.send(FetchRequest(credit=FetchCredit(bytes=100 << 20)))
        rest = drain()
        self.assertIsNone(rest[-1])
        self.assertEqual(rest[-2].end.next_offset, 64)
        requests.end()

    def test_a_reader_that_does_not_read_costs_little(self):
        topic = self.topic()
        payload = os.urandom(512 << 10)
        for _ in range(128):
            self.producer.Produce(ProduceRequest(topic=topic, partition=0, acks="ACKS_LEADER", records=[Record(value=payload)]))
        before = self.memory()
        readers = []
        for _ in range(20):
            answers = self.consumer.Fetch(iter([FetchRequest(open=FetchOpen(partitions=[FetchFrom(topic=topic)]))]))
            self.addCleanup(answers.cancel)
            readers.append(next(answers))
        time.sleep(2)  # whatever is to be buffered is buffered by now
        # 20 readers of 64 MiB each; each holds an answer or two, and what HTTP/2 lets it have on the way.
        self.assertLess(self.memory() - before, 150 << 20)

    @staticmethod
    def memory():
        status = pathlib.Path(f"/proc/{STATE['pid']}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) << 10

    def test_errors_concern_one_partition(self):
        topic = self.topic(2)
        self.producer.Produce(ProduceRequest(topic=topic, partition=1, records=[Record(value=b"x")]))
        partitions = [FetchFrom(topic=topic, partition=0, offset=99), FetchFrom(topic=topic, partition=7),
                      FetchFrom(topic="nowhere"), FetchFrom(topic=topic, partition=1)]
        answers = list(self.consumer.Fetch(iter([FetchRequest(open=FetchOpen(partitions=partitions, stop_at_end=True))]), timeout=READ_S))
        kinds = {}
        for answer in answers:
            kind = answer.WhichOneof("kind")
            detail = getattr(answer, kind)
            kinds[(detail.topic == topic, detail.partition, kind)] = answer
        reason = lambda key: common_pb2.Reason.Name(kinds[key].failure.error.reason)
        self.assertEqual(reason((True, 7, "failure")), "REASON_UNKNOWN_PARTITION")
        self.assertEqual(reason((False, 0, "failure")), "REASON_UNKNOWN_TOPIC")
        self.assertEqual(kinds[(True, 1, "data")].data.records[0].value, b"x")
        self.assertIn((True, 1, "end"), kinds)
        # An offset past the end is read: nothing is there. Without a stop it would be out of range.
        partitions = [FetchFrom(topic=topic, partition=0, offset=99)]
        answer = next(self.consumer.Fetch(iter([FetchRequest(open=FetchOpen(partitions=partitions))]), timeout=WAIT_S))
        self.assertEqual(common_pb2.Reason.Name(answer.failure.error.reason), "REASON_OFFSET_OUT_OF_RANGE")

        def refused(*requests):
            with self.assertRaises(grpc.RpcError) as caught:
                list(self.consumer.Fetch(iter(requests), timeout=WAIT_S))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)

        refused()
        refused(FetchRequest(credit=FetchCredit(bytes=1)))
        refused(FetchRequest(open=FetchOpen()))


class BothDoors(Case):
    def test_from_grpc_to_kafka(self):
        topic = self.topic()
        values = [f"{number}:".encode() + os.urandom(20) for number in range(MANY)]
        def requests():
            for begin in range(0, MANY, 1_000):
                records = [Record(key=value[:4], value=value, headers=[Header(key="n", value=value[:2])], timestamp_ms=begin + 1)
                           for value in values[begin:begin + 1_000]]
                yield ProduceRequest(topic=topic, partition=0, records=records, compression=begin // 1_000 % 5)
        for answer in self.producer.ProduceStream(requests(), timeout=120):
            self.assertFalse(answer.appended[0].HasField("error"), answer)
        consumer = KafkaConsumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.auto.commit": False})
        self.addCleanup(consumer.close)
        consumer.assign([TopicPartition(topic, 0, 0)])
        found = []
        while len(found) < MANY:
            messages = consumer.consume(10_000, timeout=WAIT_S)
            self.assertTrue(messages, f"only {len(found)} came")
            found.extend(messages)
        self.assertEqual([message.offset() for message in found], list(range(MANY)))
        self.assertTrue(all(message.value() == value and message.key() == value[:4] and message.headers() == [("n", value[:2])]
                            for message, value in zip(found, values)))
        self.assertEqual(found[-1].timestamp()[1], MANY - 999)

    def test_from_kafka_to_grpc(self):
        topic = self.topic()
        values = [f"{number}:".encode() + os.urandom(20) for number in range(MANY)]
        for codec, begin in zip(["none", "gzip", "snappy", "lz4", "zstd"], range(0, MANY, MANY // 5)):
            producer = KafkaProducer({"bootstrap.servers": BOOTSTRAP, "compression.type": codec, "enable.idempotence": True,
                                      "linger.ms": 50, "queue.buffering.max.messages": MANY})
            for value in values[begin:begin + MANY // 5]:
                producer.produce(topic, value, value[:4], headers=[("n", value[:2]), ("null", None)])
            self.assertEqual(producer.flush(60), 0)
        found = self.read(topic)
        self.assertEqual([record.offset for record in found], list(range(MANY)))
        self.assertTrue(all(record.value == value and record.key == value[:4] and record.headers[0].value == value[:2]
                            and not record.headers[1].HasField("value") for record, value in zip(found, values)))


if __name__ == "__main__":
    unittest.main()
