package callstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/embedded"
	"github.com/callstream/callstream/pkg/host"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console"
	"github.com/callstream/callstream/services/dispatcher"
	"github.com/callstream/callstream/services/filter"
	"github.com/callstream/callstream/services/producer"
)

// UpConfig is everything that callstream up can be told: the settings of all services, and those of the embedded broker.
type UpConfig struct {
	Host   host.Config
	Topics TopicsConfig

	KafkaAddr    string `config:"KAFKA_ADDR" default:"127.0.0.1:9092" doc:"where the embedded broker listens, for kcat and warehouse clients"`
	RegistryAddr string `config:"SCHEMA_REGISTRY_ADDR" default:"127.0.0.1:8081" doc:"where the embedded schema registry listens"`
	Fsync        bool   `config:"FSYNC" doc:"embedded broker: sync each write before it is acknowledged, so that data survives a power loss"`

	Producer   producer.Config
	Filter     filter.Config
	Dispatcher dispatcher.Config
	Console    console.Config
}

// Validate asks for addresses that the embedded broker and registry can listen on, where they are used.
func (c *UpConfig) Validate() []string {
	var problems []string
	if len(c.Topics.Kafka.Brokers) == 0 {
		problems = host.CheckAddr("CALLSTREAM_KAFKA_ADDR", c.KafkaAddr)
	}
	if len(c.Topics.Registry.URLs) == 0 {
		problems = append(problems, host.CheckAddr("CALLSTREAM_SCHEMA_REGISTRY_ADDR", c.RegistryAddr)...)
	}
	return problems
}

// upDefaults are what callstream up presumes differently from the services: a single machine, and on loopback a person
// who tries it out, with endpoints on the same machine and no API key yet.
func upDefaults(loopback bool) map[string]string {
	d := map[string]string{"PARTITIONS": "8", "HTTP_ADDR": "127.0.0.1:8080", "LOG_FORMAT": "console", "DATA_DIR": "./data"}
	if loopback {
		d["AUTH"], d["ALLOW_PRIVATE_ENDPOINTS"], d["ALLOW_HTTP_ENDPOINTS"] = "off", "true", "true"
	}
	return d
}

func newUpCommand(version string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run everything in one process on this machine",
		Long: `Run the producer, the filter, a dispatcher and the console in one process. Without CALLSTREAM_KAFKA_BROKERS it
brings its own broker and schema registry, and needs nothing else; with it, it uses that cluster. Data stays in
CALLSTREAM_DATA_DIR (./data).`,
		Args: cobra.NoArgs,
	}
	settings := addSettings(cmd, &UpConfig{})
	// Its flags are settings, so a wrong one is a problem of the configuration, as it is for the services apart.
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &config.Errors{Problems: []config.Problem{{Detail: fmt.Sprintf("%v; `%s --help` lists what there is", err, cmd.CommandPath())}}}
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadUp(settings)
		if err != nil {
			return err
		}
		return up(cmd.Context(), version, cfg)
	}
	return cmd
}

// loadUp loads the configuration. Which defaults hold depends on whether the address, which it says itself, is loopback.
func loadUp(settings *settingFlags) (*UpConfig, error) {
	cfg := &UpConfig{}
	err := settings.loadOver(upDefaults(true), cfg)
	if !auth.LoopbackAddr(cfg.Host.HTTPAddr) {
		cfg = &UpConfig{}
		err = settings.loadOver(upDefaults(false), cfg)
	}
	return cfg, err
}

// up runs everything until ctx is cancelled.
func up(ctx context.Context, version string, cfg *UpConfig) error {
	tel, err := telemetry.New(cfg.Host.Telemetry, "callstream", version)
	if err != nil {
		return err
	}
	defer tel.Close()
	own := len(cfg.Topics.Kafka.Brokers) == 0
	addresses, closeEmbedded, err := bringKafka(ctx, tel.Log, cfg)
	if err != nil {
		return err
	}
	// After the services have drained: their last commits need the broker.
	defer closeEmbedded()
	all, err := newServices(version, cfg, tel)
	if err != nil {
		return err
	}
	if own {
		all.dataDir = cfg.Host.DataDir
	}
	return host.Serve(ctx, tel, cfg.Host, addresses, all.handler(), all)
}

