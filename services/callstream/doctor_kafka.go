package callstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/host"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console"
	"github.com/callstream/callstream/services/dispatcher"
	"github.com/callstream/callstream/services/filter"
)

// findUp takes the addresses of the `callstream up` on this machine from what it has written, else from the settings.
func (d *doctor) findUp() {
	a := addressesOf(d.cfg.DataDir)
	if a.HTTP != "" && d.api.base == defaultAPI {
		d.api.base = "http://" + a.HTTP
	}
	d.cfg.Topics.Kafka.Brokers = []string{firstOf(a.Kafka, d.cfg.KafkaAddr)}
	if len(d.cfg.Topics.Registry.URLs) == 0 {
		d.cfg.Topics.Registry.URLs = []string{"http://" + firstOf(a.SchemaRegistry, d.cfg.RegistryAddr)}
	}
}

// addressesOf reads what the `callstream up` with this data directory has written; nothing where none has.
func addressesOf(dataDir string) (a host.Addresses) {
	raw, err := os.ReadFile(filepath.Join(dataDir, "addresses.json"))
	if err != nil || json.Unmarshal(raw, &a) != nil {
		return host.Addresses{}
	}
	return a
}

// checkKafka looks at the brokers, the topics and the consumer groups.
func (d *doctor) checkKafka(parent context.Context) {
	options, err := d.cfg.Topics.Kafka.Options(zap.NewNop())
	if err != nil {
		d.add("broker", statusFail, err.Error(), "correct the CALLSTREAM_KAFKA_… settings")
		return
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		d.add("broker", statusFail, err.Error(), "correct the CALLSTREAM_KAFKA_… settings")
		return
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	reachable := false
	for _, check := range []func(context.Context){
		func(ctx context.Context) { reachable = d.checkBroker(ctx, adm) },
		func(ctx context.Context) {
			if reachable {
				d.checkTopics(ctx, client, adm)
			}
		},
		func(ctx context.Context) {
			if reachable {
				d.checkGroups(ctx, adm)
			}
		},
		func(ctx context.Context) {
			if reachable {
				d.checkHistory(ctx, adm)
			}
		},
	} {
		ctx, cancel := context.WithTimeout(parent, d.timeout)
		check(ctx)
		cancel()
	}
	if !reachable {
		d.add("topics", statusSkip, "not looked at without a broker", "")
		d.add("consumer groups", statusSkip, "not looked at without a broker", "")
		d.add("history", statusSkip, "not looked at without a broker", "")
	}
}

func (d *doctor) checkBroker(ctx context.Context, adm *kadm.Client) bool {
	where := strings.Join(d.cfg.Topics.Kafka.Brokers, ", ")
	meta, err := adm.BrokerMetadata(ctx)
	if err != nil {
		mend := "start the cluster, or correct CALLSTREAM_KAFKA_BROKERS; behind TLS or a log-in set CALLSTREAM_KAFKA_TLS and CALLSTREAM_KAFKA_SASL_…"
		if d.embedded {
			mend = "start it with `callstream up`, or name a cluster with CALLSTREAM_KAFKA_BROKERS"
		}
		d.add("broker", statusFail, fmt.Sprintf("no answer from %s: %s", where, cause(err)), mend)
		return false
	}
	if d.embedded {
		d.add("broker", statusOK, "embedded, at "+where+": one copy of the data, for one machine", "")
		return true
	}
	detail := fmt.Sprintf("%s at %s", count(len(meta.Brokers), "broker"), where)
	if versions, err := adm.ApiVersions(ctx); err == nil {
		var seen []string
		for _, v := range versions {
			if guess := v.VersionGuess(); v.Err == nil && !slices.Contains(seen, guess) {
				seen = append(seen, guess)
			}
		}
		if len(seen) > 0 {
			slices.Sort(seen)
			detail += ", Kafka " + strings.Join(seen, " and ")
		}
	}
	d.add("broker", statusOK, detail, "")
	d.checkMetadataSize(ctx, adm, meta.Brokers)
	return true
}

// checkMetadataSize looks at the brokers' bound on commit metadata: ours holds up to kafka.MaxMetadata bytes, and a commit
// that the broker refuses would be repeated for ever.
func (d *doctor) checkMetadataSize(ctx context.Context, adm *kadm.Client, brokers kadm.BrokerDetails) {
	if len(brokers) == 0 {
		return
	}
	configs, err := adm.DescribeBrokerConfigs(ctx, brokers[0].NodeID)
	if err != nil {
		return // not everybody may read them; the default is enough
	}
	for _, c := range configs {
		for _, entry := range c.Configs {
			if entry.Key != "offset.metadata.max.bytes" || entry.Value == nil {
				continue
			}
			if n, err := strconv.Atoi(*entry.Value); err == nil && n < kafka.MaxMetadata {
				d.add("broker", statusFail, fmt.Sprintf("offset.metadata.max.bytes is %d, and commits need %d", n, kafka.MaxMetadata),
					"set offset.metadata.max.bytes=4096, Kafka's default, on every broker")
			}
		}
	}
}

func (d *doctor) checkTopics(ctx context.Context, client *kgo.Client, adm *kadm.Client) {
	cfg := d.cfg.Topics
	details, err := adm.ListTopics(ctx)
	if err != nil {
		d.add("topics", statusFail, "they can't be listed: "+cause(err), "")
		return
	}
	apply := "callstream topics apply"
	if d.embedded {
		apply = "start `callstream up` again"
	}
	if t, ok := details[topic.CallsEvents]; ok && !d.partitionsGiven {
		cfg.Partitions = len(t.Partitions)
	}
	var missing, partitions, replicas, leaderless []string
	for _, t := range cfg.declared() {
		found, ok := details[t.Name]
		if !ok || errors.Is(found.Err, kerr.UnknownTopicOrPartition) {
			missing = append(missing, t.Name)
			continue
		}
		if n := len(found.Partitions); n != t.Partitions {
			partitions = append(partitions, fmt.Sprintf("%s has %d, not %d", t.Name, n, t.Partitions))
		}
		for _, p := range found.Partitions {
			switch {
			case p.Leader < 0:
				leaderless = append(leaderless, fmt.Sprintf("%s/%d", t.Name, p.Partition))
			case len(p.ISR) < len(p.Replicas):
				replicas = append(replicas, fmt.Sprintf("%s/%d (%d of %d)", t.Name, p.Partition, len(p.ISR), len(p.Replicas)))
			}
		}
	}
	before := len(d.findings)
	if len(missing) > 0 {
		d.add("topics", statusFail, few("missing: ", missing), apply)
	}
	if len(partitions) > 0 {
		d.add("topics", statusFail, few("wrong number of partitions: ", partitions),
			"set CALLSTREAM_PARTITIONS to what they were created with, or create them anew: the number can't change under records")
	}
	if len(leaderless) > 0 {
		d.add("topics", statusFail, few("without a leader: ", leaderless), "bring the brokers back that hold them")
	}
	if len(replicas) > 0 {
		d.add("topics", statusWarn, few("replicas out of sync: ", replicas), "bring the brokers back that hold them, or wait until they have caught up")
	}
	if len(missing) == 0 && len(partitions) == 0 {
		// What is left to differ is retention, clean-up and sizes.
		report, err := kafka.EnsureTopics(ctx, client, cfg.specs(), nil, kafka.TopicOptions{DryRun: true, NeverCompact: d.embedded})
		switch {
		case err != nil:
			d.add("topics", statusWarn, "their settings can't be compared: "+cause(err), "")
		case len(report.Changes) > 0:
			var changes []string
			for _, c := range report.Changes {
				changes = append(changes, c.Topic+" ("+strings.Join(c.Changed, ", ")+")")
			}
			d.add("topics", statusWarn, few("settings differ from what is declared: ", changes), apply)
		}
	}
	if len(d.findings) == before {
		d.add("topics", statusOK, fmt.Sprintf("%d topics, %d partitions each, as declared", len(cfg.declared()), cfg.Partitions), "")
	}
}

// checkGroups looks at who consumes, and how far behind they are.
func (d *doctor) checkGroups(ctx context.Context, adm *kadm.Client) {
	lags, err := adm.Lag(ctx, filter.Group, filter.ReplayGroup, dispatcher.Group, console.Group)
	if err != nil {
		d.add("consumer groups", statusWarn, "they can't be described: "+cause(err), "")
		return
	}
	for _, g := range []struct{ group, service string }{{filter.Group, "filter"}, {filter.ReplayGroup, "filter"}, {dispatcher.Group, "dispatcher"}, {console.Group, "console"}} {
		check := "consumer groups"
		lag, ok := lags[g.group]
		if err := lag.Error(); !ok || err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
			d.add(check, statusWarn, fmt.Sprintf("%s can't be described: %v", g.group, err), "")
			continue
		}
		behind := lag.Lag.Total()
		start := "start a " + g.service
		if d.embedded {
			start = "start `callstream up`"
		}
		switch {
		case lag.State == "Dead" || lag.State == "" || len(lag.Members) == 0 && behind <= 0:
			d.add(check, statusWarn, fmt.Sprintf("no %s is running (group %s)", g.service, g.group), start)
		case len(lag.Members) == 0:
			d.add(check, statusFail, fmt.Sprintf("no %s is running (group %s), and %s records wait", g.service, g.group, thousands(behind)), start)
		case lag.State != "Stable":
			d.add(check, statusWarn, fmt.Sprintf("%s is %s, %s, %s records behind", g.group, lag.State, count(len(lag.Members), "member"), thousands(behind)), "wait until the group is stable, and look again")
		default:
			d.add(check, statusOK, fmt.Sprintf("%s: %s, %s records behind", g.group, count(len(lag.Members), "member"), thousands(behind)), "")
		}
	}
}

// few joins a list that may be long.
func few(text string, list []string) string {
	if len(list) > 5 {
		return text + strings.Join(list[:5], ", ") + fmt.Sprintf(" and %d more", len(list)-5)
	}
	return text + strings.Join(list, ", ")
}

// cause is an error's text without the client's own story of how it got there.
func cause(err error) string {
	text := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		return "it took too long (" + text + ")"
	}
	return text
}
