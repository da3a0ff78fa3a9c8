package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/embedded"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

// These tests run on the embedded broker, and with CALLSTREAM_TEST_KAFKA=apache on Apache Kafka.

type cluster struct {
	t        *testing.T
	cfg      kafka.Config
	client   *kgo.Client
	adm      *kadm.Client
	registry string
}

func newCluster(t *testing.T, specs ...kafka.TopicSpec) *cluster {
	t.Helper()
	target := kafkatest.Cluster(t)
	c := &cluster{t: t, cfg: kafka.Config{Brokers: target.Brokers}, registry: target.RegistryURL}
	var err error
	c.client, err = kgo.NewClient(kgo.SeedBrokers(target.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(50*time.Millisecond), kgo.DisableClientMetrics())
	require.NoError(t, err)
	t.Cleanup(c.client.Close)
	c.adm = kadm.NewClient(c.client)
	report := c.ensure(kafka.TopicOptions{}, specs...)
	require.Len(t, report.Changes, len(specs))
	return c
}

func (c *cluster) ensure(opts kafka.TopicOptions, specs ...kafka.TopicSpec) kafka.TopicReport {
	c.t.Helper()
	report, err := kafka.EnsureTopics(c.t.Context(), c.client, specs, zap.NewNop(), opts)
	require.NoError(c.t, err)
	return report
}

func (c *cluster) produce(topic string, partition int32, n int) {
	c.t.Helper()
	var rs []*kgo.Record
	for i := range n {
		rs = append(rs, &kgo.Record{Topic: topic, Partition: partition, Value: []byte(strconv.Itoa(i))})
	}
	require.NoError(c.t, c.client.ProduceSync(c.t.Context(), rs...).FirstErr())
}

// until waits for a condition.
func (c *cluster) until(what string, cond func() bool) {
	c.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(time.Minute)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			c.t.Fatalf("it never happened: %s", what)
		}
	}
}

func (c *cluster) run(cfg kafka.LoopConfig) (l *kafka.Loop, stop func()) {
	c.t.Helper()
	cfg.Config, cfg.Log = c.cfg, zaptest.NewLogger(c.t, zaptest.Level(zap.ErrorLevel))
	l, err := kafka.NewLoop(cfg)
	require.NoError(c.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	go func() { end <- l.Run(ctx) }()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); require.NoError(c.t, <-end) }) }
	c.t.Cleanup(stop)
	return l, stop
}

func TestClusterCompletedSetSurvivesRestart(t *testing.T) {
	c := newCluster(t, kafka.TopicSpec{Name: "t", Partitions: 1, Retention: time.Hour})
	c.produce("t", 0, 100)
	var mu sync.Mutex
	tasks := make(map[int64]*kafka.Task)
	handle := func(_ context.Context, task *kafka.Task) {
		mu.Lock()
		defer mu.Unlock()
		tasks[task.Record.Offset] = task
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(tasks) }
	_, stop := c.run(kafka.LoopConfig{Group: "g", Topics: []string{"t"}, Handle: handle})
	c.until("all are handed out", func() bool { return count() == 100 })
	for o, task := range tasks {
		if o%3 == 0 && o != 30 {
			task.Done()
		} else {
			defer task.Abandon()
		}
	}
	for o, task := range tasks {
		if o%3 != 0 || o == 30 {
			task.Abandon() // so that the drain has nothing to wait for
		}
	}
	stop()
	offsets, err := c.adm.FetchOffsets(t.Context(), "g")
	require.NoError(t, err)
	o, ok := offsets.Lookup("t", 0)
	require.True(t, ok)
	require.EqualValues(t, 1, o.At)
	require.NotEmpty(t, o.Metadata)

	first := tasks
	tasks = make(map[int64]*kafka.Task)
	_, stop = c.run(kafka.LoopConfig{Group: "g", Topics: []string{"t"}, Handle: handle})
	c.until("the rest is handed out", func() bool { return count() == 67 })
	for o, task := range tasks {
		require.True(t, o%3 != 0 || o == 30, o)
		require.Contains(t, first, o)
		task.Done()
	}
	stop()
	offsets, err = c.adm.FetchOffsets(t.Context(), "g")
	require.NoError(t, err)
	o, _ = offsets.Lookup("t", 0)
	require.EqualValues(t, 100, o.At)
	require.Empty(t, o.Metadata)
}

