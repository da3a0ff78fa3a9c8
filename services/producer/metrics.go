package producer

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// metrics counts requests by the status that they were answered with, and the events of those that were accepted.
type metrics struct {
	requests metric.Int64Counter
	events   metric.Int64Counter
	bytes    metric.Int64Counter
	duration metric.Float64Histogram
	// byStatus holds the attributes of each status that is ever answered, made once.
	byStatus map[int]metric.MeasurementOption
	other    metric.MeasurementOption
}

// statuses are what a request can be answered with: a closed set, as a metric's label has to be.
var statuses = [...]int{202, 400, 401, 403, 404, 405, 413, 415, 422, 429, 500, 503}

func newMetrics(p metric.MeterProvider, used func() int64) (*metrics, error) {
	m := p.Meter("callstream/producer")
	var out metrics
	var err error
	fail := func(e error) {
		if err == nil && e != nil {
			err = fmt.Errorf("producer: metrics: %w", e)
		}
	}
	var e error
	out.requests, e = m.Int64Counter("callstream.producer.requests", metric.WithDescription("POST /v1/events by status"))
	fail(e)
	out.events, e = m.Int64Counter("callstream.producer.events", metric.WithDescription("events accepted"))
	fail(e)
	out.bytes, e = m.Int64Counter("callstream.producer.record.bytes", metric.WithDescription("bytes of the records accepted"))
	fail(e)
	out.duration, e = m.Float64Histogram("callstream.producer.duration", metric.WithUnit("s"),
		metric.WithDescription("from the request's headers to its answer"),
		metric.WithExplicitBucketBoundaries(.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10))
	fail(e)
	_, e = m.Int64ObservableGauge("callstream.producer.in_flight.bytes", metric.WithDescription("bytes that requests hold"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error { o.Observe(used()); return nil }))
	fail(e)
	out.byStatus = map[int]metric.MeasurementOption{}
	for _, s := range statuses {
		out.byStatus[s] = metric.WithAttributeSet(attribute.NewSet(attribute.Int("status", s)))
	}
	out.other = metric.WithAttributeSet(attribute.NewSet(attribute.String("status", "other")))
	return &out, err
}

func (m *metrics) answered(ctx context.Context, status int, took time.Duration) {
	by, ok := m.byStatus[status]
	if !ok {
		by = m.other
	}
	m.requests.Add(ctx, 1, by)
	m.duration.Record(ctx, took.Seconds(), by)
}

func (m *metrics) accepted(ctx context.Context, events, bytes int) {
	m.events.Add(ctx, int64(events))
	m.bytes.Add(ctx, int64(bytes))
}
