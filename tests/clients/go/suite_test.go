// Package franz drives a broker with franz-go (kgo and kadm): what goes in comes out, groups share and resume,
// administrators are answered. The broker is named by ESKER_BOOTSTRAP.
package franz

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const patience = 30 * time.Second

func name(word string) string {
	var random [4]byte
	rand.Read(random[:])
	return "go-" + word + "-" + hex.EncodeToString(random[:])
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	all := append([]kgo.Opt{kgo.SeedBrokers(os.Getenv("ESKER_BOOTSTRAP"))}, opts...)
	c, err := kgo.NewClient(all...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func admin(t *testing.T) *kadm.Client { return kadm.NewClient(client(t)) }

func topic(t *testing.T, partitions int32, configs map[string]string) string {
	t.Helper()
	all := map[string]*string{}
	for k, v := range configs {
		all[k] = &v
	}
	word := name("t")
	a := admin(t)
	reply, err := a.CreateTopic(within(t), partitions, 1, all, word)
	if err != nil {
		t.Fatalf("create %s: %v", word, err)
	}
	if reply.ID == (kadm.TopicID{}) {
		t.Fatal("a new topic has no id")
	}
	until(t, "the topic is in the metadata", func() bool {
		topics, err := a.ListTopics(within(t), word)
		return err == nil && len(topics[word].Partitions) == int(partitions)
	})
	return word
}

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	end := time.Now().Add(2 * patience)
	for !condition() {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", 2*patience, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func must[T any](t *testing.T, value T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func record(topic string, partition int32, value string) *kgo.Record {
	return &kgo.Record{Topic: topic, Partition: partition, Value: []byte(value)}
}

func values(topic string, partition int32, from, to int) (all []*kgo.Record) {
	for n := from; n < to; n++ {
		all = append(all, record(topic, partition, fmt.Sprint("v", n)))
	}
	return all
}

func send(t *testing.T, records []*kgo.Record, opts ...kgo.Opt) error {
	t.Helper()
	c := client(t, append([]kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...)
	defer c.Close()
	return c.ProduceSync(within(t), records...).FirstErr()
}

func take(t *testing.T, c *kgo.Client, count int) (found []*kgo.Record) {
	t.Helper()
	ctx := within(t)
	for len(found) < count {
		fetches := c.PollFetches(ctx)
		for _, failure := range fetches.Errors() {
			t.Fatalf("%d of %d records, then %v", len(found), count, failure.Err)
		}
		found = append(found, fetches.Records()...)
	}
	return found
}

func reader(t *testing.T, topic string, partition int32, at kgo.Offset, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	where := map[string]map[int32]kgo.Offset{topic: {partition: at}}
	return client(t, append([]kgo.Opt{kgo.ConsumePartitions(where)}, opts...)...)
}

func read(t *testing.T, topic string, partition int32, offset int64, count int, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	c := reader(t, topic, partition, kgo.NewOffset().At(offset), opts...)
	defer c.Close()
	return take(t, c, count)
}

func restart(t *testing.T, signal string) {
	t.Helper()
	command := exec.Command("python3", os.Getenv("ESKER_BROKER_SCRIPT"), "--dir", os.Getenv("ESKER_BROKER_DIR"), "restart", "--signal", signal)
	command.Stderr = os.Stderr
	if err := command.Run(); err != nil {
		t.Fatalf("the broker did not come back: %v", err)
	}
}

func TestCodecsAndAcks(t *testing.T) {
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	acks := map[string]kgo.Acks{"0": kgo.NoAck(), "1": kgo.LeaderAck(), "all": kgo.AllISRAcks()}
	for codecName, codec := range codecs {
		for acksName, ack := range acks {
			t.Run(codecName+"/"+acksName, func(t *testing.T) {
				word := topic(t, 1, nil)
				opts := []kgo.Opt{kgo.ProducerBatchCompression(codec), kgo.RequiredAcks(ack), kgo.ProducerLinger(10 * time.Millisecond)}
				if acksName != "all" {
					opts = append(opts, kgo.DisableIdempotentWrite())
				}
				if err := send(t, values(word, 0, 0, 300), opts...); err != nil {
					t.Fatal(err)
				}
				for n, r := range read(t, word, 0, 0, 300) {
					if string(r.Value) != fmt.Sprint("v", n) || r.Offset != int64(n) {
						t.Fatalf("record %d: %q at %d", n, r.Value, r.Offset)
					}
				}
			})
		}
	}
}

func TestKeysHeadersNullsAndEmpties(t *testing.T) {
	word := topic(t, 1, nil)
	sent := []*kgo.Record{
		{Topic: word, Key: []byte("key"), Value: []byte("value"), Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte{}}, {Key: "null"}}},
		{Topic: word, Value: []byte("no key")},
		{Topic: word, Key: []byte("tombstone")},
		{Topic: word, Key: []byte{}, Value: []byte{}},
	}
	if err := send(t, sent); err != nil {
		t.Fatal(err)
	}
	for n, got := range read(t, word, 0, 0, len(sent)) {
		want := sent[n]
		if !bytes.Equal(got.Key, want.Key) || !bytes.Equal(got.Value, want.Value) || (got.Key == nil) != (want.Key == nil) ||
			(got.Value == nil) != (want.Value == nil) || len(got.Headers) != len(want.Headers) {
			t.Errorf("record %d: %+v, expected %+v", n, got, want)
		}
		for h := range want.Headers {
			if got.Headers[h].Key != want.Headers[h].Key || !bytes.Equal(got.Headers[h].Value, want.Headers[h].Value) ||
				(got.Headers[h].Value == nil) != (want.Headers[h].Value == nil) {
				t.Errorf("header %d of record %d: %+v", h, n, got.Headers[h])
			}
		}
	}
}

func TestLargeRecords(t *testing.T) {
	word := topic(t, 1, nil)
	big := make([]byte, 900_000)
	rand.Read(big)
	if err := send(t, []*kgo.Record{{Topic: word, Value: big}, record(word, 0, "after")}); err != nil {
		t.Fatal(err)
	}
	got := read(t, word, 0, 0, 2, kgo.FetchMaxPartitionBytes(1000))
	if !bytes.Equal(got[0].Value, big) || string(got[1].Value) != "after" {
		t.Fatal("900 KB differ")
	}
	large := make([]byte, 1_500_000)
	rand.Read(large)
	err := send(t, []*kgo.Record{{Topic: word, Value: large}}, kgo.ProducerBatchMaxBytes(5_000_000))
	if !errors.Is(err, kerr.MessageTooLarge) {
		t.Fatalf("expected MESSAGE_TOO_LARGE, found %v", err)
	}
}

func TestTimestamps(t *testing.T) {
	kept := topic(t, 1, nil)
	stamp := time.UnixMilli(1_600_000_000_123)
	if err := send(t, []*kgo.Record{{Topic: kept, Value: []byte("v"), Timestamp: stamp}}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, kept, 0, 0, 1)[0]; !got.Timestamp.Equal(stamp) || got.Attrs.TimestampType() != 0 {
		t.Errorf("%v, type %d", got.Timestamp, got.Attrs.TimestampType())
	}
	appended := topic(t, 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	begin := time.Now().Add(-5 * time.Millisecond)
	if err := send(t, []*kgo.Record{{Topic: appended, Value: []byte("v"), Timestamp: stamp}}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, appended, 0, 0, 1)[0]; got.Timestamp.Before(begin) || got.Attrs.TimestampType() != 1 {
		t.Errorf("%v, type %d", got.Timestamp, got.Attrs.TimestampType())
	}
}

func TestIdempotentProducerAcrossARestart(t *testing.T) {
	word := topic(t, 2, nil)
	c := client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(time.Millisecond), kgo.MaxBufferedRecords(50_000))
	var mutex sync.Mutex
	var failures []error
	for n := range 20_000 {
		c.Produce(context.Background(), record(word, int32(n%2), fmt.Sprint("v", n)), func(_ *kgo.Record, err error) {
			if err != nil {
				mutex.Lock()
				failures = append(failures, err)
				mutex.Unlock()
			}
		})
		if n == 10_000 {
			restart(t, "KILL")
		}
	}
	if err := c.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	if len(failures) > 0 {
		t.Fatalf("%d failures, the first %v", len(failures), failures[0])
	}
	for partition := range 2 {
		for n, r := range read(t, word, int32(partition), 0, 10_000) {
			if string(r.Value) != fmt.Sprint("v", 2*n+partition) || r.Offset != int64(n) {
				t.Fatalf("partition %d record %d: %q at %d", partition, n, r.Value, r.Offset)
			}
		}
	}
}

func TestWhereToStart(t *testing.T) {
	word := topic(t, 1, nil)
	var records []*kgo.Record
	for n := range 100 {
		r := record(word, 0, fmt.Sprint(n))
		r.Timestamp = time.UnixMilli(1_700_000_000_000 + int64(n)*1000)
		records = append(records, r)
	}
	if err := send(t, records); err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]struct {
		at    kgo.Offset
		first int64
	}{
		"start":                {kgo.NewOffset().AtStart(), 0},
		"offset":               {kgo.NewOffset().At(42), 42},
		"five before the end":  {kgo.NewOffset().AtEnd().Relative(-5), 95},
		"timestamp":            {kgo.NewOffset().AfterMilli(1_700_000_030_000), 30},
		"between timestamps":   {kgo.NewOffset().AfterMilli(1_700_000_030_001), 31},
		"out of range, before": {kgo.NewOffset().At(5000), 0},
	} {
		t.Run(what, func(t *testing.T) {
			c := reader(t, word, 0, want.at, kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			if got := take(t, c, 1)[0].Offset; got != want.first {
				t.Errorf("expected %d, found %d", want.first, got)
			}
		})
	}
	strict := reader(t, word, 0, kgo.NewOffset().At(5000), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	failures := strict.PollFetches(within(t)).Errors()
	if len(failures) == 0 || !errors.Is(failures[0].Err, kerr.OffsetOutOfRange) {
		t.Errorf("expected OFFSET_OUT_OF_RANGE, found %v", failures)
	}
}

func TestTailingConsumerGetsARecordAtOnce(t *testing.T) {
	word := topic(t, 1, nil)
	c := reader(t, word, 0, kgo.NewOffset().AtStart(), kgo.FetchMaxWait(5*time.Second))
	producer := client(t, kgo.ProducerLinger(0))
	producer.ProduceSync(within(t), record(word, 0, "warm"))
	take(t, c, 1)
	for range 5 {
		time.Sleep(500 * time.Millisecond) // the fetch is parked now
		begin := time.Now()
		if err := producer.ProduceSync(within(t), record(word, 0, "v")).FirstErr(); err != nil {
			t.Fatal(err)
		}
		take(t, c, 1)
		if took := time.Since(begin); took > 1500*time.Millisecond {
			t.Errorf("%v with a fetch wait of 5 s", took)
		}
	}
}

func TestUnknownTopicAndAutoCreate(t *testing.T) {
	c := client(t, kgo.UnknownTopicRetries(1))
	err := c.ProduceSync(within(t), record(name("missing"), 0, "v")).FirstErr()
	if !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("expected UNKNOWN_TOPIC_OR_PARTITION, found %v", err)
	}
	word := name("auto")
	c = client(t, kgo.AllowAutoTopicCreation())
	if err := c.ProduceSync(within(t), record(word, 0, "v")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	read(t, word, 0, 0, 1)
}

// A member of a group: what it holds and what it read.
type member struct {
	client *kgo.Client
	mutex  sync.Mutex
	holds  map[int32]bool
	read   map[string]bool
	done   chan struct{}
}

func join(t *testing.T, word, group string, opts ...kgo.Opt) *member {
	m := &member{holds: map[int32]bool{}, read: map[string]bool{}, done: make(chan struct{})}
	note := func(holds bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, changed map[string][]int32) {
			m.mutex.Lock()
			defer m.mutex.Unlock()
			for _, p := range changed[word] {
				if holds {
					m.holds[p] = true
				} else {
					delete(m.holds, p)
				}
			}
		}
	}
	m.client = client(t, append([]kgo.Opt{kgo.ConsumerGroup(group), kgo.ConsumeTopics(word), kgo.HeartbeatInterval(300 * time.Millisecond),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.OnPartitionsAssigned(note(true)), kgo.OnPartitionsRevoked(note(false)),
		kgo.OnPartitionsLost(note(false)), kgo.AutoCommitInterval(200 * time.Millisecond)}, opts...)...)
	go func() {
		defer close(m.done)
		for {
			fetches := m.client.PollFetches(context.Background())
			if fetches.IsClientClosed() {
				return
			}
			m.mutex.Lock()
			for _, r := range fetches.Records() {
				m.read[fmt.Sprint(r.Partition, "/", r.Offset)] = true
			}
			m.mutex.Unlock()
		}
	}()
	return m
}

func (m *member) held() (all []int32) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	for p := range m.holds {
		all = append(all, p)
	}
	return all
}

