package dispatcher

import (
	"context"
	"sync"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
)

// ownedPartitions are the partition numbers that this process owns. One number is the same partition of every delivery
// topic; its topics come and go one by one, within one rebalance or two.
type ownedPartitions struct {
	mu      sync.Mutex
	numbers map[int32]*owned
}

// owned is one of them.
type owned struct {
	topics map[string]assignment
	// since is when the first of its topics was assigned: what a limit allowed before that may have been used by another
	// dispatcher.
	since time.Time
}

// assignment is one of its topics.
type assignment struct {
	ctx    context.Context // ends when it is to be given up
	giveUp func()          // runs once
}

// assigned takes a topic's partition. When ctx ends it is to be given up, and giveUp is called, once, and before lost
// returns: later it could mean the partition's next assignment. It may be assigned twice under one ctx.
func (o *ownedPartitions) assigned(ctx context.Context, a kafka.TopicPartition, giveUp func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	number := o.numbers[a.Partition]
	if number == nil {
		if o.numbers == nil {
			o.numbers = map[int32]*owned{}
		}
		number = &owned{topics: map[string]assignment{}, since: time.Now()}
		o.numbers[a.Partition] = number
	}
	if number.topics[a.Topic].ctx == ctx {
		return // it is prepared once more
	}
	giveUp = sync.OnceFunc(giveUp)
	number.topics[a.Topic] = assignment{ctx, giveUp}
	context.AfterFunc(ctx, giveUp)
}

// sinceWhen is when a partition number was assigned: now, where it isn't.
func (o *ownedPartitions) sinceWhen(number int32) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if known := o.numbers[number]; known != nil {
		return known.since
	}
	return time.Now()
}

// lost gives a topic's partition up; true when it was the last one of its number.
func (o *ownedPartitions) lost(tp kafka.TopicPartition) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	number := o.numbers[tp.Partition]
	if number == nil {
		return false
	}
	if was := number.topics[tp.Topic]; was.giveUp != nil {
		o.mu.Unlock()
		was.giveUp()
		o.mu.Lock()
	}
	if delete(number.topics, tp.Topic); len(number.topics) > 0 {
		return false
	}
	delete(o.numbers, tp.Partition)
	return true
}
