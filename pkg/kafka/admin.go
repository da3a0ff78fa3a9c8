package kafka

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/run"
)

// ErrPartitionsFixed means that a topic with records in it has another number of partitions than declared. Records are
// placed by hash modulo that number, so changing it would break order and ownership of what is in flight.
var ErrPartitionsFixed = errors.New("the partition count of a topic that is not empty can't change")

// TopicSpec is a topic as it should be.
type TopicSpec struct {
	Name       string
	Partitions int
	// Replicas is the replication factor to create it with; zero or less for the cluster's default. Existing topics
	// keep theirs.
	Replicas int
	// Retention is how long records are kept; negative for ever, zero for the cluster's default.
	Retention time.Duration
	// Compact keeps the newest record of each key instead of deleting by age alone.
	Compact bool
	// MaxBytes is the largest batch, and so record, that the topic takes; zero for the cluster's default.
	MaxBytes int
}

func (s TopicSpec) configs() map[string]string {
	c := map[string]string{"cleanup.policy": "delete"}
	if s.Compact {
		c["cleanup.policy"] = "compact"
	}
	switch {
	case s.Retention < 0:
		c["retention.ms"] = "-1"
	case s.Retention > 0:
		c["retention.ms"] = strconv.FormatInt(s.Retention.Milliseconds(), 10)
	}
	if s.MaxBytes > 0 {
		c["max.message.bytes"] = strconv.Itoa(s.MaxBytes)
	}
	return c
}

// TopicChange is what EnsureTopics did to a topic.
type TopicChange struct {
	Topic string
	// Created tells that it did not exist.
	Created bool
	// Changed lists what was set, as "retention.ms: 604800000 → 86400000".
	Changed []string
}

// TopicReport lists the topics that were created or changed, in the order of their declaration, and how many were as
// declared already.
type TopicReport struct {
	Changes   []TopicChange
	Unchanged int
}

// String is the report for people, one line a change.
func (r TopicReport) String() string {
	var b strings.Builder
	for _, c := range r.Changes {
		if c.Created {
			fmt.Fprintf(&b, "%s: created (%s)\n", c.Topic, strings.Join(c.Changed, ", "))
			continue
		}
		fmt.Fprintf(&b, "%s: changed (%s)\n", c.Topic, strings.Join(c.Changed, ", "))
	}
	fmt.Fprintf(&b, "%d unchanged\n", r.Unchanged)
	return b.String()
}

// TopicOptions changes what EnsureTopics does.
type TopicOptions struct {
	// DryRun reports what would be done and does nothing.
	DryRun bool
	// NeverCompact declares compacted topics as kept for ever instead, for a broker whose compaction is not to be
	// trusted (the embedded one's is not crash-safe).
	NeverCompact bool
}

// EnsureTopics creates the topics that are missing and sets retention, clean-up and size limit of those that differ. It
// refuses, with ErrPartitionsFixed, to change the number of partitions of a topic that is not empty, and reports every
// such topic; all others are still brought in order. It is safe to run at the same time in several processes.
func EnsureTopics(ctx context.Context, client *kgo.Client, specs []TopicSpec, log *zap.Logger, opts TopicOptions) (TopicReport, error) {
	var report TopicReport
	adm := kadm.NewClient(client)
	adm.SetTimeoutMillis(15_000)

	names := make([]string, len(specs))
	for i := range specs {
		names[i] = specs[i].Name
		if opts.NeverCompact && specs[i].Compact {
			specs = append([]TopicSpec(nil), specs...)
			specs[i].Compact, specs[i].Retention = false, -1
		}
	}
	// Past the client's cache of metadata: what another process, or we, did a moment ago must show.
	ctx = kadm.WithAuthorizedOps(ctx)
	details, err := settledTopics(ctx, adm, false, names)
	if err != nil {
		return report, err
	}

	var problems []error
	var existing []TopicSpec
	for _, s := range specs {
		d, ok := details[s.Name]
		switch {
		case ok && d.Err == nil:
			existing = append(existing, s)
			continue
		case ok && !errors.Is(d.Err, kerr.UnknownTopicOrPartition):
			problems = append(problems, fmt.Errorf("describe topic %s: %w", s.Name, d.Err))
			continue
		}
		created, err := createTopic(ctx, adm, s, opts.DryRun)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if !created { // another process was quicker
			existing = append(existing, s)
			continue
		}
		change := TopicChange{Topic: s.Name, Created: true, Changed: append([]string{fmt.Sprintf("partitions: %d", s.Partitions)}, settings(s.configs())...)}
		report.Changes = append(report.Changes, change)
		if log != nil && !opts.DryRun {
			log.Info("topic created", zap.String("topic", s.Name), zap.Int("partitions", s.Partitions), zap.Strings("settings", change.Changed))
		}
	}
	if len(existing) > 0 {
		errs := alignTopics(ctx, adm, existing, log, opts.DryRun, &report)
		problems = append(problems, errs...)
	}
	return report, errors.Join(problems...)
}

