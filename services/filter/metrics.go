package filter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
)

// metrics are the filter's own. Labels come from closed sets: topics, outcomes and reasons, never tenants or ids.
type metrics struct {
	events    metric.Int64Counter
	decisions metric.Int64Counter
	dead      metric.Int64Counter
	errors    metric.Int64Counter
	replays   metric.Int64Counter
	handle    metric.Float64Histogram
	render    metric.Float64Histogram

	// Attribute sets are made once, because making them is most of what counting costs. Read-only after newMetrics.
	byTopic    map[string]metric.MeasurementOption
	byDecision map[verdict]metric.MeasurementOption
	byDead     map[string]metric.MeasurementOption
	byReplay   map[string]metric.MeasurementOption
}

// verdict is what a decision counts as.
type verdict struct{ outcome, reason string }

func newMetrics(provider metric.MeterProvider, topics []string, subscriptions func() int) (*metrics, error) {
	meter := provider.Meter("callstream/filter")
	m := &metrics{
		byTopic:    make(map[string]metric.MeasurementOption),
		byDecision: make(map[verdict]metric.MeasurementOption),
		byDead:     make(map[string]metric.MeasurementOption),
		byReplay:   make(map[string]metric.MeasurementOption),
	}
	var err, first error
	note := func(e error) {
		if first == nil {
			first = e
		}
	}
	m.events, err = meter.Int64Counter("callstream_filter_events", metric.WithDescription("Event records handled, by topic."))
	note(err)
	m.decisions, err = meter.Int64Counter("callstream_filter_decisions", metric.WithDescription("Decisions for an event and a subscription, by outcome and reason."))
	note(err)
	m.dead, err = meter.Int64Counter("callstream_filter_dead_letters", metric.WithDescription("Dead letters that the filter wrote, by reason."))
	note(err)
	m.errors, err = meter.Int64Counter("callstream_filter_produce_errors", metric.WithDescription("Records that the broker did not take at once, by class."))
	note(err)
	m.replays, err = meter.Int64Counter("callstream_filter_replayed_events", metric.WithDescription("Events that replays named, by what became of them."))
	note(err)
	seconds := metric.WithExplicitBucketBoundaries(.00001, .00002, .00005, .0001, .0002, .0005, .001, .002, .005, .01, .05, .1, 1)
	m.handle, err = meter.Float64Histogram("callstream_filter_handle_duration", metric.WithUnit("s"), seconds,
		metric.WithDescription("Time from taking an event to having handed all its records to the client."))
	note(err)
	m.render, err = meter.Float64Histogram("callstream_filter_render_duration", metric.WithUnit("s"), seconds,
		metric.WithDescription("Time to render one body."))
	note(err)
	_, err = meter.Int64ObservableGauge("callstream_filter_subscriptions", metric.WithDescription("Subscriptions that the filter knows."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(subscriptions()))
			return nil
		}))
	note(err)
	if first != nil {
		return nil, fmt.Errorf("make the filter's metrics: %w", first)
	}
	for _, t := range topics {
		m.byTopic[t] = metric.WithAttributeSet(attribute.NewSet(attribute.String("topic", t)))
	}
	for _, v := range verdicts() {
		m.byDecision[v] = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", v.outcome), attribute.String("reason", v.reason)))
	}
	for _, reason := range append(append(deadEvents(), deadDeliveries()...), reasonOther) {
		m.byDead[reason] = metric.WithAttributeSet(attribute.NewSet(attribute.String("reason", reason)))
	}
	for _, outcome := range []string{outcomeQueued, outcomeSkipped, outcomeDead, replayGone, replayUnreadable} {
		m.byReplay[outcome] = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", outcome)))
	}
	return m, nil
}

func (m *metrics) event(topic string, took time.Duration) {
	m.events.Add(context.Background(), 1, m.byTopic[topic])
	m.handle.Record(context.Background(), took.Seconds())
}

// decided counts decisions; neighbours that ended in the same way, as most do, at once.
func (m *metrics) decided(entries []event.DecisionEntry) {
	for len(entries) > 0 {
		v := verdict{entries[0].Outcome, entries[0].Reason}
		n := 1
		for n < len(entries) && entries[n].Outcome == v.outcome && entries[n].Reason == v.reason {
			n++
		}
		attributes, ok := m.byDecision[v]
		if !ok {
			attributes = m.byDecision[verdict{v.outcome, reasonOther}]
		}
		m.decisions.Add(context.Background(), int64(n), attributes)
		entries = entries[n:]
	}
}

// reasonOther counts what has a reason that this list of them lacks.
const reasonOther = "other"

func (m *metrics) deadLetter(reason string) {
	attributes, ok := m.byDead[reason]
	if !ok {
		attributes = m.byDead[reasonOther]
	}
	m.dead.Add(context.Background(), 1, attributes)
}

func (m *metrics) replayed(outcome string) {
	m.replays.Add(context.Background(), 1, m.byReplay[outcome])
}

func (m *metrics) rendered(took time.Duration) {
	m.render.Record(context.Background(), took.Seconds())
}

func (m *metrics) produceError(err error) {
	class := "transient"
	switch {
	case errors.Is(err, kafka.ErrTooLarge):
		class = "too_large"
	case errors.Is(err, kafka.ErrFatal):
		class = "fatal"
	}
	m.errors.Add(context.Background(), 1, metric.WithAttributes(attribute.String("class", class)))
}
