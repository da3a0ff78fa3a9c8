package kafka

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"
)

// gauges reads what is told of the topic t, without the prefix.
func gauges(t *testing.T, reader *sdkmetric.ManualReader) map[string]float64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	found := make(map[string]float64)
	note := func(name string, attrs interface {
		Value(attribute.Key) (attribute.Value, bool)
	}, v float64) {
		if of, ok := attrs.Value("topic"); ok && of.AsString() == "t" {
			found[name[len("callstream.consumer."):]] = v
		}
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					note(m.Name, &p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					note(m.Name, &p.Attributes, p.Value)
				}
			}
		}
	}
	return found
}

// What an autoscaler and a person on call see of a backlog: how much waits, how old the oldest of it is, how full the
// window is, and which partition has stopped.
func TestLoopTellsOfABacklog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.log = zap.NewNop()
		reader := sdkmetric.NewManualReader()
		m := b.member(func(c *LoopConfig, m *member) {
			c.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
			c.Window.Offsets = 40
			c.Handle = func(_ context.Context, task *Task) {
				m.add(task)
				if task.Record.Offset%20 != 10 {
					task.Done()
				}
			}
		})
		b.until("ready", func() bool { return m.Ready() == nil })
		require.Zero(t, gauges(t, reader)["oldest_age"])
		for range 60 { // one record in 2 seconds
			b.produce("t", 0, 1)
			time.Sleep(2 * time.Second)
		}
		// Taken are 0 to 49, of which 10 and 30 are open, so that the window is full and 50 to 59 wait.
		b.until("the window is full", func() bool { return gauges(t, reader)["window"] == 40 })
		told := gauges(t, reader)
		require.InDelta(t, 100, told["oldest_age"], 2)
		delete(told, "oldest_age")
		require.Equal(t, map[string]float64{"lag": 50, "depth": 12, "in_flight": 2, "window": 40, "window.occupancy": 1,
			"paused": 0, "partitions": 1, "stalled": 0}, told)
		require.NoError(t, m.Ready())

		stopped := time.Now()
		time.Sleep(2 * time.Minute)
		require.ErrorContains(t, m.Ready(), "partition t/0 has made no progress since ")
		require.EqualValues(t, 1, gauges(t, reader)["stalled"])
		require.InDelta(t, 100+time.Since(stopped).Seconds(), gauges(t, reader)["oldest_age"], 2)

		m.task(10).Done()
		b.until("it goes on", func() bool { return len(m.offsets("t", 0)) == 60 })
		require.NoError(t, m.Ready())
		require.EqualValues(t, 2, gauges(t, reader)["depth"], "30 and 50")
		m.task(30).Done()
		m.task(50).Done()
		b.until("nothing waits", func() bool { return gauges(t, reader)["depth"] == 0 })
		require.Zero(t, gauges(t, reader)["oldest_age"])
		m.leave()
	})
}

// What waits in a retry tier is counted and aged although none of it is handed out, also what came after the last fetch.
func TestLoopTellsOfWhatIsDeferred(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.apart = apart
		b.produce("t", 0, 5)
		reader := sdkmetric.NewManualReader()
		due := time.Now().Add(time.Hour)
		m := b.member(func(c *LoopConfig, _ *member) {
			c.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
			c.Handle = func(_ context.Context, task *Task) {
				if time.Now().Before(due) {
					task.Defer(due)
					return
				}
				task.Done()
			}
		})
		b.until("they are counted", func() bool { return gauges(t, reader)["depth"] == 5 })
		time.Sleep(10 * time.Minute)
		b.produce("t", 0, 3)
		b.until("so are those that came later", func() bool { return gauges(t, reader)["depth"] == 8 })
		require.InDelta(t, 600, gauges(t, reader)["oldest_age"], 20)
		require.NoError(t, m.Ready(), "waiting is not standing still")
		time.Sleep(50 * time.Minute)
		b.until("all is done", func() bool { return gauges(t, reader)["depth"] == 0 })
		m.leave()
	})
}

// A log whose end is a transaction's mark is read to its end, or it would seem to have a backlog for ever.
func TestLoopReachesTheEndOfALogOfTransactions(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.apart = apart
		tx, err := kgo.NewClient(kgo.SeedBrokers(b.cfg.Brokers...), b.dial, kgo.TransactionalID("x"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
		require.NoError(t, err)
		for _, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
			require.NoError(t, tx.BeginTransaction())
			require.NoError(t, tx.ProduceSync(t.Context(), &kgo.Record{Topic: "t"}).FirstErr())
			require.NoError(t, tx.EndTransaction(t.Context(), end))
		}
		tx.Close()
		reader := sdkmetric.NewManualReader()
		m := b.member(func(c *LoopConfig, m *member) {
			c.ReadCommitted = true
			c.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
			c.Handle = func(_ context.Context, task *Task) {
				m.add(task)
				task.Done()
			}
		})
		b.until("the commit of the end", func() bool { return b.committed("t", 0).Offset == 4 })
		require.Equal(t, []int64{0}, m.offsets("t", 0))
		require.Zero(t, gauges(t, reader)["lag"])
		m.leave()
	})
}
