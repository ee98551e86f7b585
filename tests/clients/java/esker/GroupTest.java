package esker;

import static esker.Kit.*;
import static org.junit.jupiter.api.Assertions.*;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.ListGroupsOptions;
import org.apache.kafka.clients.admin.MemberToRemove;
import org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.consumer.StickyAssignor;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.FencedInstanceIdException;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.GroupSubscribedToTopicException;
import org.junit.jupiter.api.Test;

/** Consumer groups: sharing, leaving, static members, committed offsets, and what administrators do with them. */
class GroupTest {
    /** A consumer polled by a thread of its own. */
    private static final class Member implements ConsumerRebalanceListener {
        final Set<Integer> holds = ConcurrentHashMap.newKeySet();
        final Set<String> read = ConcurrentHashMap.newKeySet();
        final AtomicInteger assignments = new AtomicInteger();
        volatile Exception failure;
        private volatile boolean stopping;
        private final Thread thread;

        Member(String topic, String group, String... more) {
            this.thread = new Thread(() -> run(topic, group, more));
            thread.start();
        }

        private void run(String topic, String group, String[] more) {
            List<String> config = new ArrayList<>(List.of("group.id", group, "auto.offset.reset", "earliest",
                "session.timeout.ms", "30000", "heartbeat.interval.ms", "300"));
            config.addAll(List.of(more));
            try (KafkaConsumer<byte[], byte[]> consumer = consumer(config.toArray(new String[0]))) {
                consumer.subscribe(List.of(topic), this);
                while (!stopping) {
                    consumer.poll(Duration.ofMillis(100)).forEach(r -> read.add(r.partition() + "/" + r.offset()));
                    consumer.commitAsync();
                }
                consumer.commitSync();
            } catch (Exception e) {
                failure = e;
            }
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            assignments.incrementAndGet();
            partitions.forEach(p -> holds.add(p.partition()));
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            partitions.forEach(p -> holds.remove(p.partition()));
        }

        void leave() throws InterruptedException {
            stopping = true;
            thread.join();
        }
    }

    private static String[] with(String[] config, String... more) {
        List<String> all = new ArrayList<>(List.of(config));
        all.addAll(List.of(more));
        return all.toArray(new String[0]);
    }

    private static boolean sharedOut(List<Member> members, int partitions) {
        List<Integer> held = new ArrayList<>();
        for (Member member : members) {
            if (member.holds.isEmpty()) return false;
            held.addAll(member.holds);
        }
        return held.size() == partitions && new HashSet<>(held).size() == partitions;
    }

    private static void rebalances(Class<?> strategy) throws Exception {
        String topic = topic(6);
        String group = name("g");
        String[] config = {"partition.assignment.strategy", strategy.getName()};
        List<Member> members = new ArrayList<>();
        Member gone = null;
        try {
            for (int n = 0; n < 3; n++) members.add(new Member(topic, group, config));
            until(60, () -> sharedOut(members, 6));
            for (int p = 0; p < 6; p++) sendValues(topic, p, 0, 100);
            until(() -> members.stream().mapToInt(m -> m.read.size()).sum() >= 600);
            gone = members.remove(2);
            gone.leave();
            until(60, () -> sharedOut(members, 6));
            members.add(new Member(topic, group, config));
            until(60, () -> sharedOut(members, 6));
            for (int p = 0; p < 6; p++) sendValues(topic, p, 0, 10);
            Set<String> read = new HashSet<>(gone.read);
            until(() -> {
                members.forEach(m -> read.addAll(m.read));
                return read.size() == 660;
            });
            for (Member member : members) assertNull(member.failure);
        } finally {
            for (Member member : members) member.leave();
        }
    }

    @Test
    void eagerRebalance() throws Exception {
        rebalances(RangeAssignor.class);
    }

    @Test
    void stickyRebalance() throws Exception {
        rebalances(StickyAssignor.class);
    }

    @Test
    void cooperativeRebalance() throws Exception {
        rebalances(CooperativeStickyAssignor.class);
    }