func TestClusterDefers(t *testing.T) {
	c := newCluster(t, kafka.TopicSpec{Name: "t", Partitions: 1, Retention: time.Hour})
	c.produce("t", 0, 50)
	began := time.Now()
	var mu sync.Mutex
	var order []int64
	apart := func(string) bool { return true }
	l, _ := c.run(kafka.LoopConfig{Group: "g", Topics: []string{"t"}, Apart: apart, Handle: func(_ context.Context, task *kafka.Task) {
		due := began.Add(time.Duration(task.Record.Offset/10) * 1200 * time.Millisecond)
		if time.Now().Before(due) {
			task.Defer(due)
			return
		}
		mu.Lock()
		order = append(order, task.Record.Offset)
		mu.Unlock()
		task.Done()
	}})
	c.until("all are done", func() bool { mu.Lock(); defer mu.Unlock(); return len(order) == 50 })
	require.True(t, slices.IsSorted(order))
	require.GreaterOrEqual(t, time.Since(began), 4*1200*time.Millisecond)
	require.NoError(t, l.Ready())
}

// One member, then four, then two: every record is done, and since none was given up in hand for long, none twice. Partition
// p of both topics has one owner, although one of them is read apart.
func TestClusterMembersComeAndGo(t *testing.T) {
	const numbers, each = 8, 400
	names := []string{"main", "slow"}
	c := newCluster(t, kafka.TopicSpec{Name: "main", Partitions: numbers}, kafka.TopicSpec{Name: "slow", Partitions: numbers})
	var mu sync.Mutex
	done := make(map[string]int)
	slow := func(topic string) bool { return topic == "slow" }
	join := func() (*kafka.Loop, func()) {
		return c.run(kafka.LoopConfig{Group: "g", Topics: names, Apart: slow, Balancer: kafka.ColocatingBalancer(), Handle: func(_ context.Context, task *kafka.Task) {
			go func() {
				select {
				case <-time.After(time.Duration(task.Record.Offset%17) * time.Millisecond):
					mu.Lock()
					done[fmt.Sprintf("%s/%d/%d", task.Record.Topic, task.Record.Partition, task.Record.Offset)]++
					mu.Unlock()
					task.Done()
				case <-task.Context().Done():
				}
			}()
		}})
	}
	feed := func(share int) {
		for p := range int32(numbers) {
			for _, n := range names {
				c.produce(n, p, each/share)
			}
		}
	}
	colocated := func(ls ...*kafka.Loop) func() bool {
		return func() bool {
			total := 0
			for _, l := range ls {
				a := l.Assignment()
				total += len(a)
				if l.Ready() != nil || len(a) != len(names)*numbers/len(ls) {
					return false
				}
				for _, tp := range a {
					for _, n := range names {
						if !slices.Contains(a, kafka.TopicPartition{Topic: n, Partition: tp.Partition}) {
							return false
						}
					}
				}
			}
			return total == len(names)*numbers
		}
	}
	feed(4)
	a, stopA := join()
	c.until("one member", colocated(a))
	feed(4)
	b, _ := join()
	d, _ := join()
	e, stopE := join()
	c.until("four members", colocated(a, b, d, e))
	feed(4)
	stopA()
	stopE()
	c.until("two members", colocated(b, d))
	feed(4)
	c.until("all are done", func() bool { mu.Lock(); defer mu.Unlock(); return len(done) == len(names)*numbers*each })
	mu.Lock()
	defer mu.Unlock()
	for what, n := range done {
		require.Equal(t, 1, n, what)
	}
}

func TestEnsureTopics(t *testing.T) {
	spec := kafka.TopicSpec{Name: "t", Partitions: 2, Retention: 24 * time.Hour, MaxBytes: 4 << 20}
	feed := kafka.TopicSpec{Name: "feed", Partitions: 1, Retention: -1, Compact: true}
	c := newCluster(t, spec, feed)
	require.Equal(t, 2, c.ensure(kafka.TopicOptions{}, spec, feed).Unchanged)

	// Settings are mended; a dry run only tells.
	changed := spec
	changed.Retention, changed.MaxBytes = time.Hour, 8<<20
	want := []kafka.TopicChange{{Topic: "t", Changed: []string{"max.message.bytes: 4194304 → 8388608", "retention.ms: 86400000 → 3600000"}}}
	require.Equal(t, want, c.ensure(kafka.TopicOptions{DryRun: true}, changed, feed).Changes)
	report := c.ensure(kafka.TopicOptions{}, changed, feed)
	require.Equal(t, want, report.Changes)
	require.Equal(t, "t: changed (max.message.bytes: 4194304 → 8388608, retention.ms: 86400000 → 3600000)\n1 unchanged\n", report.String())
	require.Equal(t, 2, c.ensure(kafka.TopicOptions{}, changed, feed).Unchanged)
	require.Len(t, c.ensure(kafka.TopicOptions{DryRun: true}, kafka.TopicSpec{Name: "new", Partitions: 1}).Changes, 1)
	topics, err := c.adm.ListTopics(t.Context(), "new")
	require.NoError(t, err)
	require.Error(t, topics["new"].Err, "a dry run made a topic")

	// Partitions are added to an empty topic, and never to one with records.
	changed.Partitions = 3
	require.Equal(t, []string{"partitions: 2 → 3"}, c.ensure(kafka.TopicOptions{}, changed).Changes[0].Changed)
	c.produce("t", 2, 1)
	changed.Partitions = 5
	report, err = kafka.EnsureTopics(t.Context(), c.client, []kafka.TopicSpec{changed, feed}, zap.NewNop(), kafka.TopicOptions{})
	require.ErrorIs(t, err, kafka.ErrPartitionsFixed)
	require.ErrorContains(t, err, "topic t has 3 partitions, declared are 5")
	require.Equal(t, 1, report.Unchanged, "the others are brought in order all the same")

	require.Equal(t, []string{"cleanup.policy: compact → delete"}, c.ensure(kafka.TopicOptions{NeverCompact: true}, feed).Changes[0].Changed)
}

