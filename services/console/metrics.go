package console

import (
	"fmt"

	"go.opentelemetry.io/otel/metric"
)

type metrics struct {
	published     metric.Int64Counter
	publishErrors metric.Int64Counter
	pending       metric.Int64Gauge
	epoch         metric.Int64Gauge
	verifications metric.Int64Counter
	signals       metric.Int64Counter
}

func newMetrics(provider metric.MeterProvider) (*metrics, error) {
	meter := provider.Meter("github.com/callstream/callstream/services/console")
	var m metrics
	var errs [6]error
	m.published, errs[0] = meter.Int64Counter("callstream_console_published", metric.WithDescription("Records put on the feeds."))
	m.publishErrors, errs[1] = meter.Int64Counter("callstream_console_publish_errors", metric.WithDescription("Attempts to publish that failed and are repeated."))
	m.pending, errs[2] = meter.Int64Gauge("callstream_console_outbox_pending", metric.WithDescription("Changes that are stored and not on the feeds yet."))
	m.epoch, errs[3] = meter.Int64Gauge("callstream_console_epoch", metric.WithDescription("Epoch of the database: grows when a restored one is noticed."))
	m.verifications, errs[4] = meter.Int64Counter("callstream_console_verifications", metric.WithDescription("Verification handshakes, by method and outcome."))
	m.signals, errs[5] = meter.Int64Counter("callstream_console_signals", metric.WithDescription("Signals read, by kind and outcome."))
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("make metrics: %w", err)
		}
	}
	return &m, nil
}
