package kafka

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
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
