"""Consumer groups: sharing, leaving, static members, committed offsets, and what administrators do with them."""

import threading
import time

from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions

from kit import Case, Consumer, KafkaError, KafkaException, TopicPartition, restart_broker, settings, WAIT_S


class Member:
    """A consumer polled by its own thread; knows what it holds and what it read."""

    def __init__(self, topic, group, **config):
        config = {"session_timeout_ms": 6000, "heartbeat_interval_ms": 500, **config}
        self.consumer = Consumer(settings(group_id=group, auto_offset_reset="earliest", enable_auto_commit=False, **config))
        self.holds, self.read, self.assignments, self.revocations, self.errors = set(), [], 0, 0, []
        self.lock = threading.Lock()
        self.cooperative = config.get("partition_assignment_strategy") == "cooperative-sticky"
        self.consumer.subscribe([topic], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke)
        self.stopping = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _assign(self, consumer, partitions):
        with self.lock:
            self.holds |= {p.partition for p in partitions}
            self.assignments += 1

    def _revoke(self, consumer, partitions):
        with self.lock:
            self.holds -= {p.partition for p in partitions}
            self.revocations += 1

    def _run(self):
        while not self.stopping:
            message = self.consumer.poll(0.1)
            if message is None:
                continue
            if message.error():
                self.errors.append(message.error())
                continue
            self.read.append((message.partition(), message.offset()))
            try:
                self.consumer.commit(message, asynchronous=True)
            except KafkaException as error:
                self.errors.append(error)

    def leave(self):
        self.stopping = True
        self.thread.join()
        self.consumer.close()

    def vanish(self):
        """Stops polling and never says goodbye (a static member's close does not leave the group)."""
        self.stopping = True
        self.thread.join()