// settledTopics describes topics. A broker that has just heard of a topic may say for a moment that it has no partitions, or,
// of one that exists, that there is none: that is asked again, for up to ten seconds, and never taken for a count.
func settledTopics(ctx context.Context, adm *kadm.Client, exist bool, names []string) (kadm.TopicDetails, error) {
	giveUp := time.Now().Add(10 * time.Second)
	for {
		details, err := adm.ListTopics(ctx, names...)
		if err != nil {
			return nil, fmt.Errorf("list topics: %w", err)
		}
		unsettled := ""
		for _, name := range names {
			d, ok := details[name]
			absent := !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition)
			if absent && exist || !absent && (errors.Is(d.Err, kerr.LeaderNotAvailable) || d.Err == nil && len(d.Partitions) == 0) {
				unsettled = name
			}
		}
		if unsettled == "" {
			return details, nil
		}
		if time.Now().After(giveUp) {
			return nil, fmt.Errorf("list topics: the brokers don't agree yet on topic %s; try again", unsettled)
		}
		if err := run.Sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, fmt.Errorf("list topics: %w", err)
		}
	}
}

func settings(c map[string]string) []string {
	out := make([]string, 0, len(c))
	for k, v := range c {
		out = append(out, k+": "+v)
	}
	sort.Strings(out)
	return out
}

func createTopic(ctx context.Context, adm *kadm.Client, s TopicSpec, dry bool) (bool, error) {
	configs := make(map[string]*string)
	for k, v := range s.configs() {
		configs[k] = kadm.StringPtr(v)
	}
	replicas := int16(-1)
	if s.Replicas > 0 {
		replicas = int16(s.Replicas)
	}
	create := adm.CreateTopic
	if dry {
		create = func(ctx context.Context, p int32, r int16, c map[string]*string, t string) (kadm.CreateTopicResponse, error) {
			resps, err := adm.ValidateCreateTopics(ctx, p, r, c, t)
			if err != nil {
				return kadm.CreateTopicResponse{}, err
			}
			return resps[t], resps[t].Err
		}
	}
	resp, err := create(ctx, int32(s.Partitions), replicas, configs, s.Name)
	if errors.Is(err, kerr.TopicAlreadyExists) || errors.Is(resp.Err, kerr.TopicAlreadyExists) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("create topic %s: %w", s.Name, err)
	}
	return true, nil
}

// alignTopics compares existing topics with their declaration and mends what may be mended.
func alignTopics(ctx context.Context, adm *kadm.Client, specs []TopicSpec, log *zap.Logger, dry bool, report *TopicReport) []error {
	names := make([]string, len(specs))
	for i := range specs {
		names[i] = specs[i].Name
	}
	details, err := settledTopics(ctx, adm, true, names)
	if err != nil {
		return []error{err}
	}
	configs, err := adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return []error{fmt.Errorf("describe topic settings: %w", err)}
	}
	now := make(map[string]map[string]string, len(configs))
	for _, rc := range configs {
		m := make(map[string]string, len(rc.Configs))
		for _, c := range rc.Configs {
			m[c.Key] = c.MaybeValue()
		}
		now[rc.Name] = m
	}

	var problems []error
	for _, s := range specs {
		change := TopicChange{Topic: s.Name}
		if have := len(details[s.Name].Partitions); have != s.Partitions {
			err := growTopic(ctx, adm, s, have, dry)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			change.Changed = append(change.Changed, fmt.Sprintf("partitions: %d → %d", have, s.Partitions))
		}
		var alter []kadm.AlterConfig
		want := s.configs()
		for _, kv := range settings(want) {
			key, _, _ := strings.Cut(kv, ": ")
			if have := now[s.Name][key]; have != want[key] {
				alter = append(alter, kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: kadm.StringPtr(want[key])})
				change.Changed = append(change.Changed, fmt.Sprintf("%s: %s → %s", key, have, want[key]))
			}
		}
		if len(alter) > 0 && !dry {
			resps, err := adm.AlterTopicConfigs(ctx, alter, s.Name)
			if err == nil {
				for _, r := range resps {
					err = errors.Join(err, r.Err)
				}
			}
			if err != nil {
				problems = append(problems, fmt.Errorf("change the settings of topic %s: %w", s.Name, err))
				continue
			}
		}
		if len(change.Changed) == 0 {
			report.Unchanged++
			continue
		}
		report.Changes = append(report.Changes, change)
		if log != nil && !dry {
			log.Info("topic changed", zap.String("topic", s.Name), zap.Strings("settings", change.Changed))
		}
	}
	return problems
}

// growTopic adds partitions to a topic without records. Taking partitions away is never possible in Kafka.
func growTopic(ctx context.Context, adm *kadm.Client, s TopicSpec, have int, dry bool) error {
	refuse := func(why string) error {
		return fmt.Errorf("topic %s has %d partitions, declared are %d, and %s: %w", s.Name, have, s.Partitions, why, ErrPartitionsFixed)
	}
	ends, err := adm.ListEndOffsets(ctx, s.Name)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("look whether topic %s is empty: %w", s.Name, err)
	}
	var end int64
	ends.Each(func(o kadm.ListedOffset) { end += o.Offset })
	if end > 0 { // also when all have expired: their offsets and keys are still in commits and windows
		return refuse("it has had records")
	}
	if have > s.Partitions {
		return refuse("partitions can't be taken away (it is empty: delete it, and run this again)")
	}
	if dry {
		return nil
	}
	resps, err := adm.UpdatePartitions(ctx, s.Partitions, s.Name)
	if err == nil {
		err = resps.Error()
	}
	if err != nil {
		return fmt.Errorf("add partitions to topic %s: %w", s.Name, err)
	}
	return nil
}
