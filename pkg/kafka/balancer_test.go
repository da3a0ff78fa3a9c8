package kafka

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// simMember is a member as the group's leader sees it: what it owns and since when.
type simMember struct {
	topics []string
	owned  map[string][]int32
	since  int32
}

// rebalance does one round: the leader plans, and each member takes its assignment. It returns what each member lost.
func rebalance(t require.TestingT, members map[string]*simMember, topics map[string]int32, generation int32) (assigned map[string]map[string][]int32, moved bool) {
	var joined []kmsg.JoinGroupResponseMember
	for id, m := range members {
		jm := kmsg.NewJoinGroupResponseMember()
		jm.MemberID = id
		jm.ProtocolMetadata = ColocatingBalancer().JoinGroupMetadata(m.topics, m.owned, m.since)
		joined = append(joined, jm)
	}
	slices.SortFunc(joined, func(a, b kmsg.JoinGroupResponseMember) int {
		return slices.Compare([]byte(a.MemberID), []byte(b.MemberID))
	})
	mb, _, err := ColocatingBalancer().MemberBalancer(joined)
	require.NoError(t, err)
	into, err := mb.(kgo.GroupMemberBalancerOrError).BalanceOrError(topics)
	require.NoError(t, err)
	assigned = make(map[string]map[string][]int32)
	for _, a := range into.IntoSyncAssignment() {
		got, err := ColocatingBalancer().ParseSyncAssignment(a.MemberAssignment)
		require.NoError(t, err)
		assigned[a.MemberID] = got
	}
	for id, m := range members {
		for topic, ps := range m.owned {
			for _, p := range ps {
				moved = moved || !slices.Contains(assigned[id][topic], p)
			}
		}
		m.owned, m.since = assigned[id], generation
	}
	return assigned, moved
}

// Whatever members claim to own, however stale: nothing is given to two, nothing is given away under somebody who may
// still work on it, and within a few rounds every number is whole at one member, and the load even.
func TestColocatingBalancerConverges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"a", "b", "c"}[:rapid.IntRange(1, 3).Draw(t, "topics")]
		topics := make(map[string]int32)
		numbers := int32(rapid.IntRange(1, 20).Draw(t, "partitions"))
		for _, n := range names {
			topics[n] = numbers
		}
		members := make(map[string]*simMember)
		for i := range rapid.IntRange(1, 6).Draw(t, "members") {
			m := &simMember{topics: names, owned: make(map[string][]int32), since: int32(rapid.IntRange(-1, 3).Draw(t, "since"))}
			for _, n := range names {
				for p := range numbers {
					if rapid.IntRange(0, 3).Draw(t, "owns") == 0 {
						m.owned[n] = append(m.owned[n], p)
					}
				}
			}
			members[fmt.Sprintf("m%d", i)] = m
		}
		for round := int32(0); ; round++ {
			claims := make(map[string]map[TopicPartition]bool)
			for id, m := range members {
				claims[id] = make(map[TopicPartition]bool)
				for topic, ps := range m.owned {
					for _, p := range ps {
						claims[id][TopicPartition{topic, p}] = true
					}
				}
			}
			assigned, moved := rebalance(t, members, topics, 4+round)
			seen := make(map[TopicPartition]string)
			for id, topics := range assigned {
				for topic, ps := range topics {
					for _, p := range ps {
						tp := TopicPartition{topic, p}
						if other, ok := seen[tp]; ok {
							t.Fatalf("%s is given to %s and to %s", tp, other, id)
						}
						seen[tp] = id
						for other := range claims {
							if other != id && claims[other][tp] && !claims[id][tp] {
								t.Fatalf("%s is given to %s, while %s may still work on it", tp, id, other)
							}
						}
					}
				}
			}
			if moved {
				if round > 3 {
					t.Fatal("no end of rebalances")
				}
				continue
			}
			if len(seen) != len(names)*int(numbers) {
				t.Fatalf("%d partitions of %d are assigned in the end", len(seen), len(names)*int(numbers))
			}
			for p := range numbers {
				for _, n := range names {
					if seen[TopicPartition{n, p}] != seen[TopicPartition{names[0], p}] {
						t.Fatalf("number %d is split", p)
					}
				}
			}
			low, high := int(numbers), 0
			for id := range members {
				n := len(assigned[id][names[0]])
				low, high = min(low, n), max(high, n)
			}
			if high-low > 1 {
				t.Fatalf("the load is uneven: %d to %d", low, high)
			}
			return
		}
	})
}

