package esker;

import static esker.Kit.*;
import static org.junit.jupiter.api.Assertions.*;

import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidTimestampException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.junit.jupiter.api.Test;

/** What goes in comes out, for every way of sending it. */
class ProduceTest {
    @Test
    void everyCodecWithEveryAcks() throws Exception {
        for (String acks : List.of("0", "1", "all")) {
            for (String codec : CODECS) {
                String topic = topic(1);
                String idempotent = acks.equals("all") ? "true" : "false";
                sendValues(topic, 0, 0, 300, "acks", acks, "compression.type", codec, "linger.ms", "20", "enable.idempotence", idempotent);
                List<ConsumerRecord<byte[], byte[]>> got = read(topic, 0, 0, 300);
                for (int n = 0; n < 300; n++) {
                    assertEquals("v" + n, text(got.get(n).value()), codec + " acks=" + acks);
                    assertEquals(n, got.get(n).offset());
                }
            }
        }
    }

    @Test
    void keysHeadersNullsAndEmpties() throws Exception {
        String topic = topic(1);
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        records.add(new ProducerRecord<>(topic, 0, bytes("key"), bytes("value"),
            List.of(new RecordHeader("a", bytes("1")), new RecordHeader("a", bytes("2")), new RecordHeader("null", (byte[]) null))));
        records.add(new ProducerRecord<>(topic, 0, null, bytes("no key")));
        records.add(new ProducerRecord<>(topic, 0, bytes("tombstone"), null));
        records.add(new ProducerRecord<>(topic, 0, new byte[0], new byte[0]));
        send(records);
        List<ConsumerRecord<byte[], byte[]>> got = read(topic, 0, 0, records.size());
        for (int n = 0; n < records.size(); n++) {
            assertArrayEquals(records.get(n).key(), got.get(n).key());
            assertArrayEquals(records.get(n).value(), got.get(n).value());
            assertArrayEquals(records.get(n).headers().toArray(), got.get(n).headers().toArray());
        }
    }

    @Test
    void recordOf900Kb() throws Exception {
        String topic = topic(1);
        byte[] big = new byte[900_000];
        new Random(1).nextBytes(big);
        send(List.of(new ProducerRecord<>(topic, 0, null, big), new ProducerRecord<>(topic, 0, null, bytes("after"))));
        List<ConsumerRecord<byte[], byte[]>> got = read(topic, 0, 0, 2, "max.partition.fetch.bytes", "1000");
        assertArrayEquals(big, got.get(0).value());
        assertEquals("after", text(got.get(1).value()));
    }

    @Test
    void tooLargeIsRefused() throws Exception {
        String topic = topic(1);
        byte[] large = new byte[1_500_000];
        new Random(2).nextBytes(large);
        failsWith(RecordTooLargeException.class,
            () -> send(List.of(new ProducerRecord<>(topic, 0, null, large)), "max.request.size", "5000000", "compression.type", "none"));
        assertEquals(0, sendValues(topic, 0, 0, 1).get(0).offset());
    }

    @Test
    void topicThatAllowsLargerRecords() throws Exception {
        String topic = topic(1, "max.message.bytes", "4000000");
        byte[] large = new byte[3_000_000];
        new Random(3).nextBytes(large);
        send(List.of(new ProducerRecord<>(topic, 0, null, large)), "max.request.size", "5000000");
        assertArrayEquals(large, read(topic, 0, 0, 1).get(0).value());
    }

    @Test
    void timestampsAreKept() throws Exception {
        String topic = topic(1);
        send(List.of(new ProducerRecord<>(topic, 0, 1_600_000_000_123L, null, bytes("v"))));
        ConsumerRecord<byte[], byte[]> got = read(topic, 0, 0, 1).get(0);
        assertEquals(1_600_000_000_123L, got.timestamp());
        assertEquals(TimestampType.CREATE_TIME, got.timestampType());
    }