class Groups(Case):
    def shared_out(self, members, partitions):
        """Each partition has exactly one holder, and each member holds some."""
        held = [set(m.holds) for m in members]
        return all(held) and sorted(p for h in held for p in h) == list(range(partitions))

    def rebalances(self, strategy):
        topic, group = self.topic(partitions=6), self.name("g")
        members = [Member(topic, group, partition_assignment_strategy=strategy) for _ in range(3)]
        try:
            self.until(lambda: self.shared_out(members, 6), 60)
            self.assertEqual(sorted(len(m.holds) for m in members), [2, 2, 2])
            self.produce(topic, [(n % 6, None, b"v", None) for n in range(600)])
            self.until(lambda: sum(len(m.read) for m in members) >= 600)
            gone = members.pop()
            gone.leave()
            self.until(lambda: self.shared_out(members, 6), 60)
            self.assertEqual(sorted(len(m.holds) for m in members), [3, 3])
            members.append(Member(topic, group, partition_assignment_strategy=strategy))
            self.until(lambda: self.shared_out(members, 6), 60)
            self.produce(topic, [(n % 6, None, b"v", None) for n in range(60)])
            everybody = members + [gone]
            self.until(lambda: len({r for m in everybody for r in m.read}) >= 660)
            self.assertEqual({r for m in everybody for r in m.read}, {(p, o) for p in range(6) for o in range(110)})
        finally:
            for member in members:
                member.leave()

    def test_eager_rebalance_on_join_and_leave(self):
        self.rebalances("range")

    def test_cooperative_rebalance_on_join_and_leave(self):
        self.rebalances("cooperative-sticky")

    def test_a_member_that_dies_is_replaced_after_its_session(self):
        topic, group = self.topic(partitions=2), self.name("g")
        first, second = Member(topic, group, session_timeout_ms=6000, max_poll_interval_ms=6000), None
        try:
            self.until(lambda: first.holds == {0, 1})
            first.vanish()  # librdkafka leaves the group when it is not polled for max.poll.interval.ms
            second = Member(topic, group)
            self.until(lambda: second.holds == {0, 1}, 40)
        finally:
            first.consumer.close()
            if second:
                second.leave()

    def test_static_member_comes_back_without_a_rebalance(self):
        topic, group = self.topic(partitions=4), self.name("g")
        one = Member(topic, group, group_instance_id="one")
        two = Member(topic, group, group_instance_id="two")
        try:
            self.until(lambda: self.shared_out([one, two], 4), 60)
            held, assignments = set(two.holds), one.assignments
            two.leave()
            two = Member(topic, group, group_instance_id="two")
            self.until(lambda: two.holds == held)
            self.assertEqual(one.assignments, assignments, "the other member was rebalanced")
        finally:
            one.leave()
            two.leave()

    def test_second_static_member_of_one_name_fences_the_first(self):
        topic, group = self.topic(partitions=1), self.name("g")
        first = Consumer(settings(group_id=group, group_instance_id="same", session_timeout_ms=6000, heartbeat_interval_ms=300))
        errors = []
        first.subscribe([topic])
        end = time.monotonic() + WAIT_S
        while not first.assignment() and time.monotonic() < end:
            first.poll(0.1)
        second = Member(topic, group, group_instance_id="same")
        try:
            while not errors and time.monotonic() < end:
                try:
                    message = first.poll(0.1)
                    if message is not None and message.error():
                        errors.append(message.error().code())
                except KafkaException as error:
                    errors.append(error.args[0].code())
            self.assertEqual(errors[:1], [KafkaError._FATAL])
            self.until(lambda: second.holds == {0})
        finally:
            second.leave()
            first.close()

    def test_commit_and_resume(self):
        topic, group = self.topic(partitions=2), self.name("g")
        self.produce(topic, [(n % 2, None, b"%d" % n, None) for n in range(100)])
        consumer = Consumer(settings(group_id=group, auto_offset_reset="earliest", enable_auto_commit=False))
        consumer.subscribe([topic])
        self.take(consumer, 100)
        consumer.commit(offsets=[TopicPartition(topic, 0, 30, metadata="half way"), TopicPartition(topic, 1, 40)], asynchronous=False)
        committed = consumer.committed([TopicPartition(topic, 0), TopicPartition(topic, 1)], timeout=10)
        self.assertEqual([(c.offset, c.metadata or "") for c in committed], [(30, "half way"), (40, "")])
        consumer.close()
        consumer = Consumer(settings(group_id=group, auto_offset_reset="error", enable_auto_commit=False))
        consumer.subscribe([topic])
        got = self.take(consumer, 30)
        consumer.close()
        self.assertEqual(sorted((m.partition(), m.offset()) for m in got),
                         [(0, o) for o in range(30, 50)] + [(1, o) for o in range(40, 50)])

    def test_auto_commit_on_close(self):
        topic, group = self.topic(), self.name("g")
        self.values(topic, [b"v"] * 10)
        consumer = Consumer(settings(group_id=group, auto_offset_reset="earliest"))
        consumer.subscribe([topic])
        self.take(consumer, 10)
        consumer.close()
        found = self.committed(group, [TopicPartition(topic, 0)])
        self.assertEqual(found[0].offset, 10)

    def committed(self, group, partitions=None):
        asked = [ConsumerGroupTopicPartitions(group, partitions)]
        return self.admin.list_consumer_group_offsets(asked)[group].result(WAIT_S).topic_partitions

    def test_committed_offsets_and_static_members_survive_a_restart(self):
        topic, group = self.topic(partitions=3), self.name("g")
        self.produce(topic, [(n % 3, None, b"%d" % n, None) for n in range(300)])
        consumer = Consumer(settings(group_id=group, enable_auto_commit=False))
        offsets = [TopicPartition(topic, p, 10 * p + 5) for p in range(3)]
        self.once_loaded(lambda: consumer.commit(offsets=offsets, asynchronous=False))
        consumer.close()
        # A session longer than two restarts: a member that gives itself up meanwhile is fenced by its own second life.
        static = Member(topic, self.name("s"), group_instance_id="rock", session_timeout_ms=120_000)
        try:
            self.until(lambda: static.holds == {0, 1, 2})
            self.until(lambda: len(static.read) == 300)
            for how in ("KILL", "TERM"):
                restart_broker(how)
                # Asked by a consumer: librdkafka 2.16's admin client crashes on NOT_COORDINATOR in a reply to OffsetFetch.
                consumer = Consumer(settings(group_id=group))
                found = self.once_loaded(lambda: consumer.committed([TopicPartition(topic, p) for p in range(3)], timeout=WAIT_S))
                consumer.close()
                self.assertEqual([f.offset for f in found], [5, 15, 25], how)
            self.values(topic, [b"after"])
            self.until(lambda: (0, 100) in static.read, 60)
        finally:
            static.leave()

    def once_loaded(self, action):
        """The value of an action that librdkafka does not repeat by itself while the coordinator is starting."""
        starting = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE)

        def attempt():
            try:
                return [action()]
            except KafkaException as error:
                if error.args[0].code() in starting:
                    return None
                raise
        return self.until(attempt)[0]

    def test_list_describe_alter_delete(self):
        topic, group = self.topic(partitions=2), self.name("g")
        member = Member(topic, group, client_id="suite-member")
        try:
            self.until(lambda: member.holds == {0, 1})
            listed = {g.group_id: g for g in self.admin.list_consumer_groups().result(WAIT_S).valid}
            self.assertEqual(listed[group].state, ConsumerGroupState.STABLE)
            stable = self.admin.list_consumer_groups(states={ConsumerGroupState.STABLE}).result(WAIT_S).valid
            self.assertIn(group, {g.group_id for g in stable})
            empty = self.admin.list_consumer_groups(states={ConsumerGroupState.EMPTY}).result(WAIT_S).valid
            self.assertNotIn(group, {g.group_id for g in empty})
            told = self.admin.describe_consumer_groups([group])[group].result(WAIT_S)
            self.assertEqual(told.state, ConsumerGroupState.STABLE)
            self.assertEqual(told.partition_assignor, "range")
            self.assertEqual([m.client_id for m in told.members], ["suite-member"])
            self.assertEqual({p.partition for p in told.members[0].assignment.topic_partitions}, {0, 1})
            error = self.fails_with(KafkaError.NON_EMPTY_GROUP, lambda: self.admin.delete_consumer_groups([group])[group].result(WAIT_S))
            self.assertFalse(error.retriable())
        finally:
            member.leave()
        altered = [ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 77)])]
        self.once_loaded(lambda: self.admin.alter_consumer_group_offsets(altered)[group].result(WAIT_S))
        self.assertEqual([(p.partition, p.offset) for p in self.committed(group)], [(0, 77)])
        self.assertEqual(self.admin.describe_consumer_groups([group])[group].result(WAIT_S).state, ConsumerGroupState.EMPTY)
        self.admin.delete_consumer_groups([group])[group].result(WAIT_S)
        self.assertNotIn(group, {g.group_id for g in self.admin.list_consumer_groups().result(WAIT_S).valid})
        self.fails_with(KafkaError.GROUP_ID_NOT_FOUND, lambda: self.admin.delete_consumer_groups([group])[group].result(WAIT_S))

    def test_nothing_committed_is_told_so(self):
        topic = self.topic()
        found = self.committed(self.name("never"), [TopicPartition(topic, 0)])
        self.assertEqual([f.offset for f in found], [-1001])
