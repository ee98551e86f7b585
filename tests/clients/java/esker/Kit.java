package esker;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** The broker under test, topics of one's own, produce and consume in a few words. */
final class Kit {
    static final String BOOTSTRAP = System.getenv("ESKER_BOOTSTRAP");
    static final List<String> CODECS = List.of("none", "gzip", "snappy", "lz4", "zstd");
    static final int WAIT_S = 30;
    static final Admin ADMIN = Admin.create(properties());

    private Kit() {}

    static Properties properties(String... more) {
        Properties p = new Properties();
        p.put("bootstrap.servers", BOOTSTRAP);
        for (int i = 0; i < more.length; i += 2) p.put(more[i], more[i + 1]);
        return p;
    }

    static String name(String word) {
        return "java-" + word + "-" + UUID.randomUUID().toString().substring(0, 8);
    }

    static <T> T get(Future<T> future) throws Exception {
        return future.get(WAIT_S, TimeUnit.SECONDS);
    }

    static String topic(int partitions, String... config) throws Exception {
        String name = name("t");
        Map<String, String> configs = new HashMap<>();
        for (int i = 0; i < config.length; i += 2) configs.put(config[i], config[i + 1]);
        get(ADMIN.createTopics(List.of(new NewTopic(name, partitions, (short) 1).configs(configs))).all());
        until(() -> known(name) == partitions);
        return name;
    }

    /** How many partitions the metadata tells; -1 when the topic is unknown. */
    static int known(String topic) {
        try {
            return get(ADMIN.describeTopics(List.of(topic)).allTopicNames()).get(topic).partitions().size();
        } catch (Exception e) {
            return -1;
        }
    }

    static void until(BooleanSupplier condition) throws InterruptedException {
        until(WAIT_S, condition);
    }

    static void until(int seconds, BooleanSupplier condition) throws InterruptedException {
        long end = System.nanoTime() + Duration.ofSeconds(seconds).toNanos();
        while (!condition.getAsBoolean()) {
            if (System.nanoTime() > end) throw new AssertionError("not within " + seconds + " s");
            Thread.sleep(20);
        }
    }

    static KafkaProducer<byte[], byte[]> producer(String... more) {
        return new KafkaProducer<>(properties(more), new ByteArraySerializer(), new ByteArraySerializer());
    }

    static KafkaConsumer<byte[], byte[]> consumer(String... more) {
        Properties p = properties("enable.auto.commit", "false");
        p.putAll(properties(more));
        return new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }

    /** Sends all of them and waits; the failure of the first that failed is thrown. */
    static List<RecordMetadata> send(List<ProducerRecord<byte[], byte[]>> records, String... config) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer(config)) {
            List<Future<RecordMetadata>> futures = new ArrayList<>();
            for (ProducerRecord<byte[], byte[]> record : records) futures.add(producer.send(record));
            List<RecordMetadata> sent = new ArrayList<>();
            for (Future<RecordMetadata> future : futures) sent.add(future.get(60, TimeUnit.SECONDS));
            return sent;
        }
    }

    static List<RecordMetadata> sendValues(String topic, int partition, int from, int to, String... config) throws Exception {
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        for (int n = from; n < to; n++) records.add(new ProducerRecord<>(topic, partition, null, bytes("v" + n)));
        return send(records, config);
    }

    /** Exactly that many records from an offset of a partition. */
    static List<ConsumerRecord<byte[], byte[]>> read(String topic, int partition, long offset, int count, String... config) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(config)) {
            TopicPartition where = new TopicPartition(topic, partition);
            consumer.assign(List.of(where));
            consumer.seek(where, offset);
            return take(consumer, count);
        }
    }

    static List<ConsumerRecord<byte[], byte[]>> take(KafkaConsumer<byte[], byte[]> consumer, int count) {
        List<ConsumerRecord<byte[], byte[]>> found = new ArrayList<>();
        long end = System.nanoTime() + Duration.ofSeconds(WAIT_S).toNanos();
        while (found.size() < count) {
            consumer.poll(Duration.ofMillis(200)).forEach(found::add);
            if (found.size() < count && System.nanoTime() > end) {
                throw new AssertionError(found.size() + " of " + count + " records within " + WAIT_S + " s");
            }
        }
        return found;
    }

    interface Action {
        void run() throws Exception;
    }

    /** The action fails, and the first cause that is not a wrapper is of this type. */
    static void failsWith(Class<? extends Throwable> type, Action action) {
        Throwable failure = null;
        try {
            action.run();
        } catch (ExecutionException e) {
            failure = e.getCause();
        } catch (Exception e) {
            failure = e;
        }
        if (failure == null) throw new AssertionError("expected " + type.getSimpleName() + ", nothing failed");
        if (!type.isInstance(failure)) throw new AssertionError("expected " + type.getSimpleName() + ", found " + failure, failure);
    }

    /** Ends the broker with this signal and brings it back on the same data. */
    static void restartBroker(String signal) throws Exception {
        Process process = new ProcessBuilder("python3", System.getenv("ESKER_BROKER_SCRIPT"), "--dir",
            System.getenv("ESKER_BROKER_DIR"), "restart", "--signal", signal).inheritIO().start();
        if (process.waitFor() != 0) throw new AssertionError("the broker did not come back");
    }
}
