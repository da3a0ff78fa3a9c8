//go:build chaos

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/test/process"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// built is what the whole run shares: the programs, and the cluster, which is emptied for each test.
var built struct {
	bin    string
	apache *kafkatest.Apache
}

func TestMain(m *testing.M) {
	code, err := prepare(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	os.Exit(code)
}

func prepare(m *testing.M) (int, error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "callstream-chaos-")
	if err != nil {
		return 1, fmt.Errorf("make a directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	built.bin = filepath.Join(dir, "bin")
	if err := process.Build(ctx, built.bin, nil, "callstream", "producer", "filter", "dispatcher", "console"); err != nil {
		return 1, err
	}
	if built.apache, err = kafkatest.StartApache(ctx, 3, filepath.Join(dir, "kafka")); err != nil {
		return 1, err
	}
	defer built.apache.Stop()
	return m.Run(), nil
}

// patience bounds every wait. It is far above what a wait takes on a busy machine, so that meeting it means that something
// is stuck.
const patience = 2 * time.Minute

// eventually tries cond until it returns nil. It is the one way these tests wait.
func eventually(t testing.TB, what string, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for: %s: %v", patience, what, err)
		}
		<-tick.C
	}
}

// emptyCluster is the cluster of three, all of them up, with nothing in it.
func emptyCluster(t *testing.T) *kafkatest.Apache {
	t.Helper()
	a := built.apache
	for i := range a.Brokers {
		if a.Pid(i) == 0 { // the test before failed
			require.NoError(t, a.Restart(t.Context(), i))
		}
	}
	awaitReplicas(t)
	require.NoError(t, kafkatest.Wipe(t.Context(), a.Brokers))
	return a
}

var errReplicas = errors.New("partitions with too few replicas in sync")

// awaitReplicas waits until every partition has all of its replicas in sync: before that, a second broker that goes may take
// the last one along.
func awaitReplicas(t *testing.T) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(built.apache.Brokers...), kgo.MetadataMinAge(100*time.Millisecond), kgo.DisableClientMetrics())
	require.NoError(t, err)
	defer client.Close()
	eventually(t, "every replica is in sync", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		topics, err := kadm.NewClient(client).ListTopicsWithInternal(ctx)
		if err != nil {
			return err
		}
		behind := 0
		topics.EachPartition(func(p kadm.PartitionDetail) {
			if p.Err != nil || len(p.ISR) < len(p.Replicas) {
				behind++
			}
		})
		if behind > 0 {
			return fmt.Errorf("%w: %d", errReplicas, behind)
		}
		return nil
	})
}
