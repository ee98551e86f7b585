"""What every test of this suite needs: the broker under test, topics of its own, produce and consume in a few words."""

import os
import pathlib
import subprocess
import sys
import time
import unittest
import uuid

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

BOOTSTRAP = os.environ["ESKER_BOOTSTRAP"]
BROKER_DIR = os.environ["ESKER_BROKER_DIR"]
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
WAIT_S = 30


def restart_broker(how="KILL"):
    """Ends the broker with that signal and brings it back on the same data."""
    script = pathlib.Path(__file__).resolve().parents[1] / "broker.py"
    subprocess.run([sys.executable, str(script), "--dir", BROKER_DIR, "restart", "--signal", how], check=True)


def settings(**more):
    return {"bootstrap.servers": BOOTSTRAP, "log_level": 0, **{k.replace("_", "."): v for k, v in more.items()}}


class Case(unittest.TestCase):
    """A test with its own topics and groups."""

    @classmethod
    def setUpClass(cls):
        cls.admin = AdminClient(settings())

    def name(self, word="t"):
        return f"py-{word}-{uuid.uuid4().hex[:8]}"

    def topic(self, partitions=1, **config):
        """A new topic, known to the broker's metadata when this returns."""
        name = self.name()
        config = {k.replace("_", "."): str(v) for k, v in config.items()}
        self.admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(WAIT_S)
        self.until(lambda: len(self.admin.list_topics(name, timeout=WAIT_S).topics[name].partitions) == partitions)
        return name

    def until(self, condition, seconds=WAIT_S):
        """Polls something that becomes true; what it was last is in the failure."""
        end = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                self.fail(f"not within {seconds} s: {condition}")
            time.sleep(0.05)

    def produce(self, topic, records, **config):
        """Sends (partition, key, value, headers[, timestamp]) tuples; returns the delivered messages in order of sending."""
        producer = Producer(settings(**config))
        done = [None] * len(records)

        def note(index):
            def callback(error, message):
                done[index] = KafkaException(error) if error else message
            return callback

        for index, (partition, key, value, headers, *timestamp) in enumerate(records):
            more = {"timestamp": timestamp[0]} if timestamp else {}
            while True:
                try:
                    producer.produce(topic, value, key, partition=partition, headers=headers, on_delivery=note(index), **more)
                    break
                except BufferError:
                    producer.poll(0.1)
        self.assertEqual(producer.flush(60), 0, "not everything was delivered within 60 s")
        for result in done:
            if isinstance(result, Exception):
                raise result
        return done

    def values(self, topic, values, partition=0, **config):
        return self.produce(topic, [(partition, None, v, None) for v in values], **config)

    def read(self, topic, count, start=0, partition=0, seconds=WAIT_S, **config):
        """Exactly `count` messages from an offset of one partition, without a group's help."""
        consumer = Consumer(settings(group_id=self.name("g"), enable_auto_commit=False, **config))
        try:
            consumer.assign([TopicPartition(topic, partition, start)])
            return self.take(consumer, count, seconds)
        finally:
            consumer.close()

    def take(self, consumer, count, seconds=WAIT_S):
        found, end = [], time.monotonic() + seconds
        while len(found) < count:
            message = consumer.poll(0.5)
            if message is None:
                self.assertLess(time.monotonic(), end, f"{len(found)} of {count} messages within {seconds} s")
            elif message.error():
                raise KafkaException(message.error())
            else:
                found.append(message)
        return found

    def fails_with(self, code, action):
        """The action raises a KafkaException with exactly this code."""
        with self.assertRaises(KafkaException) as raised:
            action()
        self.assertEqual(raised.exception.args[0].code(), code, raised.exception)
        return raised.exception.args[0]


__all__ = ["BOOTSTRAP", "CODECS", "Case", "Consumer", "KafkaError", "KafkaException", "Producer", "TopicPartition", "WAIT_S",
           "restart_broker", "settings"]