    @Test
    void staticMemberComesBackWithoutARebalance() throws Exception {
        String topic = topic(4);
        String group = name("g");
        Member one = new Member(topic, group, "group.instance.id", "one");
        Member two = new Member(topic, group, "group.instance.id", "two");
        try {
            until(60, () -> sharedOut(List.of(one, two), 4));
            Set<Integer> held = Set.copyOf(two.holds);
            int assignments = one.assignments.get();
            two.leave();
            Member again = new Member(topic, group, "group.instance.id", "two");
            until(() -> again.holds.equals(held));
            again.leave();
            assertEquals(assignments, one.assignments.get(), "the other member was rebalanced");
            get(ADMIN.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions(List.of(new MemberToRemove("two")))).all());
            until(60, () -> one.holds.size() == 4);
        } finally {
            one.leave();
        }
    }

    @Test
    void staticMemberSurvivesARestartOfTheBroker() throws Exception {
        String topic = topic(4);
        String group = name("g");
        // While its only broker is away the client starts again from its bootstrap list, knows no topic for a moment, and, where it
        // leads the group, asks for a new assignment: that is the client's doing (metadata.recovery.strategy), not the broker's.
        String[] config = {"session.timeout.ms", "60000", "metadata.recovery.strategy", "none"};
        Member one = new Member(topic, group, with(config, "group.instance.id", "one"));
        Member two = new Member(topic, group, with(config, "group.instance.id", "two"));
        until(60, () -> sharedOut(List.of(one, two), 4));
        Set<Integer> held = Set.copyOf(two.holds);
        int assignments = one.assignments.get();
        two.leave();
        restartBroker("KILL");
        Member again = new Member(topic, group, with(config, "group.instance.id", "two"));
        try {
            until(60, () -> again.holds.equals(held));
            for (int p = 0; p < 4; p++) sendValues(topic, p, 0, 10);
            until(60, () -> one.read.size() + again.read.size() >= 40);
            assertEquals(assignments, one.assignments.get(), "the other member was rebalanced");
        } finally {
            one.leave();
            again.leave();
        }
    }

    @Test
    void secondStaticMemberOfOneNameFencesTheFirst() throws Exception {
        String topic = topic(1);
        String group = name("g");
        Member first = new Member(topic, group, "group.instance.id", "same");
        until(() -> first.holds.size() == 1);
        Member second = new Member(topic, group, "group.instance.id", "same");
        try {
            until(() -> second.holds.size() == 1);
            until(() -> first.failure != null);
            assertInstanceOf(FencedInstanceIdException.class, first.failure);
        } finally {
            first.leave();
            second.leave();
        }
    }

    @Test
    void commitAndResume() throws Exception {
        String topic = topic(2);
        String group = name("g");
        TopicPartition zero = new TopicPartition(topic, 0);
        TopicPartition one = new TopicPartition(topic, 1);
        sendValues(topic, 0, 0, 50);
        sendValues(topic, 1, 0, 50);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("group.id", group, "auto.offset.reset", "earliest")) {
            consumer.subscribe(List.of(topic));
            take(consumer, 100);
            consumer.commitSync(Map.of(zero, new OffsetAndMetadata(30, "half way"), one, new OffsetAndMetadata(50)));
        }
        for (String signal : List.of("KILL", "TERM")) {
            restartBroker(signal);
            Map<TopicPartition, OffsetAndMetadata> found = get(ADMIN.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata());
            assertEquals(30, found.get(zero).offset());
            assertEquals("half way", found.get(zero).metadata());
            assertEquals(50, found.get(one).offset());
        }
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("group.id", group, "auto.offset.reset", "none")) {
            consumer.subscribe(List.of(topic));
            assertTrue(take(consumer, 20).stream().allMatch(r -> r.partition() == 0 && r.offset() >= 30));
        }
    }

    @Test
    void listDescribeAlterDelete() throws Exception {
        String topic = topic(2);
        String group = name("g");
        TopicPartition zero = new TopicPartition(topic, 0);
        TopicPartition one = new TopicPartition(topic, 1);
        Member member = new Member(topic, group, "client.id", "suite", "partition.assignment.strategy", RangeAssignor.class.getName());
        try {
            sendValues(topic, 0, 0, 5);
            sendValues(topic, 1, 0, 5);
            until(() -> member.read.size() == 10);
            assertTrue(get(ADMIN.listGroups().all()).stream().anyMatch(g -> g.groupId().equals(group)));
            ListGroupsOptions empty = new ListGroupsOptions().inGroupStates(Set.of(GroupState.EMPTY));
            assertFalse(get(ADMIN.listGroups(empty).all()).stream().anyMatch(g -> g.groupId().equals(group)));
            ConsumerGroupDescription told = get(ADMIN.describeConsumerGroups(List.of(group)).all()).get(group);
            assertEquals(GroupState.STABLE, told.groupState());
            assertEquals("range", told.partitionAssignor());
            assertEquals(Set.of(zero, one), told.members().iterator().next().assignment().topicPartitions());
            failsWith(GroupNotEmptyException.class, () -> get(ADMIN.deleteConsumerGroups(List.of(group)).all()));
            failsWith(GroupSubscribedToTopicException.class,
                () -> get(ADMIN.deleteConsumerGroupOffsets(group, Set.of(zero)).all()));
        } finally {
            member.leave();
        }
        get(ADMIN.alterConsumerGroupOffsets(group, Map.of(zero, new OffsetAndMetadata(3))).all());
        assertEquals(3, get(ADMIN.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()).get(zero).offset());
        get(ADMIN.deleteConsumerGroupOffsets(group, Set.of(zero)).all());
        Map<TopicPartition, OffsetAndMetadata> left = get(ADMIN.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata());
        assertFalse(left.containsKey(zero));
        assertTrue(left.containsKey(one));
        get(ADMIN.deleteConsumerGroups(List.of(group)).all());
        failsWith(GroupIdNotFoundException.class, () -> get(ADMIN.deleteConsumerGroups(List.of(group)).all()));
        failsWith(GroupIdNotFoundException.class, () -> get(ADMIN.describeConsumerGroups(List.of(group)).all()));
    }

    @Test
    void deletingATopicForgetsNothingElse() throws Exception {
        String topic = topic(1);
        String other = topic(1);
        String group = name("g");
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("group.id", group)) {
            consumer.commitSync(Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(0), new TopicPartition(other, 0), new OffsetAndMetadata(0)));
        }
        get(ADMIN.deleteTopics(List.of(topic)).all());
        assertTrue(get(ADMIN.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()).containsKey(new TopicPartition(other, 0)));
        send(List.of(new ProducerRecord<>(other, bytes("v"))));
    }
}