// bringKafka starts what cfg doesn't name, the broker, the registry or both, and puts its address into cfg. Then it
// brings the topics and schemas in order. The function returned closes what was started.
func bringKafka(ctx context.Context, log *zap.Logger, cfg *UpConfig) (host.Addresses, func(), error) {
	var addresses host.Addresses
	done := func() {}
	own := len(cfg.Topics.Kafka.Brokers) == 0
	if own || len(cfg.Topics.Registry.URLs) == 0 {
		start := embedded.Start
		if !own {
			start = embedded.StartRegistry
		}
		e, err := start(ctx, embedded.Config{
			KafkaAddr: cfg.KafkaAddr, RegistryAddr: cfg.RegistryAddr, DataDir: cfg.Host.DataDir, Fsync: cfg.Fsync, Log: log,
			Compatible: event.Compatible,
		})
		if err != nil {
			return addresses, done, err
		}
		done = func() {
			if err := e.Close(); err != nil {
				log.Error("closing the embedded broker", zap.Error(err))
			}
		}
		if own {
			addresses.Kafka = e.KafkaAddr()
			cfg.useBrokers([]string{e.KafkaAddr()})
		}
		if len(cfg.Topics.Registry.URLs) == 0 {
			if u, err := url.Parse(e.RegistryURL()); err == nil {
				addresses.SchemaRegistry = u.Host
			}
			cfg.useRegistry([]string{e.RegistryURL()})
		}
	}
	waiting := time.AfterFunc(2*time.Second, func() {
		log.Info("waiting", zap.String("for", "Kafka at "+strings.Join(cfg.Topics.Kafka.Brokers, ", ")+" and the schema registry"))
	})
	defer waiting.Stop()
	_, err := untilReachable(ctx, func() (kafka.TopicReport, error) {
		return applyTopics(ctx, cfg.Topics, log, kafka.TopicOptions{NeverCompact: own})
	})
	if err != nil {
		done()
		return addresses, func() {}, err
	}
	return addresses, done, nil
}

// useBrokers makes every service use these brokers.
func (c *UpConfig) useBrokers(brokers []string) {
	for _, k := range []*kafka.Config{&c.Topics.Kafka, &c.Producer.Kafka, &c.Filter.Kafka, &c.Dispatcher.Config, &c.Console.Kafka} {
		k.Brokers = brokers
	}
}

// useRegistry makes everything use this registry.
func (c *UpConfig) useRegistry(urls []string) { c.Topics.Registry.URLs = urls }

// historyShare is the part of one processor that the history may take from the pipeline beside it.
const historyShare = 0.25

// services are the four of them in one process.
type services struct {
	producer   *producer.Service
	filter     *filter.Service
	dispatcher *dispatcher.Service
	console    *console.Service
	dataDir    string // of the embedded broker; empty where there is none
}

func newServices(version string, cfg *UpConfig, tel *telemetry.Telemetry) (*services, error) {
	registry, err := kafka.NewRegistry(cfg.Topics.Registry)
	if err != nil {
		return nil, err
	}
	// One codec, so that each schema is fetched once.
	codec := event.NewCodec(registry)
	box, err := secret.LoadBox(cfg.Console.EncryptionKey, cfg.Host.DataDir, true)
	if err != nil {
		return nil, err
	}
	s := &services{}
	if s.producer, err = producer.New(cfg.Producer, producer.Deps{Telemetry: tel.Named("producer"), Codec: codec}); err != nil {
		return nil, fmt.Errorf("producer: %w", err)
	}
	if s.filter, err = filter.New(cfg.Filter, filter.Deps{Telemetry: tel.Named("filter"), Codec: codec}); err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	if s.dispatcher, err = dispatcher.New(cfg.Dispatcher, dispatcher.Deps{Telemetry: tel.Named("dispatcher"), Codec: codec, Box: box, Version: version}); err != nil {
		return nil, fmt.Errorf("dispatcher: %w", err)
	}
	if s.console, err = console.New(cfg.Console, console.Deps{Telemetry: tel.Named("console"), Codec: codec, Box: box, Version: version, InForce: s.inForce, KeysInForce: s.producer.WaitKeysApplied, HistoryShare: historyShare, ExtraPaths: map[string][]byte{"/v1/events": producer.OpenAPI()}}); err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	return s, nil
}

// inForce waits until those who act on subscriptions have applied their feed up to an offset.
func (s *services) inForce(ctx context.Context, offset int64) error {
	if err := s.filter.WaitApplied(ctx, offset); err != nil {
		return err
	}
	return s.dispatcher.WaitApplied(ctx, offset)
}

// Run runs all services until ctx is cancelled or one of them fails.
func (s *services) Run(ctx context.Context) error {
	group, _ := run.NewGroup(ctx)
	group.Go("producer", s.producer.Run)
	group.Go("filter", s.filter.Run)
	group.Go("dispatcher", s.dispatcher.Run)
	group.Go("console", s.console.Run)
	return group.Wait()
}

// Ready is nil when all services are, and the embedded broker can take what they write.
func (s *services) Ready() error {
	var waits []error
	if s.dataDir != "" {
		if err := room(s.dataDir, leastRoom); err != nil {
			waits = append(waits, fmt.Errorf("embedded broker: %w", err))
		}
	}
	for name, ready := range map[string]func() error{
		"producer": s.producer.Ready, "filter": s.filter.Ready, "dispatcher": s.dispatcher.Ready, "console": s.console.Ready,
	} {
		if err := ready(); err != nil {
			waits = append(waits, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(waits...)
}

// handler serves the whole API: posting events is the producer's, everything else the console's.
func (s *services) handler() http.Handler {
	events, others := s.producer.Handler(), s.console.Handler()
	// Not a ServeMux, which would redirect from ids such as "..".
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/events" {
			events.ServeHTTP(w, r)
			return
		}
		others.ServeHTTP(w, r)
	})
}
