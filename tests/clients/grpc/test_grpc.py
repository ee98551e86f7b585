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
