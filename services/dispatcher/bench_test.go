package dispatcher

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/embedded"
	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

const (
	benchDeliveries = 60_000
	benchPartitions = 8
	benchRounds     = 5
	roleVariable    = "CALLSTREAM_BENCH_ROLE"
)

// TestMain lets the test binary play the other processes of a benchmark, so that the broker's CPU and the endpoint's
// are not counted as the sender's.
func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "endpoint":
		hook := hooktest.New(hooktest.Options{Cheap: true, IgnoreChallenges: true})
		fmt.Println(hook.URL())
	case "broker":
		e, err := embedded.Start(context.Background(), embedded.Config{DataDir: os.Getenv("CALLSTREAM_BENCH_DIR")})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(e.KafkaAddr(), e.RegistryURL())
	default:
		os.Exit(m.Run())
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent has gone
}

// play starts the test binary in a role and returns the words it says.
func play(b *testing.B, role string) []string {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), exe)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "CALLSTREAM_BENCH_DIR="+b.TempDir(), "GOGC=400")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.HasPrefix(line, "error:") {
		b.Fatal(role, line, err)
	}
	return strings.Fields(line)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measured is one run: deliveries a second, and CPU for 1,000 deliveries.
type measured struct{ rate, cpu float64 }

// measure times from a tenth of the deliveries to all but a hundredth, so that neither start nor end counts.
func measure(b *testing.B, count func() int64) measured {
	b.Helper()
	from, to := int64(benchDeliveries/10), int64(benchDeliveries-benchDeliveries/100)
	reach := func(n int64) (int64, time.Time, time.Duration) {
		deadline := time.Now().Add(2 * time.Minute)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for count() < n {
			if <-tick.C; time.Now().After(deadline) {
				b.Fatalf("stuck at %d of %d", count(), n)
			}
		}
		return count(), time.Now(), cpuTime()
	}
	n0, t0, c0 := reach(from)
	n1, t1, c1 := reach(to)
	n := float64(n1 - n0)
	return measured{n / t1.Sub(t0).Seconds(), float64((c1 - c0).Microseconds()) / n}
}

// bareLoop reads the records and POSTs their values, nothing else: the ceiling.
func bareLoop(b *testing.B, brokers []string, url string, inFlight int) measured {
	b.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic.Lane("standard")), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		b.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 256, DisableCompression: true}, Timeout: 10 * time.Second}
	records := make(chan *kgo.Record, 4096)
	var done atomic.Int64
	var workers sync.WaitGroup
	for range inFlight {
		workers.Go(func() {
			for r := range records {
				req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(r.Value))
				if err != nil {
					b.Error(err)
					return
				}
				req.Header.Set("Content-Type", "application/json")
				resp, err := client.Do(req)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				done.Add(1)
			}
		})
	}
	ctx, cancel := context.WithCancel(b.Context())
	go func() {
		defer close(records)
		for ctx.Err() == nil {
			c.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				select {
				case records <- r:
				case <-ctx.Done():
				}
			})
		}
	}()
	m := measure(b, done.Load)
	cancel()
	workers.Wait()
	c.Close()
	client.CloseIdleConnections()
	return m
}

