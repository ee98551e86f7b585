"""What goes in comes out, for every way of sending it."""

import os
import time

from kit import CODECS, Case, KafkaError, KafkaException, Producer, TopicPartition, settings


class Produce(Case):
    def test_every_codec_with_every_acks(self):
        for acks in ("0", "1", "all"):
            for codec in CODECS:
                with self.subTest(acks=acks, codec=codec):
                    topic = self.topic()
                    sent = [f"{codec} {acks} {n} ".encode() * 20 for n in range(200)]
                    self.values(topic, sent, acks=acks, compression_codec=codec, linger_ms=20)
                    got = self.read(topic, len(sent))
                    self.assertEqual([m.value() for m in got], sent)
                    self.assertEqual([m.offset() for m in got], list(range(len(sent))))

    def test_offsets_of_deliveries_are_dense(self):
        topic = self.topic(partitions=3)
        sent = self.produce(topic, [(n % 3, b"k", b"v%d" % n, None) for n in range(300)], acks="all")
        for partition in range(3):
            offsets = [m.offset() for m in sent if m.partition() == partition]
            self.assertEqual(offsets, list(range(100)))

    def test_keys_headers_nulls_and_empties(self):
        topic = self.topic()
        records = [
            (0, b"key", b"value", [("a", b"1"), ("a", b"2"), ("empty", b""), ("null", None)]),
            (0, None, b"no key", None),
            (0, b"", b"empty key", None),
            (0, b"tombstone", None, None),
            (0, b"empty value", b"", None),
            (0, "schlüssel".encode(), bytes(range(256)), [("ключ", "значение".encode())]),
        ]
        self.produce(topic, records)
        got = self.read(topic, len(records))
        for (_, key, value, headers), message in zip(records, got):
            self.assertEqual((message.key(), message.value(), message.headers()), (key, value, headers))

    def test_record_of_900_kb(self):
        topic = self.topic()
        big = os.urandom(900_000)
        self.values(topic, [b"before", big, b"after"], message_max_bytes=2_000_000)
        self.assertEqual([m.value() for m in self.read(topic, 3)], [b"before", big, b"after"])

    def test_record_larger_than_the_fetch_limits_is_still_given(self):
        topic = self.topic()
        big = os.urandom(500_000)
        self.values(topic, [big, b"after"])
        got = self.read(topic, 2, fetch_message_max_bytes=1000, fetch_max_bytes=1_000_000, message_max_bytes=1_000_000)
        self.assertEqual([m.value() for m in got], [big, b"after"])

    def test_too_large_for_the_broker_is_refused(self):
        topic = self.topic()
        too_large = os.urandom(1_500_000)
        self.fails_with(KafkaError.MSG_SIZE_TOO_LARGE, lambda: self.values(topic, [too_large], message_max_bytes=3_000_000))
        self.values(topic, [b"still works"])
        self.assertEqual(self.read(topic, 1)[0].value(), b"still works")

    def test_topic_limit_on_record_size(self):
        topic = self.topic(max_message_bytes=10_000)
        self.fails_with(KafkaError.MSG_SIZE_TOO_LARGE, lambda: self.values(topic, [os.urandom(20_000)]))
        self.values(topic, [os.urandom(9_000)])

    def test_timestamps_of_the_producer_are_kept(self):
        topic = self.topic()
        stamps = [1_600_000_000_000 + n * 1000 for n in range(10)]
        self.produce(topic, [(0, None, b"v", None, stamp) for stamp in stamps])
        got = self.read(topic, 10)
        self.assertEqual([m.timestamp() for m in got], [(1, stamp) for stamp in stamps])

    def test_log_append_time(self):
        topic = self.topic(message_timestamp_type="LogAppendTime")
        before = int(time.time() * 1000)
        for codec in CODECS:
            self.produce(topic, [(0, None, b"v", None, 1_600_000_000_000)] * 3, compression_codec=codec)
        after = int(time.time() * 1000)
        for message in self.read(topic, 3 * len(CODECS)):
            kind, stamp = message.timestamp()
            self.assertEqual(kind, 2)
            self.assertTrue(before - 5 <= stamp <= after + 5, f"{stamp} is not within {before}..{after}")

    def test_timestamp_too_far_ahead_is_refused(self):
        topic = self.topic(message_timestamp_after_max_ms=60_000)
        ahead = int(time.time() * 1000) + 3_600_000
        with self.assertRaises(KafkaException) as raised:
            self.produce(topic, [(0, None, b"v", None, ahead)])
        self.assertEqual(raised.exception.args[0].code(), 32)  # INVALID_TIMESTAMP
        self.produce(topic, [(0, None, b"v", None)])

    def test_idempotent_producer(self):
        topic = self.topic(partitions=2)
        sent = [b"%d" % n for n in range(2000)]
        self.produce(topic, [(n % 2, None, v, None) for n, v in enumerate(sent)], enable_idempotence=True, linger_ms=1,
                     batch_num_messages=50)
        for partition in range(2):
            got = [m.value() for m in self.read(topic, 1000, partition=partition)]
            self.assertEqual(got, sent[partition::2])

    def test_unknown_partition_is_refused(self):
        topic = self.topic(partitions=2)
        with self.assertRaises(KafkaException) as raised:
            self.produce(topic, [(7, None, b"v", None)], message_timeout_ms=3000)
        self.assertIn(raised.exception.args[0].code(), (KafkaError._UNKNOWN_PARTITION, KafkaError._MSG_TIMED_OUT))

    def test_auto_create(self):
        topic = self.name("auto")
        self.produce(topic, [(-1, None, b"first", None)])
        self.assertEqual(self.read(topic, 1)[0].value(), b"first")

    def test_a_tailing_consumer_gets_a_record_at_once(self):
        """The broker may hold a fetch for 5 s; a record has to end that wait."""
        from confluent_kafka import Consumer

        topic = self.topic()
        self.values(topic, [b"warm"])
        consumer = Consumer(settings(group_id=self.name("g"), fetch_wait_max_ms=5000, fetch_min_bytes=1))
        producer = Producer(settings(linger_ms=0))
        try:
            consumer.assign([TopicPartition(topic, 0, 0)])
            self.take(consumer, 1)
            waits = []
            for n in range(5):
                self.assertIsNone(consumer.poll(0.7))  # the fetch is parked now
                begin = time.monotonic()
                producer.produce(topic, b"%d" % n)
                producer.flush(10)
                self.take(consumer, 1)
                waits.append(time.monotonic() - begin)
            self.assertLess(max(waits), 1.5, waits)
        finally:
            consumer.close()
