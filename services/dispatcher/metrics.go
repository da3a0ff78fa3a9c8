package dispatcher

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// metrics are counted with plain atomics where the meter only asks for them now and then: an attempt costs tens of
// microseconds, of which an instrument call with attributes would be a percent each.
type metrics struct {
	outcomes  [5]atomic.Int64 // by the order of outcomeNames
	parked    [admissions]atomic.Int64
	ordered   atomic.Int64 // written to the ordered lane
	cut       atomic.Int64 // requests that held back their partition
	hops      atomic.Int64
	lost      atomic.Int64 // records that fitted no topic
	rewrites  atomic.Int64 // writes that had to be repeated
	disabled  atomic.Int64
	fallback  atomic.Int64
	exhausted atomic.Int64

	took  metric.Float64Histogram
	delay metric.Float64Histogram
	class metric.Int64Counter
}

func outcomeNames() []string {
	return []string{outcomeDelivered, outcomeRetry, outcomeDead, outcomeSkipped, outcomeSuperseded}
}

// parkCauses are the labels of what is parked.
func parkCauses() map[admission]metric.MeasurementOption {
	causes := map[admission]metric.MeasurementOption{}
	for why, cause := range map[admission]string{
		full: "share", slowed: "rate_limit", broken: "breaker", cooling: "retry_after", diverted: "window", faulty: "fault", copied: "copy",
	} {
		causes[why] = metric.WithAttributes(attribute.String("kind", "parked"), attribute.String("cause", cause))
	}
	return causes
}

func newMetrics(provider metric.MeterProvider, load func() load, inOrder func() (held, away int)) (*metrics, error) {
	meter := provider.Meter("github.com/callstream/callstream/services/dispatcher")
	m := &metrics{}
	var errs [8]error
	m.took, errs[0] = meter.Float64Histogram("callstream.dispatcher.attempt.duration", metric.WithUnit("s"),
		metric.WithDescription("From sending a request to the end of its answer"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30))
	m.delay, errs[1] = meter.Float64Histogram("callstream.dispatcher.first_attempt.delay", metric.WithUnit("s"),
		metric.WithDescription("From the acceptance of an event to the start of the first attempt to deliver it"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800))
	m.class, errs[2] = meter.Int64Counter("callstream.dispatcher.errors", metric.WithUnit("{attempt}"),
		metric.WithDescription("Failed attempts by class of error"))
	outcomes, err := meter.Int64ObservableCounter("callstream.dispatcher.deliveries", metric.WithUnit("{delivery}"),
		metric.WithDescription("Records by what became of them; a delivery that is tried three times counts three times"))
	errs[3] = err
	events, err := meter.Int64ObservableCounter("callstream.dispatcher.records", metric.WithUnit("{record}"),
		metric.WithDescription("Records moved without an attempt (parked, hop, ordered), requests cut off because they held back their partition (cut), written again (rewrite), endpoints disabled, deliveries passed to the fallback, deliveries exhausted, and writes that fitted no topic (lost)"))
	errs[4] = err
	queue, err := meter.Int64ObservableGauge("callstream.dispatcher.jobs", metric.WithUnit("{delivery}"),
		metric.WithDescription("Deliveries in this process: in flight, queued, held in the order of their calls, and known to stand in deliveries.ordered behind those"))
	errs[5] = err
	shards, err := meter.Int64ObservableGauge("callstream.dispatcher.shards", metric.WithUnit("{shard}"),
		metric.WithDescription("Subscriptions in their partitions: with something to do (active), whose breaker is open, that wait for a rate limit or Retry-After (throttled), that leave the last workers to others (crowded)"))
	errs[6] = err
	pause, err := meter.Int64ObservableGauge("callstream.dispatcher.paused",
		metric.WithDescription("1 while no endpoint can be reached and deliveries wait"))
	errs[7] = err
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("make the dispatcher's metrics: %w", err)
		}
	}
	var byOutcome []metric.MeasurementOption
	for _, name := range outcomeNames() {
		byOutcome = append(byOutcome, metric.WithAttributes(attribute.String("outcome", name)))
	}
	kind := func(name string) metric.MeasurementOption {
		return metric.WithAttributes(attribute.String("kind", name))
	}
	parked := parkCauses()
	cut, hop, lost, rewrite, disabled, exhausted := kind("cut"), kind("hop"), kind("lost"), kind("rewrite"), kind("disabled"), kind("exhausted")
	fallback, toOrdered := kind("fallback"), kind("ordered")
	state := func(name string, of ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributes(append(of, attribute.String("state", name))...)
	}
	first, late := state("in_flight", attribute.String("kind", "first")), state("in_flight", attribute.String("kind", "retry"))
	queued := state("queued", attribute.String("kind", "all"))
	inBook, inLane := state("in_order", attribute.String("kind", "all")), state("ordered_lane", attribute.String("kind", "all"))
	active, open, asleep, crowded := state("active"), state("breaker_open"), state("throttled"), state("crowded")
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for i := range m.outcomes {
			o.ObserveInt64(outcomes, m.outcomes[i].Load(), byOutcome[i])
		}
		for why, cause := range parked {
			o.ObserveInt64(events, m.parked[why].Load(), cause)
		}
		o.ObserveInt64(events, m.hops.Load(), hop)
		o.ObserveInt64(events, m.ordered.Load(), toOrdered)
		o.ObserveInt64(events, m.cut.Load(), cut)
		o.ObserveInt64(events, m.lost.Load(), lost)
		o.ObserveInt64(events, m.rewrites.Load(), rewrite)
		o.ObserveInt64(events, m.disabled.Load(), disabled)
		o.ObserveInt64(events, m.fallback.Load(), fallback)
		o.ObserveInt64(events, m.exhausted.Load(), exhausted)
		now := load()
		o.ObserveInt64(queue, int64(now.first), first)
		o.ObserveInt64(queue, int64(now.late), late)
		o.ObserveInt64(queue, int64(now.waiting), queued)
		o.ObserveInt64(pause, map[bool]int64{true: 1}[now.paused])
		o.ObserveInt64(shards, int64(now.active), active)
		o.ObserveInt64(shards, int64(now.broken), open)
		o.ObserveInt64(shards, int64(now.asleep), asleep)
		o.ObserveInt64(shards, int64(now.crowded), crowded)
		held, away := inOrder()
		o.ObserveInt64(queue, int64(held), inBook)
		o.ObserveInt64(queue, int64(away), inLane)
		return nil
	}, outcomes, events, queue, shards, pause)
	if err != nil {
		return nil, fmt.Errorf("register the dispatcher's metrics: %w", err)
	}
	return m, nil
}

func (m *metrics) outcome(name string) {
	for i, n := range outcomeNames() {
		if n == name {
			m.outcomes[i].Add(1)
			return
		}
	}
}

// first counts the first attempt to deliver an event.
func (m *metrics) first(ctx context.Context, sinceAccepted time.Duration) {
	m.delay.Record(ctx, sinceAccepted.Seconds())
}

// attempt counts a request that was sent.
func (m *metrics) attempt(ctx context.Context, class string, took time.Duration) {
	m.took.Record(ctx, took.Seconds())
	if class != "" {
		m.class.Add(ctx, 1, metric.WithAttributes(attribute.String("class", class)))
	}
}
