"""What an administrator asks for, and what a broker has to refuse."""

from confluent_kafka import TopicCollection
from confluent_kafka.admin import (AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec,
                                   ResourceType)

from kit import Case, KafkaError, TopicPartition, WAIT_S


class Admin(Case):
    def config(self, topic):
        resource = ConfigResource(ResourceType.TOPIC, topic)
        return self.admin.describe_configs([resource])[resource].result(WAIT_S)

    def change(self, topic, *entries):
        changes = [ConfigEntry(name, value, incremental_operation=op) for name, value, op in entries]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=changes)
        return self.admin.incremental_alter_configs([resource])[resource].result(WAIT_S)

    def test_create_with_configs_and_partitions(self):
        topic = self.topic(partitions=5, retention_ms=3_600_000, cleanup_policy="compact,delete", max_message_bytes=2_000_000,
                           min_insync_replicas=1, segment_bytes=16_777_216)
        self.assertEqual(len(self.admin.list_topics(topic, timeout=10).topics[topic].partitions), 5)
        config = self.config(topic)
        self.assertEqual(config["retention.ms"].value, "3600000")
        self.assertEqual(set(config["cleanup.policy"].value.split(",")), {"compact", "delete"})
        self.assertEqual(config["max.message.bytes"].value, "2000000")
        self.assertFalse(config["retention.ms"].is_default)
        self.assertEqual(config["retention.bytes"].value, "-1")
        self.assertTrue(config["retention.bytes"].is_default)
        self.assertEqual(config["compression.type"].value, "producer")
        self.assertEqual(config["message.timestamp.type"].value, "CreateTime")

    def refused(self, code, name, partitions=1, replication=1, **config):
        config = {k.replace("_", "."): v for k, v in config.items()}
        new = NewTopic(name, partitions, replication, config=config)
        self.fails_with(code, lambda: self.admin.create_topics([new])[name].result(WAIT_S))

    def test_creation_that_cannot_be_is_refused(self):
        topic = self.topic()
        self.refused(KafkaError.TOPIC_ALREADY_EXISTS, topic)
        self.refused(KafkaError.TOPIC_EXCEPTION, "no spaces allowed")
        self.refused(KafkaError.TOPIC_EXCEPTION, "x" * 250)
        self.refused(KafkaError.TOPIC_EXCEPTION, "..")
        self.refused(KafkaError.INVALID_CONFIG, self.name(), retention_ms="soon")
        self.refused(KafkaError.INVALID_CONFIG, self.name(), no_such_config="1")
        self.refused(KafkaError.INVALID_CONFIG, self.name(), cleanup_policy="shred")

    def test_validate_only_creates_nothing(self):
        name = self.name()
        self.admin.create_topics([NewTopic(name, 2, 1)], validate_only=True)[name].result(WAIT_S)
        self.assertNotIn(name, self.admin.list_topics(timeout=10).topics)

    def test_alter_configs_incrementally(self):
        topic = self.topic(retention_ms=1000)
        self.change(topic, ("retention.ms", "5000", AlterConfigOpType.SET), ("retention.bytes", "1048576", AlterConfigOpType.SET),
                    ("cleanup.policy", "compact", AlterConfigOpType.APPEND))
        config = self.config(topic)
        self.assertEqual((config["retention.ms"].value, config["retention.bytes"].value), ("5000", "1048576"))
        self.assertEqual(set(config["cleanup.policy"].value.split(",")), {"delete", "compact"})
        self.change(topic, ("retention.ms", None, AlterConfigOpType.DELETE), ("cleanup.policy", "delete", AlterConfigOpType.SUBTRACT))
        config = self.config(topic)
        self.assertEqual((config["retention.ms"].value, config["retention.ms"].is_default), ("604800000", True))
        self.assertEqual(config["cleanup.policy"].value, "compact")
        self.fails_with(KafkaError.INVALID_CONFIG, lambda: self.change(topic, ("retention.ms", "x", AlterConfigOpType.SET)))
        self.fails_with(KafkaError.UNKNOWN_TOPIC_OR_PART,
                        lambda: self.change(self.name("missing"), ("retention.ms", "1", AlterConfigOpType.SET)))

    def test_describe_broker_configs(self):
        broker = self.admin.describe_cluster().result(WAIT_S).controller.id
        resource = ConfigResource(ResourceType.BROKER, str(broker))
        config = self.admin.describe_configs([resource])[resource].result(WAIT_S)
        self.assertIn("log.retention.ms", config)
        self.assertIn("auto.create.topics.enable", config)

    def test_create_partitions(self):
        topic = self.topic(partitions=2)
        self.values(topic, [b"kept"])
        self.admin.create_partitions([NewPartitions(topic, 6)])[topic].result(WAIT_S)
        self.until(lambda: len(self.admin.list_topics(topic, timeout=10).topics[topic].partitions) == 6)
        self.values(topic, [b"new"], partition=5)
        self.assertEqual(self.read(topic, 1, partition=5)[0].value(), b"new")
        self.assertEqual(self.read(topic, 1, partition=0)[0].value(), b"kept")
        self.fails_with(KafkaError.INVALID_PARTITIONS,
                        lambda: self.admin.create_partitions([NewPartitions(topic, 3)])[topic].result(WAIT_S))

    def offsets(self, topic, spec, partition=0):
        asked = TopicPartition(topic, partition)
        return self.admin.list_offsets({asked: spec})[asked].result(WAIT_S)

    def test_list_offsets(self):
        topic = self.topic()
        base = 1_700_000_000_000
        self.produce(topic, [(0, None, b"v", None, base + n) for n in (0, 10, 50, 30, 20)], linger_ms=100)
        self.assertEqual(self.offsets(topic, OffsetSpec.earliest()).offset, 0)
        self.assertEqual(self.offsets(topic, OffsetSpec.latest()).offset, 5)
        most = self.offsets(topic, OffsetSpec.max_timestamp())
        self.assertEqual((most.offset, most.timestamp), (2, base + 50))
        self.assertEqual(self.offsets(topic, OffsetSpec.for_timestamp(base + 11)).offset, 2)
        self.assertEqual(self.offsets(topic, OffsetSpec.for_timestamp(base + 51)).offset, -1)

    def test_delete_records(self):
        topic = self.topic()
        self.values(topic, [b"%d" % n for n in range(100)])
        told = self.admin.delete_records([TopicPartition(topic, 0, 60)])
        self.assertEqual(list(told.values())[0].result(WAIT_S).low_watermark, 60)
        self.assertEqual(self.offsets(topic, OffsetSpec.earliest()).offset, 60)
        self.assertEqual(self.read(topic, 1, 0, auto_offset_reset="earliest")[0].offset(), 60)
        self.fails_with(KafkaError.OFFSET_OUT_OF_RANGE,
                        lambda: list(self.admin.delete_records([TopicPartition(topic, 0, 101)]).values())[0].result(WAIT_S))
        told = self.admin.delete_records([TopicPartition(topic, 0, -1)])
        self.assertEqual(list(told.values())[0].result(WAIT_S).low_watermark, 100)
        self.values(topic, [b"next"])
        self.assertEqual(self.read(topic, 1, 100)[0].value(), b"next")

    def described(self, topic):
        return self.admin.describe_topics(TopicCollection([topic]))[topic].result(WAIT_S)

    def test_delete_and_create_again(self):
        topic = self.topic(partitions=2)
        self.values(topic, [b"old"] * 10)
        first = self.described(topic)
        self.assertEqual([p.id for p in first.partitions], [0, 1])
        self.assertEqual(first.partitions[0].leader.id, self.admin.describe_cluster().result(WAIT_S).controller.id)
        self.admin.delete_topics([topic])[topic].result(WAIT_S)
        self.until(lambda: topic not in self.admin.list_topics(timeout=10).topics)
        self.fails_with(KafkaError.UNKNOWN_TOPIC_OR_PART, lambda: self.described(topic))
        self.admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(WAIT_S)
        self.until(lambda: topic in self.admin.list_topics(timeout=10).topics)
        second = self.described(topic)
        self.assertNotEqual(str(first.topic_id), str(second.topic_id))
        self.assertEqual(self.offsets(topic, OffsetSpec.latest()).offset, 0)
        self.values(topic, [b"new"])
        self.assertEqual(self.read(topic, 1)[0].value(), b"new")

    def test_delete_of_an_unknown_topic_is_told(self):
        name = self.name("missing")
        self.fails_with(KafkaError.UNKNOWN_TOPIC_OR_PART, lambda: self.admin.delete_topics([name])[name].result(WAIT_S))

    def test_describe_cluster(self):
        cluster = self.admin.describe_cluster().result(WAIT_S)
        self.assertEqual(len(cluster.nodes), 1)
        self.assertTrue(cluster.cluster_id)
        again = self.admin.describe_cluster().result(WAIT_S)
        self.assertEqual(again.cluster_id, cluster.cluster_id)
        self.assertEqual(self.admin.list_topics(timeout=10).cluster_id, cluster.cluster_id)