func (m *member) leave() {
	m.client.Close()
	<-m.done
}

func sharedOut(members []*member, partitions int) bool {
	var all []int32
	for _, m := range members {
		held := m.held()
		if len(held) == 0 {
			return false
		}
		all = append(all, held...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	return len(all) == partitions && len(slices.Compact(all)) == partitions
}

func TestRebalances(t *testing.T) {
	for strategy, balancer := range map[string]kgo.GroupBalancer{"range": kgo.RangeBalancer(), "round robin": kgo.RoundRobinBalancer(),
		"sticky": kgo.StickyBalancer(), "cooperative sticky": kgo.CooperativeStickyBalancer()} {
		t.Run(strategy, func(t *testing.T) {
			word, group := topic(t, 6, nil), name("g")
			var members []*member
			for range 3 {
				members = append(members, join(t, word, group, kgo.Balancers(balancer)))
			}
			until(t, "three members share", func() bool { return sharedOut(members, 6) })
			for p := range int32(6) {
				if err := send(t, values(word, p, 0, 50)); err != nil {
					t.Fatal(err)
				}
			}
			everybody := slices.Clone(members)
			seen := func() int {
				all := map[string]bool{}
				for _, m := range everybody {
					m.mutex.Lock()
					for r := range m.read {
						all[r] = true
					}
					m.mutex.Unlock()
				}
				return len(all)
			}
			until(t, "everything is read", func() bool { return seen() == 300 })
			members[2].leave()
			members = members[:2]
			until(t, "two members share", func() bool { return sharedOut(members, 6) })
			members = append(members, join(t, word, group, kgo.Balancers(balancer)))
			everybody = append(everybody, members[2])
			until(t, "three members share again", func() bool { return sharedOut(members, 6) })
			for p := range int32(6) {
				if err := send(t, values(word, p, 0, 10)); err != nil {
					t.Fatal(err)
				}
			}
			until(t, "the rest is read", func() bool { return seen() == 360 })
			for _, m := range members {
				m.leave()
			}
		})
	}
}

func TestStaticMemberComesBack(t *testing.T) {
	word, group := topic(t, 4, nil), name("g")
	one := join(t, word, group, kgo.InstanceID("one"), kgo.SessionTimeout(60*time.Second))
	two := join(t, word, group, kgo.InstanceID("two"), kgo.SessionTimeout(60*time.Second))
	until(t, "two members share", func() bool { return sharedOut([]*member{one, two}, 4) })
	held := two.held()
	two.leave()
	two = join(t, word, group, kgo.InstanceID("two"), kgo.SessionTimeout(60*time.Second))
	until(t, "it holds the same again", func() bool {
		again := two.held()
		slices.Sort(again)
		slices.Sort(held)
		return slices.Equal(again, held)
	})
	if !sharedOut([]*member{one, two}, 4) {
		t.Error("the other member lost something")
	}
	left, err := admin(t).LeaveGroup(within(t), kadm.LeaveGroup(group).InstanceIDs("one", "two"))
	must(t, left, err)
	if !left.Ok() {
		t.Error(left.Error())
	}
	one.leave()
	two.leave()
}

func TestCommitsSurviveARestart(t *testing.T) {
	word, group, a := topic(t, 2, nil), name("g"), admin(t)
	for p := range int32(2) {
		if err := send(t, values(word, p, 0, 50)); err != nil {
			t.Fatal(err)
		}
	}
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: word, Partition: 0, At: 30, LeaderEpoch: -1, Metadata: "half way"})
	offsets.Add(kadm.Offset{Topic: word, Partition: 1, At: 50, LeaderEpoch: -1})
	if err := a.CommitAllOffsets(within(t), group, offsets); err != nil {
		t.Fatal(err)
	}
	for _, signal := range []string{"KILL", "TERM"} {
		restart(t, signal)
		var found kadm.OffsetResponses
		until(t, "the coordinator answers", func() (ok bool) { // kadm does not repeat a request whose connection was cut
			var err error
			found, err = a.FetchOffsets(within(t), group)
			return err == nil && found.Error() == nil
		})
		if got, _ := found.Lookup(word, 0); got.At != 30 || got.Metadata != "half way" {
			t.Fatalf("after %s: %+v", signal, got)
		}
		if got, _ := found.Lookup(word, 1); got.At != 50 {
			t.Fatalf("after %s: %+v", signal, got)
		}
	}
	lag := must2(a.Lag(within(t), group))(t)
	if got := lag[group].Lag.Total(); got != 20 {
		t.Errorf("a lag of %d", got)
	}
	c := client(t, kgo.ConsumerGroup(group), kgo.ConsumeTopics(word))
	for _, r := range take(t, c, 20) {
		if r.Partition != 0 || r.Offset < 30 {
			t.Errorf("read %d/%d again", r.Partition, r.Offset)
		}
	}
}

