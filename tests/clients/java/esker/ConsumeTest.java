package esker;

import static esker.Kit.*;
import static org.junit.jupiter.api.Assertions.*;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.LongStream;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.NoOffsetForPartitionException;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.junit.jupiter.api.Test;

/** Where a consumer may start, and what happens at the edges. */
class ConsumeTest {
    private static List<Long> offsets(List<ConsumerRecord<byte[], byte[]>> records) {
        return records.stream().map(ConsumerRecord::offset).collect(Collectors.toList());
    }

    @Test
    void fromBeginningEndAndOffset() throws Exception {
        String topic = topic(1);
        TopicPartition where = new TopicPartition(topic, 0);
        sendValues(topic, 0, 0, 100);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            consumer.assign(List.of(where));
            consumer.seekToBeginning(List.of(where));
            assertEquals(LongStream.range(0, 100).boxed().toList(), offsets(take(consumer, 100)));
            consumer.seekToEnd(List.of(where));
            assertEquals(100, consumer.position(where));
            consumer.seek(where, 42);
            assertEquals(42, take(consumer, 1).get(0).offset());
            assertEquals(Map.of(where, 0L), consumer.beginningOffsets(List.of(where)));
            assertEquals(Map.of(where, 100L), consumer.endOffsets(List.of(where)));
            assertEquals(1, consumer.partitionsFor(topic).size());
        }
    }

    @Test
    void fromTimestamp() throws Exception {
        String topic = topic(1);
        TopicPartition where = new TopicPartition(topic, 0);
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        for (int n = 0; n < 50; n++) records.add(new ProducerRecord<>(topic, 0, 1_700_000_000_000L + n * 1000, null, bytes("v")));
        send(records, "compression.type", "zstd", "linger.ms", "50");
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            assertEquals(20, consumer.offsetsForTimes(Map.of(where, 1_700_000_020_000L)).get(where).offset());
            assertEquals(21, consumer.offsetsForTimes(Map.of(where, 1_700_000_020_001L)).get(where).offset());
            assertEquals(1_700_000_021_000L, consumer.offsetsForTimes(Map.of(where, 1_700_000_020_001L)).get(where).timestamp());
            assertNull(consumer.offsetsForTimes(Map.of(where, 1_800_000_000_000L)).get(where));
        }
    }

    @Test
    void outOfRangeFollowsTheResetPolicy() throws Exception {
        String topic = topic(1);
        sendValues(topic, 0, 0, 10);
        assertEquals(0, read(topic, 0, 5000, 1, "auto.offset.reset", "earliest").get(0).offset());
        failsWith(OffsetOutOfRangeException.class, () -> read(topic, 0, 5000, 1, "auto.offset.reset", "none"));
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("auto.offset.reset", "none", "group.id", name("g"))) {
            consumer.assign(List.of(new TopicPartition(topic, 0)));
            failsWith(NoOffsetForPartitionException.class, () -> take(consumer, 1));
        }
    }

    @Test
    void resetByDuration() throws Exception {
        String topic = topic(1);
        long now = System.currentTimeMillis();
        send(List.of(new ProducerRecord<>(topic, 0, now - 7_200_000, null, bytes("old")), new ProducerRecord<>(topic, 0, now, null, bytes("new"))));
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("auto.offset.reset", "by_duration:PT1H", "group.id", name("g"))) {
            consumer.assign(List.of(new TopicPartition(topic, 0)));
            assertEquals("new", text(take(consumer, 1).get(0).value()));
        }
    }

    @Test
    void bothIsolationLevels() throws Exception {
        String topic = topic(1);
        sendValues(topic, 0, 0, 20);
        for (String level : List.of("read_uncommitted", "read_committed")) {
            assertEquals(20, read(topic, 0, 0, 20, "isolation.level", level).size());
        }
    }

    @Test
    void unknownTopicGivesNothing() {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("allow.auto.create.topics", "false", "group.id", name("g"))) {
            String topic = name("missing");
            assertEquals(List.of(), consumer.partitionsFor(topic));
            assertFalse(consumer.listTopics(Duration.ofSeconds(10)).containsKey(topic));
        }
    }

    @Test
    void manyPartitionsInOneSession() throws Exception {
        String topic = topic(50);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            List<TopicPartition> all = IntStream.range(0, 50).mapToObj(p -> new TopicPartition(topic, p)).toList();
            consumer.assign(all);
            consumer.seekToBeginning(all);
            for (int lap = 0; lap < 4; lap++) {
                List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
                for (int p = lap; p < 50; p += lap + 1) records.add(new ProducerRecord<>(topic, p, null, bytes("" + lap)));
                send(records);
                List<ConsumerRecord<byte[], byte[]>> got = take(consumer, records.size());
                assertEquals(records.size(), got.stream().map(ConsumerRecord::partition).distinct().count());
                final String expected = "" + lap;
                assertTrue(got.stream().allMatch(r -> text(r.value()).equals(expected)));
                if (lap == 1) consumer.pause(all.subList(0, 10)); // leaves the session, and comes back
                if (lap == 1) assertTrue(consumer.poll(Duration.ofMillis(300)).isEmpty());
                if (lap == 1) consumer.resume(all.subList(0, 10));
            }
        }
    }

    @Test
    void minBytesHoldsTheFetchUntilThereIsEnough() throws Exception {
        String topic = topic(1);
        TopicPartition where = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("fetch.min.bytes", "100000", "fetch.max.wait.ms", "3000")) {
            consumer.assign(List.of(where));
            consumer.seek(where, 0);
            consumer.poll(Duration.ofMillis(300));
            sendValues(topic, 0, 0, 1);
            long begin = System.nanoTime();
            assertEquals(1, take(consumer, 1).size());
            assertTrue(System.nanoTime() - begin > 1_500_000_000L, "one small record waits for fetch.max.wait.ms");
        }
    }
}
