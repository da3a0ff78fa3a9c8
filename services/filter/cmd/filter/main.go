// Command filter decides which subscriptions get an event, and renders what they are sent.
package main

import (
	"context"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/httpserver"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/filter"
)

type settings struct {
	Filter    filter.Config
	Registry  kafka.RegistryConfig
	Telemetry telemetry.Config
}

// Validate asks for what the service can't do without when it runs by itself.
func (s *settings) Validate() []string {
	var problems []string
	if len(s.Filter.Kafka.Brokers) == 0 {
		problems = append(problems, "CALLSTREAM_KAFKA_BROKERS: it is required: name the seed brokers as host:port,host:port (only callstream up embeds a broker)")
	}
	if len(s.Registry.URLs) == 0 {
		problems = append(problems, "CALLSTREAM_SCHEMA_REGISTRY_URL: it is required: name the Confluent-compatible registry, such as http://registry:8081")
	}
	return problems
}

func main() { run.Main("filter", start) }

func start(ctx context.Context, args []string) error {
	var s settings
	source := config.OS(args)
	source.Warn = run.Warner("filter")
	if err := config.Load(&s, source); err != nil {
		return err
	}
	tel, err := telemetry.New(s.Telemetry, "filter", run.Version())
	if err != nil {
		return err
	}
	defer tel.Close()
	registry, err := kafka.NewRegistry(s.Registry)
	if err != nil {
		return err
	}
	service, err := filter.New(s.Filter, filter.Deps{Telemetry: tel, Codec: event.NewCodec(registry)})
	if err != nil {
		return err
	}
	return run.Service(ctx, run.Process{
		Addr: s.Filter.HTTPAddr, Handler: httpserver.Health(service.Ready, tel.MetricsHandler()), DataDir: s.Filter.DataDir, Log: tel.Log,
		Ready: service.Ready, Run: service.Run,
	})
}
