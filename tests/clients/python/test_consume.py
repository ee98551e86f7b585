"""Where a consumer may start, and what happens at the edges."""

import time

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END

from kit import Case, Consumer, KafkaError, KafkaException, TopicPartition, settings


class Consume(Case):
    def test_from_beginning_end_and_offset(self):
        topic = self.topic()
        self.values(topic, [b"%d" % n for n in range(100)])
        self.assertEqual(self.read(topic, 100, OFFSET_BEGINNING)[0].offset(), 0)
        self.assertEqual([m.offset() for m in self.read(topic, 3, 97)], [97, 98, 99])
        consumer = Consumer(settings(group_id=self.name("g")))
        try:
            consumer.assign([TopicPartition(topic, 0, OFFSET_END)])
            self.assertIsNone(consumer.poll(1.5))
            self.values(topic, [b"new"])
            self.assertEqual(self.take(consumer, 1)[0].value(), b"new")
        finally:
            consumer.close()

    def test_offset_in_the_middle_of_a_compressed_batch(self):
        topic = self.topic()
        self.values(topic, [b"%d" % n for n in range(500)], compression_codec="lz4", linger_ms=100)
        self.assertEqual([m.value() for m in self.read(topic, 5, 333)], [b"%d" % n for n in range(333, 338)])

    def test_from_timestamp(self):
        topic = self.topic()
        start = 1_700_000_000_000
        for codec in ("none", "gzip"):
            self.produce(topic, [(0, None, b"v", None, start + n * 1000) for n in range(20)], compression_codec=codec, linger_ms=50)
            start += 20_000
        consumer = Consumer(settings(group_id=self.name("g")))
        try:
            for asked, expected in [(0, 0), (1_700_000_000_000, 0), (1_700_000_005_000, 5), (1_700_000_005_001, 6),
                                    (1_700_000_025_000, 25), (1_700_000_039_000, 39), (1_700_000_039_001, -1)]:
                found = consumer.offsets_for_times([TopicPartition(topic, 0, asked)], timeout=10)[0]
                self.assertEqual(found.offset, expected, f"at {asked}")
        finally:
            consumer.close()

    def test_watermarks(self):
        topic = self.topic()
        consumer = Consumer(settings(group_id=self.name("g")))
        try:
            self.assertEqual(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10), (0, 0))
            self.values(topic, [b"v"] * 42)
            self.assertEqual(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10), (0, 42))
        finally:
            consumer.close()

    def test_end_of_partition_is_told(self):
        topic = self.topic()
        self.values(topic, [b"v"] * 3)
        consumer = Consumer(settings(group_id=self.name("g"), enable_partition_eof=True))
        try:
            consumer.assign([TopicPartition(topic, 0, 0)])
            self.take(consumer, 3)
            message = consumer.poll(10)
            self.assertEqual(message.error().code(), KafkaError._PARTITION_EOF)
            self.assertEqual(message.offset(), 3)
        finally:
            consumer.close()

    def test_out_of_range_follows_the_reset_policy(self):
        topic = self.topic()
        self.values(topic, [b"%d" % n for n in range(10)])
        self.assertEqual(self.read(topic, 1, 1000, auto_offset_reset="earliest")[0].offset(), 0)
        with self.assertRaises(KafkaException) as raised:
            self.read(topic, 1, 1000, auto_offset_reset="error")
        self.assertEqual(raised.exception.args[0].code(), KafkaError._AUTO_OFFSET_RESET)

    def test_unknown_topic_is_told(self):
        consumer = Consumer(settings(group_id=self.name("g")))
        try:
            consumer.subscribe([self.name("missing")])
            with self.assertRaises(KafkaException) as raised:
                self.take(consumer, 1)
            self.assertEqual(raised.exception.args[0].code(), KafkaError.UNKNOWN_TOPIC_OR_PART)
        finally:
            consumer.close()

    def test_both_isolation_levels(self):
        topic = self.topic()
        self.values(topic, [b"v"] * 5)
        for level in ("read_uncommitted", "read_committed"):
            self.assertEqual(len(self.read(topic, 5, isolation_level=level)), 5)

    def test_many_partitions_in_one_session(self):
        """Forty partitions, written one after another while a consumer holds an incremental fetch session."""
        topic = self.topic(partitions=40)
        consumer = Consumer(settings(group_id=self.name("g"), fetch_wait_max_ms=100))
        try:
            consumer.assign([TopicPartition(topic, p, 0) for p in range(40)])
            for lap in range(3):
                self.produce(topic, [(p, None, b"%d" % lap, None) for p in range(40)])
                got = self.take(consumer, 40)
                self.assertEqual(sorted(m.partition() for m in got), list(range(40)))
                self.assertEqual({m.value() for m in got}, {b"%d" % lap})
                time.sleep(0.2)
        finally:
            consumer.close()

    def test_small_fetches_see_everything_once(self):
        topic = self.topic()
        sent = [b"%05d" % n + b"x" * 200 for n in range(3000)]
        self.values(topic, sent, batch_num_messages=37)
        got = self.read(topic, len(sent), fetch_message_max_bytes=5000, fetch_max_bytes=1_000_000)
        self.assertEqual([m.value() for m in got], sent)
