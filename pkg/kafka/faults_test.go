package kafka

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// Under whatever a cluster does to a group (leaders and coordinators that move, members that are thrown out, commits,
// fetches and joins that fail, members that come, leave and crash), with records that are deferred and done in any order:
// every record is done, and everything committed in the end was done.
func TestLoopFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			faults(t, rand.New(rand.NewPCG(seed, 7)))
		})
	}
}

func faults(t *testing.T, random *rand.Rand) {
	const partitions, rounds, batch = 4, 25, 20
	names := []string{"main", "slow"}
	b := newWire(t, kfake.NumBrokers(3), kfake.SeedTopics(partitions, names...))
	b.log = zap.NewNop()
	began := time.Now()
	var mu sync.Mutex
	done := make(map[string]int)
	key := func(r *kgo.Record) string { return fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset) }
	change := func(c *LoopConfig, _ *member) {
		c.Topics = names
		c.Balancer = ColocatingBalancer()
		c.Apart = func(topic string) bool { return topic == "slow" }
		c.QueueBytes = 1 << 20
		c.Handle = func(ctx context.Context, task *Task) {
			o := task.Record.Offset
			// Some are due later: soon, or after a wait that gives up what was fetched.
			if due := task.Record.Timestamp.Add(time.Duration(o*31%97) * 40 * time.Millisecond); o%13 == 0 && time.Now().Before(due) {
				task.Defer(due)
				return
			}
			if o%11 == 0 { // some block
				select {
				case <-time.After(30 * time.Millisecond):
				case <-ctx.Done():
					return
				}
			}
			go func() {
				select {
				case <-time.After(time.Duration(o*7919%307) * time.Millisecond):
					mu.Lock()
					done[key(task.Record)]++
					mu.Unlock()
					task.Done()
				case <-task.Stopping():
					task.Abandon()
				case <-task.Context().Done():
				}
			}()
		}
	}
	members := []*member{b.member(change)}
	pick := func() int { return random.IntN(len(members)) }
	fault := func(key kmsg.Key, err *kerr.Error, n int) {
		b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: err, Count: n})
	}
	for range rounds {
		for p := range int32(partitions) {
			for _, n := range names {
				b.produce(n, p, batch)
			}
		}
		switch random.IntN(14) {
		case 0:
			if len(members) < 4 {
				members = append(members, b.member(change))
			}
		case 1:
			if len(members) > 1 {
				i := pick()
				members[i].leave()
				members = append(members[:i], members[i+1:]...)
			}
		case 2:
			i := pick()
			members[i].crash()
			members = append(members[:i], members[i+1:]...)
			members = append(members, b.member(change))
		case 3:
			fault(kmsg.Heartbeat, kerr.UnknownMemberID, 1)
		case 4:
			fault(kmsg.Heartbeat, kerr.IllegalGeneration, 1)
		case 5:
			fault(kmsg.OffsetCommit, kerr.RebalanceInProgress, 1+random.IntN(3))
		case 6:
			fault(kmsg.OffsetCommit, kerr.CoordinatorNotAvailable, 1+random.IntN(5))
		case 7:
			fault(kmsg.Fetch, kerr.NotLeaderForPartition, 1+random.IntN(3))
		case 8:
			fault(kmsg.OffsetFetch, kerr.UnstableOffsetCommit, 1)
			fault(kmsg.SyncGroup, kerr.RebalanceInProgress, 1)
		case 9:
			b.cluster.ShufflePartitionLeaders()
		case 10:
			b.cluster.RehashCoordinators()
		case 11:
			fault(kmsg.ListOffsets, kerr.LeaderNotAvailable, 2)
			fault(kmsg.JoinGroup, kerr.UnknownMemberID, 1)
		}
		<-time.After(time.Duration(random.IntN(400)) * time.Millisecond)
	}
	all := len(names) * partitions * rounds * batch
	b.until("all are done", func() bool { mu.Lock(); defer mu.Unlock(); return len(done) == all })
	b.until("all is committed", func() bool {
		for p := range int32(partitions) {
			for _, n := range names {
				if b.committed(n, p).Offset != rounds*batch {
					return false
				}
			}
		}
		return true
	})
	for _, m := range members {
		m.leave()
	}
	repeats := 0
	for _, n := range done {
		repeats += n - 1
	}
	t.Logf("%d records, %d repeated, %.0f s", all, repeats, time.Since(began).Seconds())
}