// dispatch does the same with a dispatcher: signed, tracked, every attempt recorded.
func dispatch(b *testing.B, brokers []string, registry *kafka.Registry) measured {
	b.Helper()
	s, err := New(Config{
		Config: kafka.Config{Brokers: brokers}, Egress: egress.Config{AllowPrivate: true, AllowHTTP: true},
	}, Deps{Telemetry: telemetry.Nop(), Codec: event.NewCodec(registry), Box: testBox(b), Version: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	m := measure(b, s.metrics.outcomes[0].Load)
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		b.Fatal(err)
	}
	n := int64(0)
	for i := range s.metrics.parked {
		n += s.metrics.parked[i].Load()
	}
	if n > 0 {
		b.Logf("%d deliveries were parked", n)
	}
	return m
}

// BenchmarkAgainstTheBareLoop compares the dispatcher with a loop that only reads and POSTs, on the same broker and the
// same endpoint, both in processes of their own, in turn. The broker is the embedded one or an Apache Kafka, which needs
// Java and Maven:
//
//	go test -run '^$' -bench 'AgainstTheBareLoop/embedded/128' -benchtime 1x ./services/dispatcher
func BenchmarkAgainstTheBareLoop(b *testing.B) {
	for _, broker := range []string{"embedded", "apache"} {
		b.Run(broker, func(b *testing.B) {
			for _, inFlight := range []int{64, 128, 256} {
				b.Run(fmt.Sprint(inFlight), func(b *testing.B) { againstTheBareLoop(b, broker, inFlight) })
			}
		})
	}
}

func againstTheBareLoop(b *testing.B, broker string, inFlight int) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // what the programs run with
	for b.Loop() {
		words := play(b, "broker")
		brokers := []string{words[0]}
		if broker == "apache" {
			apache, err := kafkatest.StartApache(b.Context(), 1, b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(apache.Stop)
			brokers = apache.Brokers
		}
		url := play(b, "endpoint")[0]
		registry, err := kafka.NewRegistry(kafka.RegistryConfig{URLs: []string{words[1]}})
		if err != nil {
			b.Fatal(err)
		}
		client := fill(b, brokers, registry, url, inFlight)
		var bare, ours []measured
		for range benchRounds {
			bare = append(bare, bareLoop(b, brokers, url, inFlight))
			ours = append(ours, dispatch(b, brokers, registry))
			// The next round sends the same again.
			if _, err := kadm.NewClient(client).DeleteGroups(b.Context(), Group); err != nil {
				b.Fatal(err)
			}
		}
		for i := range bare {
			b.Logf("bare %.0f/s, %.1f ms/1k; dispatcher %.0f/s, %.1f ms/1k", bare[i].rate, bare[i].cpu, ours[i].rate, ours[i].cpu)
		}
		median := func(of func(i int) float64) float64 {
			all := make([]float64, len(ours))
			for i := range all {
				all[i] = of(i)
			}
			slices.Sort(all)
			return all[len(all)/2]
		}
		b.ReportMetric(median(func(i int) float64 { return bare[i].rate }), "bare-deliveries/s")
		b.ReportMetric(median(func(i int) float64 { return ours[i].rate }), "deliveries/s")
		b.ReportMetric(median(func(i int) float64 { return bare[i].cpu }), "bare-cpu-ms/1k")
		b.ReportMetric(median(func(i int) float64 { return ours[i].cpu }), "cpu-ms/1k")
		// Of each pair, because the machine's speed drifts by more than what is to be seen.
		b.ReportMetric(median(func(i int) float64 { return ours[i].rate / bare[i].rate }), "of-bare-rate")
		b.ReportMetric(median(func(i int) float64 { return ours[i].cpu / bare[i].cpu }), "of-bare-cpu")
	}
}

// fill makes the topics and writes what is to be sent: 2 KB bodies of one subscription for each partition.
func fill(b *testing.B, brokers []string, registry *kafka.Registry, url string, inFlight int) *kgo.Client {
	b.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(client.Close)
	var specs []kafka.TopicSpec
	for _, t := range topic.All(topic.Policy{Partitions: benchPartitions}) {
		specs = append(specs, kafka.TopicSpec{Name: t.Name, Partitions: t.Partitions, Retention: t.Retention, MaxBytes: t.MaxBytes})
	}
	if _, err := kafka.EnsureTopics(b.Context(), client, specs, zap.NewNop(), kafka.TopicOptions{}); err != nil {
		b.Fatal(err)
	}
	r := &rig{t: b, codec: event.NewCodec(registry), registry: registry, client: client, partitions: benchPartitions}
	subs := make([]string, benchPartitions)
	for p := range subs {
		for i := 0; subs[p] == ""; i++ {
			if id := fmt.Sprintf("sub_%d_%d", p, i); topic.PartitionFor(id, "", 1, benchPartitions) == int32(p) {
				subs[p] = id
			}
		}
		r.feed(subscribed(b, subs[p], url, func(s *subscription.Subscription) { s.MaxInFlight = inFlight / benchPartitions }))
	}
	body := []byte(`{"type":"call.ended","data":{"note":"` + noise(2000) + `"}}`)
	var batch []*kgo.Record
	for i := range benchDeliveries {
		batch = append(batch, r.record(r.delivery(subs[i%benchPartitions], func(d *event.Delivery) { d.Body = body })))
		if len(batch) == 2000 {
			r.produce(batch...)
			batch = nil
		}
	}
	return client
}
