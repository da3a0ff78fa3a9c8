package filter

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/subscription"
)

// cpuTime is what the process has used, garbage collection included, in nanoseconds: steadier than the wall clock on a
// machine that does other things.
func cpuTime(b *testing.B) int64 {
	var used syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return used.Utime.Nano() + used.Stime.Nano()
}

// bench is a decider with events to decide about, one after the other and then again.
type bench struct {
	*decider
	b       *testing.B
	records []*kgo.Record
	next    int
	memory  *repeats
	out     *emission
}

// newBench makes 512 events of about 2 KB.
func newBench(b *testing.B, typ string) *bench {
	x := &bench{decider: newDecider(b), b: b, memory: newRepeats(100)}
	x.out = &emission{batch: &batch{}, scratch: &scratch{}, flush: func(b *batch) *batch {
		b.reset()
		return b
	}}
	for i := range 512 {
		x.records = append(x.records, eventRecord(b, x.decider, fmt.Sprintf(
			`{"id":"evt_%d","type":"%s","call_id":"c-%d","agent_id":"a-1","source":"dialer","data":{"duration_ms":%d,"notes":"%s","tags":["a","b"],"caller":{"name":"Ada Lovelace","phone_number":"+44 20 7946 0958"},"theirs":{"x":[1,2,3]}}}`,
			i, typ, i%97, i, strings.Repeat("lorem ipsum ", 150))))
	}
	return x
}

// event decides about one event, as often as there are subscriptions for it, and leaves out what the brokers do.
func (x *bench) event(ctx context.Context) {
	x.out.reset()
	x.out.again()
	if _, err := x.decide(ctx, x.records[x.next%len(x.records)], x.memory, x.out); err != nil {
		x.b.Fatal(err)
	}
	x.next++
}

// others subscribes n times, without any interest in what the benchmark's tenant has a subscription for: nine of ten for
// other tenants, a hundred each, and the tenth for other types of the same tenant.
func (x *bench) others(n int) {
	for i := range n {
		s := &subscription.Subscription{ID: fmt.Sprintf("sub_%06d", i), Tenant: fmt.Sprintf("tenant-%d", i%(n/100+1)), Events: []string{"call.*"}}
		if i%10 == 0 {
			s.Tenant, s.Events = "acme", []string{"sms.sent", "chat.*"}
		}
		x.subscribe(x.b, s)
	}
	x.subscribe(x.b, &subscription.Subscription{ID: "sub_mine", Tenant: "acme", Events: []string{"call.ended"}})
	x.event(x.b.Context()) // builds the tenant's index, once after each change
}

// What an event costs for each subscription that its type matches, by how many there are: it should not grow with them. The
// rounds of the three sizes take turns.
func BenchmarkCandidates(b *testing.B) {
	for _, c := range []struct {
		name string
		each func(i int, s *subscription.Subscription)
	}{
		{"delivered", func(int, *subscription.Subscription) {}},
		{"filtered", func(i int, s *subscription.Subscription) {
			s.Filter = fmt.Sprintf("event.data.duration_ms > %d", 1_000_000+i)
		}},
		{"each its own rendering", func(i int, s *subscription.Subscription) {
			s.Payload.Extra = subscription.Extra{"n": json.Number(fmt.Sprint(i))}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			defer debug.SetGCPercent(debug.SetGCPercent(400)) // what the services run with
			sizes := [...]int{100, 1_000, 10_000}
			var benches [len(sizes)]*bench
			for i, n := range sizes {
				benches[i] = newBench(b, "call.ended")
				for j := range n {
					s := &subscription.Subscription{ID: fmt.Sprintf("sub_%06d", j), Tenant: "acme", Events: []string{"call.*"}}
					c.each(j, s)
					benches[i].subscribe(b, s)
				}
				benches[i].event(b.Context())
			}
			var took [len(sizes)][]float64
			for b.Loop() {
				for i, n := range sizes {
					events := 2 * sizes[len(sizes)-1] / n
					from := cpuTime(b)
					for range events {
						benches[i].event(b.Context())
					}
					took[i] = append(took[i], float64(cpuTime(b)-from)/float64(events*n))
				}
			}
			b.ReportMetric(0, "ns/op")
			for i, n := range sizes {
				b.ReportMetric(median(took[i]), fmt.Sprintf("cpu-ns/match-of-%d", n))
			}
		})
	}
}

