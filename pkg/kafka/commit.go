package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// commit is what a partition commits.
type commit struct {
	p        *partition
	offset   int64
	epoch    int32
	metadata string
	version  uint64
	done     int // completions that it tells
}

// errMetadata can't happen (encodeSet sees to it); a broker that doesn't check would keep what others refuse.
var errMetadata = errors.New("commit metadata is too long")

// commit commits what is new in the partitions. l.commits is held: no partition becomes lost meanwhile, and so none is
// committed that somebody else may own.
func (l *Loop) commit(ctx context.Context, ps []*partition) error {
	commits := make(map[string]map[int32]commit)
	offsets := make(map[string]map[int32]kgo.EpochOffset)
	n := 0
	for _, p := range ps {
		c, ok := p.snapshot()
		if !ok {
			continue
		}
		if len(c.metadata) > MaxMetadata {
			return fmt.Errorf("%w: %s, %d bytes", errMetadata, p.tp, len(c.metadata))
		}
		if commits[p.tp.Topic] == nil {
			commits[p.tp.Topic] = make(map[int32]commit)
			offsets[p.tp.Topic] = make(map[int32]kgo.EpochOffset)
		}
		commits[p.tp.Topic][p.tp.Partition] = c
		offsets[p.tp.Topic][p.tp.Partition] = kgo.EpochOffset{Epoch: c.epoch, Offset: c.offset}
		n++
	}
	if n == 0 {
		return nil
	}
	// The client would put its member id where our completed set goes.
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			t := &req.Topics[i]
			for j := range t.Partitions {
				c, ok := commits[t.Topic][t.Partitions[j].Partition]
				if !ok {
					return fmt.Errorf("commit of %s/%d was not asked for", t.Topic, t.Partitions[j].Partition)
				}
				t.Partitions[j].Metadata = &c.metadata
			}
		}
		return nil
	})
	var failed error
	l.client.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			failed = err
			return
		}
		names := make(map[[16]byte]string, len(req.Topics))
		for _, t := range req.Topics {
			names[t.TopicID] = t.Topic
		}
		for _, t := range resp.Topics {
			name := t.Topic
			if name == "" {
				name = names[t.TopicID]
			}
			for _, rp := range t.Partitions {
				if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
					failed = errors.Join(failed, fmt.Errorf("commit %s/%d: %w", name, rp.Partition, err))
					continue
				}
				if c, ok := commits[name][rp.Partition]; ok {
					c.p.commitSucceeded(c)
				}
			}
		}
	})
	if failed != nil {
		l.meters.commitErrors.Add(context.WithoutCancel(ctx), 1, l.meters.group)
		return fmt.Errorf("commit %d partitions: %w", n, failed)
	}
	l.meters.commits.Add(context.WithoutCancel(ctx), 1, l.meters.group)
	return nil
}

func (p *partition) commitSucceeded(c commit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.committedVersion = c.version
	p.uncommitted -= c.done
	p.wakeWorker()
}

// commitRegularly commits every CommitEvery, and whenever a partition has completed CommitCount.
func (l *Loop) commitRegularly(ctx context.Context) {
	ticker := time.NewTicker(l.cfg.CommitEvery)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-l.commitAsk:
		}
		err := l.commitNow(ctx)
		switch {
		case err != nil && ctx.Err() == nil && !failing:
			failing = true
			l.log.Warn("consume loop: commit; trying again, and meanwhile a partition that has completed so many hands out no more", zap.Int("completed", l.cfg.CommitCount), zap.Error(err))
		case err == nil && failing:
			failing = false
			l.log.Info("consume loop: commits succeed again")
		}
	}
}

func (l *Loop) commitNow(ctx context.Context) error {
	l.commits <- struct{}{}
	defer func() { <-l.commits }()
	l.mu.Lock()
	ps := make([]*partition, 0, len(l.live))
	for p := range l.live {
		ps = append(ps, p)
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	err := l.commit(ctx, ps)
	if err != nil {
		l.overdue.Store(&err)
	} else if l.overdue.Swap(nil) != nil {
		for _, p := range ps {
			p.mu.Lock()
			p.wakeWorker()
			p.mu.Unlock()
		}
	}
	return err
}