// must2 is must for a call with two results in place.
func must2[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T { t.Helper(); return must(t, value, err) }
}

func TestGroupAdmin(t *testing.T) {
	word, group, a := topic(t, 2, nil), name("g"), admin(t)
	m := join(t, word, group, kgo.Balancers(kgo.RangeBalancer()))
	until(t, "it holds both", func() bool { return len(m.held()) == 2 })
	listed := must2(a.ListGroups(within(t), "Stable"))(t)
	if got := listed[group]; got.State != "Stable" || got.ProtocolType != "consumer" {
		t.Errorf("%+v", got)
	}
	told := must2(a.DescribeGroups(within(t), group))(t)[group]
	if told.State != "Stable" || told.Protocol != "range" || len(told.Members) != 1 {
		t.Errorf("%+v", told)
	}
	deleted := must2(a.DeleteGroups(within(t), group))(t)
	if err := deleted.Error(); !errors.Is(err, kerr.NonEmptyGroup) {
		t.Errorf("expected NON_EMPTY_GROUP, found %v", err)
	}
	m.leave()
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: word, Partition: 0, At: 7, LeaderEpoch: -1})
	offsets.Add(kadm.Offset{Topic: word, Partition: 1, At: 8, LeaderEpoch: -1})
	if err := a.CommitAllOffsets(within(t), group, offsets); err != nil {
		t.Fatal(err)
	}
	set := kadm.TopicsSet{}
	set.Add(word, 0)
	forgotten := must2(a.DeleteOffsets(within(t), group, set))(t)
	if err := forgotten.Error(); err != nil {
		t.Error(err)
	}
	left := must2(a.FetchOffsets(within(t), group))(t)
	if _, there := left.Lookup(word, 0); there {
		t.Error("the deleted offset is still there")
	}
	if got, _ := left.Lookup(word, 1); got.At != 8 {
		t.Errorf("%+v", got)
	}
	if err := must2(a.DeleteGroups(within(t), group))(t).Error(); err != nil {
		t.Error(err)
	}
	if err := must2(a.DeleteGroups(within(t), group))(t).Error(); !errors.Is(err, kerr.GroupIDNotFound) {
		t.Errorf("expected GROUP_ID_NOT_FOUND, found %v", err)
	}
}