// An event of 2 KB to ten subscriptions with three distinct renderings, on one core.
func BenchmarkTenSubscriptions(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // what the services run with
	x := newBench(b, "call.ended")
	for i := range 10 {
		s := &subscription.Subscription{ID: fmt.Sprintf("sub_%d", i), Tenant: "acme", Events: []string{"call.*"}}
		switch i % 3 {
		case 1:
			s.Payload.Profile = subscription.ProfileDialer
		case 2:
			s.Payload.Redact, s.Payload.Exclude = []string{"phone", "name"}, []string{"data.theirs"}
		}
		x.subscribe(b, s)
	}
	x.event(b.Context())
	b.ReportAllocs()
	from := cpuTime(b)
	for b.Loop() {
		x.event(b.Context())
	}
	b.ReportMetric(float64(cpuTime(b)-from)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// The cost of an event by how many subscriptions others have.
func BenchmarkEvent(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		for _, c := range []struct{ name, typ string }{{"delivered", "call.ended"}, {"nobody's", "call.started"}} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				x := newBench(b, c.typ)
				x.others(n)
				b.ReportAllocs()
				before := cpuTime(b)
				for b.Loop() {
					x.event(b.Context())
				}
				b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// othersVariable has the test binary play one side of BenchmarkOthersSubscriptions.
const othersVariable = "CALLSTREAM_BENCH_OTHERS"

// What 100,000 subscriptions of other tenants and types cost an event: CPU time of an event with them over CPU time with
// 100, garbage collection included. Each side is a process of its own, because one garbage collector would mark both; they
// take turns, so that whatever else the machine does hits both. The aim is at most 1.2.
func BenchmarkOthersSubscriptions(b *testing.B) {
	if side := os.Getenv(othersVariable); side != "" {
		playOthers(b, side)
		return
	}
	for _, c := range []struct{ name, typ string }{{"delivered", "call.ended"}, {"nobody's", "call.started"}} {
		b.Run(c.name, func(b *testing.B) {
			few, many := startOthers(b, 100, c.typ), startOthers(b, 100_000, c.typ)
			few() // both are warm from here on
			many()
			var a, z, ratios []float64
			for b.Loop() {
				x, y := few(), many()
				a, z, ratios = append(a, x), append(z, y), append(ratios, y/x)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(a), "cpu-ns/event-100")
			b.ReportMetric(median(z), "cpu-ns/event-100000")
			b.ReportMetric(median(ratios), "ratio")
		})
	}
}

func median[T cmp.Ordered](of []T) T {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

// roundBytes is how much a round of either side allocates at least: more than what the garbage collector lets pass between
// two of its cycles, so that each round pays for some.
const roundBytes = 1 << 30

// startOthers starts a process with n subscriptions, and returns what has it handle a round of events and tells the
// nanoseconds of CPU for each.
func startOthers(b *testing.B, n int, typ string) func() float64 {
	exe, err := os.Executable()
	require.NoError(b, err)
	cmd := exec.CommandContext(b.Context(), exe, "-test.run=^$", "-test.bench=^BenchmarkOthersSubscriptions$", "-test.benchtime=1x")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", othersVariable, n, typ))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	pipe, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	out := bufio.NewReader(pipe)
	return func() float64 {
		_, err := io.WriteString(in, "round\n")
		require.NoError(b, err)
		for {
			line, err := out.ReadString('\n')
			require.NoError(b, err)
			var took float64
			if _, after, ok := strings.Cut(line, "cpu-ns:"); ok {
				_, err := fmt.Sscan(after, &took)
				require.NoError(b, err)
				return took
			}
		}
	}
}

// playOthers is one side: it handles a round of events for each line of its input.
func playOthers(b *testing.B, side string) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // what the services run with
	var n int
	var typ string
	_, err := fmt.Sscan(side, &n, &typ)
	require.NoError(b, err)
	x := newBench(b, typ)
	x.others(n)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 1000 {
		x.event(b.Context())
	}
	runtime.ReadMemStats(&after)
	events := min(int(roundBytes*1000/max(1, after.TotalAlloc-before.TotalAlloc)), 1_000_000)
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		from := cpuTime(b)
		for range events {
			x.event(b.Context())
		}
		fmt.Printf("\ncpu-ns: %f\n", float64(cpuTime(b)-from)/float64(events))
	}
}
