package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/storage"
)

// cluster is a broker with the topics of the history, two partitions each.
type cluster struct {
	t        *testing.T
	config   kafka.Config
	producer *kafka.Producer
	world    *world
	written  map[string]int // records of the world that are on the broker, by topic
}

func newCluster(t *testing.T) *cluster {
	target := kafkatest.Cluster(t)
	c := &cluster{t: t, config: kafka.Config{Brokers: target.Brokers}, world: newWorld(t), written: map[string]int{}}
	var err error
	c.producer, err = kafka.NewProducer(c.config, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(c.producer.Close)
	var specs []kafka.TopicSpec
	for _, declared := range topic.All(topic.Policy{Partitions: 2}) {
		specs = append(specs, kafka.TopicSpec{Name: declared.Name, Partitions: declared.Partitions, Replicas: 1, MaxBytes: declared.MaxBytes})
	}
	_, err = kafka.EnsureTopics(t.Context(), c.producer.Client(), specs, zap.NewNop(), kafka.TopicOptions{})
	require.NoError(t, err)
	return c
}

// flush puts what is new in the world on the broker.
func (c *cluster) flush() {
	c.t.Helper()
	for name, log := range c.world.logs {
		for _, r := range log[c.written[name]:] {
			require.NoError(c.t, c.producer.ProduceSync(c.t.Context(), &kgo.Record{Topic: name, Key: []byte("acme/c-1"), Value: r.Value, Headers: r.Headers}))
		}
		c.written[name] = len(log)
	}
}

// deliver has events happen and be delivered, n of them, one in ten filtered out.
func (c *cluster) deliver(from, n int) {
	for i := from; i < from+n; i++ {
		id := fmt.Sprintf("e%04d", i)
		e := c.world.happens(id, i)
		if i%10 == 0 {
			c.world.decided(e, id, i, "", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateSkipped, Reason: "filtered"})
			continue
		}
		c.world.decided(e, id, i, "", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateQueued})
		c.world.tried(id, "sub_1", i+1, nil)
	}
	c.flush()
}

func (c *cluster) projection(s *Store, change func(*ProjectionConfig)) *Projection {
	c.t.Helper()
	cfg := ProjectionConfig{Kafka: c.config, Codec: c.world.codec, Log: zap.NewNop(), Meter: telemetry.Nop().Meter, Retention: 24 * time.Hour,
		Now: func() time.Time { return c.world.start }}
	if change != nil {
		change(&cfg)
	}
	p, err := NewProjection(cfg, s)
	require.NoError(c.t, err)
	c.t.Cleanup(p.Close)
	return p
}

// run runs a projection until the function returned is called.
func (c *cluster) run(p *Projection) (stop func()) {
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(c.t, <-done)
	}
}

func (c *cluster) caughtUp(p *Projection) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	require.NoError(c.t, p.CaughtUp(ctx))
}

// noLag waits for the metric, which follows the rows.
func (c *cluster) noLag(p *Projection) {
	c.t.Helper()
	require.Eventually(c.t, func() bool { return p.Lag() == 0 }, 20*time.Second, 5*time.Millisecond)
}

func states(t *testing.T, s *Store) map[string]int64 {
	t.Helper()
	stats, err := s.Stats(t.Context(), "acme", "sub_1", time.Time{})
	require.NoError(t, err)
	return stats.States
}

// S0-30, S3-16: with the console away for long and killed at any point on the way, the history is complete in the end,
// and nothing in it is double.
func TestKilledAtAnyPoint(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		c := newCluster(t)
		c.deliver(0, 300) // while the console is away
		killed := 0
		for seed := range uint64(12) {
			s, err := Open(t.Context(), cfg)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			// It dies with the decoding of some record: before a batch, in its middle, or behind several.
			p := c.projection(s, func(cfg *ProjectionConfig) {
				cfg.Codec = &mortal{Codec: cfg.Codec, left: int(rand.New(rand.NewPCG(seed, 1)).Uint64() % 400), die: cancel, died: &killed}
			})
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			c.deliver(300+20*int(seed), 20) // meanwhile, life goes on
			caughtUp := p.CaughtUp(ctx)
			cancel()
			require.NoError(t, <-done)
			if caughtUp != nil {
				require.ErrorIs(t, caughtUp, context.Canceled)
			}
			p.Close()
			s.Close()
		}
		require.Positive(t, killed)
		s := open(t, cfg)
		p := c.projection(s, nil)
		stop := c.run(p)
		c.caughtUp(p)
		require.Equal(t, map[string]int64{StateDelivered: 540 * 9 / 10, StateSkipped: 540 / 10}, states(t, s))
		status, err := p.Status(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 540, status.Events)
		require.EqualValues(t, 540, status.Deliveries)
		c.noLag(p)
		stop()

		// A second reading from the start makes the same rows.
		want := dump(t, s)
		require.NoError(t, Rebuild(t.Context(), cfg))
		require.Empty(t, dump(t, s))
		p = c.projection(s, nil)
		stop = c.run(p)
		c.caughtUp(p)
		stop()
		require.Equal(t, want, dump(t, s))
	})
}

