// Package kafkatest gives tests a Kafka cluster: the embedded broker, or real Apache Kafka.
//
// Which one, the environment says, so that the same tests run on both:
//
//	CALLSTREAM_TEST_KAFKA=embedded (or nothing)  an embedded broker of its own for each test, in memory
//	CALLSTREAM_TEST_KAFKA=apache                 real Apache Kafka
//	CALLSTREAM_KAFKA_BROKERS=host:port,…         the Apache Kafka to use, with CALLSTREAM_TEST_KAFKA=apache; without it,
//	                                             each test starts one of its own (Java 17 and Maven needed)
//
// On a cluster that is named, each test begins by deleting every topic and group there, which is quicker than starting
// one anew (0.1 s against 3 s). So it must be one for tests: one that has topics when it is first used is refused. Tests
// on it can't run in parallel, nor packages (go test -p 1). The command in test/kafka starts such a one, runs a program
// with its address in the environment, and stops it.
package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/embedded"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Target is a cluster to test against.
type Target struct {
	Brokers     []string
	RegistryURL string
	// Apache tells that this is real Apache Kafka.
	Apache bool
}

// Options changes what Cluster starts.
type Options struct {
	// DataDir has the embedded broker and registry keep their data; empty for memory only.
	DataDir string
	// Compatible is the embedded registry's compatibility check.
	Compatible func(newSchema string, old []string) error
}

// Cluster is an empty cluster for one test, and a schema registry. It is stopped at the test's end.
func Cluster(tb testing.TB) Target {
	tb.Helper()
	return ClusterWith(tb, Options{})
}

// ClusterWith is Cluster with options.
func ClusterWith(tb testing.TB, opts Options) Target {
	tb.Helper()
	switch kind := os.Getenv("CALLSTREAM_TEST_KAFKA"); kind {
	case "", "embedded":
		return embeddedCluster(tb, opts)
	case "apache":
		return apacheCluster(tb, opts)
	default:
		tb.Fatalf("CALLSTREAM_TEST_KAFKA is %q: it must be embedded or apache", kind)
		return Target{}
	}
}

func embeddedCluster(tb testing.TB, opts Options) Target {
	tb.Helper()
	e, err := embedded.Start(tb.Context(), embedded.Config{DataDir: opts.DataDir, Compatible: opts.Compatible})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
	})
	return Target{Brokers: []string{e.KafkaAddr()}, RegistryURL: e.RegistryURL()}
}

func apacheCluster(tb testing.TB, opts Options) Target {
	tb.Helper()
	target := Target{Apache: true}
	if named := os.Getenv("CALLSTREAM_KAFKA_BROKERS"); named != "" {
		target.Brokers = strings.Split(named, ",")
		if err := Wipe(tb.Context(), target.Brokers); err != nil {
			tb.Fatal(err)
		}
	} else {
		a, err := StartApache(tb.Context(), 1, tb.TempDir())
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(a.Stop)
		target.Brokers = a.Brokers
	}
	r, err := embedded.StartRegistry(tb.Context(), embedded.Config{DataDir: opts.DataDir, Compatible: opts.Compatible})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	target.RegistryURL = r.RegistryURL()
	return target
}

// marker is the topic that tells that a cluster is for tests, and may be emptied.
const marker = "callstream-tests-may-empty-this-cluster"

// ErrNotForTests means that a cluster holds topics that no test of ours made.
var ErrNotForTests = errors.New("the cluster is not one for tests")

// Wipe deletes every topic and group of a cluster for tests: one that was empty when it was first wiped. It waits for
// groups whose members have just left, or died.
func Wipe(ctx context.Context, brokers []string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DisableClientMetrics(), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		return fmt.Errorf("empty the test cluster: %w", err)
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()

	topics, err := adm.ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("list the test cluster's topics: %w", err)
	}
	if names := topics.Names(); len(names) > 0 && !topics.Has(marker) {
		return fmt.Errorf("%w: %s has topics (%s) and not the topic %s; name an empty cluster in CALLSTREAM_KAFKA_BROKERS, or create that topic to have everything there deleted",
			ErrNotForTests, strings.Join(brokers, ","), names[0], marker)
	}
	if !topics.Has(marker) {
		if _, err := adm.CreateTopic(ctx, 1, -1, nil, marker); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("mark the test cluster: %w", err)
		}
	}

	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := wipe(ctx, adm)
		if err == nil && left == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("empty the test cluster at %s: left is %s: %w", strings.Join(brokers, ","), left, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

func wipe(ctx context.Context, adm *kadm.Client) (left string, err error) {
	groups, err := adm.ListGroups(ctx)
	if err != nil {
		return "", fmt.Errorf("list groups: %w", err)
	}
	if names := groups.Groups(); len(names) > 0 {
		resps, err := adm.DeleteGroups(ctx, names...)
		if err != nil {
			return "groups", fmt.Errorf("delete groups: %w", err)
		}
		for _, r := range resps {
			if r.Err != nil && !errors.Is(r.Err, kerr.GroupIDNotFound) {
				left = fmt.Sprintf("group %s (%v)", r.Group, r.Err)
			}
		}
	}
	topics, err := adm.ListTopics(ctx) // without internal ones
	if err != nil {
		return left, fmt.Errorf("list topics: %w", err)
	}
	delete(topics, marker)
	if names := topics.Names(); len(names) > 0 {
		resps, err := adm.DeleteTopics(ctx, names...)
		if err != nil {
			return "topics", fmt.Errorf("delete topics: %w", err)
		}
		for _, r := range resps {
			if r.Err != nil && !errors.Is(r.Err, kerr.UnknownTopicOrPartition) {
				left = fmt.Sprintf("topic %s (%v)", r.Topic, r.Err)
			}
		}
		if left == "" {
			left = "topics that are being deleted" // look again
		}
	}
	return left, nil
}

// OnApache tells whether the environment asks for real Apache Kafka.
func OnApache() bool { return os.Getenv("CALLSTREAM_TEST_KAFKA") == "apache" }
