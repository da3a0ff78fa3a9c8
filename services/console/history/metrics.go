package history

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

type metrics struct {
	records, useless, lost, batches, deleted metric.Int64Counter
	batch                                    metric.Float64Histogram
}

func newMetrics(provider metric.MeterProvider, lag func() int64) (*metrics, error) {
	meter := provider.Meter("github.com/callstream/callstream/services/console/history")
	var m metrics
	for _, c := range []struct {
		to         *metric.Int64Counter
		name, help string
	}{
		{&m.records, "callstream.history.records", "Records projected into the history, by topic."},
		{&m.useless, "callstream.history.unreadable_records", "Records that don't decode or name nothing, and are passed by."},
		{&m.lost, "callstream.history.lost_records", "Offsets that Kafka's retention took before they were projected."},
		{&m.batches, "callstream.history.batches", "Transactions of the projection."},
		{&m.deleted, "callstream.history.deleted_rows", "Rows deleted for their age or their number."},
	} {
		var err error
		if *c.to, err = meter.Int64Counter(c.name, metric.WithDescription(c.help)); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	var err error
	if m.batch, err = meter.Float64Histogram("callstream.history.batch.duration", metric.WithUnit("s"), metric.WithDescription("Time to decode and write a batch of records.")); err != nil {
		return nil, fmt.Errorf("callstream.history.batch.duration: %w", err)
	}
	_, err = meter.Int64ObservableGauge("callstream.history.lag", metric.WithDescription("Records that are not in the history yet; -1 where another process writes it."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(lag())
			return nil
		}))
	if err != nil {
		return nil, fmt.Errorf("callstream.history.lag: %w", err)
	}
	return &m, nil
}

func ofTopic(name string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("topic", name))
}
