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
	topics map[string]struct{}
	// since is when the first of its topics was assigned: what a limit allowed before that may have been used by another
	// dispatcher.
	since time.Time
}

// assigned takes a topic's partition.
func (o *ownedPartitions) assigned(_ context.Context, a kafka.Assignment) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	number := o.numbers[a.Partition]
	if number == nil {
		if o.numbers == nil {
			o.numbers = map[int32]*owned{}
		}
		number = &owned{topics: map[string]struct{}{}, since: time.Now()}
		o.numbers[a.Partition] = number
	}
	number.topics[a.Topic] = struct{}{}
	return nil
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
	if delete(number.topics, tp.Topic); len(number.topics) > 0 {
		return false
	}
	delete(o.numbers, tp.Partition)
	return true
}
