package kafka

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/run"
)

// watchBroker asks the brokers for a sign of life, so that Ready can say when there is none: the client itself waits
// for them in silence.
func (l *Loop) watchBroker(ctx context.Context) {
	every := pingEvery / 5
	for ctx.Err() == nil {
		ping, cancel := context.WithTimeout(ctx, pingEvery)
		err := l.client.Ping(ping)
		cancel()
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		before := l.broker
		l.broker = err
		if err == nil && l.phase == "waiting for Kafka at "+l.cfg.Where() {
			l.phase = "joining the group"
		}
		l.mu.Unlock()
		switch {
		case err != nil && before == nil:
			l.log.Warn("waiting for Kafka", zap.Strings("brokers", l.cfg.Brokers), zap.Error(err))
		case err == nil && before != nil:
			l.log.Info("Kafka is back")
		case err == nil:
			every = pingEvery
		}
		_ = run.Sleep(ctx, every)
	}
}

// watchProgress reports partitions with work in hand that don't move: heartbeats go on whatever the handlers do, so
// nothing else would tell. Such a partition is not given up and handed out anew: what holds it is most often a write that
// Kafka doesn't take, and then everything in hand would be done over again, and again, without getting any further.
func (l *Loop) watchProgress(ctx context.Context) {
	ticker := time.NewTicker(l.cfg.StuckAfter / 4)
	defer ticker.Stop()
	told := make(map[*partition]time.Time)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		l.mu.Lock()
		live := make(map[*partition]struct{}, len(l.live))
		for p := range l.live {
			live[p] = struct{}{}
		}
		l.mu.Unlock()
		for p := range told {
			if _, ok := live[p]; !ok {
				delete(told, p)
			}
		}
		now := time.Now()
		for p := range live {
			since, inflight, oldest := p.watch(now)
			if since.IsZero() {
				delete(told, p)
				continue
			}
			if now.Sub(told[p]) >= l.cfg.StuckAfter {
				told[p] = now
				l.meters.stuck.Add(ctx, 1, l.meters.topic(p.tp.Topic))
				l.log.Error("consume loop: a partition makes no progress", zap.Stringer("partition", p.tp), zap.Time("since", since),
					zap.Int64("in_flight", inflight), zap.Int64("oldest_open_offset", oldest))
			}
		}
	}
}

// stillness is the progress that a look found, and since when it has been that. It is zero while there is nothing to do.
type stillness struct {
	progress uint64
	since    time.Time
}

// watch looks whether the partition moves. It returns what stalled does.
func (p *partition) watch(now time.Time) (since time.Time, inflight, oldest int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.busy():
		p.still = stillness{}
	case p.still.since.IsZero() || p.still.progress != p.progress:
		p.still = stillness{p.progress, now}
	}
	return p.stalled(now), p.inflight, p.window.Watermark()
}

// busy tells whether there is something to be done now. p.mu is held.
func (p *partition) busy() bool { return (p.inflight > 0 || p.first < len(p.queue)) && !p.deferring }

// stalled is since when the partition has had work in hand without any progress, zero if that is not for StuckAfter yet.
// p.mu is held.
func (p *partition) stalled(now time.Time) time.Time {
	if !p.busy() || p.still.since.IsZero() || p.still.progress != p.progress || now.Sub(p.still.since) < p.l.cfg.StuckAfter {
		return time.Time{}
	}
	return p.still.since
}

// watchLogs looks where the logs begin and end. Records that were deleted unread would otherwise show only when new ones
// come, and what comes while a partition is paused not at all.
func (l *Loop) watchLogs(ctx context.Context) {
	ticker := time.NewTicker(logsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		starts, err := l.listStarts(ctx, l.cfg.Topics...)
		if err != nil {
			continue // watchBroker says so
		}
		ends, err := l.listEnds(ctx)
		if err != nil {
			continue
		}
		for _, p := range l.everything() {
			if end, ok := ends.Lookup(p.tp.Topic, p.tp.Partition); ok && end.Err == nil {
				p.mu.Lock()
				p.end = max(p.end, end.Offset)
				p.mu.Unlock()
			}
			start, ok := starts.Lookup(p.tp.Topic, p.tp.Partition)
			if !ok || start.Err != nil {
				continue
			}
			p.mu.Lock()
			from := max(p.next, p.lossTo)
			// Only what is not being fetched just now can be told to be lost: while deferred, or after the log was emptied.
			gone := p.active && start.Offset > from && p.next >= 0 && (p.deferring || start.Offset >= p.end)
			if gone {
				p.lossTo = start.Offset
			}
			p.mu.Unlock()
			if gone {
				l.reportLoss(Loss{p.tp, from, start.Offset, LossRetention})
			}
		}
	}
}

func (l *Loop) reportLoss(loss Loss) {
	l.log.Error("consume loop: records are gone that were not read", zap.Stringer("partition", loss.TopicPartition),
		zap.Int64("from", loss.From), zap.Int64("to", loss.To), zap.String("reason", loss.Reason))
	l.meters.lost.Add(context.Background(), loss.To-loss.From, l.meters.topic(loss.Topic))
	if l.cfg.LostRecords != nil {
		l.cfg.LostRecords(loss)
	}
}