func TestProducer(t *testing.T) {
	c := newCluster(t, kafka.TopicSpec{Name: "small", Partitions: 1, MaxBytes: 64 << 10}, kafka.TopicSpec{Name: "big", Partitions: 4, MaxBytes: 8 << 20})
	p, err := kafka.NewProducer(c.cfg, zap.NewNop(), kafka.ManualPartitions(func(topic string) bool { return topic == "big" }),
		kafka.TopicBatchBytes(func(topic string) int {
			if topic == "small" {
				return 64 << 10
			}
			return 0
		}), kgo.ProducerBatchCompression(kgo.NoCompression()))
	require.NoError(t, err)
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, p.Ping(ctx))

	// Many records at once to a topic with small batches: none is refused because of its neighbours.
	var wg sync.WaitGroup
	errs := make(chan error, 500)
	for range 500 {
		wg.Add(1)
		p.Produce(ctx, &kgo.Record{Topic: "small", Value: make([]byte, 1000)}, func(err error) { errs <- err; wg.Done() })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.ErrorIs(t, p.ProduceSync(ctx, &kgo.Record{Topic: "small", Value: make([]byte, 100<<10)}), kafka.ErrTooLarge)
	require.ErrorIs(t, p.ProduceSync(ctx, &kgo.Record{Topic: "big", Value: make([]byte, 9<<20)}), kafka.ErrTooLarge)
	r := &kgo.Record{Topic: "big", Partition: 3, Value: bytes.Repeat([]byte{'x'}, 7<<20)}
	require.NoError(t, p.ProduceSync(ctx, r))
	require.EqualValues(t, 3, r.Partition)
	err = p.ProduceSync(ctx, &kgo.Record{Topic: "none", Value: nil})
	require.ErrorIs(t, err, kafka.ErrFatal)
	require.NotErrorIs(t, err, kafka.ErrTransient)
	require.NoError(t, p.Flush(ctx))
	records, size := p.Buffered()
	require.Zero(t, records)
	require.Zero(t, size)
}

// With nobody there a record is given up when its time is over, and the buffer stays bounded.
func TestProducerWithoutBroker(t *testing.T) {
	t.Parallel()
	p, err := kafka.NewProducer(kafka.Config{Brokers: []string{"127.0.0.1:1"}}, zap.NewNop(), kgo.RecordDeliveryTimeout(time.Second), kgo.MaxBufferedRecords(2))
	require.NoError(t, err)
	defer p.Close()
	errs := make(chan error, 3)
	for range 3 {
		p.TryProduce(t.Context(), &kgo.Record{Topic: "t"}, func(err error) { errs <- err })
	}
	require.ErrorIs(t, <-errs, kafka.ErrOverloaded)
	require.ErrorIs(t, <-errs, kafka.ErrTransient)
	require.ErrorIs(t, <-errs, kafka.ErrTransient)
	_, err = kafka.NewProducer(kafka.Config{}, nil)
	require.ErrorIs(t, err, kafka.ErrNoBrokers)
	for err, class := range map[error]error{errors.New("x"): kafka.ErrTransient, context.DeadlineExceeded: kafka.ErrTransient, kgo.ErrClientClosed: kafka.ErrFatal} {
		require.ErrorIs(t, kafka.Classify(err), class)
		require.ErrorIs(t, kafka.Classify(err), err)
	}
	require.NoError(t, kafka.Classify(nil))
}

