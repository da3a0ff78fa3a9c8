// Command console serves the API for subscriptions and keys, and publishes their changes on the feeds.
package main

import (
	"context"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/httpserver"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console"
)

type settings struct {
	Console   console.Config
	Registry  kafka.RegistryConfig
	Telemetry telemetry.Config
}

// Validate asks for what the service can't do without when it runs by itself.
func (s *settings) Validate() []string {
	var problems []string
	if len(s.Console.Kafka.Brokers) == 0 {
		problems = append(problems, "CALLSTREAM_KAFKA_BROKERS: it is required: name the seed brokers as host:port,host:port (only callstream up embeds a broker)")
	}
	if len(s.Registry.URLs) == 0 {
		problems = append(problems, "CALLSTREAM_SCHEMA_REGISTRY_URL: it is required: name the Confluent-compatible registry, such as http://registry:8081")
	}
	if s.Console.EncryptionKey == "" {
		problems = append(problems, "CALLSTREAM_ENCRYPTION_KEY: it is required: 32 bytes in base64 or hex (openssl rand -base64 32), the same for every service")
	}
	return problems
}

func main() { run.Main("console", start) }

func start(ctx context.Context, args []string) error {
	var s settings
	source := config.OS(args)
	source.Warn = run.Warner("console")
	if err := config.Load(&s, source); err != nil {
		return err
	}
	tel, err := telemetry.New(s.Telemetry, "console", run.Version())
	if err != nil {
		return err
	}
	defer tel.Close()
	registry, err := kafka.NewRegistry(s.Registry)
	if err != nil {
		return err
	}
	key, err := secret.LoadKey(s.Console.EncryptionKey, s.Console.DataDir, false)
	if err != nil {
		return err
	}
	box, err := secret.NewBox(key)
	if err != nil {
		return err
	}
	service, err := console.New(s.Console, console.Deps{Telemetry: tel, Codec: event.NewCodec(registry), Box: box})
	if err != nil {
		return err
	}
	mux := httpserver.Health(service.Ready, tel.MetricsHandler())
	mux.Handle("/", service.Handler())
	return run.Service(ctx, run.Process{
		Addr: s.Console.HTTPAddr, Handler: mux, DataDir: s.Console.DataDir, Log: tel.Log,
		Ready: service.Ready, Run: service.Run,
	})
}
