package main

import (
	"context"
	"fmt"
	"time"
)

// scene is one pipeline with traffic. Its first endpoint is the one that may misbehave; the others are measured.
type scene struct {
	name      string
	endpoints int
	perSecond float64 // events for every endpoint
	alone     float64 // further events a second, which only the first endpoint wants
	lasts     time.Duration
	schedule  string // retry schedule
	behave    func(endpoint, event, attempt int) verdict
	calm      int // index of the scene that it is compared with; -1: it is one
}

// The load is 500 deliveries a second in all, as long as it takes for what hangs to fill every room it is given.
func scenes() []scene {
	const lasts = 12 * time.Second
	first := func(v verdict) func(int, int, int) verdict {
		return func(endpoint, _, _ int) verdict {
			if endpoint == 0 {
				return v
			}
			return take
		}
	}
	again := func(v verdict) func(int, int, int) verdict {
		return func(endpoint, _, attempt int) verdict {
			switch {
			case endpoint == 0:
				return v
			case attempt == 1:
				return fail
			}
			return take
		}
	}
	const schedule = "5s,30s,2m"
	return []scene{
		{"20 endpoints", 20, 25, 0, lasts, schedule, nil, -1},
		{"one of 20 endpoints hangs", 20, 25, 0, lasts, schedule, first(hang), 0},
		{"100 endpoints", 100, 5, 0, lasts, schedule, nil, -1},
		{"one of 100 endpoints hangs", 100, 5, 0, lasts, schedule, first(hang), 2},
		{"one of 20 endpoints has half of all deliveries", 20, 12.5, 237.5, lasts, schedule, nil, -1},
		{"that one fails each time", 20, 12.5, 237.5, lasts, schedule, first(fail), 4},
		{"20 endpoints, delivered by a retry after 1 s", 20, 12.5, 0, 2 * lasts, "1s,2s,4s", again(take), -1},
		{"the retries, while one of 20 endpoints hangs", 20, 12.5, 0, 2 * lasts, "1s,2s,4s", again(hang), 6},
	}
}

// isolationRow takes the 99th percentile of what the other endpoints got, from the POST to their first byte. Undisturbed and
// disturbed take turns, each in a fresh process.
func isolationRow(ctx context.Context, b *bench) ([]line, error) {
	all := scenes()
	p99 := make([][]time.Duration, len(all))
	missing := make([]int, len(all))
	made := make([]int, len(all))
	for round := range b.rounds {
		for i, s := range all {
			took, got, want, err := s.play(ctx, b, fmt.Sprintf("r%ds%d", round, i))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			b.say("%s: p50 %s, p99 %s, %d of %d deliveries", s.name, ms(quantile(took, 0.5)), ms(quantile(took, 0.99)), got, want)
			p99[i] = append(p99[i], quantile(took, 0.99))
			missing[i] += want - got
			made[i] += got
		}
	}
	var lines []line
	for i, s := range all {
		if s.calm < 0 {
			continue
		}
		lines = append(lines,
			line{s.name + ": the others' p99", ms(median(p99[s.calm])), ms(median(p99[i])), times(median(ratios(p99[i], p99[s.calm]))), "≤ 1.2"},
			line{"the others' deliveries made", share(made[s.calm], missing[s.calm]), share(made[i], missing[i]), "", "100 %"})
	}
	return lines, nil
}

func share(made, missing int) string {
	return fmt.Sprintf("%.4g %%", 100*float64(made)/float64(max(made+missing, 1)))
}

// play runs the scene once and returns the latencies of the endpoints but the first, how many deliveries these got, and
// how many they should have got.
func (s *scene) play(ctx context.Context, b *bench, run string) (took []time.Duration, got, want int, err error) {
	const warm = 50
	common := int(s.perSecond * s.lasts.Seconds())
	others := int(s.alone * s.lasts.Seconds())
	sink, err := newSink(s.endpoints, warm+common+others)
	if err != nil {
		return nil, 0, 0, err
	}
	defer sink.close()
	p, err := b.up(ctx, "CALLSTREAM_RETRY_SCHEDULE="+s.schedule)
	if err != nil {
		return nil, 0, 0, err
	}
	defer p.Kill()
	for n := range s.endpoints {
		kinds := []string{"call.ended"}
		if n == 0 {
			kinds = append(kinds, "call.started")
		}
		if err := p.subscribe(ctx, map[string]any{"url": sink.url(n), "events": kinds}); err != nil {
			return nil, 0, 0, err
		}
	}
	// Connections and caches of the first events are not what is compared.
	sink.begin("warm"+run, nil)
	first := &load{url: p.url, kind: "call.ended", run: "warm" + run, sink: sink}
	if err := first.pace(ctx, 0, warm, 50); err != nil {
		return nil, 0, 0, err
	}
	if !until(ctx, time.Minute, func() bool { return sink.have(0) == warm*s.endpoints }) {
		return nil, 0, 0, fmt.Errorf("the first %d events did not arrive: %w", warm, context.DeadlineExceeded)
	}
	sink.begin(run, s.behave)
	aside := make(chan error, 1)
	go func() {
		l := &load{url: p.url, kind: "call.started", run: run, sink: sink}
		aside <- l.pace(ctx, warm+common, warm+common+others, max(s.alone, 1))
	}()
	l := &load{url: p.url, kind: "call.ended", run: run, sink: sink}
	err = l.pace(ctx, warm, warm+common, s.perSecond)
	if err2 := <-aside; err == nil {
		err = err2
	}
	if err != nil {
		return nil, 0, 0, err
	}
	want = common * (s.endpoints - 1)
	until(ctx, 30*time.Second, func() bool { return sink.have(1) == want })
	return sink.latencies(1), sink.have(1), want, nil
}