func TestColocatingBalancerIsSticky(t *testing.T) {
	t.Parallel()
	topics := map[string]int32{"main": 12, "slow": 12}
	fresh := func() *simMember { return &simMember{topics: []string{"main", "slow"}, since: -1} }
	members := map[string]*simMember{"a": fresh()}
	settle := func() {
		for g := int32(1); ; g++ {
			if _, moved := rebalance(t, members, topics, g); !moved {
				return
			}
		}
	}
	owned := func(id string) []int32 { return slices.Sorted(slices.Values(members[id].owned["main"])) }
	settle()
	require.Len(t, owned("a"), 12)
	members["b"], members["c"] = fresh(), fresh()
	settle()
	require.Equal(t, []int32{0, 1, 2, 3}, owned("a"), "a keeps a third of what it had")
	b, c := owned("b"), owned("c")
	require.Len(t, b, 4)
	delete(members, "a")
	settle()
	require.Subset(t, owned("b"), b)
	require.Subset(t, owned("c"), c)
	require.Len(t, owned("b"), 6)
	// Nothing changed: nothing moves.
	before := owned("b")
	settle()
	require.Equal(t, before, owned("b"))
	require.Equal(t, members["b"].owned["main"], members["b"].owned["slow"])
}

// A rolling upgrade adds a topic: members that don't know it yet aren't given it, and it has an owner all the same.
func TestColocatingBalancerNewTopic(t *testing.T) {
	t.Parallel()
	topics := map[string]int32{"main": 8}
	old := func() *simMember { return &simMember{topics: []string{"main"}, since: -1} }
	members := map[string]*simMember{"a": old(), "b": old()}
	settle := func() {
		for g := int32(1); ; g++ {
			if _, moved := rebalance(t, members, topics, g); !moved {
				return
			}
		}
	}
	settle()
	topics["tier"] = 8
	members["b"].topics = []string{"main", "tier"}
	settle()
	require.Empty(t, members["a"].owned["tier"])
	require.Len(t, members["b"].owned["tier"], 8)
	members["a"].topics = []string{"main", "tier"}
	settle()
	require.Equal(t, members["a"].owned["main"], members["a"].owned["tier"])
	require.Equal(t, members["b"].owned["main"], members["b"].owned["tier"])
}

// On a broker, from one member to three to two: at no moment do two members hold partitions of the same number.
func TestColocatingGroup(t *testing.T) {
	t.Parallel()
	{
		const numbers = 12
		names := []string{"main", "slow", "retry"}
		b := newWire(t, kfake.SeedTopics(numbers, names...))
		for p := range int32(numbers) {
			for _, n := range names {
				b.produce(n, p, 20)
			}
		}
		var mu sync.Mutex
		holds := make(map[int32]map[string]string) // number → topic → member
		var problems []string
		done := make(map[string]int)
		release := make(chan struct{})
		join := func(id string) *member {
			return b.member(func(c *LoopConfig, _ *member) {
				c.Topics = names
				c.Balancer = ColocatingBalancer()
				c.Assigned = func(_ context.Context, a Assignment) error {
					mu.Lock()
					defer mu.Unlock()
					if holds[a.Partition] == nil {
						holds[a.Partition] = make(map[string]string)
					}
					for topic, other := range holds[a.Partition] {
						if other != id {
							problems = append(problems, fmt.Sprintf("%s gets %s while %s has %s", id, a.TopicPartition, other, topic))
						}
					}
					holds[a.Partition][a.Topic] = id
					return nil
				}
				c.Lost = func(tp TopicPartition) {
					mu.Lock()
					defer mu.Unlock()
					delete(holds[tp.Partition], tp.Topic)
				}
				c.Handle = func(_ context.Context, task *Task) {
					go func() {
						// In flight until the partition is to be given up, so that every rebalance meets work to finish first.
						select {
						case <-task.Stopping():
						case <-release:
						}
						mu.Lock()
						done[fmt.Sprintf("%s/%d/%d", task.Record.Topic, task.Record.Partition, task.Record.Offset)]++
						mu.Unlock()
						task.Done()
					}()
				}
			})
		}
		settled := func(ms ...*member) func() bool {
			return func() bool {
				total := 0
				for _, m := range ms {
					a := m.Assignment()
					if m.Ready() != nil || len(a)%len(names) != 0 || len(a) > len(names)*(numbers/len(ms)+1) {
						return false
					}
					total += len(a)
				}
				return total == len(names)*numbers
			}
		}
		a := join("a")
		b.until("one member", settled(a))
		c, d := join("c"), join("d")
		b.until("three members", settled(a, c, d))
		for p := range int32(numbers) {
			for _, n := range names {
				b.produce(n, p, 20)
			}
		}
		a.leave()
		b.until("two members", settled(c, d))
		close(release)
		b.until("all are done", func() bool { mu.Lock(); defer mu.Unlock(); return len(done) == len(names)*numbers*40 })
		c.leave()
		d.leave()
		require.Empty(t, problems)
		for what, n := range done {
			require.Equal(t, 1, n, what)
		}
	}
}
