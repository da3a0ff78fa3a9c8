package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/telemetry"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestLogsAreJSON(t *testing.T) {
	var out bytes.Buffer
	tel, err := telemetry.New(telemetry.Config{LogLevel: "info", LogOutput: zapcore.AddSync(&out)}, "producer", "v1")
	require.NoError(t, err)
	tel.Log.Debug("hidden")
	tel.Log.Info("shown", zap.Int("n", 1))
	require.NoError(t, tel.Shutdown(t.Context()))
	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, "shown", line["msg"])
	require.Equal(t, "producer", line["service"])
}

func TestTwoProcessesWorthOfMetricsDontMix(t *testing.T) {
	page := func(count int64) string {
		tel, err := telemetry.New(telemetry.Config{}, "x", "v1")
		require.NoError(t, err)
		defer tel.Close()
		c, err := tel.Meter.Meter("m").Int64Counter("callstream.things")
		require.NoError(t, err)
		c.Add(t.Context(), count)
		w := httptest.NewRecorder()
		tel.MetricsHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
		require.Equal(t, 200, w.Code)
		return w.Body.String()
	}
	require.Contains(t, page(1), "callstream_things_total 1\n")
	require.Contains(t, page(2), "callstream_things_total 2\n")
	require.Contains(t, page(1), "go_goroutines ")
}

func TestWithoutACollectorTracesStillHaveIDs(t *testing.T) {
	tel, err := telemetry.New(telemetry.Config{}, "x", "v1")
	require.NoError(t, err)
	defer tel.Close()
	require.False(t, tel.Recording())
	ctx, span := tel.Tracer.Tracer("t").Start(telemetry.Extract(t.Context(), parent), "work")
	require.False(t, span.IsRecording())
	child := telemetry.Inject(ctx)
	require.Equal(t, parent[:36], child[:36], "the trace goes on")
	require.NotEqual(t, parent[36:52], child[36:52])
	fresh, _ := telemetry.Nop().Tracer.Tracer("t").Start(t.Context(), "work")
	require.True(t, telemetry.ValidTraceparent(telemetry.Inject(fresh)))
}

// fakeCollector takes what an OTLP collector would.
type fakeCollector struct {
	collector.UnimplementedTraceServiceServer
	got chan *collector.ExportTraceServiceRequest
}

func (f *fakeCollector) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	f.got <- r
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestSpansReachTheCollector(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	fake := &fakeCollector{got: make(chan *collector.ExportTraceServiceRequest, 1)}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, fake)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()

	var cfg telemetry.Config
	require.NoError(t, config.Load(&cfg, config.Source{Args: []string{"--otlp-endpoint=" + l.Addr().String(), "--trace-ratio=0"}}))
	tel, err := telemetry.New(cfg, "producer", "v1")
	require.NoError(t, err)
	require.True(t, tel.Recording())
	_, unsampled := tel.Tracer.Tracer("t").Start(t.Context(), "left out by the ratio")
	unsampled.End()
	ctx, span := tel.Tracer.Tracer("t").Start(telemetry.Extract(t.Context(), parent), "sampled by its caller")
	span.End()
	require.Equal(t, "01", telemetry.Inject(ctx)[53:])
	require.NoError(t, tel.Shutdown(t.Context()))
	spans := (<-fake.got).ResourceSpans[0].ScopeSpans[0].Spans
	require.Len(t, spans, 1)
	require.Equal(t, "sampled by its caller", spans[0].Name)
	require.Equal(t, trace.SpanContextFromContext(ctx).TraceID().String(), parent[3:35])
}

func TestTraceparents(t *testing.T) {
	require.True(t, telemetry.ValidTraceparent(parent))
	require.True(t, telemetry.ValidTraceparent("01"+parent[2:]+"-future"), "later versions may be longer")
	for _, bad := range []string{
		"", "x", parent[:54], parent + "-x", "ff" + parent[2:], "00-" + "00000000000000000000000000000000" + parent[35:],
		parent[:36] + "0000000000000000-01", "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "01" + parent[2:] + "x",
	} {
		require.False(t, telemetry.ValidTraceparent(bad), bad)
		require.Empty(t, telemetry.Inject(telemetry.Extract(context.Background(), bad)))
	}
	require.Equal(t, parent, telemetry.Inject(telemetry.Extract(context.Background(), parent)))
	a, b := telemetry.NewTraceparent(), telemetry.NewTraceparent()
	require.True(t, telemetry.ValidTraceparent(a))
	require.NotEqual(t, a, b)
	require.Zero(t, testing.AllocsPerRun(100, func() { telemetry.ValidTraceparent(parent) }))
}

func TestConfigProblems(t *testing.T) {
	err := config.Load(new(telemetry.Config), config.Source{Args: []string{"--log-level=loud", "--otlp-headers=x"}})
	require.ErrorContains(t, err, `--log-level: "loud" is not allowed; it must be one of debug, info, warn, error`)
	err = config.Load(new(telemetry.Config), config.Source{Args: []string{"--otlp-headers=x"}})
	require.ErrorContains(t, err, "each header must be name=value")
	_, err = telemetry.New(telemetry.Config{LogLevel: "loud"}, "x", "v1")
	require.Error(t, err)
}
