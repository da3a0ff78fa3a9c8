package callstream

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
)

// historyConfig is what must be known to work on the history itself.
type historyConfig struct {
	Kafka kafka.Config

	KafkaAddr   string `config:"KAFKA_ADDR" default:"127.0.0.1:9092" doc:"where the embedded broker of callstream up listens"`
	DataDir     string `config:"DATA_DIR" default:"./data" doc:"folder with the SQLite database"`
	DatabaseURL string `config:"DATABASE_URL" secret:"true" doc:"database of the console; empty for SQLite in the data directory"`
}

func (c *historyConfig) storage() storage.Config {
	return storage.Config{URL: c.DatabaseURL, DataDir: c.DataDir}
}

func newHistoryCommand() *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "history",
		Short: "The database that events and deliveries are looked up in",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	out.addTo(cmd)
	cmd.AddCommand(newHistoryStatus(&out), newHistoryRebuild(&out))
	return cmd
}

func newHistoryStatus(out *output) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "How much it holds, and how far it is behind the topics",
		Long: `Say how many events and deliveries the history holds, and how many records of each topic are not in it yet. It works
on the database itself, and takes the console's configuration.`,
		Args: cobra.NoArgs,
	}
	settings := addSettings(cmd, &historyConfig{})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var cfg historyConfig
		if err := settings.load(&cfg); err != nil {
			return err
		}
		if len(cfg.Kafka.Brokers) == 0 {
			cfg.Kafka.Brokers = []string{firstOf(addressesOf(cfg.DataDir).Kafka, cfg.KafkaAddr)}
		}
		store, err := history.Open(cmd.Context(), cfg.storage())
		if err != nil {
			return err
		}
		defer store.Close()
		project, err := history.NewProjection(history.ProjectionConfig{Kafka: cfg.Kafka, Log: zap.NewNop(), Meter: telemetry.Nop().Meter}, store)
		if err != nil {
			return err
		}
		defer project.Close()
		s, err := project.Status(cmd.Context())
		if err != nil {
			return err
		}
		total := int64(0)
		rows := [][]string{}
		for _, topic := range slices.Sorted(maps.Keys(s.Behind)) {
			total += s.Behind[topic]
			rows = append(rows, []string{topic, thousands(s.Behind[topic])})
		}
		if out.json {
			return printJSON(cmd.OutOrStdout(), map[string]any{
				"generation": s.Generation, "events": s.Events, "deliveries": s.Deliveries, "behind": total, "topics": s.Behind,
			})
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s and %d deliveries, %s records behind.\n\n", count(s.Events, "event"), s.Deliveries, thousands(total))
		return table(cmd.OutOrStdout(), "The topics are not there yet.", []string{"TOPIC", "RECORDS BEHIND"}, rows)
	}
	return cmd
}

func newHistoryRebuild(out *output) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Drop it, and have it made again from the topics",
		Long: `Drop the history and have it made again from what Kafka still has, by the console that runs, or the next one. What is
older than the topics' retention does not come back. It works on the database itself, and takes the console's configuration.
Deliveries are not affected.`,
		Args: cobra.NoArgs,
	}
	settings := addSettings(cmd, &databaseConfig{})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var cfg databaseConfig
		if err := settings.load(&cfg); err != nil {
			return err
		}
		if err := history.Rebuild(cmd.Context(), storage.Config{URL: cfg.DatabaseURL, DataDir: cfg.DataDir}); err != nil {
			return err
		}
		if out.json {
			return printJSON(cmd.OutOrStdout(), map[string]any{"rebuilding": true})
		}
		fmt.Fprintln(cmd.OutOrStdout(), "The history begins again; `callstream history status` says how far it is.")
		return nil
	}
	return cmd
}
