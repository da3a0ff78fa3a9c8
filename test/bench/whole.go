package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// side is one of the two whole pipelines: where it takes events, and its process.
type side struct {
	url string
	end func()
	usage
}

// usage is what a process uses.
type usage interface {
	CPU() (time.Duration, error)
	Resident() (int64, error)
}

// both start the bare pipeline and callstream, each with one subscription for every event.
func (b *bench) both() []func(context.Context, *sink) (*side, error) {
	return []func(context.Context, *sink) (*side, error){
		func(ctx context.Context, s *sink) (*side, error) {
			a, err := cast(ctx, "pipeline", b.data("bare"), sinkVariable+"="+s.url(0))
			if err != nil {
				return nil, err
			}
			return &side{url: a.words[0], end: a.end, usage: a}, nil
		},
		func(ctx context.Context, s *sink) (*side, error) {
			p, err := b.up(ctx)
			if err != nil {
				return nil, err
			}
			if err := p.subscribe(ctx, map[string]any{"url": s.url(0), "events": []string{"call.ended"}, "max_in_flight": bareSenders}); err != nil {
				p.Kill()
				return nil, err
			}
			return &side{url: p.url, end: p.Kill, usage: p}, nil
		},
	}
}

// burst is one run at full speed.
type burst struct {
	rate    float64 // deliveries a second, from a tenth of them to all but a hundredth
	cpu     float64 // ms of the process for 1,000 of them
	behind  int     // events that waited when the last was accepted
	first   int64   // median of the resident memory in the first half of the deliveries,
	last    int64   // and in the second
	elapsed time.Duration
}

// play posts events, many in a request, from some connections as fast as they are accepted, and waits for every delivery.
func (b *bench) play(ctx context.Context, start func(context.Context, *sink) (*side, error), run string, events, each, connections int) (r burst, err error) {
	s, err := newSink(1, events)
	if err != nil {
		return r, err
	}
	defer s.close()
	p, err := start(ctx, s)
	if err != nil {
		return r, err
	}
	defer p.end()
	s.begin(run, nil)
	l := &load{url: p.url, kind: "call.ended", run: run, sink: s}
	var next, accepted atomic.Int64
	var senders sync.WaitGroup
	faults := make(chan error, connections)
	began := time.Now()
	for range connections {
		senders.Go(func() {
			for {
				to := int(next.Add(int64(each)))
				if to > events {
					return
				}
				if err := l.post(ctx, to-each, to); err != nil {
					faults <- err
					return
				}
				accepted.Add(int64(each))
			}
		})
	}
	posted := make(chan int, 1)
	go func() { senders.Wait(); posted <- events - s.have(0) }()
	var samples [2][]int64
	reach := func(n int) (int, time.Time, time.Duration, error) {
		sampled := time.Now()
		if !until(ctx, 4*time.Minute, func() bool {
			if time.Since(sampled) > 200*time.Millisecond {
				if bytes, err := p.Resident(); err == nil {
					half := min(2*s.have(0)/events, 1)
					samples[half] = append(samples[half], bytes)
				}
				sampled = time.Now()
			}
			return s.have(0) >= n || len(faults) > 0
		}) {
			return 0, time.Time{}, 0, fmt.Errorf("%w: %d of %d, %d accepted", errMissing, s.have(0), events, accepted.Load())
		}
		if len(faults) > 0 {
			return 0, time.Time{}, 0, <-faults
		}
		cpu, err := p.CPU()
		return s.have(0), time.Now(), cpu, err
	}
	n0, t0, c0, err := reach(events / 10)
	if err != nil {
		return r, err
	}
	n1, t1, c1, err := reach(events - events/100)
	if err != nil {
		return r, err
	}
	if _, _, _, err = reach(events); err != nil {
		return r, err
	}
	n := float64(n1 - n0)
	return burst{
		rate: n / t1.Sub(t0).Seconds(), cpu: float64((c1 - c0).Microseconds()) / n, behind: <-posted,
		first: median(samples[0]), last: quantile(samples[1], 0.9), elapsed: time.Since(began),
	}, nil
}

