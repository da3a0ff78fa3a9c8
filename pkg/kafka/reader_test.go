package kafka

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A flood in a topic that is read apart never holds up the others: no request fetches both.
func TestLoopReadsApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, kfake.SeedTopics(3, "main", "slow"))
		var mu sync.Mutex
		fetches := make(map[int]int) // by how many topics they name
		b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Observe: true, Count: -1, When: func(req kmsg.Request) bool {
			if r, ok := req.(*kmsg.FetchRequest); ok {
				mu.Lock()
				defer mu.Unlock()
				fetches[len(r.Topics)]++
			}
			return true
		}})
		for p := range int32(3) {
			b.produce("main", p, 50)
			b.produce("slow", p, 50)
		}
		m := b.member(func(c *LoopConfig, _ *member) {
			c.Topics = []string{"main", "slow"}
			c.Apart = func(topic string) bool { return topic == "slow" }
		})
		for _, topic := range []string{"main", "slow"} {
			for p := range int32(3) {
				b.until("all are handed out", func() bool { return len(m.offsets(topic, p)) == 50 })
				require.Equal(t, seq(0, 50), m.offsets(topic, p))
			}
		}
		for _, task := range m.tasks {
			task.Done()
		}
		m.leave()
		mu.Lock()
		defer mu.Unlock()
		require.Positive(t, fetches[1])
		require.Zero(t, fetches[2])
		for _, topic := range []string{"main", "slow"} {
			for p := range int32(3) {
				require.EqualValues(t, 50, b.committed(topic, p).Offset, "the group commits for both")
			}
		}
	})
}

// intake counts the bytes of the records that a client reads.
type intake struct{ bytes atomic.Int64 }

func (i *intake) OnFetchBatchRead(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.FetchBatchMetrics) {
	i.bytes.Add(int64(m.UncompressedBytes))
}

// What is parked costs disk: to see that the first record of a partition is not due, little is fetched of what waits behind it.
func TestLoopFetchesLittleOfWhatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		random := rand.NewChaCha8([32]byte{})
		const partitions, each, size = 8, 400, 4 << 10
		b := newBed(t, kfake.SeedTopics(partitions, "tier"))
		value := make([]byte, size)
		_, _ = random.Read(value) // what is compressed well is little anyway
		for range each {
			for p := range int32(partitions) {
				require.NoError(t, b.client.ProduceSync(t.Context(), &kgo.Record{Topic: "tier", Partition: p, Value: value}).FirstErr())
			}
		}
		var read intake
		var mu sync.Mutex
		left, end := partitions*each, time.Now().Add(time.Hour)
		m := b.member(func(c *LoopConfig, _ *member) {
			c.Topics = []string{"tier"}
			c.Apart = func(string) bool { return true }
			c.Options = append(c.Options, kgo.WithHooks(&read))
			c.Handle = func(_ context.Context, task *Task) {
				if time.Now().Before(end) {
					task.Defer(end)
					return
				}
				task.Done()
				mu.Lock()
				defer mu.Unlock()
				left--
			}
		})
		time.Sleep(time.Until(end) - time.Minute)
		require.Positive(t, read.bytes.Load())
		require.LessOrEqual(t, read.bytes.Load(), int64(partitions*3*apartPartitionFetch), "of %d bytes that wait", partitions*each*size)
		b.until("all are handed out when they are due", func() bool { mu.Lock(); defer mu.Unlock(); return left == 0 })
		m.leave()
	})
}

// A partition with much to read goes on without a pause while the others have nothing: it never waits for their fetch to
// end without a record.
func TestLoopReadsOnBesideIdlePartitions(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(8, "t"))
		b.apart = apart
		const records, each = 6000, 200 * time.Microsecond
		random := rand.NewChaCha8([32]byte{})
		for range records / 100 {
			var rs []*kgo.Record
			for range 100 {
				value := make([]byte, 2<<10)
				_, _ = random.Read(value) // queues are bounded by bytes, fetches by compressed bytes
				rs = append(rs, &kgo.Record{Topic: "t", Value: value})
			}
			require.NoError(t, b.client.ProduceSync(t.Context(), rs...).FirstErr())
		}
		var first, last time.Time
		left := make(chan struct{})
		n := 0
		m := b.member(func(c *LoopConfig, _ *member) {
			c.Handle = func(_ context.Context, task *Task) {
				if n++; n == 1 {
					first = time.Now()
				}
				time.Sleep(each)
				task.Done()
				if n == records {
					last = time.Now()
					close(left)
				}
			}
		})
		<-left
		require.Less(t, last.Sub(first), records*each*3/2)
		m.leave()
	})
}
