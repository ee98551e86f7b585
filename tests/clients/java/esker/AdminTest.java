package esker;

import static esker.Kit.*;
import static org.junit.jupiter.api.Assertions.*;

import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.AlterConfigOp.OpType;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConfigEntry.ConfigSource;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.CreateTopicsResult;
import org.apache.kafka.clients.admin.DescribeClusterResult;
import org.apache.kafka.clients.admin.DescribeConfigsOptions;
import org.apache.kafka.clients.admin.DescribeTopicsOptions;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.OffsetOutOfRangeException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicIdException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.junit.jupiter.api.Test;

/** What an administrator asks for, and what a broker has to refuse. */
class AdminTest {
    private static Config config(String topic) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        return get(ADMIN.describeConfigs(List.of(resource), new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true)).all()).get(resource);
    }

    private static void change(String topic, OpType op, String name, String value) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        get(ADMIN.incrementalAlterConfigs(Map.of(resource, List.of(new AlterConfigOp(new ConfigEntry(name, value), op)))).all());
    }

    @Test
    void createTellsIdPartitionsAndConfigs() throws Exception {
        String name = name("t");
        CreateTopicsResult result = ADMIN.createTopics(List.of(new NewTopic(name, 4, (short) 1).configs(Map.of("retention.ms", "60000"))));
        Uuid id = get(result.topicId(name));
        assertNotEquals(Uuid.ZERO_UUID, id);
        assertEquals(4, get(result.numPartitions(name)));
        assertEquals(1, get(result.replicationFactor(name)));
        assertEquals("60000", get(result.config(name)).get("retention.ms").value());
        until(() -> known(name) == 4);
        assertEquals(id, get(ADMIN.describeTopics(TopicCollection.ofTopicNames(List.of(name))).topicNameValues().get(name)).topicId());
        assertEquals(name, get(ADMIN.describeTopics(TopicCollection.ofTopicIds(List.of(id))).topicIdValues().get(id)).name());
    }

    @Test
    void defaultPartitionsAndReplication() throws Exception {
        String name = name("t");
        get(ADMIN.createTopics(List.of(new NewTopic(name, Optional.empty(), Optional.empty()))).all());
        until(() -> known(name) == 1);
    }

    @Test
    void explicitAssignmentToTheOneBroker() throws Exception {
        String name = name("t");
        int broker = get(ADMIN.describeCluster().nodes()).iterator().next().id();
        get(ADMIN.createTopics(List.of(new NewTopic(name, Map.of(0, List.of(broker), 1, List.of(broker))))).all());
        until(() -> known(name) == 2);
    }

    @Test
    void creationThatCannotBeIsRefused() throws Exception {
        String topic = topic(1);
        failsWith(TopicExistsException.class, () -> get(ADMIN.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all()));
        failsWith(InvalidTopicException.class, () -> get(ADMIN.createTopics(List.of(new NewTopic("no good", 1, (short) 1))).all()));
        failsWith(InvalidPartitionsException.class, () -> get(ADMIN.createTopics(List.of(new NewTopic(name("t"), 0, (short) 1))).all()));
        failsWith(InvalidConfigurationException.class,
            () -> get(ADMIN.createTopics(List.of(new NewTopic(name("t"), 1, (short) 1).configs(Map.of("retention.ms", "soon")))).all()));
        String dry = name("t");
        get(ADMIN.createTopics(List.of(new NewTopic(dry, 1, (short) 1)), new CreateTopicsOptions().validateOnly(true)).all());
        assertEquals(-1, known(dry));
    }

    @Test
    void describeConfigsWithSynonymsAndDocs() throws Exception {
        String topic = topic(1, "retention.ms", "12345");
        Config config = config(topic);
        ConfigEntry retention = config.get("retention.ms");
        assertEquals("12345", retention.value());
        assertEquals(ConfigSource.DYNAMIC_TOPIC_CONFIG, retention.source());
        assertEquals(ConfigEntry.ConfigType.LONG, retention.type());
        assertFalse(retention.isReadOnly());
        assertNotNull(retention.documentation());
        assertEquals(ConfigSource.DYNAMIC_TOPIC_CONFIG, retention.synonyms().get(0).source());
        ConfigEntry bytes = config.get("max.message.bytes");
        assertEquals("1048588", bytes.value());
        assertEquals(ConfigSource.DEFAULT_CONFIG, bytes.source());
        for (String known : List.of("cleanup.policy", "compression.type", "delete.retention.ms", "file.delete.delay.ms", "flush.messages",
            "flush.ms", "index.interval.bytes", "max.compaction.lag.ms", "message.timestamp.after.max.ms", "message.timestamp.before.max.ms",
            "message.timestamp.type", "min.cleanable.dirty.ratio", "min.compaction.lag.ms", "min.insync.replicas", "preallocate",
            "retention.bytes", "segment.bytes", "segment.index.bytes", "segment.jitter.ms", "segment.ms", "unclean.leader.election.enable")) {
            assertNotNull(config.get(known), known);
        }
        failsWith(UnknownTopicOrPartitionException.class, () -> config(name("missing")));
    }

    @Test
    void alterConfigsIncrementally() throws Exception {
        String topic = topic(1);
        change(topic, OpType.SET, "retention.ms", "777");
        change(topic, OpType.APPEND, "cleanup.policy", "compact");
        assertEquals("777", config(topic).get("retention.ms").value());
        assertEquals(Set.of("delete", "compact"), Set.of(config(topic).get("cleanup.policy").value().split(",")));
        change(topic, OpType.SUBTRACT, "cleanup.policy", "delete");
        assertEquals("compact", config(topic).get("cleanup.policy").value());
        change(topic, OpType.DELETE, "retention.ms", "");
        assertEquals("604800000", config(topic).get("retention.ms").value());
        assertEquals(ConfigSource.DEFAULT_CONFIG, config(topic).get("retention.ms").source());
        failsWith(InvalidConfigurationException.class, () -> change(topic, OpType.SET, "retention.ms", "never"));
        failsWith(InvalidConfigurationException.class, () -> change(topic, OpType.APPEND, "retention.ms", "1"));
        failsWith(InvalidConfigurationException.class, () -> change(topic, OpType.SET, "no.such.config", "1"));
        change(topic, OpType.SET, "max.message.bytes", "1000");
        failsWith(org.apache.kafka.common.errors.RecordTooLargeException.class,
            () -> send(List.of(new ProducerRecord<>(topic, new byte[5000])), "compression.type", "none"));
    }

    @Test
    void describeBrokerConfigs() throws Exception {
        String broker = get(ADMIN.describeCluster().nodes()).iterator().next().idString();
        ConfigResource resource = new ConfigResource(ConfigResource.Type.BROKER, broker);
        Config config = get(ADMIN.describeConfigs(List.of(resource)).all()).get(resource);
        assertNotNull(config.get("num.partitions"));
        assertNotNull(config.get("message.max.bytes"));
    }

    @Test
    void createPartitions() throws Exception {
        String topic = topic(2);
        get(ADMIN.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all());
        until(() -> known(topic) == 5);
        sendValues(topic, 4, 0, 3);
        assertEquals(3, read(topic, 4, 0, 3).size());
        failsWith(InvalidPartitionsException.class, () -> get(ADMIN.createPartitions(Map.of(topic, NewPartitions.increaseTo(4))).all()));
        failsWith(UnknownTopicOrPartitionException.class,
            () -> get(ADMIN.createPartitions(Map.of(name("missing"), NewPartitions.increaseTo(4))).all()));
    }

    private static ListOffsetsResultInfo offset(String topic, OffsetSpec spec) throws Exception {
        TopicPartition where = new TopicPartition(topic, 0);
        return get(ADMIN.listOffsets(Map.of(where, spec)).partitionResult(where));
    }

    @Test
    void listOffsets() throws Exception {
        String topic = topic(1);
        assertEquals(-1, offset(topic, OffsetSpec.maxTimestamp()).offset());
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        for (long stamp : List.of(10L, 50L, 20L)) records.add(new ProducerRecord<>(topic, 0, 1_700_000_000_000L + stamp, null, bytes("v")));
        send(records, "linger.ms", "50");
        assertEquals(0, offset(topic, OffsetSpec.earliest()).offset());
        assertEquals(3, offset(topic, OffsetSpec.latest()).offset());
        assertEquals(1, offset(topic, OffsetSpec.maxTimestamp()).offset());
        assertEquals(1_700_000_000_050L, offset(topic, OffsetSpec.maxTimestamp()).timestamp());
        assertEquals(1, offset(topic, OffsetSpec.forTimestamp(1_700_000_000_011L)).offset());
        assertEquals(0, offset(topic, OffsetSpec.earliestLocal()).offset());
        assertEquals(-1, offset(topic, OffsetSpec.latestTiered()).offset());
    }

    @Test
    void deleteRecords() throws Exception {
        String topic = topic(1);
        TopicPartition where = new TopicPartition(topic, 0);
        sendValues(topic, 0, 0, 100);
        assertEquals(40, get(ADMIN.deleteRecords(Map.of(where, RecordsToDelete.beforeOffset(40))).lowWatermarks().get(where)).lowWatermark());
        assertEquals(40, offset(topic, OffsetSpec.earliest()).offset());
        // Kafka writes the log start down every 60 s and at a clean end; Esker commits it before it answers.
        restartBroker("kafka".equals(System.getenv("ESKER_LANE")) ? "TERM" : "KILL");
        until(() -> known(topic) == 1);
        assertEquals(40, offset(topic, OffsetSpec.earliest()).offset());
        assertEquals(40, read(topic, 0, 0, 1, "auto.offset.reset", "earliest").get(0).offset());
        failsWith(OffsetOutOfRangeException.class, () -> get(ADMIN.deleteRecords(Map.of(where, RecordsToDelete.beforeOffset(101))).all()));
        assertEquals(100, get(ADMIN.deleteRecords(Map.of(where, RecordsToDelete.beforeOffset(-1))).lowWatermarks().get(where)).lowWatermark());
    }

    @Test
    void deleteAndCreateAgain() throws Exception {
        String topic = topic(2);
        sendValues(topic, 0, 0, 10);
        Uuid first = get(ADMIN.describeTopics(List.of(topic)).allTopicNames()).get(topic).topicId();
        get(ADMIN.deleteTopics(List.of(topic)).all());
        until(() -> known(topic) == -1);
        failsWith(UnknownTopicOrPartitionException.class, () -> get(ADMIN.deleteTopics(List.of(topic)).all()));
        failsWith(UnknownTopicIdException.class, () -> get(ADMIN.describeTopics(TopicCollection.ofTopicIds(List.of(first))).allTopicIds()));
        get(ADMIN.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all());
        until(() -> known(topic) == 1);
        Uuid second = get(ADMIN.describeTopics(List.of(topic)).allTopicNames()).get(topic).topicId();
        assertNotEquals(first, second);
        assertEquals(0, sendValues(topic, 0, 0, 1).get(0).offset());
        get(ADMIN.deleteTopics(TopicCollection.ofTopicIds(List.of(second))).all());
        until(() -> known(topic) == -1);
    }

    @Test
    void describeCluster() throws Exception {
        DescribeClusterResult told = ADMIN.describeCluster();
        assertEquals(1, get(told.nodes()).size());
        assertEquals(get(told.controller()).id(), get(told.nodes()).iterator().next().id());
        assertFalse(get(told.clusterId()).isEmpty());
    }

    @Test
    void describeTopicsInPages() throws Exception {
        List<String> names = new ArrayList<>();
        for (int n = 0; n < 6; n++) names.add(topic(20));
        Map<String, TopicDescription> told =
            get(ADMIN.describeTopics(names, new DescribeTopicsOptions().partitionSizeLimitPerResponse(7)).allTopicNames());
        assertEquals(Set.copyOf(names), told.keySet());
        for (TopicDescription topic : told.values()) {
            assertEquals(IntStream.range(0, 20).boxed().toList(), topic.partitions().stream().map(p -> p.partition()).toList());
            assertTrue(topic.partitions().stream().allMatch(p -> p.leader() != null && p.isr().size() == 1));
        }
    }

    @Test
    void describeProducers() throws Exception {
        String topic = topic(1);
        TopicPartition where = new TopicPartition(topic, 0);
        sendValues(topic, 0, 0, 10, "batch.size", "0");
        List<ProducerState> active = get(ADMIN.describeProducers(List.of(where)).partitionResult(where)).activeProducers();
        assertEquals(1, active.size());
        assertEquals(9, active.get(0).lastSequence());
        assertEquals(0, active.get(0).producerEpoch());
        assertTrue(active.get(0).currentTransactionStartOffset().isEmpty());
    }

    @Test
    void describeLogDirs() throws Exception {
        String topic = topic(2);
        sendValues(topic, 1, 0, 100);
        int broker = get(ADMIN.describeCluster().nodes()).iterator().next().id();
        until(() -> {
            try {
                return get(ADMIN.describeLogDirs(List.of(broker)).allDescriptions()).get(broker).values().stream()
                    .flatMap(d -> d.replicaInfos().entrySet().stream())
                    .filter(e -> e.getKey().topic().equals(topic) && e.getKey().partition() == 1)
                    .anyMatch(e -> e.getValue().size() > 0);
            } catch (Exception e) {
                return false;
            }
        });
    }

    @Test
    void thousandTopicsAreListed() throws Exception {
        String prefix = name("many");
        for (int from = 0; from < 1000; from += 100) {
            Collection<NewTopic> some = IntStream.range(from, from + 100).mapToObj(n -> new NewTopic(prefix + "-" + n, 1, (short) 1)).toList();
            get(ADMIN.createTopics(some).all());
        }
        until(60, () -> {
            try {
                return get(ADMIN.listTopics().names()).stream().filter(n -> n.startsWith(prefix)).count() == 1000;
            } catch (Exception e) {
                return false;
            }
        });
        Set<String> names = get(ADMIN.listTopics().names()).stream().filter(n -> n.startsWith(prefix)).collect(Collectors.toSet());
        assertEquals(1000, get(ADMIN.describeTopics(names).allTopicNames()).size());
        List<String> ordered = new ArrayList<>(names);
        for (int from = 0; from < 1000; from += 100) get(ADMIN.deleteTopics(ordered.subList(from, from + 100)).all());
        until(60, () -> {
            try {
                return get(ADMIN.listTopics().names()).stream().noneMatch(n -> n.startsWith(prefix));
            } catch (Exception e) {
                return false;
            }
        });
    }
}
