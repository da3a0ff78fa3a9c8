package callstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// TopicsConfig is what the pipeline's topics depend on. It is the same for every service of an installation.
type TopicsConfig struct {
	Kafka    kafka.Config
	Registry kafka.RegistryConfig

	Partitions        int             `config:"PARTITIONS" default:"48" min:"1" max:"10000" doc:"partitions of every pipeline topic; fixed once they are created"`
	ReplicationFactor int             `config:"REPLICATION_FACTOR" default:"0" min:"0" doc:"replicas of topics that are created; 0 takes the cluster's default"`
	Lanes             []string        `config:"LANES" default:"standard" doc:"delivery lanes"`
	RetrySchedule     []time.Duration `config:"RETRY_SCHEDULE" default:"5s,30s,2m,10m,1h,6h,12h" doc:"default delays between the attempts of a delivery; there is a retry topic for each"`
}

// declared returns every topic of the installation.
func (c TopicsConfig) declared() []topic.Topic {
	return topic.All(topic.Policy{Partitions: c.Partitions, Lanes: c.Lanes, RetryDelays: c.RetrySchedule})
}

func (c TopicsConfig) specs() []kafka.TopicSpec {
	var specs []kafka.TopicSpec
	for _, t := range c.declared() {
		specs = append(specs, kafka.TopicSpec{
			Name: t.Name, Partitions: t.Partitions, Replicas: c.ReplicationFactor, Retention: t.Retention, Compact: t.Compact, MaxBytes: t.MaxBytes,
		})
	}
	return specs
}

// applyTopics creates or checks every topic and registers every schema. It may be repeated, and run by several processes
// at the same time.
func applyTopics(ctx context.Context, cfg TopicsConfig, log *zap.Logger, opts kafka.TopicOptions) (kafka.TopicReport, error) {
	options, err := cfg.Kafka.Options(log)
	if err != nil {
		return kafka.TopicReport{}, err
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return kafka.TopicReport{}, fmt.Errorf("connect to Kafka: %w", err)
	}
	defer client.Close()
	if err := client.Ping(ctx); err != nil {
		return kafka.TopicReport{}, fmt.Errorf("%w: reach Kafka at %s: %w", kafka.ErrTransient, strings.Join(cfg.Kafka.Brokers, ", "), err)
	}
	// First a look, then the changes: where one topic refuses, none may have changed. All pipeline topics need the same
	// number of partitions, and those that grew could not shrink again.
	look := opts
	look.DryRun = true
	report, err := kafka.EnsureTopics(ctx, client, cfg.specs(), log, look)
	if err != nil {
		return kafka.TopicReport{}, err
	}
	if opts.DryRun {
		return report, nil
	}
	report, err = kafka.EnsureTopics(ctx, client, cfg.specs(), log, opts)
	if err != nil {
		return report, err
	}
	registry, err := kafka.NewRegistry(cfg.Registry)
	if err != nil {
		return report, err
	}
	for _, t := range cfg.declared() {
		if topic.IsEvents(t.Name) {
			if err := registry.SetFullTransitive(ctx, t.Subject()); err != nil {
				return report, err
			}
		}
	}
	if err := event.NewCodec(registry).Prepare(ctx); err != nil {
		return report, fmt.Errorf("register the schemas: %w", err)
	}
	return report, nil
}

func newTopicsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "topics",
		Short: "Create, check and list the Kafka topics",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	out := &output{}
	out.addTo(cmd)
	cmd.AddCommand(newTopicsApplyCommand(out), newTopicsListCommand(out))
	return cmd
}

func newTopicsApplyCommand(out *output) *cobra.Command {
	var dryRun bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Create the topics that are missing, correct the settings of the others, register the schemas",
		Long: `Create the topics that are missing, set retention, clean-up and size of those that differ, and register the
schemas. The number of partitions of a topic that has records in it is never changed: that is an error.
Safe to repeat. The cluster is waited for, as --wait says.`,
		Args: cobra.NoArgs,
	}
	settings := addSettings(cmd, &TopicsConfig{})
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done, and do nothing")
	cmd.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait for a cluster or registry that is away")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var cfg TopicsConfig
		if err := settings.load(&cfg); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), wait)
		defer cancel()
		report, err := untilReachable(ctx, func() (kafka.TopicReport, error) {
			return applyTopics(ctx, cfg, zap.NewNop(), kafka.TopicOptions{DryRun: dryRun})
		})
		if err != nil {
			return err
		}
		if out.json {
			return printJSON(cmd.OutOrStdout(), topicsJSON(report))
		}
		_, err = fmt.Fprint(cmd.OutOrStdout(), report.String())
		return err
	}
	return cmd
}

// untilReachable repeats try while what it needs is away, until ctx ends; then it returns the last error.
func untilReachable[T any](ctx context.Context, try func() (T, error)) (T, error) {
	for {
		v, err := try()
		away := errors.Is(err, kafka.ErrTransient) || errors.Is(err, kafka.ErrUnreachable) || errors.Is(err, event.ErrRegistry)
		if err == nil || !away || ctx.Err() != nil {
			return v, err
		}
		if run.Sleep(ctx, 250*time.Millisecond) != nil {
			return v, err
		}
	}
}

func topicsJSON(report kafka.TopicReport) any {
	type change struct {
		Topic   string   `json:"topic"`
		Created bool     `json:"created"`
		Changed []string `json:"changed,omitempty"`
	}
	changes := make([]change, 0, len(report.Changes))
	for _, c := range report.Changes {
		changes = append(changes, change(c))
	}
	return struct {
		Changes   []change `json:"changes"`
		Unchanged int      `json:"unchanged"`
	}{changes, report.Unchanged}
}

func newTopicsListCommand(out *output) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the topics as they are declared: what each holds, its key, partitions and retention",
		Args:  cobra.NoArgs,
	}
	settings := addSettings(cmd, &TopicsConfig{})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var cfg TopicsConfig
		if err := settings.load(&cfg); err != nil {
			return err
		}
		type row struct {
			Name       string `json:"name"`
			Doc        string `json:"doc"`
			Key        string `json:"key"`
			Schema     string `json:"schema"`
			Partitions int    `json:"partitions"`
			Retention  string `json:"retention"`
			Compact    bool   `json:"compact"`
			MaxBytes   int    `json:"max_bytes"`
		}
		var rows []row
		var cells [][]string
		for _, t := range cfg.declared() {
			r := row{t.Name, t.Doc, t.Key, t.Schema, t.Partitions, t.Kept(), t.Compact, t.MaxBytes}
			rows = append(rows, r)
			cells = append(cells, []string{r.Name, fmt.Sprint(r.Partitions), r.Retention, r.Key, r.Doc})
		}
		if out.json {
			raw, err := json.Marshal(rows)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), json.RawMessage(raw))
		}
		return table(cmd.OutOrStdout(), "no topics", []string{"TOPIC", "PARTITIONS", "RETENTION", "KEY", "HOLDS"}, cells)
	}
	return cmd
}
