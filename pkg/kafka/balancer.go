package kafka

import (
	"cmp"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ColocatingBalancer gives partition p of every topic to one member, so that what must be decided in one place (limits,
// breakers, order) can be keyed by the partition's number. It is sticky: a number stays where it is unless its owner
// leaves or has more than its share. It is cooperative: a member that keeps a partition goes on working through a
// rebalance. All members of a group must use it.
//
// A number moves as a whole. While its owner still holds any topic of it, the new owner is given none, and gets all of
// them in the rebalance that follows when the old one has let go. The exception is a rolling upgrade that adds topics:
// a number's owner that does not subscribe to a topic yet can't be given it, and another member is, until the owner does.
func ColocatingBalancer() kgo.GroupBalancer { return colocating{} }

type colocating struct{}

// ProtocolName is not one of Kafka's own, so that brokers refuse to mix it with them in one group.
func (colocating) ProtocolName() string { return "callstream-colocating" }

// IsCooperative is true: see ColocatingBalancer.
func (colocating) IsCooperative() bool { return true }

// JoinGroupMetadata tells the leader what this member owns, and since which generation.
func (colocating) JoinGroupMetadata(interests []string, current map[string][]int32, generation int32) []byte {
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Version = 3
	meta.Topics = interests
	meta.Generation = generation
	for topic, partitions := range current {
		owned := kmsg.NewConsumerMemberMetadataOwnedPartition()
		owned.Topic, owned.Partitions = topic, partitions
		meta.OwnedPartitions = append(meta.OwnedPartitions, owned)
	}
	// Brokers compare the bytes to tell whether a member changed.
	slices.SortFunc(meta.OwnedPartitions, func(a, b kmsg.ConsumerMemberMetadataOwnedPartition) int { return strings.Compare(a.Topic, b.Topic) })
	return meta.AppendTo(nil)
}

// ParseSyncAssignment reads the leader's answer.
func (colocating) ParseSyncAssignment(assignment []byte) (map[string][]int32, error) {
	return kgo.ParseConsumerSyncAssignment(assignment)
}

// MemberBalancer is called at the group's leader.
func (c colocating) MemberBalancer(members []kmsg.JoinGroupResponseMember) (kgo.GroupMemberBalancer, map[string]struct{}, error) {
	b, err := kgo.NewConsumerBalancer(c, members)
	return b, b.MemberTopics(), err
}

// claimant is a member as the balancer sees it.
type claimant struct {
	member *kmsg.JoinGroupResponseMember
	topics map[string]bool
	owned  map[string]map[int32]bool
	// since is the generation that the claim to own dates from. A member that missed rebalances claims what others have
	// been given since.
	since int32
	load  int // numbers planned for it
}

func (c *claimant) owns(topic string, p int32) bool { return c.owned[topic][p] }

// Balance plans who owns which number, and gives each member what it can have of that now.
func (colocating) Balance(b *kgo.ConsumerBalancer, topics map[string]int32) kgo.IntoSyncAssignment {
	var members []*claimant
	b.EachMember(func(m *kmsg.JoinGroupResponseMember, meta *kmsg.ConsumerMemberMetadata) {
		c := &claimant{member: m, topics: make(map[string]bool), owned: make(map[string]map[int32]bool), since: meta.Generation}
		for _, t := range meta.Topics {
			c.topics[t] = true
		}
		for _, o := range meta.OwnedPartitions {
			c.owned[o.Topic] = make(map[int32]bool, len(o.Partitions))
			for _, p := range o.Partitions {
				c.owned[o.Topic][p] = true
			}
		}
		members = append(members, c)
	})
	slices.SortFunc(members, func(a, b *claimant) int { return strings.Compare(a.member.MemberID, b.member.MemberID) })
	plan := b.NewPlan()
	if len(members) == 0 {
		return plan
	}
	names := make([]string, 0, len(topics))
	numbers := int32(0)
	for t, n := range topics {
		names = append(names, t)
		numbers = max(numbers, n)
	}
	slices.Sort(names)

	for p, owner := range planNumbers(members, names, numbers) {
		assignNumber(plan, members, owner, names, topics, int32(p))
	}
	return plan
}

// planNumbers chooses each number's owner: who has it keeps it, up to its share.
func planNumbers(members []*claimant, names []string, numbers int32) []*claimant {
	owners := make([]*claimant, numbers)
	held := make(map[*claimant][]int32)
	for p := range numbers {
		if c := holder(members, names, p); c != nil {
			held[c] = append(held[c], p)
		}
	}
	// Shares differ by one at most; the larger ones go to those who hold most, so that least moves.
	byHeld := slices.Clone(members)
	slices.SortStableFunc(byHeld, func(a, b *claimant) int { return cmp.Compare(len(held[b]), len(held[a])) })
	share, larger := int(numbers)/len(members), int(numbers)%len(members)
	shares := make(map[*claimant]int, len(members))
	for i, c := range byHeld {
		shares[c] = share
		if i < larger {
			shares[c]++
		}
		for _, p := range held[c][:min(len(held[c]), shares[c])] {
			owners[p] = c
			c.load++
		}
	}
	next := 0
	for p := range owners {
		if owners[p] != nil {
			continue
		}
		for byHeld[next].load >= shares[byHeld[next]] {
			next++
		}
		owners[p] = byHeld[next]
		byHeld[next].load++
	}
	return owners
}

// holder is who owns a number now: of those who claim it, the one whose claim is newest, then the one with most topics.
func holder(members []*claimant, names []string, p int32) *claimant {
	var best *claimant
	count := 0
	for _, c := range members {
		n := 0
		for _, t := range names {
			if c.owns(t, p) {
				n++
			}
		}
		if n > 0 && (best == nil || c.since > best.since || (c.since == best.since && n > count)) {
			best, count = c, n
		}
	}
	return best
}

// assignNumber gives a number's topics to its owner, or, while somebody else still holds some of them, only what the
// owner has already: the others see that theirs is gone, let go and rejoin, and then the number is free.
func assignNumber(plan *kgo.BalancePlan, members []*claimant, owner *claimant, names []string, topics map[string]int32, p int32) {
	var mine []string
	type other struct {
		topic string
		to    *claimant
	}
	var others []other
	for _, t := range names {
		if p >= topics[t] {
			continue
		}
		if owner.topics[t] {
			mine = append(mine, t)
		} else if to := substitute(members, t, p); to != nil {
			others = append(others, other{t, to})
		}
	}
	free := true
	for _, c := range members {
		for _, t := range mine {
			free = free && (c == owner || !c.owns(t, p))
		}
	}
	for _, t := range mine {
		if free || (owner.owns(t, p) && newestClaim(members, t, p) == owner) {
			plan.AddPartition(owner.member, t, p)
		}
	}
	for _, o := range others {
		claimed := false
		for _, c := range members {
			claimed = claimed || (c != o.to && c.owns(o.topic, p))
		}
		if !claimed {
			plan.AddPartition(o.to.member, o.topic, p)
		}
	}
}

// newestClaim is the member that has owned the partition as of the newest generation; among equals the first.
func newestClaim(members []*claimant, topic string, p int32) *claimant {
	var best *claimant
	for _, c := range members {
		if c.owns(topic, p) && (best == nil || c.since > best.since) {
			best = c
		}
	}
	return best
}

// substitute is who takes a partition of a topic that the number's owner doesn't subscribe to: who has it, else one that
// the number picks among the subscribers.
func substitute(members []*claimant, topic string, p int32) *claimant {
	var able []*claimant
	for _, c := range members {
		if !c.topics[topic] {
			continue
		}
		able = append(able, c)
	}
	if len(able) == 0 {
		return nil
	}
	if c := newestClaim(able, topic, p); c != nil {
		return c
	}
	return able[int(p)%len(able)]
}