// mortal is a codec whose process dies at the n-th record.
type mortal struct {
	Codec
	left int
	die  func()
	died *int
}

func (m *mortal) Decode(ctx context.Context, value []byte, r event.Record) error {
	if m.left--; m.left == 0 {
		*m.died++
		m.die()
		return context.Canceled
	}
	return m.Codec.Decode(ctx, value, r)
}

// The history may be started over while a console writes it, which then begins again by itself, without a new record.
func TestRebuildUnderARunningConsole(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		c, s := newCluster(t), open(t, cfg)
		c.deliver(0, 50)
		p := c.projection(s, nil)
		defer c.run(p)()
		c.caughtUp(p)
		want := dump(t, s)
		require.NotEmpty(t, want)
		require.NoError(t, Rebuild(t.Context(), cfg))
		c.caughtUp(p)
		require.Equal(t, want, dump(t, s))
		status, err := p.Status(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 2, status.Generation)
	})
}

// Of two consoles one writes; when it is gone, the other goes on where it stopped.
func TestOneConsoleWrites(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		c, one, two := newCluster(t), open(t, cfg), open(t, cfg)
		first, second := c.projection(one, nil), c.projection(two, nil)
		stopFirst := c.run(first)
		c.deliver(0, 20)
		c.caughtUp(first)
		defer c.run(second)()
		c.deliver(20, 20)
		c.caughtUp(second)
		require.EqualValues(t, -1, second.Lag(), "it waits for its turn")
		stopFirst()
		c.deliver(40, 20)
		c.caughtUp(second)
		c.noLag(second)
		require.Equal(t, map[string]int64{StateDelivered: 54, StateSkipped: 6}, states(t, two))
	})
}

// Whoever lost the lead without noticing can't write any more: neither rows nor offsets.
func TestAFormerWriterIsRefused(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		w, one, two := newWorld(t), open(t, cfg), open(t, cfg)
		w.happens("e1", 0)
		former, err := one.claim(t.Context(), "one")
		require.NoError(t, err)
		current, err := two.claim(t.Context(), "two")
		require.NoError(t, err)
		b := newBatch()
		require.NoError(t, b.fold(t.Context(), w.codec, w.logs[topic.CallsEvents][0]))
		_, err = one.apply(t.Context(), former, b)
		require.ErrorIs(t, err, errNotWriter)
		require.ErrorIs(t, one.check(t.Context(), former), errNotWriter)
		require.NoError(t, two.check(t.Context(), current))
		next, err := one.progress(t.Context())
		require.NoError(t, err)
		require.Empty(t, next)
		require.Empty(t, dump(t, two))
	})
}

// P-14: what Kafka's retention took before it was read is counted, and the rest is projected.
func TestRecordsThatAreGone(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		c, s := newCluster(t), open(t, cfg)
		c.deliver(0, 10)
		p := c.projection(s, nil)
		stop := c.run(p)
		c.caughtUp(p)
		stop()
		c.deliver(10, 30)
		admin := kadm.NewClient(c.producer.Client())
		ends, err := admin.ListEndOffsets(t.Context(), topic.Attempts)
		require.NoError(t, err)
		var upTo kadm.Offsets
		ends.Each(func(o kadm.ListedOffset) { upTo.AddOffset(o.Topic, o.Partition, o.Offset, -1) })
		_, err = admin.DeleteRecords(t.Context(), upTo)
		require.NoError(t, err)
		p = c.projection(s, nil)
		defer c.run(p)()
		c.caughtUp(p)
		require.Equal(t, map[string]int64{StateDelivered: 9, StateQueued: 27, StateSkipped: 4}, states(t, s), "the attempts are lost, the rest is not")
		c.deliver(40, 10)
		c.caughtUp(p)
		require.EqualValues(t, 18, states(t, s)[StateDelivered])
	})
}