    @Test
    void logAppendTime() throws Exception {
        String topic = topic(1, "message.timestamp.type", "LogAppendTime");
        long before = System.currentTimeMillis();
        for (String codec : CODECS) {
            RecordMetadata sent = send(List.of(new ProducerRecord<>(topic, 0, 1_000L, null, bytes("v"))), "compression.type", codec).get(0);
            assertTrue(sent.timestamp() >= before - 5, "the reply tells the time of the append");
        }
        for (ConsumerRecord<byte[], byte[]> got : read(topic, 0, 0, CODECS.size())) {
            assertEquals(TimestampType.LOG_APPEND_TIME, got.timestampType());
            assertTrue(got.timestamp() >= before - 5 && got.timestamp() <= System.currentTimeMillis() + 5);
        }
    }

    @Test
    void timestampTooFarAheadIsRefused() throws Exception {
        String topic = topic(1, "message.timestamp.after.max.ms", "60000");
        long ahead = System.currentTimeMillis() + 3_600_000;
        failsWith(InvalidTimestampException.class, () -> send(List.of(new ProducerRecord<>(topic, 0, ahead, null, bytes("v")))));
    }

    @Test
    void idempotentProducerKeepsOrderAcrossARestart() throws Exception {
        String topic = topic(2);
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer = producer("batch.size", "500", "linger.ms", "1", "delivery.timeout.ms", "90000")) {
            for (int n = 0; n < 20_000; n++) {
                sent.add(producer.send(new ProducerRecord<>(topic, n % 2, null, bytes("v" + n))));
                if (n == 10_000) restartBroker("KILL");
            }
            producer.flush();
        }
        for (int n = 0; n < 20_000; n++) assertEquals(n / 2, sent.get(n).get().offset(), "offset of record " + n);
        for (int partition = 0; partition < 2; partition++) {
            List<ConsumerRecord<byte[], byte[]>> got = read(topic, partition, 0, 10_000);
            for (int n = 0; n < 10_000; n++) assertEquals("v" + (2 * n + partition), text(got.get(n).value()));
        }
    }

    @Test
    void defaultPartitionerSpreadsKeysAndKeepsTheirOrder() throws Exception {
        String topic = topic(6);
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        for (int n = 0; n < 600; n++) records.add(new ProducerRecord<>(topic, bytes("k" + n % 60), bytes("" + n)));
        List<RecordMetadata> sent = send(records);
        for (int n = 60; n < 600; n++) {
            assertEquals(sent.get(n - 60).partition(), sent.get(n).partition());
            assertTrue(sent.get(n - 60).offset() < sent.get(n).offset());
        }
    }

    @Test
    void unknownPartitionTimesOut() throws Exception {
        String topic = topic(1);
        failsWith(TimeoutException.class,
            () -> send(List.of(new ProducerRecord<>(topic, 9, null, bytes("v"))), "max.block.ms", "1500"));
    }

    @Test
    void autoCreate() throws Exception {
        String topic = name("auto");
        assertEquals(0, send(List.of(new ProducerRecord<>(topic, bytes("v")))).get(0).offset());
    }

    @Test
    void tailingConsumerGetsARecordAtOnce() throws Exception {
        String topic = topic(1);
        TopicPartition where = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("fetch.max.wait.ms", "5000");
             KafkaProducer<byte[], byte[]> producer = producer("linger.ms", "0")) {
            producer.send(new ProducerRecord<>(topic, bytes("warm"))).get();
            consumer.assign(List.of(where));
            consumer.seekToBeginning(List.of(where));
            take(consumer, 1);
            for (int n = 0; n < 5; n++) {
                assertTrue(consumer.poll(java.time.Duration.ofMillis(500)).isEmpty()); // the fetch is parked now
                long begin = System.nanoTime();
                producer.send(new ProducerRecord<>(topic, bytes("v"))).get();
                take(consumer, 1);
                long tookMs = (System.nanoTime() - begin) / 1_000_000;
                assertTrue(tookMs < 1500, tookMs + " ms with a fetch wait of 5000 ms");
            }
        }
    }
}
