package callstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/services/callstream/traffic"
)

// simulateOptions are the flags of `callstream simulate`.
type simulateOptions struct {
	calls       int64
	rate        float64
	eventRate   float64
	seed        uint64
	source      string
	batch       int
	concurrency int
	realtime    bool
	speed       float64
	retryFor    time.Duration
	ledger      string
	quiet       bool
}

// maxActive bounds the calls that go on at the same time in real time; each holds its events, some 20 KB.
const maxActive = 20_000

func newSimulateCommand() *cobra.Command {
	var opts simulateOptions
	var api apiFlags
	var out output
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Send the events of made-up calls",
		Long: `Send the events of made-up calls into the API: inbound and outbound, answered, abandoned and failed, transferred and
escalated, with transcripts, recordings, scores, costs, outcomes and reports, and beside them messages, chats, agents and
the platform itself. Every 20 calls hold every event type that a platform sends.

The events of a call are sent in their order, one after the other. What the API can't take at the moment (429, 503, no
connection) is sent again with the same ids until it is accepted, so nothing is lost and nothing counts twice. With the
same --seed the same events are sent, id by id; what was delivered in the last ten minutes is then a repeat.

By default events are sent as fast as the API takes them, at the times of calls that have just ended. --realtime sends
each event when it happens, --speed 60 an hour of calls in a minute.`,
		Example: `  callstream simulate --calls 100
  callstream simulate --calls 100000 --batch 50 --concurrency 32
  callstream simulate --calls 600 --rate 2 --realtime --tenant acme
  callstream simulate --calls 5000 --seed 7 --ledger accepted.jsonl --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.validate(); err != nil {
				return err
			}
			if !cmd.Flags().Changed("seed") {
				opts.seed = uint64(rand.Uint32()) //nolint:gosec // a short number for people to repeat a run with
			}
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			return simulate(cmd.Context(), opts, c, cmd.OutOrStdout(), cmd.ErrOrStderr(), out.json)
		},
	}
	api.addTo(cmd)
	out.addTo(cmd)
	flags := cmd.Flags()
	flags.Int64VarP(&opts.calls, "calls", "n", 20, "calls to make up")
	flags.Float64VarP(&opts.rate, "rate", "r", 0, "calls that begin in a second; 0 as fast as possible")
	flags.Float64Var(&opts.eventRate, "event-rate", 0, "events sent in a second; 0 as fast as possible")
	flags.Uint64Var(&opts.seed, "seed", 0, "the same seed makes the same events (default: another one each time)")
	flags.StringVar(&opts.source, "source", "simulator", "the events' source")
	flags.IntVar(&opts.batch, "batch", 1, "events in a request")
	flags.IntVarP(&opts.concurrency, "concurrency", "c", 16, "requests at the same time")
	flags.BoolVar(&opts.realtime, "realtime", false, "send each event when it happens (--speed 1)")
	flags.Float64Var(&opts.speed, "speed", 0, "like --realtime, but so many times faster")
	flags.DurationVar(&opts.retryFor, "retry-for", 2*time.Minute, "give up when the API takes nothing for so long")
	flags.StringVar(&opts.ledger, "ledger", "", "file for a JSON line with the id of each accepted event")
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "no progress bar")
	return cmd
}

func (o *simulateOptions) validate() error {
	if o.realtime && o.speed == 0 {
		o.speed = 1
	}
	var problems []error
	want := func(ok bool, text string) {
		if !ok {
			problems = append(problems, errors.New(text))
		}
	}
	want(o.calls >= 1, "--calls must be at least 1")
	want(o.rate >= 0, "--rate must not be negative")
	want(o.eventRate >= 0, "--event-rate must not be negative")
	want(o.rate == 0 || o.eventRate == 0, "--rate counts calls and --event-rate events: give one of them")
	want(o.batch >= 1 && o.batch <= 5000, "--batch must be between 1 and 5000")
	want(o.concurrency >= 1 && o.concurrency <= 10_000, "--concurrency must be between 1 and 10000")
	want(o.speed >= 0, "--speed must not be negative")
	want(o.retryFor > 0, "--retry-for must be positive")
	return errors.Join(problems...)
}

// summary is what a simulation has come to.
type summary struct {
	Calls           int64              `json:"calls"`
	Events          int64              `json:"events"`   // made up
	Accepted        int64              `json:"accepted"` // answered 202
	Refused         int64              `json:"refused"`  // answered 4xx, and not tried again
	Unknown         int64              `json:"unknown"`  // no answer before the end: perhaps accepted
	Requests        int64              `json:"requests"`
	Retries         int64              `json:"retries"`
	Seconds         float64            `json:"seconds"`
	EventsPerSecond float64            `json:"events_per_second"`
	Latency         map[string]float64 `json:"latency_ms"` // of the requests that were accepted
	Seed            uint64             `json:"seed"`
	Problems        []string           `json:"problems,omitempty"` // the first few refusals
}

// simulation is a run of simulate.
type simulation struct {
	opts   simulateOptions
	model  *traffic.Model
	sender *sender
	calls  pace
	events pace
	slots  chan struct{} // requests at the same time

	made, done atomic.Int64
}

// simulate sends the traffic and prints the summary. It fails when any event was not accepted.
func simulate(ctx context.Context, opts simulateOptions, c *apiClient, out, progress io.Writer, asJSON bool) error {
	c.http = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: opts.concurrency, MaxIdleConns: opts.concurrency, IdleConnTimeout: time.Minute,
		Proxy: http.ProxyFromEnvironment,
	}}
	defer c.http.CloseIdleConnections()
	s := &simulation{
		opts: opts, model: &traffic.Model{Seed: opts.seed, Source: opts.source},
		sender: &sender{client: c, retryFor: opts.retryFor},
		calls:  pace{perSecond: opts.rate}, events: pace{perSecond: opts.eventRate},
		slots: make(chan struct{}, opts.concurrency),
	}
	if opts.ledger != "" {
		tenant := c.tenant
		if tenant == "" && c.key == "" {
			tenant = auth.DefaultTenant
		}
		l, err := openLedger(opts.ledger, tenant)
		if err != nil {
			return err
		}
		s.sender.ledger = l
	}
	stopBar := func() {}
	if isTerminal(progress) && !opts.quiet && !asJSON {
		stopBar = s.showProgress(progress)
	}
	begun := time.Now()
	err := s.run(ctx)
	elapsed := time.Since(begun)
	stopBar()
	if s.sender.ledger != nil {
		err = errors.Join(err, s.sender.ledger.close())
	}
	sum := s.summary(elapsed)
	if asJSON {
		err = errors.Join(err, printJSON(out, sum))
	} else {
		sum.print(out)
	}
	switch {
	case err != nil:
		return err
	case sum.Refused > 0:
		return fmt.Errorf("%s of %s events were refused", thousands(sum.Refused), thousands(sum.Events))
	case sum.Unknown > 0:
		return fmt.Errorf("%s events were not answered", thousands(sum.Unknown))
	}
	return nil
}

// run plays all calls. The first error that no retry can mend ends it.
func (s *simulation) run(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	most := s.opts.concurrency
	if s.opts.speed > 0 {
		most = maxActive
	}
	numbers := make(chan int64)
	var workers sync.WaitGroup
	started := 0
	for n := range s.opts.calls {
		if s.calls.wait(ctx, 1) != nil {
			break
		}
		select {
		case numbers <- n:
			continue
		default:
		}
		if started < most {
			started++
			workers.Go(func() {
				if err := s.work(ctx, numbers); err != nil {
					cancel(err)
				}
			})
		}
		select {
		case numbers <- n:
		case <-ctx.Done():
		}
	}
	close(numbers)
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return nil
}

// work plays calls one after the other. So the events of a call are never in two requests at the same time.
func (s *simulation) work(ctx context.Context, numbers <-chan int64) error {
	var waiting []traffic.Event
	flush := func(least int) error {
		for len(waiting) >= least {
			n := min(s.opts.batch, len(waiting))
			if err := s.send(ctx, waiting[:n]); err != nil {
				return err
			}
			waiting = waiting[n:]
		}
		return nil
	}
	for number := range numbers {
		flow := s.model.Flow(number)
		s.made.Add(int64(len(flow.Events)))
		var err error
		if s.opts.speed > 0 {
			err = s.play(ctx, flow)
		} else {
			flow.Stamp(time.Now().Add(-flow.Length))
			waiting = append(waiting, flow.Events...)
			if s.calls.perSecond > 0 {
				err = flush(1) // the next call may be long in coming
			} else {
				err = flush(s.opts.batch)
			}
		}
		if err != nil {
			return err
		}
		s.done.Add(1)
	}
	return flush(1)
}

// play sends each event when it happens. The times in the events are those of a call that ends as its last event is
// sent, however fast it is played.
func (s *simulation) play(ctx context.Context, flow traffic.Flow) error {
	begun := time.Now()
	at := func(e traffic.Event) time.Time {
		return begun.Add(time.Duration(float64(e.At) / s.opts.speed))
	}
	flow.Stamp(begun.Add(time.Duration(float64(flow.Length)/s.opts.speed) - flow.Length))
	for events := flow.Events; len(events) > 0; {
		if err := run.Sleep(ctx, time.Until(at(events[0]))); err != nil {
			return err
		}
		n, now := 1, time.Now()
		for n < len(events) && n < s.opts.batch && !at(events[n]).After(now) {
			n++
		}
		if err := s.send(ctx, events[:n]); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

func (s *simulation) send(ctx context.Context, events []traffic.Event) error {
	if err := s.events.wait(ctx, len(events)); err != nil {
		return err
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.slots }()
	return s.sender.send(ctx, events)
}

func (s *simulation) summary(elapsed time.Duration) summary {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	t := s.sender
	sum := summary{
		Calls: s.done.Load(), Events: s.made.Load(), Accepted: t.accepted.Load(), Refused: t.refused.Load(), Unknown: t.unknown.Load(),
		Requests: t.requests.Load(), Retries: t.retries.Load(), Seconds: elapsed.Seconds(), Seed: s.opts.seed, Problems: t.problems,
		Latency: map[string]float64{"p50": ms(t.latencies.quantile(0.5)), "p99": ms(t.latencies.quantile(0.99)), "max": ms(t.latencies.max())},
	}
	if elapsed > 0 {
		sum.EventsPerSecond = float64(sum.Accepted) / elapsed.Seconds()
	}
	return sum
}

func (s *summary) print(w io.Writer) {
	fmt.Fprintf(w, "%s, %s of %s events accepted in %s: %s events/s\n", count(s.Calls, "call"), thousands(s.Accepted), thousands(s.Events),
		time.Duration(s.Seconds*float64(time.Second)).Round(10*time.Millisecond), thousands(int64(s.EventsPerSecond)))
	fmt.Fprintf(w, "%s: half within %.1f ms, 99 %% within %.1f ms, all within %.1f ms; %s sent again\n", count(s.Requests, "request"),
		s.Latency["p50"], s.Latency["p99"], s.Latency["max"], thousands(s.Retries))
	if s.Refused > 0 {
		fmt.Fprintf(w, "%s events were refused:\n", thousands(s.Refused))
		for _, p := range s.Problems {
			fmt.Fprintf(w, "  %s\n", p)
		}
	}
	if s.Unknown > 0 {
		fmt.Fprintf(w, "%s events were sent and not answered: they may have been accepted\n", thousands(s.Unknown))
	}
	fmt.Fprintf(w, "--seed %d sends the same events again\n", s.Seed)
}

// showProgress draws a progress bar until the function that it returns is called.
func (s *simulation) showProgress(w io.Writer) func() {
	bar := progressbar.NewOptions64(s.opts.calls,
		progressbar.OptionSetWriter(w), progressbar.OptionSetWidth(30), progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(true), progressbar.OptionUseANSICodes(true), progressbar.OptionClearOnFinish())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		begun := time.Now()
		for {
			select {
			case <-ctx.Done():
				_ = bar.Finish()
				return
			case <-tick.C:
				accepted := s.sender.accepted.Load()
				perSecond := float64(accepted) / time.Since(begun).Seconds()
				bar.Describe(fmt.Sprintf("%s events, %s/s", thousands(accepted), thousands(int64(perSecond))))
				_ = bar.Set64(s.done.Load())
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}