func TestTopicAdmin(t *testing.T) {
	a := admin(t)
	word := topic(t, 2, map[string]string{"retention.ms": "60000"})
	if _, err := a.CreateTopic(within(t), 1, 1, nil, word); !errors.Is(err, kerr.TopicAlreadyExists) {
		t.Errorf("expected TOPIC_ALREADY_EXISTS, found %v", err)
	}
	first := must2(a.ListTopics(within(t), word))(t)[word].ID
	configs := func() map[string]string {
		all := map[string]string{}
		for _, c := range must2(a.DescribeTopicConfigs(within(t), word))(t)[0].Configs {
			all[c.Key] = c.MaybeValue()
		}
		return all
	}
	if got := configs(); got["retention.ms"] != "60000" || got["cleanup.policy"] != "delete" {
		t.Errorf("%v", got)
	}
	value := "5"
	altered := must2(a.AlterTopicConfigs(within(t), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.bytes", Value: &value},
		{Op: kadm.DeleteConfig, Name: "retention.ms"}}, word))(t)
	if altered[0].Err != nil {
		t.Fatal(altered[0].Err)
	}
	if got := configs(); got["retention.ms"] != "604800000" || got["retention.bytes"] != "5" {
		t.Errorf("%v", got)
	}
	// The old, absolute AlterConfigs: what is not named goes back to its default.
	state := must2(a.AlterTopicConfigsState(within(t), []kadm.AlterConfig{{Name: "max.message.bytes", Value: ptr("2000")}}, word))(t)
	if state[0].Err != nil {
		t.Fatal(state[0].Err)
	}
	if got := configs(); got["retention.bytes"] != "-1" || got["max.message.bytes"] != "2000" {
		t.Errorf("%v", got)
	}
	grown := must2(a.UpdatePartitions(within(t), 5, word))(t)
	if err := grown.Error(); err != nil {
		t.Fatal(err)
	}
	until(t, "five partitions", func() bool { return len(must2(a.ListTopics(within(t), word))(t)[word].Partitions) == 5 })
	if err := must2(a.DeleteTopics(within(t), word))(t).Error(); err != nil {
		t.Fatal(err)
	}
	until(t, "it is gone", func() bool {
		return errors.Is(must2(a.ListTopics(within(t), word))(t)[word].Err, kerr.UnknownTopicOrPartition)
	})
	if err := must2(a.DeleteTopics(within(t), word))(t).Error(); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("expected UNKNOWN_TOPIC_OR_PARTITION, found %v", err)
	}
	must2(a.CreateTopic(within(t), 1, 1, nil, word))(t)
	until(t, "it is there with another id", func() bool {
		again := must2(a.ListTopics(within(t), word))(t)[word]
		return again.Err == nil && again.ID != first
	})
}

