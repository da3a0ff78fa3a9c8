package callstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/callstream/callstream/pkg/config"
)

// doctorConfig is what the doctor must know of an installation. It is the services' own configuration, as far as that
// concerns what they share.
type doctorConfig struct {
	Topics TopicsConfig

	KafkaAddr     string `config:"KAFKA_ADDR" default:"127.0.0.1:9092" doc:"where the embedded broker of callstream up listens"`
	RegistryAddr  string `config:"SCHEMA_REGISTRY_ADDR" default:"127.0.0.1:8081" doc:"where the embedded schema registry listens"`
	DataDir       string `config:"DATA_DIR" default:"./data" doc:"folder of callstream up: embedded broker, SQLite, generated keys"`
	DatabaseURL   string `config:"DATABASE_URL" secret:"true" doc:"database of subscriptions and keys; empty for SQLite in the data directory"`
	EncryptionKey string `config:"ENCRYPTION_KEY" secret:"true" doc:"key that subscription secrets are sealed with"`
}

// The outcomes of a check.
const (
	statusOK   = "ok"
	statusWarn = "warn"
	statusFail = "fail"
	statusSkip = "skip" // what it needs has failed already
)

// finding is what a check has found.
type finding struct {
	Check  string `json:"check"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	// Mend says what to do about it.
	Mend string `json:"mend,omitempty"`
}

// doctor looks an installation over. The checks are in files of their own and add their findings.
type doctor struct {
	cfg doctorConfig
	// embedded says that no cluster is configured: the one of `callstream up` on this machine is looked at.
	embedded bool
	// partitionsGiven says that their number was configured; else that of the topics found is right.
	partitionsGiven bool
	api             *apiClient
	now             func() time.Time
	timeout         time.Duration
	findings        []finding
}

func newDoctorCommand() *cobra.Command {
	var api apiFlags
	var out output
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong with an installation, and how to mend it",
		Long: `Look over configuration, broker, topics, schema registry, database, subscriptions, history, encryption key, clocks,
consumer groups, disk and API, as the environment, --config and the flags below describe them, and say for each whether it is in order, and how
to mend what is not. Nothing is changed. The exit status is 1 when something has failed.

Without CALLSTREAM_KAFKA_BROKERS it looks at the ` + "`callstream up`" + ` that runs on this machine.`,
		Args: cobra.NoArgs,
	}
	api.addTo(cmd)
	out.addTo(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long each check may take")
	settings := addSettings(cmd, &doctorConfig{})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := api.client(cmd)
		if err != nil {
			return err
		}
		d := &doctor{api: c, now: time.Now, timeout: timeout}
		if d.configure(settings) {
			d.examine(cmd.Context())
		}
		if err := d.print(cmd.OutOrStdout(), out.json); err != nil {
			return err
		}
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		return d.verdict()
	}
	return cmd
}

// configure loads the configuration. With mistakes in it there is nothing to look at.
func (d *doctor) configure(settings *settingFlags) bool {
	err := settings.load(&d.cfg)
	var wrong *config.Errors
	switch {
	case errors.As(err, &wrong):
		for _, p := range wrong.Problems {
			d.add("configuration", statusFail, strings.TrimPrefix(p.Where+": ", ": ")+p.Detail, "")
		}
		return false
	case err != nil:
		d.add("configuration", statusFail, err.Error(), "")
		return false
	}
	d.embedded = len(d.cfg.Topics.Kafka.Brokers) == 0
	// A setting that nobody gave follows whatever default it is loaded with.
	var one, two doctorConfig
	if settings.loadOver(map[string]string{"PARTITIONS": "1"}, &one) == nil && settings.loadOver(map[string]string{"PARTITIONS": "2"}, &two) == nil {
		d.partitionsGiven = one.Topics.Partitions == two.Topics.Partitions
	}
	if d.embedded {
		d.add("configuration", statusOK, "no CALLSTREAM_KAFKA_BROKERS: looking at `callstream up` on this machine, data in "+d.cfg.DataDir, "")
		d.findUp()
	} else {
		d.add("configuration", statusOK, "the cluster at "+strings.Join(d.cfg.Topics.Kafka.Brokers, ", "), "")
	}
	return true
}

// examine makes every check.
func (d *doctor) examine(parent context.Context) {
	within := func(check func(context.Context)) {
		ctx, cancel := context.WithTimeout(parent, d.timeout)
		defer cancel()
		check(ctx)
	}
	d.checkKafka(parent)
	within(d.checkRegistry)
	within(d.checkDatabase)
	d.checkKey()
	d.checkDisk()
	within(d.checkAPI)
}

func (d *doctor) add(check, status, detail, mend string) {
	d.findings = append(d.findings, finding{Check: check, Status: status, Detail: oneLine(detail), Mend: mend})
}

// verdict is an error when a check has failed.
func (d *doctor) verdict() error {
	failed := 0
	for _, f := range d.findings {
		if f.Status == statusFail {
			failed++
		}
	}
	switch failed {
	case 0:
		return nil
	case 1:
		return errors.New("1 check failed")
	}
	return fmt.Errorf("%d checks failed", failed)
}

func (d *doctor) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, map[string]any{"ok": d.verdict() == nil, "findings": d.findings})
	}
	marks := map[string]string{statusOK: "✓", statusWarn: "!", statusFail: "✗", statusSkip: "–"}
	width := 0
	for _, f := range d.findings {
		width = max(width, len(f.Check))
	}
	for _, f := range d.findings {
		if _, err := fmt.Fprintf(w, "%s %-*s  %s\n", marks[f.Status], width, f.Check, f.Detail); err != nil {
			return err
		}
		if f.Mend != "" {
			if _, err := fmt.Fprintf(w, "  %-*s  → %s\n", width, "", f.Mend); err != nil {
				return err
			}
		}
	}
	return nil
}