func TestFeed(t *testing.T) {
	c := newCluster(t, kafka.TopicSpec{Name: "feed", Partitions: 1, Retention: -1}, kafka.TopicSpec{Name: "empty", Partitions: 1, Retention: -1})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := func(topic string) (*kafka.Feed, func() []string) {
		var mu sync.Mutex
		var got []string
		f, err := kafka.NewFeed(kafka.FeedConfig{Config: c.cfg, Log: zap.NewNop(), Topic: topic, Apply: func(r *kgo.Record) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, string(r.Key))
		}})
		require.NoError(t, err)
		require.Error(t, f.Err())
		run, stop := context.WithCancel(context.Background())
		end := make(chan error, 1)
		go func() { end <- f.Run(run) }()
		t.Cleanup(func() { stop(); require.NoError(t, <-end) })
		select {
		case <-f.Ready():
		case <-ctx.Done():
			t.Fatal(f.Err())
		}
		require.NoError(t, f.Err())
		return f, func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(got) }
	}
	write := func(keys ...string) {
		for _, k := range keys {
			require.NoError(t, c.client.ProduceSync(ctx, &kgo.Record{Topic: "feed", Key: []byte(k)}).FirstErr())
		}
	}
	write("a", "b")
	f, got := start("feed")
	require.Equal(t, []string{"a", "b"}, got())
	require.EqualValues(t, 2, f.Applied())
	write("c")
	require.NoError(t, f.WaitFor(ctx, 3))
	require.Equal(t, []string{"a", "b", "c"}, got())
	write("d", "e")
	require.NoError(t, f.CatchUp(ctx))
	require.Len(t, got(), 5)
	short, stop := context.WithTimeout(ctx, 10*time.Millisecond)
	defer stop()
	require.ErrorIs(t, f.WaitFor(short, 99), context.DeadlineExceeded)

	e, _ := start("empty")
	require.EqualValues(t, 0, e.Applied())
	require.NoError(t, e.CatchUp(ctx))

	// It ends in a transaction's marker, which is no record: a feed that waited for one would wait for ever.
	tx, err := kgo.NewClient(kgo.SeedBrokers(c.cfg.Brokers...), kgo.TransactionalID("x"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
	require.NoError(t, err)
	defer tx.Close()
	for _, how := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
		require.NoError(t, tx.BeginTransaction())
		require.NoError(t, tx.ProduceSync(ctx, &kgo.Record{Topic: "feed", Key: []byte("t")}).FirstErr())
		require.NoError(t, tx.EndTransaction(ctx, how))
	}
	require.NoError(t, f.CatchUp(ctx))
	require.Equal(t, []string{"a", "b", "c", "d", "e", "t"}, got())
	again, gotAgain := start("feed")
	require.EqualValues(t, 9, again.Applied())
	require.Equal(t, got(), gotAgain())

	// What was emptied is read.
	_, err = c.adm.DeleteRecords(ctx, kadm.Offsets{"feed": {0: {Topic: "feed", Partition: 0, At: 9}}})
	require.NoError(t, err)
	emptied, none := start("feed")
	require.EqualValues(t, 9, emptied.Applied())
	require.Empty(t, none())
}

func TestRegistryClient(t *testing.T) {
	t.Parallel()
	refuse := errors.New("no")
	e, err := embedded.StartRegistry(t.Context(), embedded.Config{Compatible: func(_ string, old []string) error {
		if len(old) > 0 {
			return refuse
		}
		return nil
	}})
	require.NoError(t, err)
	r, err := kafka.NewRegistry(kafka.RegistryConfig{URLs: []string{e.RegistryURL()}})
	require.NoError(t, err)
	ctx := t.Context()
	require.NoError(t, r.Ping(ctx))
	id, err := r.Register(ctx, "t-value", `{"type": "string"}`)
	require.NoError(t, err)
	again, err := r.Register(ctx, "t-value", `{"type":"string"}`)
	require.NoError(t, err)
	require.Equal(t, id, again)
	text, err := r.SchemaByID(ctx, id)
	require.NoError(t, err)
	require.JSONEq(t, `{"type":"string"}`, text)
	_, err = r.SchemaByID(ctx, 99)
	require.ErrorIs(t, err, kafka.ErrSchemaNotFound)
	require.NotErrorIs(t, err, kafka.ErrUnreachable)
	_, err = r.Register(ctx, "t-value", `{"type":"int"}`)
	require.ErrorIs(t, err, kafka.ErrIncompatible)
	_, err = r.Register(ctx, "t-value", `not JSON`)
	require.ErrorIs(t, err, kafka.ErrRefused)
	require.NoError(t, r.SetFullTransitive(ctx, "t-value"))
	require.NoError(t, e.Close())
	_, err = r.SchemaByID(ctx, id)
	require.ErrorIs(t, err, kafka.ErrUnreachable)
	_, err = kafka.NewRegistry(kafka.RegistryConfig{})
	require.Error(t, err)
}
