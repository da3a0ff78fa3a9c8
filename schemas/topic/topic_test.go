package topic_test

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/callstream/callstream/schemas/topic"
	"pgregory.net/rapid"
)

func TestAll(t *testing.T) {
	byName := map[string]topic.Topic{}
	for _, tp := range topic.All(topic.Policy{}) {
		if _, twice := byName[tp.Name]; twice {
			t.Errorf("%s twice", tp.Name)
		}
		byName[tp.Name] = tp
		if tp.Doc == "" || tp.Key == "" || tp.Schema == "" || tp.Retention == 0 || tp.MaxBytes == 0 || tp.Partitions == 0 {
			t.Errorf("%+v leaves something open", tp)
		}
		if !regexp.MustCompile(`^[a-z._0-9]{1,249}$`).MatchString(tp.Name) {
			t.Errorf("%s is no name for a topic", tp.Name)
		}
		if schema, ok := topic.SchemaOf(tp.Name); !ok || schema != tp.Schema {
			t.Errorf("SchemaOf(%s) = %s", tp.Name, schema)
		}
		if tp.Compact != (tp.Retention < 0) {
			t.Errorf("%s: what is compacted is kept for ever, and nothing else is", tp.Name)
		}
	}
	const day = 24 * time.Hour
	for name, want := range map[string]struct {
		partitions int
		retention  time.Duration
		max        int
	}{
		"calls.events": {48, 7 * day, 2 << 20}, "deliveries.standard": {48, 7 * day, 4 << 20}, "deliveries.slow": {48, 7 * day, 4 << 20}, "deliveries.ordered": {48, 7 * day, 4 << 20},
		"deliveries.retry.5s": {48, 7*day + 5*time.Second, 4 << 20}, "deliveries.retry.12h": {48, 7*day + 12*time.Hour, 4 << 20}, "deliveries.dlq": {48, 30 * day, 8 << 20},
		"deliveries.attempts": {48, 30 * day, 8 << 20}, "deliveries.decisions": {48, 30 * day, 8 << 20}, "callstream.subscriptions": {1, -1, 2 << 20}, "callstream.keys": {1, -1, 1 << 20},
		"callstream.signals": {1, 30 * day, 1 << 20}, "callstream.replays": {1, 30 * day, 1 << 20}, "calls.responses": {48, 7 * day, 2 << 20}, "callstream.events": {48, 7 * day, 2 << 20},
	} {
		got, ok := byName[name]
		if !ok || got.Partitions != want.partitions || got.Retention != want.retention || got.MaxBytes != want.max {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	for _, name := range topic.Events() {
		if _, ok := byName[name]; !ok || !topic.IsEvents(name) {
			t.Errorf("no topic %s", name)
		}
	}
}

func TestPolicy(t *testing.T) {
	p := topic.Policy{Partitions: 8, Lanes: []string{"bulk", "standard", "bulk"}, RetryDelays: []time.Duration{time.Hour, 90 * time.Second, time.Hour, 500 * time.Millisecond, 0}}
	if got := p.Tiers(); !slices.Equal(got, []time.Duration{500 * time.Millisecond, 90 * time.Second, time.Hour}) {
		t.Error(got)
	}
	var names []string
	for _, tp := range topic.All(p) {
		if tp.Schema == topic.DeliverySchema {
			names = append(names, tp.Name)
			if tp.Partitions != 8 {
				t.Errorf("%s has %d partitions", tp.Name, tp.Partitions)
			}
		}
	}
	want := []string{"deliveries.bulk", "deliveries.standard", "deliveries.slow", "deliveries.ordered", "deliveries.retry.500ms", "deliveries.retry.90s", "deliveries.retry.1h"}
	if !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	for _, stranger := range []string{"", "orders", "deliveries.", "callstream.other"} {
		if _, ok := topic.SchemaOf(stranger); ok {
			t.Errorf("%q is taken for one of ours", stranger)
		}
	}
}

func TestRetryTier(t *testing.T) {
	for delay, want := range map[time.Duration]string{5 * time.Second: "5s", 2 * time.Minute: "2m", 12 * time.Hour: "12h", 90 * time.Minute: "90m", 61 * time.Second: "61s", 1500 * time.Millisecond: "1500ms"} {
		if got := topic.RetryTier(delay); got != "deliveries.retry."+want {
			t.Errorf("%v: %s", delay, got)
		}
	}
}

// Without a spread a subscription has one partition; with one, that many neighbours, each call always the same.
func TestPartitionFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		partitions := rapid.IntRange(1, 200).Draw(t, "partitions")
		spread := rapid.IntRange(0, partitions).Draw(t, "spread")
		subscription := rapid.String().Draw(t, "subscription")
		home := topic.PartitionFor(subscription, "", 1, partitions)
		for range 20 {
			call := rapid.String().Draw(t, "call")
			at := topic.PartitionFor(subscription, call, spread, partitions)
			if at < 0 || int(at) >= partitions || at != topic.PartitionFor(subscription, call, spread, partitions) {
				t.Fatalf("partition %d of %d", at, partitions)
			}
			if ahead := (int(at-home) + partitions) % partitions; ahead > 0 && ahead >= spread {
				t.Fatalf("%d partitions from home with a spread of %d", ahead, spread)
			}
		}
	})
	// Records in flight rely on this: a change of the hash needs new topics.
	if got := topic.PartitionFor("sub_1", "c-77", 4, 48); got != golden {
		t.Errorf("sub_1 and c-77 are on %d", got)
	}
}

const golden = 15

func TestKeptIsForPeople(t *testing.T) {
	for want, got := range map[string]topic.Topic{
		"for ever":           {Retention: -1},
		"newest of each key": {Compact: true, Retention: -1},
		"7 days":             {Retention: 7 * 24 * time.Hour},
		"7 days and 30s":     {Retention: 7*24*time.Hour + 30*time.Second},
		"7 days and 10m":     {Retention: 7*24*time.Hour + 10*time.Minute},
	} {
		if kept := got.Kept(); kept != want {
			t.Errorf("%s instead of %s", kept, want)
		}
	}
}
