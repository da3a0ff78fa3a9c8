package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// loopMeters are the loop's metrics. Labels are group and topic: partitions would multiply the series.
type loopMeters struct {
	meter                                                 metric.Meter
	group                                                 metric.MeasurementOption
	topics                                                map[string]metric.MeasurementOption
	commits, commitErrors, skipped, deferred, stuck, lost metric.Int64Counter
	lag, depth, inflight, window, paused, partitions      metric.Int64ObservableGauge
	stalled                                               metric.Int64ObservableGauge
	occupancy, age                                        metric.Float64ObservableGauge
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
		{&m.lag, "callstream.consumer.lag", "Records between the watermark and the log's end."},
		{&m.depth, "callstream.consumer.depth", "Records between the watermark and the log's end that are not done."},
		{&m.inflight, "callstream.consumer.in_flight", "Records handed out and not done."},
		{&m.window, "callstream.consumer.window", "Offsets in the widest window of a topic's partitions."},
		{&m.paused, "callstream.consumer.paused", "Partitions that are not being fetched."},
		{&m.partitions, "callstream.consumer.partitions", "Partitions assigned."},
		{&m.stalled, "callstream.consumer.stalled", "Partitions with work in hand that make no progress."},
	} {
		var err error
		if *g.to, err = m.meter.Int64ObservableGauge(g.name, metric.WithDescription(g.help)); err != nil {
			return nil, fmt.Errorf("%s: %w", g.name, err)
		}
	}
	for _, g := range []struct {
		to               *metric.Float64ObservableGauge
		name, unit, help string
	}{
		{&m.occupancy, "callstream.consumer.window.occupancy", "1", "How full the fullest window of a topic's partitions is, in offsets or bytes; at 1 its partition stands still."},
		{&m.age, "callstream.consumer.oldest_age", "s", "Age of the oldest record that is not done."},
	} {
		var err error
		if *g.to, err = m.meter.Float64ObservableGauge(g.name, metric.WithUnit(g.unit), metric.WithDescription(g.help)); err != nil {
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

// topicState is what the gauges tell of a topic.
type topicState struct {
	lag, depth, inflight, window, paused, partitions, stalled int64
	occupancy                                                 float64
	age                                                       time.Duration
}

// observe has the gauges read the loop's state whenever they are collected.
func (m *loopMeters) observe(l *Loop) (unregister func(), err error) {
	reg, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		now := time.Now()
		byTopic := make(map[string]*topicState, len(l.cfg.Topics))
		for _, t := range l.cfg.Topics {
			byTopic[t] = &topicState{}
		}
		l.mu.Lock()
		for tp, p := range l.parts {
			if s := byTopic[tp.Topic]; s != nil {
				if p.pauses != 0 {
					s.paused++
				}
				p.addTo(s, now)
			}
		}
		l.mu.Unlock()
		for t, s := range byTopic {
			topic := m.topic(t)
			o.ObserveInt64(m.lag, s.lag, topic)
			o.ObserveInt64(m.depth, s.depth, topic)
			o.ObserveInt64(m.inflight, s.inflight, topic)
			o.ObserveInt64(m.window, s.window, topic)
			o.ObserveInt64(m.paused, s.paused, topic)
			o.ObserveInt64(m.partitions, s.partitions, topic)
			o.ObserveInt64(m.stalled, s.stalled, topic)
			o.ObserveFloat64(m.occupancy, s.occupancy, topic)
			o.ObserveFloat64(m.age, s.age.Seconds(), topic)
		}
		return nil
	}, m.lag, m.depth, m.inflight, m.window, m.paused, m.partitions, m.stalled, m.occupancy, m.age)
	if err != nil {
		return nil, err
	}
	return func() { _ = reg.Unregister() }, nil
}

// addTo adds what a partition has to tell.
func (p *partition) addTo(s *topicState, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.partitions++
	s.inflight += p.inflight
	s.window = max(s.window, p.window.Span())
	s.occupancy = max(s.occupancy, float64(p.window.Span())/float64(p.window.Limit()), float64(p.inBytes)/float64(p.l.cfg.Window.Bytes))
	if !p.stalled(now).IsZero() {
		s.stalled++
	}
	if !p.window.Started() {
		return
	}
	lag := max(0, p.end-p.window.Watermark())
	done := p.window.Span() - p.window.Open()
	s.lag += lag
	s.depth += max(0, lag-done)
	s.age = max(s.age, p.age(now))
}

// timeMark says that records from an offset on are as old as this, give or take a second.
type timeMark struct {
	from int64
	at   time.Time
}

// mostTimeMarks bounds their memory where every record has another time. The age is then told as too high, not too low.
const mostTimeMarks = 4096

// noteTimes remembers how old the records are that were fetched. p.mu is held.
func (p *partition) noteTimes(rs []*kgo.Record) {
	n := len(p.times)
	for n > 0 && p.times[n-1].from >= rs[0].Offset { // fetched again
		n--
	}
	old := 0
	for old+1 < n && p.times[old+1].from <= p.window.Watermark() {
		old++
	}
	p.times = append(p.times[:0], p.times[old:n]...)
	for _, r := range rs {
		if n := len(p.times); n == 0 || (n < mostTimeMarks && r.Timestamp.Sub(p.times[n-1].at).Abs() >= time.Second) {
			p.times = append(p.times, timeMark{r.Offset, r.Timestamp})
		}
	}
	p.seen = max(p.seen, rs[len(rs)-1].Offset+1)
}

// age is how old the oldest record is that is not done. One that was never fetched is as old as the first look that
// found it. p.mu is held.
func (p *partition) age(now time.Time) time.Duration {
	oldest := p.window.Watermark()
	if oldest >= p.end {
		return 0
	}
	if oldest >= p.seen {
		if p.unseen.from != oldest || p.unseen.at.IsZero() {
			p.unseen = timeMark{oldest, now}
		}
		return now.Sub(p.unseen.at)
	}
	at := now
	for _, m := range p.times {
		if m.from > oldest {
			break
		}
		at = m.at
	}
	return max(0, now.Sub(at))
}