// pipelineRow compares the whole pipelines at full speed, with one event a request and with 50.
func pipelineRow(ctx context.Context, b *bench) ([]line, error) {
	var lines []line
	for _, c := range []struct {
		name                      string
		events, each, connections int
	}{{"one event a request", 20_000, 1, 64}, {"50 events a request", 50_000, 50, 8}} {
		var got [2][]burst
		for round := range b.rounds {
			for i, start := range b.both() {
				r, err := b.play(ctx, start, fmt.Sprintf("p%dr%de%d", i, round, c.each), c.events, c.each, c.connections)
				if err != nil {
					return lines, fmt.Errorf("%s, %s: %w", c.name, []string{"bare", "callstream"}[i], err)
				}
				b.say("%s, %s: %.0f/s, %.1f ms/1k, %d behind at the last 202, %d and %d MiB, %s", c.name, []string{"bare", "callstream"}[i], r.rate, r.cpu, r.behind, r.first>>20, r.last>>20, r.elapsed.Round(time.Millisecond))
				got[i] = append(got[i], r)
			}
		}
		of := func(i int, value func(burst) float64) []float64 {
			out := make([]float64, len(got[i]))
			for k, r := range got[i] {
				out[k] = value(r)
			}
			return out
		}
		compare := func(figure, format, target string, value func(burst) float64) {
			bare, ours := of(0, value), of(1, value)
			lines = append(lines, line{figure, fmt.Sprintf(format, median(bare)), fmt.Sprintf(format, median(ours)), times(median(ratios(ours, bare))), target})
		}
		compare("whole pipeline, "+c.name, "%.0f/s", "≥ 0.7", func(r burst) float64 { return r.rate })
		compare("its CPU for 1,000", "%.1f ms", "", func(r burst) float64 { return r.cpu })
		behind := func(i int) string {
			return fmt.Sprintf("%.1f %%", 100*median(of(i, func(r burst) float64 { return float64(r.behind) }))/float64(c.events))
		}
		target := "not growing"
		if c.each > 1 {
			target = ""
		}
		lines = append(lines, line{"waiting at the last 202", behind(0), behind(1), "", target})
		first, last := of(1, func(r burst) float64 { return float64(r.first) }), of(1, func(r burst) float64 { return float64(r.last) })
		lines = append(lines, line{"memory, first half and second", fmt.Sprintf("%.0f MiB", median(first)/(1<<20)), fmt.Sprintf("%.0f MiB", median(last)/(1<<20)), times(median(ratios(last, first))), "flat"})
	}
	return lines, nil
}

// latencyRow compares the time from the POST to the endpoint's first byte.
func latencyRow(ctx context.Context, b *bench) ([]line, error) {
	var lines []line
	for _, c := range []struct {
		perSecond float64
		events    int
	}{{100, 1500}, {1000, 10_000}} {
		var p50, p99 [2][]time.Duration
		for round := range b.rounds {
			for i, start := range b.both() {
				took, err := b.latencies(ctx, start, fmt.Sprintf("l%dr%d", i, round), c.perSecond, c.events)
				if err != nil {
					return lines, err
				}
				p50[i], p99[i] = append(p50[i], quantile(took, 0.5)), append(p99[i], quantile(took, 0.99))
				b.say("%.0f events/s, %s: p50 %s, p99 %s", c.perSecond, []string{"bare", "callstream"}[i], ms(quantile(took, 0.5)), ms(quantile(took, 0.99)))
			}
		}
		lines = append(lines,
			line{fmt.Sprintf("POST to the endpoint's first byte at %.0f/s, p99", c.perSecond), ms(median(p99[0])), ms(median(p99[1])), times(median(ratios(p99[1], p99[0]))), "≤ 2"},
			line{"its p50", ms(median(p50[0])), ms(median(p50[1])), times(median(ratios(p50[1], p50[0]))), ""})
	}
	return lines, nil
}

func (b *bench) latencies(ctx context.Context, start func(context.Context, *sink) (*side, error), run string, perSecond float64, events int) ([]time.Duration, error) {
	const warm = 200
	s, err := newSink(1, warm+events)
	if err != nil {
		return nil, err
	}
	defer s.close()
	p, err := start(ctx, s)
	if err != nil {
		return nil, err
	}
	defer p.end()
	for _, part := range []struct {
		run      string
		from, to int
	}{{"warm" + run, 0, warm}, {run, warm, warm + events}} {
		s.begin(part.run, nil)
		l := &load{url: p.url, kind: "call.ended", run: part.run, sink: s}
		if err := l.pace(ctx, part.from, part.to, perSecond); err != nil {
			return nil, err
		}
		if !until(ctx, time.Minute, func() bool { return s.have(0) == part.to-part.from }) {
			return nil, fmt.Errorf("%w: %d of %d", errMissing, s.have(0), part.to-part.from)
		}
	}
	return s.latencies(0), nil
}
