package filter

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

// The trace goes on in the headers, under the filter's span; the value keeps what came with the event, because a reread
// has other spans and must make the same bytes.
func TestASampledEventHasASpanInItsTrace(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())), sdktrace.WithSpanProcessor(spans))
	d := newDecider(t)
	d.subscribe(t, &subscription.Subscription{ID: "sub_1", Tenant: "acme", Events: []string{"*"}})
	s := &Service{decider: d, tracer: provider.Tracer("test")}

	filtered := func(traceparent string) (*kgo.Record, event.Delivery) {
		r := eventRecord(t, d, `{"id":"evt_1","type":"call.ended","call_id":"c-1"}`)
		kafka.SetHeader(r, kafka.StringHeader(kafka.HeaderTraceparent, traceparent))
		out := &emission{batch: &batch{}, scratch: &scratch{}}
		span := s.span(t.Context(), r, out)
		_, err := d.decide(t.Context(), r, newRepeats(1), out)
		require.NoError(t, err)
		span.End()
		require.Len(t, out.records, 2)
		var delivery event.Delivery
		require.NoError(t, d.codec.Decode(t.Context(), out.records[0].Value, &delivery))
		return &out.records[0], delivery
	}
	const trace = "0af7651916cd43dd8448eb211c80319c"
	record, delivery := filtered("00-" + trace + "-b7ad6b7169203331-01")
	ended := spans.Ended()
	require.Len(t, ended, 1)
	assert.Equal(t, "filter call.ended", ended[0].Name())
	assert.Equal(t, trace, ended[0].SpanContext().TraceID().String())
	assert.Equal(t, "b7ad6b7169203331", ended[0].Parent().SpanID().String())
	assert.Equal(t, "00-"+trace+"-"+ended[0].SpanContext().SpanID().String()+"-01", kafka.Header(record, kafka.HeaderTraceparent))
	assert.Equal(t, "00-"+trace+"-b7ad6b7169203331-01", delivery.Traceparent)

	record, delivery = filtered("00-" + trace + "-b7ad6b7169203331-00")
	assert.Len(t, spans.Ended(), 1, "not sampled")
	assert.Equal(t, delivery.Traceparent, kafka.Header(record, kafka.HeaderTraceparent))
	record, delivery = filtered("nonsense\r\nx: y")
	assert.Empty(t, delivery.Traceparent)
	assert.Empty(t, kafka.Header(record, kafka.HeaderTraceparent))
}
