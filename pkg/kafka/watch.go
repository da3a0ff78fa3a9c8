package kafka

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
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
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
	}
}

// watchProgress reports partitions with work in hand that don't move: heartbeats go on whatever the handlers do, so
// nothing else would tell.
func (l *Loop) watchProgress(ctx context.Context) {
	type state struct {
		progress uint64
		since    time.Time
	}
	seen := make(map[*partition]state)
	ticker := time.NewTicker(l.cfg.StuckAfter / 4)
	defer ticker.Stop()
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
		for p := range seen {
			if _, ok := live[p]; !ok {
				delete(seen, p)
			}
		}
		now := time.Now()
		for p := range live {
			p.mu.Lock()
			progress, inflight, queued := p.progress, p.inflight, len(p.queue)-p.first
			busy := (inflight > 0 || queued > 0) && !p.deferring
			oldest := p.window.Watermark()
			p.mu.Unlock()
			s, ok := seen[p]
			if !ok || !busy || s.progress != progress {
				seen[p] = state{progress, now}
				continue
			}
			if now.Sub(s.since) >= l.cfg.StuckAfter {
				seen[p] = state{progress, now}
				l.meters.stuck.Add(ctx, 1, l.meters.topic(p.tp.Topic))
				l.log.Error("consume loop: a partition makes no progress", zap.Stringer("partition", p.tp), zap.Duration("for", l.cfg.StuckAfter),
					zap.Int64("in_flight", inflight), zap.Int("queued", queued), zap.Int64("oldest_open_offset", oldest))
			}
		}
	}
}

// watchRetention looks for records that were deleted unread while nothing new came that would show it.
func (l *Loop) watchRetention(ctx context.Context) {
	ticker := time.NewTicker(retentionEvery)
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
		for _, p := range l.everything() {
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

// loopMeters are the loop's metrics. Labels are group and topic: partitions would multiply the series.
type loopMeters struct {
	meter                                                 metric.Meter
	group                                                 metric.MeasurementOption
	topics                                                map[string]metric.MeasurementOption
	commits, commitErrors, skipped, deferred, stuck, lost metric.Int64Counter
	lag, inflight, window, paused, partitions             metric.Int64ObservableGauge
}

func newLoopMeters(l *Loop) (*loopMeters, error) {
	m := &loopMeters{
		meter:  l.cfg.Meter.Meter("github.com/callstream/callstream/pkg/kafka"),
		group:  metric.WithAttributeSet(attribute.NewSet(attribute.String("group", l.cfg.Group))),
		topics: make(map[string]metric.MeasurementOption),
	}
	for _, t := range l.cfg.Topics {
		m.topics[t] = metric.WithAttributeSet(attribute.NewSet(attribute.String("group", l.cfg.Group), attribute.String("topic", t)))
	}
	for _, c := range []struct {
		to         *metric.Int64Counter
		name, help string
	}{
		{&m.commits, "callstream.consumer.commits", "Offset commits."},
		{&m.commitErrors, "callstream.consumer.commit_errors", "Offset commits that failed."},
		{&m.skipped, "callstream.consumer.already_done", "Records passed by because an earlier owner had done them."},
		{&m.deferred, "callstream.consumer.deferred", "Waits for a record that was not due."},
		{&m.stuck, "callstream.consumer.stuck", "Times that a partition with work in hand made no progress."},
		{&m.lost, "callstream.consumer.lost_records", "Offsets that the broker no longer had when they were to be read."},
	} {
		var err error
		if *c.to, err = m.meter.Int64Counter(c.name, metric.WithDescription(c.help)); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for _, g := range []struct {
		to         *metric.Int64ObservableGauge
		name, help string
	}{
		{&m.lag, "callstream.consumer.lag", "Records between the watermark and the log's end, as of the last fetch."},
		{&m.inflight, "callstream.consumer.in_flight", "Records handed out and not done."},
		{&m.window, "callstream.consumer.window", "Offsets in the widest window of a topic's partitions."},
		{&m.paused, "callstream.consumer.paused", "Partitions that are not being fetched."},
		{&m.partitions, "callstream.consumer.partitions", "Partitions assigned."},
	} {
		var err error
		if *g.to, err = m.meter.Int64ObservableGauge(g.name, metric.WithDescription(g.help)); err != nil {
			return nil, fmt.Errorf("%s: %w", g.name, err)
		}
	}
	return m, nil
}

func (m *loopMeters) topic(name string) metric.MeasurementOption {
	if o, ok := m.topics[name]; ok {
		return o
	}
	return m.group
}

// observe has the gauges read the loop's state whenever they are collected.
func (m *loopMeters) observe(l *Loop) (unregister func(), err error) {
	reg, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		type sums struct{ lag, inflight, window, paused, partitions int64 }
		byTopic := make(map[string]*sums, len(l.cfg.Topics))
		for _, t := range l.cfg.Topics {
			byTopic[t] = &sums{}
		}
		l.mu.Lock()
		for tp, p := range l.parts {
			s := byTopic[tp.Topic]
			if s == nil {
				continue
			}
			s.partitions++
			if p.pauses != 0 {
				s.paused++
			}
			p.mu.Lock()
			s.inflight += p.inflight
			s.window = max(s.window, p.window.Span())
			if p.window.Started() {
				s.lag += max(0, p.end-p.window.Watermark())
			}
			p.mu.Unlock()
		}
		l.mu.Unlock()
		for t, s := range byTopic {
			o.ObserveInt64(m.lag, s.lag, m.topic(t))
			o.ObserveInt64(m.inflight, s.inflight, m.topic(t))
			o.ObserveInt64(m.window, s.window, m.topic(t))
			o.ObserveInt64(m.paused, s.paused, m.topic(t))
			o.ObserveInt64(m.partitions, s.partitions, m.topic(t))
		}
		return nil
	}, m.lag, m.inflight, m.window, m.paused, m.partitions)
	if err != nil {
		return nil, err
	}
	return func() { _ = reg.Unregister() }, nil
}