// P-14: rows go when they are too old, or too many: the oldest first, a little at a time.
func TestRowsAreKeptForATime(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		w, s := newWorld(t), open(t, cfg)
		for i := range 100 {
			id := fmt.Sprintf("e%03d", i)
			w.decided(w.happens(id, i), id, i, "", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateQueued})
		}
		w.project(s, w.all()...)
		keep := func(retention time.Duration, most int64) (events, deliveries int64) {
			t.Helper()
			p, err := NewProjection(ProjectionConfig{Kafka: kafka.Config{Brokers: []string{"127.0.0.1:1"}}, Codec: w.codec, Log: zap.NewNop(), Meter: telemetry.Nop().Meter,
				Retention: retention, MaxDeliveries: most, Now: func() time.Time { return w.at(100) }}, s)
			require.NoError(t, err)
			defer p.Close()
			k, err := p.newKeeper(t.Context())
			require.NoError(t, err)
			require.NoError(t, k.clean(t.Context()))
			counted := k.rows
			require.NoError(t, k.count(t.Context()))
			require.Equal(t, counted, k.rows)
			return k.rows.events, k.rows.deliveries
		}
		events, deliveries := keep(70*time.Second, 1000)
		require.Equal(t, []int64{70, 70}, []int64{events, deliveries})
		events, deliveries = keep(time.Hour, 40)
		require.Equal(t, []int64{40, 40}, []int64{events, deliveries})
		list, err := s.Deliveries(t.Context(), "acme", Filter{}, Cursor{}, 100)
		require.NoError(t, err)
		require.Equal(t, "e099", list[0].EventID)
		require.Equal(t, "e060", list[39].EventID)
	})
}

// P-07: what a subscription missed stays counted when its rows are deleted, by number or by age, for as long as the history
// goes back; what others missed or got is not counted.
func TestWhatWasMissedIsCountedWhenItIsDeleted(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		w, s := newWorld(t), open(t, cfg)
		for i := range 100 {
			id := fmt.Sprintf("e%03d", i)
			w.decided(w.happens(id, 0), id, 1, "", event.DecisionEntry{SubscriptionID: "sub_paused", Outcome: StateSkipped, Reason: []string{"paused", "disabled"}[i%2]},
				event.DecisionEntry{SubscriptionID: "sub_filtered", Outcome: StateSkipped, Reason: "filtered"}, event.DecisionEntry{SubscriptionID: "sub_sent", Outcome: StateQueued})
		}
		w.project(s, w.all()...)
		lost := func(second int, most int64) (forgotten, left int) {
			t.Helper()
			p, err := NewProjection(ProjectionConfig{Kafka: kafka.Config{Brokers: []string{"127.0.0.1:1"}}, Codec: w.codec, Log: zap.NewNop(), Meter: telemetry.Nop().Meter,
				Retention: time.Hour, MaxDeliveries: most, Now: func() time.Time { return w.at(second) }}, s)
			require.NoError(t, err)
			defer p.Close()
			k, err := p.newKeeper(t.Context())
			require.NoError(t, err)
			require.NoError(t, k.clean(t.Context()))
			for _, other := range [][2]string{{"acme", "sub_filtered"}, {"acme", "sub_sent"}, {"other", "sub_paused"}} {
				n, err := s.Forgotten(t.Context(), other[0], other[1])
				require.NoError(t, err)
				require.Zero(t, n)
			}
			forgotten, err = s.Forgotten(t.Context(), "acme", "sub_paused")
			require.NoError(t, err)
			missed, err := s.Missed(t.Context(), "acme", "sub_paused", Cursor{}, 1000)
			require.NoError(t, err)
			return forgotten, len(missed)
		}
		forgotten, left := lost(10, 150)
		require.Equal(t, 100, forgotten+left, "each is in the list, or counted")
		require.Positive(t, left)
		require.Positive(t, forgotten)
		forgotten, left = lost(3700, 150)
		require.Equal(t, []int{100, 0}, []int{forgotten, left}, "those of age are counted as well")
		forgotten, _ = lost(3700+3700, 150)
		require.Zero(t, forgotten)
	})
}

// The projection takes its share of a processor, more while it falls behind, and less again when it no longer does.
func TestPace(t *testing.T) {
	p, now := pace{least: 0.25, share: 0.25}, time.Unix(0, 0)
	after := func(d time.Duration, lag int64) time.Duration {
		now = now.Add(d)
		return p.rest(time.Second, lag, now)
	}
	require.Equal(t, 3*time.Second, after(0, 0))
	require.Equal(t, 3*time.Second, after(paceEvery/2, 1_000_000))
	grown := after(paceEvery/2, 1_000_000)
	require.Less(t, grown, 2*time.Second)
	for lag := int64(2_000_000); lag < 20_000_000; lag += 1_000_000 {
		grown = after(paceEvery, lag)
	}
	require.Zero(t, grown)
	require.Positive(t, after(paceEvery, 10_000_000))
	for range 10 {
		grown = after(paceEvery, 0)
	}
	require.Equal(t, 3*time.Second, grown)
}
