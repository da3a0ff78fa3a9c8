package integration

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/callstream/callstream/pkg/hooktest"
)

// spanSink is an OpenTelemetry collector that remembers.
type spanSink struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]*trace.Span // by span id in hex
}

// Export takes spans, as the OTLP protocol has it.
func (s *spanSink) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range req.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			for _, span := range ss.GetSpans() {
				s.spans[hex.EncodeToString(span.GetSpanId())] = span
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// chain follows a span's parents and returns the names on the way, the span's own first.
func (s *spanSink) chain(id string) (names []string, root string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		span, ok := s.spans[id]
		if !ok {
			return names, id
		}
		names = append(names, span.GetName())
		id = hex.EncodeToString(span.GetParentSpanId())
	}
}

// TestTraceSpansThePipeline follows the traceparent that an endpoint got back to the caller's own span: one trace, with a
// span each for the request, the filtering and the attempt.
func TestTraceSpansThePipeline(t *testing.T) {
	for _, s := range []shape{together, apart} {
		t.Run(string(s), func(t *testing.T) {
			listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			sink := &spanSink{spans: map[string]*trace.Span{}}
			server := grpc.NewServer()
			collector.RegisterTraceServiceServer(server, sink)
			go func() { _ = server.Serve(listener) }()
			t.Cleanup(server.Stop)

			p := startPipeline(t, settings{shape: s, env: map[string]string{"CALLSTREAM_OTLP_ENDPOINT": listener.Addr().String()}})
			tn := p.tenant("trace")
			hook := hooktest.Start(t, hooktest.Options{})
			tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}})
			const traceID, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
			r, err := tn.try(http.MethodPost, "/v1/events", ended("tr", nil), http.Header{"Traceparent": {"00-" + traceID + "-" + caller + "-01"}})
			require.NoError(t, err)
			require.Equal(t, 202, r.status, r.String())
			parts := strings.Split(await(t, hook, 1)[0].Header.Get("Traceparent"), "-")
			require.Len(t, parts, 4)
			require.Equal(t, traceID, parts[1])
			eventually(t, "the spans of the trace reach the collector", func() error {
				names, root := sink.chain(parts[2])
				if len(names) < 3 || root != caller {
					return fmt.Errorf("from the endpoint's span back: %v, then %s", names, root)
				}
				return nil
			})
			names, _ := sink.chain(parts[2])
			t.Logf("from the endpoint back to the caller: %v", names)
		})
	}
}
