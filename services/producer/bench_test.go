package producer_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/producer"
)

// twoKB is an event of about 2 KB, most of it a transcript, with members of our own and undeclared ones.
func twoKB() []byte {
	return []byte(`{"type":"transcript.ready","call_id":"c-774411","agent_id":"a-9","time":"2026-01-20T10:00:00.123Z","source":"dialer-eu","sequence":4,` +
		`"data":{"transcript_text":"` + strings.Repeat("the quick brown fox jumps over the lazy dog ", 36) + `","language":"en","duration_ms":61000,` +
		`"caller":{"name":"Ada Lovelace","phone_number":"+4930123456","city":"Berlin"},"analysis":{"summary":"a short call","score":85,"mood":"good"},"custom":{"a":[1,2,3],"b":"x"}}}`)
}

// bare is the ingest server that the producer is measured against: it reads a body, produces it with acks=all, and
// answers once the broker has it. It checks, fills in and encodes nothing.
func bare(client *kgo.Client) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		done := make(chan error, 1)
		client.Produce(context.WithoutCancel(r.Context()), &kgo.Record{Topic: topic.CallsEvents, Key: []byte("acme/c-774411"), Value: body},
			func(_ *kgo.Record, err error) { done <- err })
		if err := <-done; err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		w.Write([]byte(`{"accepted":1}`))
	})
}

// BenchmarkIngest compares the producer with the bare ingest server: one event a request over loopback HTTP from 64
// connections, load generator and broker on the same cores. The two take turns, since a machine's speed drifts by more
// than they differ. "ratio" is the producer's throughput over the bare server's; "cpu-ratio" is the CPU time of the
// whole process for an event, producer over bare. Run it with GOGC=400, the services' default, and -benchtime 20000x.
func BenchmarkIngest(b *testing.B) {
	tel, err := telemetry.New(telemetry.Config{LogLevel: "error"}, "producer", "bench")
	require.NoError(b, err)
	defer tel.Close()
	r := startWith(b, func(c *producer.Config) { c.Auth = "keys" }, tel)
	r.publish("key_1", key("key_1", "cs_one", 1))
	client, err := kgo.NewClient(kgo.SeedBrokers(r.target.Brokers...), kgo.ProducerLinger(0))
	require.NoError(b, err)
	defer client.Close()
	server := httptest.NewServer(bare(client))
	defer server.Close()
	const senders = 64
	transport := &http.Transport{MaxIdleConnsPerHost: senders, DisableCompression: true}
	defer transport.CloseIdleConnections()
	body := twoKB()

	load := func(url string, n int) (wall, cpu time.Duration) {
		var left atomic.Int64
		left.Store(int64(n))
		before, began := cpuTime(b), time.Now()
		var wg sync.WaitGroup
		for range senders {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url+"/v1/events", bytes.NewReader(body))
					if err != nil {
						b.Error(err)
						return
					}
					req.Header.Set("Content-Type", "application/json")
					req.Header.Set("Authorization", "Bearer cs_one")
					res, err := transport.RoundTrip(req)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if res.StatusCode != http.StatusAccepted {
						b.Errorf("status %d", res.StatusCode)
						return
					}
				}
			})
		}
		wg.Wait()
		return time.Since(began), cpuTime(b) - before
	}
	load(server.URL, 2*senders) // connections, metadata, schema ids
	load(r.url, 2*senders)
	const turn = 1000
	var bareWall, bareCPU, ourWall, ourCPU time.Duration
	b.ResetTimer()
	for done := 0; done < b.N; done += turn {
		n := min(turn, b.N-done)
		wall, cpu := load(server.URL, n)
		bareWall, bareCPU = bareWall+wall, bareCPU+cpu
		wall, cpu = load(r.url, n)
		ourWall, ourCPU = ourWall+wall, ourCPU+cpu
	}
	b.ReportMetric(float64(b.N)/ourWall.Seconds(), "events/s")
	b.ReportMetric(float64(b.N)/bareWall.Seconds(), "bare-events/s")
	b.ReportMetric(bareWall.Seconds()/ourWall.Seconds(), "ratio")
	b.ReportMetric(ourCPU.Seconds()/bareCPU.Seconds(), "cpu-ratio")
}

// cpuTime is the CPU time that this process has used.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
