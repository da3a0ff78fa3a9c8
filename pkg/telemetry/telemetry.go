// Package telemetry makes a process's logger, meter and tracer from one configuration. Nothing is registered globally:
// whoever logs, counts or traces is handed a Telemetry.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config is what every service embeds for its logs, metrics and traces.
type Config struct {
	LogLevel     string              `config:"LOG_LEVEL" default:"info" oneof:"debug,info,warn,error" doc:"least severe level that is logged"`
	LogFormat    string              `config:"LOG_FORMAT" default:"json" oneof:"json,console" doc:"json for machines, console for people"`
	OTLPEndpoint string              `config:"OTLP_ENDPOINT" doc:"host:port or http(s) URL of an OTLP gRPC collector that traces go to; empty sends none"`
	OTLPInsecure bool                `config:"OTLP_INSECURE" default:"true" doc:"talk to an OTLP endpoint given as host:port without TLS"`
	OTLPHeaders  []string            `config:"OTLP_HEADERS" secret:"true" doc:"headers for the collector, as name=value"`
	TraceRatio   float64             `config:"TRACE_RATIO" default:"1" min:"0" max:"1" doc:"share of new traces that are recorded; a caller's own decision goes before it"`
	LogOutput    zapcore.WriteSyncer // where logs go; nil is standard error
}

// Validate reports what the tags can't say.
func (c *Config) Validate() []string {
	var problems []string
	for _, h := range c.OTLPHeaders {
		if name, _, ok := strings.Cut(h, "="); !ok || name == "" {
			problems = append(problems, "CALLSTREAM_OTLP_HEADERS: each header must be name=value")
			break
		}
	}
	return problems
}

// Telemetry is a process's logger, meter and tracer.
type Telemetry struct {
	// Log is never nil.
	Log *zap.Logger
	// Meter is never nil.
	Meter metric.MeterProvider
	// Tracer is never nil. Without an OTLP endpoint its spans aren't recorded, but carry ids.
	Tracer trace.TracerProvider

	handler   http.Handler
	recording bool
	shutdown  []func(context.Context) error
}

// New starts a process's telemetry under the service's name. Shutdown must be called at its end.
func New(cfg Config, service, version string) (*Telemetry, error) {
	log, err := newLogger(cfg)
	if err != nil {
		return nil, err
	}
	t := &Telemetry{Log: log.With(zap.String("service", service))}

	res := resource.NewSchemaless(attribute.String("service.name", service), attribute.String("service.version", version))

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("telemetry: prometheus exporter: %w", err)
	}
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithResource(res))
	t.Meter = meters
	t.shutdown = append(t.shutdown, meters.Shutdown)
	t.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: zap.NewStdLog(t.Log), Registry: registry})

	options := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	if cfg.OTLPEndpoint == "" {
		// Never sampled, yet every span has a fresh or inherited trace id: endpoints can still tie things together.
		options = append(options, sdktrace.WithSampler(neverRecord{}))
	} else {
		sender, err := otlptracegrpc.New(context.Background(), collectorOptions(cfg)...)
		if err != nil {
			return nil, fmt.Errorf("telemetry: OTLP exporter: %w", err)
		}
		options = append(options,
			sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.TraceRatio))),
			sdktrace.WithBatcher(sender, sdktrace.WithBatchTimeout(2*time.Second)))
	}
	t.recording = cfg.OTLPEndpoint != ""
	traces := sdktrace.NewTracerProvider(options...)
	t.Tracer = traces
	t.shutdown = append(t.shutdown, traces.Shutdown)
	return t, nil
}

// Nop is a Telemetry for tests: it logs nothing and counts nothing; its spans carry ids.
func Nop() *Telemetry {
	return &Telemetry{
		Log: zap.NewNop(), Meter: noopmetric.NewMeterProvider(),
		Tracer:  sdktrace.NewTracerProvider(sdktrace.WithSampler(neverRecord{})),
		handler: http.NotFoundHandler(),
	}
}

// Named returns a Telemetry that logs under another service's name and shares everything else: one process may run
// several services. Only the original is shut down.
func (t *Telemetry) Named(service string) *Telemetry {
	return &Telemetry{Log: t.Log.With(zap.String("service", service)), Meter: t.Meter, Tracer: t.Tracer,
		handler: t.handler, recording: t.recording}
}

// MetricsHandler serves the metrics in Prometheus' text format.
func (t *Telemetry) MetricsHandler() http.Handler { return t.handler }

// Shutdown sends what is still buffered, within ctx.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var errs []error
	for _, f := range t.shutdown {
		errs = append(errs, f(ctx))
	}
	_ = t.Log.Sync() // standard error often can't be synced; nothing is lost by it
	return errors.Join(errs...)
}

// Close is Shutdown with five seconds, for a deferred call: what can't be sent by then is lost, and logged.
func (t *Telemetry) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := t.Shutdown(ctx); err != nil {
		t.Log.Warn("telemetry was not sent to its end", zap.Error(err))
	}
}

func newLogger(cfg Config) (*zap.Logger, error) {
	level := zapcore.InfoLevel
	if cfg.LogLevel != "" {
		if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
			return nil, fmt.Errorf("telemetry: log level: %w", err)
		}
	}
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey, enc.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
	enc.EncodeDuration = zapcore.StringDurationEncoder
	var encoder zapcore.Encoder
	if cfg.LogFormat == "console" {
		enc.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		enc.ConsoleSeparator = "  "
		encoder = zapcore.NewConsoleEncoder(enc)
	} else {
		encoder = zapcore.NewJSONEncoder(enc)
	}
	out := cfg.LogOutput
	if out == nil {
		out = zapcore.Lock(os.Stderr)
	}
	return zap.New(zapcore.NewCore(encoder, out, level), zap.AddStacktrace(zapcore.DPanicLevel)), nil
}

func collectorOptions(cfg Config) []otlptracegrpc.Option {
	var options []otlptracegrpc.Option
	if strings.Contains(cfg.OTLPEndpoint, "://") {
		options = append(options, otlptracegrpc.WithEndpointURL(cfg.OTLPEndpoint))
	} else {
		options = append(options, otlptracegrpc.WithEndpoint(cfg.OTLPEndpoint))
		if cfg.OTLPInsecure {
			options = append(options, otlptracegrpc.WithInsecure())
		}
	}
	headers := map[string]string{}
	for _, h := range cfg.OTLPHeaders {
		if name, v, ok := strings.Cut(h, "="); ok {
			headers[name] = v
		}
	}
	if len(headers) > 0 {
		options = append(options, otlptracegrpc.WithHeaders(headers))
	}
	return options
}

// neverRecord drops every span, whatever its parent says: nobody collects them.
type neverRecord struct{}

func (neverRecord) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	return sdktrace.SamplingResult{Decision: sdktrace.Drop, Tracestate: trace.SpanContextFromContext(p.ParentContext).TraceState()}
}

func (neverRecord) Description() string { return "NeverRecord" }