func ptr(s string) *string { return &s }

func TestOffsetAdmin(t *testing.T) {
	word, a := topic(t, 1, nil), admin(t)
	var records []*kgo.Record
	for _, stamp := range []int64{10, 50, 20} {
		records = append(records, &kgo.Record{Topic: word, Value: []byte("v"), Timestamp: time.UnixMilli(1_700_000_000_000 + stamp)})
	}
	if err := send(t, records); err != nil {
		t.Fatal(err)
	}
	at := func(offsets kadm.ListedOffsets, err error) int64 {
		t.Helper()
		got, _ := must(t, offsets, err).Lookup(word, 0)
		if got.Err != nil {
			t.Fatal(got.Err)
		}
		return got.Offset
	}
	if got := at(a.ListStartOffsets(within(t), word)); got != 0 {
		t.Errorf("start %d", got)
	}
	if got := at(a.ListEndOffsets(within(t), word)); got != 3 {
		t.Errorf("end %d", got)
	}
	if got := at(a.ListCommittedOffsets(within(t), word)); got != 3 {
		t.Errorf("committed %d", got)
	}
	if got := at(a.ListMaxTimestampOffsets(within(t), word)); got != 1 {
		t.Errorf("max timestamp %d", got)
	}
	if got := at(a.ListOffsetsAfterMilli(within(t), 1_700_000_000_011, word)); got != 1 {
		t.Errorf("after a timestamp %d", got)
	}
	epochs := kadm.OffsetForLeaderEpochRequest{}
	epochs.Add(word, 0, 0)
	if got := must2(a.OffsetForLeaderEpoch(within(t), epochs))(t)[word][0]; got.Err != nil || got.EndOffset != 3 {
		t.Errorf("the end of epoch 0: %+v", got)
	}
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: word, Partition: 0, At: 2})
	gone := must2(a.DeleteRecords(within(t), offsets))(t)
	if got, _ := gone.Lookup(word, 0); got.Err != nil || got.LowWatermark != 2 {
		t.Errorf("%+v", got)
	}
	if got := at(a.ListStartOffsets(within(t), word)); got != 2 {
		t.Errorf("start %d", got)
	}
}

