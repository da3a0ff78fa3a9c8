package kafka_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What the loop costs for each record, over the bare client: both read the same records of 2 KB from the same broker and
// do nothing with them. In the loop each is completed by one of 64 other goroutines, and committed.
func BenchmarkConsume(b *testing.B) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(8, "t"), kfake.DataDir(b.TempDir()))
	require.NoError(b, err)
	defer cluster.Close()
	cfg := kafka.Config{Brokers: cluster.ListenAddrs()}
	p, err := kafka.NewProducer(cfg, nil, kafka.ManualPartitions(func(string) bool { return true }))
	require.NoError(b, err)
	defer p.Close()
	const total = 200_000
	value := make([]byte, 2048)
	for i := range value {
		value[i] = byte(i * i >> 3)
	}
	var failed atomic.Pointer[error]
	for i := range total {
		p.Produce(b.Context(), &kgo.Record{Topic: "t", Partition: int32(i % 8), Value: value}, func(err error) {
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	require.NoError(b, p.Flush(b.Context()))
	require.Nil(b, failed.Load())

	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			cl, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.ConsumeTopics("t"), kgo.DisableClientMetrics())
			require.NoError(b, err)
			n := 0
			for n < total {
				cl.PollFetches(b.Context()).EachRecord(func(*kgo.Record) { n++ })
			}
			cl.Close()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/total, "ns/record")
	})
	b.Run("loop", func(b *testing.B) {
		round := 0
		for b.Loop() {
			round++
			var n atomic.Int64
			all := make(chan struct{})
			work := make(chan *kafka.Task, 256)
			var workers sync.WaitGroup
			for range 64 {
				workers.Go(func() {
					for t := range work {
						t.Done()
						if n.Add(1) == total {
							close(all)
						}
					}
				})
			}
			l, err := kafka.NewLoop(kafka.LoopConfig{Config: cfg, Group: "g" + time.Now().String(), Topics: []string{"t"},
				Handle: func(_ context.Context, t *kafka.Task) { work <- t }})
			require.NoError(b, err)
			ctx, cancel := context.WithCancel(b.Context())
			end := make(chan error, 1)
			go func() { end <- l.Run(ctx) }()
			<-all
			cancel()
			require.NoError(b, <-end)
			close(work)
			workers.Wait()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/total, "ns/record")
	})
}
