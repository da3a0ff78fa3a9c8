package filter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
)

const (
	// recallBytes bounds what is read for one partition's memory, whatever the records' sizes.
	recallBytes = 64 << 20
	// recallTime bounds how long a partition waits for its memory.
	recallTime = 10 * time.Second
)

// recaller rebuilds a partition's memory of events when the partition is assigned, from the records before its committed
// offset. What it leaves out, because it is bounded or the brokers are slow, costs a repeat at worst: a second delivery
// under the same webhook-id.
type recaller struct {
	config   kafka.Config
	log      *zap.Logger
	codec    peeker
	remember int           // identities
	reach    int           // records before the committed offset
	ahead    int           // records after it, which may have been completed out of order
	slots    chan struct{} // bounds how many partitions are read at once
	now      func() time.Time
}

// recall returns the memory of a partition whose next record is at committed; below 0, nothing was ever committed. Its
// error is worth a retry.
func (c *recaller) recall(ctx context.Context, adm *kadm.Client, tp kafka.TopicPartition, committed int64) (*repeats, error) {
	memory := newRepeats(c.remember)
	if committed <= 0 || c.reach == 0 {
		return memory, nil
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, recallTime)
	defer cancel()
	span, err := c.span(ctx, adm, tp, committed)
	if err != nil {
		return nil, fmt.Errorf("find the events before offset %d of %s[%d]: %w", committed, tp.Topic, tp.Partition, err)
	}
	if span.from >= span.to {
		return memory, nil
	}
	n, err := c.read(ctx, tp, span, func(r *kgo.Record) {
		if key, ok := c.key(ctx, r); ok {
			memory.recall(key, r.Offset, r.Timestamp, committed)
		}
	})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("read the events before offset %d of %s[%d]: %w", committed, tp.Topic, tp.Partition, err)
	}
	c.log.Debug("recalled events", zap.String("topic", tp.Topic), zap.Int32("partition", tp.Partition), zap.Int64("from", span.from),
		zap.Int64("to", span.to), zap.Int("records", n), zap.Bool("cut short", err != nil))
	return memory, nil
}

// offsets bound what is read: from ≤ offset < to.
type offsets struct{ from, to int64 }

// span finds out what to read: the ten minutes before the committed record, by its own timestamp.
func (c *recaller) span(ctx context.Context, adm *kadm.Client, tp kafka.TopicPartition, committed int64) (offsets, error) {
	at := func(listed kadm.ListedOffsets, err error) (int64, error) {
		if err != nil {
			return 0, err
		}
		o, ok := listed.Lookup(tp.Topic, tp.Partition)
		if !ok {
			return 0, errNoPartition
		}
		return o.Offset, o.Err
	}
	start, err := at(adm.ListStartOffsets(ctx, tp.Topic))
	if err != nil {
		return offsets{}, err
	}
	end, err := at(adm.ListCommittedOffsets(ctx, tp.Topic))
	if err != nil {
		return offsets{}, err
	}
	s := offsets{from: max(start, committed-int64(c.reach)), to: min(end, committed+int64(c.ahead))}
	if s.from >= s.to {
		return s, nil
	}
	next := c.now()
	if committed >= start && committed < end {
		if _, err := c.read(ctx, tp, offsets{from: committed, to: committed + 1}, func(r *kgo.Record) { next = r.Timestamp }); err != nil {
			return offsets{}, err
		}
	}
	recent, err := at(adm.ListOffsetsAfterMilli(ctx, next.Add(-repeatWindow).UnixMilli(), tp.Topic))
	if err != nil {
		return offsets{}, err
	}
	if recent >= 0 {
		s.from = max(s.from, min(recent, committed))
	}
	return s, nil
}

var errNoPartition = errors.New("the broker does not know the partition")

// read hands the records of a span to each, and returns how many there were.
func (c *recaller) read(ctx context.Context, tp kafka.TopicPartition, s offsets, each func(*kgo.Record)) (int, error) {
	n, bytes := 0, 0
	err := kafka.Scan(ctx, c.config, c.log, kafka.Range{TopicPartition: tp, From: s.from, To: s.to}, func(r *kgo.Record) bool {
		each(r)
		n++
		bytes += len(r.Value)
		return bytes <= recallBytes
	})
	return n, err
}

// key tells whose a record is, as handling it does. Records that identify no event, and those that became dead letters for
// it, are nobody's repeat.
func (c *recaller) key(ctx context.Context, r *kgo.Record) (eventKey, bool) {
	id, err := identify(ctx, c.codec, r)
	if err != nil || id.made {
		return eventKey{}, false
	}
	return newEventKey(id.Tenant, id.Source, id.ID), true
}