func TestClusterAdmin(t *testing.T) {
	a := admin(t)
	word := topic(t, 1, nil)
	meta := must2(a.Metadata(within(t), word))(t)
	if len(meta.Brokers) != 1 || meta.Cluster == "" || meta.Controller != meta.Brokers[0].NodeID {
		t.Errorf("%+v", meta)
	}
	if err := send(t, values(word, 0, 0, 10)); err != nil {
		t.Fatal(err)
	}
	set := kadm.TopicsSet{}
	set.Add(word, 0)
	producers := must2(a.DescribeProducers(within(t), set))(t)
	if got := producers[word].Partitions[0].ActiveProducers; len(got) != 1 {
		t.Errorf("%d producers", len(got))
	}
	dirs := must2(a.DescribeAllLogDirs(within(t), set))(t)
	if len(dirs) != 1 {
		t.Errorf("%v", dirs)
	}
	versions := must2(a.ApiVersions(within(t)))(t)
	for _, v := range versions.Sorted() {
		if v.Err != nil {
			t.Error(v.Err)
		}
		for key, want := range map[int16]int16{0: 9, 1: 12, 3: 12, 18: 3} {
			if _, most, there := v.KeyVersions(key); !there || most < want {
				t.Errorf("API %d up to version %d", key, most)
			}
		}
	}
}
