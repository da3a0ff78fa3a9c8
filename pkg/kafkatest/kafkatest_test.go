package kafkatest_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func client(t *testing.T, brokers []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(brokers...), kgo.DisableClientMetrics()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func TestClusterIsEmptyAndWorks(t *testing.T) {
	target := kafkatest.Cluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := client(t, target.Brokers)
	adm := kadm.NewClient(c)
	topics, err := adm.ListTopics(ctx)
	require.NoError(t, err)
	for _, name := range topics.Names() {
		require.Equal(t, "callstream-tests-may-empty-this-cluster", name)
	}
	_, err = adm.CreateTopic(ctx, 3, -1, nil, "t")
	require.NoError(t, err)
	require.NoError(t, c.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("v")}).FirstErr())
	require.NotEmpty(t, target.RegistryURL)
}

func TestWipe(t *testing.T) {
	target := kafkatest.Cluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := client(t, target.Brokers)
	adm := kadm.NewClient(c)
	require.NoError(t, kafkatest.Wipe(ctx, target.Brokers), "an empty cluster is taken for one for tests")
	var names []string
	for i := range 25 {
		names = append(names, fmt.Sprintf("t%d", i))
	}
	_, err := adm.CreateTopics(ctx, 48, -1, nil, names...)
	require.NoError(t, err)
	g := client(t, target.Brokers, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t0"))
	require.NoError(t, c.ProduceSync(ctx, &kgo.Record{Topic: "t0", Value: []byte("v")}).FirstErr())
	require.Equal(t, 1, g.PollFetches(ctx).NumRecords())
	require.NoError(t, g.CommitUncommittedOffsets(ctx))
	g.Close()
	began := time.Now()
	require.NoError(t, kafkatest.Wipe(ctx, target.Brokers))
	t.Logf("wiped 25 topics of 48 partitions in %v", time.Since(began))
	_, err = adm.CreateTopic(ctx, 1, -1, nil, "t0")
	require.NoError(t, err)
}

func TestWipeRefusesOthersClusters(t *testing.T) {
	if kafkatest.OnApache() {
		t.Setenv("CALLSTREAM_TEST_KAFKA", "embedded")
	}
	target := kafkatest.Cluster(t)
	adm := kadm.NewClient(client(t, target.Brokers))
	_, err := adm.CreateTopic(t.Context(), 1, -1, nil, "orders")
	require.NoError(t, err)
	require.ErrorIs(t, kafkatest.Wipe(t.Context(), target.Brokers), kafkatest.ErrNotForTests)
	topics, err := adm.ListTopics(t.Context())
	require.NoError(t, err)
	require.True(t, topics.Has("orders"))
}

// Only where real Kafka is asked for: three brokers, one of them killed and back.
func TestApacheSurvivesABroker(t *testing.T) {
	if !kafkatest.OnApache() {
		target := kafkatest.Cluster(t)
		require.False(t, target.Apache)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	a, err := kafkatest.StartApache(ctx, 3, t.TempDir())
	require.NoError(t, err)
	pid := a.Pid(1)
	defer func() {
		a.Stop()
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "a stopped broker is gone")
	}()
	c := client(t, a.Brokers)
	_, err = kadm.NewClient(c).CreateTopic(ctx, 3, 3, nil, "t")
	require.NoError(t, err)
	write := func() {
		for i := range 30 {
			require.NoError(t, c.ProduceSync(ctx, &kgo.Record{Topic: "t", Key: []byte{byte(i)}, Value: []byte("v")}).FirstErr())
		}
	}
	write()
	a.Kill(1)
	require.Zero(t, a.Pid(1))
	write()
	require.NoError(t, a.Restart(ctx, 1))
	pid = a.Pid(1)
	write()
	ends, err := kadm.NewClient(c).ListEndOffsets(ctx, "t")
	require.NoError(t, err)
	total := int64(0)
	ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
	require.GreaterOrEqual(t, total, int64(90))
}
