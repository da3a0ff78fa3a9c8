package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/test/process"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	scalingPerSecond = 800 // deliveries, over all partitions
	scalingStep      = 8 * time.Second
	scalingKilled    = 20 * time.Second // the group waits 10 s for one that was killed
	scalingMost      = 200 * scalingPerSecond
)

// scalingRow measures how long a partition pauses, and what its deliveries have to wait, while dispatchers come and go under
// a steady load: one, two, three, four, three, two, and one after a kill. It is measured once on each broker.
func scalingRow(ctx context.Context, b *bench) ([]line, error) {
	var lines []line
	for _, broker := range []struct {
		name  string
		start func(context.Context, []time.Duration) (*lane, error)
	}{{"embedded", b.newLane}, {"Apache Kafka", b.newApacheLane}} {
		more, err := b.scale(ctx, broker.name, broker.start)
		lines = append(lines, more...)
		if err != nil {
			return lines, fmt.Errorf("%s: %w", broker.name, err)
		}
	}
	return lines, nil
}

// scale measures on one broker.
func (b *bench) scale(ctx context.Context, name string, start func(context.Context, []time.Duration) (*lane, error)) ([]line, error) {
	s, err := newSink(lanePartitions, scalingMost)
	if err != nil {
		return nil, err
	}
	defer s.close()
	l, err := start(ctx, topic.DefaultRetryDelays())
	if err != nil {
		return nil, err
	}
	defer l.close()
	subs, err := l.onEveryPartition(ctx, s)
	if err != nil {
		return nil, err
	}
	w := &waits{gaps: newGaps(lanePartitions)}
	s.begin("scaling", func(partition, event, _ int) verdict {
		w.arrived(int32(partition), time.Duration(time.Now().UnixNano()-s.sent[event].Load()))
		return take
	})

	d := &dispatchers{b: b, env: l.env()}
	defer d.end()
	if err := d.add(ctx); err != nil {
		return nil, err
	}
	loading, stop := context.WithCancel(ctx)
	defer stop()
	written := make(chan int, 1)
	failed := make(chan error, 1)
	go func() {
		n, err := l.steady(loading, s, subs)
		written <- n
		failed <- err
	}()
	select {
	case <-time.After(scalingStep / 2): // connections, caches
	case <-ctx.Done():
	}
	w.take()
	var lines []line
	for _, step := range []struct {
		name  string
		lasts time.Duration
		do    func(context.Context) error
	}{
		{"1", scalingStep, func(context.Context) error { return nil }},
		{"1 → 2", scalingStep, d.add},
		{"2 → 3", scalingStep, d.add},
		{"3 → 4", scalingStep, d.add},
		{"4 → 3", scalingStep, d.drain},
		{"3 → 2", scalingStep, d.drain},
		{"2 → 1, killed", scalingKilled, d.kill},
	} {
		if step.name == "2 → 1, killed" {
			lines = append(lines, line{"repeated by these", "", fmt.Sprint(s.repeats()), "", "0"})
		}
		over := time.After(step.lasts)
		if err := step.do(ctx); err != nil {
			return lines, fmt.Errorf("%s: %w", step.name, err)
		}
		select {
		case <-over:
		case err := <-failed:
			return lines, fmt.Errorf("%s: the load ended: %w", step.name, err)
		case <-ctx.Done():
			return lines, ctx.Err()
		}
		longest, p99 := w.take()
		b.say("%s, %s: longest pause of a partition %s, p99 %s", name, step.name, ms(longest), ms(p99))
		lines = append(lines, line{"dispatchers, " + step.name + ", " + name + ": longest pause of a partition, p99 to arrival", "", ms(longest) + ", " + ms(p99), "", ""})
	}
	stop()
	want := <-written
	if !until(ctx, time.Minute, func() bool { return s.have(0) >= want }) {
		return lines, fmt.Errorf("%w: %d of %d", errMissing, s.have(0), want)
	}
	return append(lines, line{"its deliveries made, and repeated", "", fmt.Sprintf("%s, %d", share(s.have(0), want-s.have(0)), s.repeats()), "", "100 %"}), nil
}

// onEveryPartition makes a subscription for each partition, whose endpoint has the partition's number.
func (l *lane) onEveryPartition(ctx context.Context, s *sink) ([]string, error) {
	subs := make([]string, lanePartitions)
	for n, left := 0, lanePartitions; left > 0; n++ {
		id := fmt.Sprintf("sub_scaling_%d", n)
		p := topic.PartitionFor(id, "", 1, lanePartitions)
		if subs[p] != "" {
			continue
		}
		if err := l.subscribe(ctx, id, s.url(int(p)), nil); err != nil {
			return nil, err
		}
		subs[p] = id
		left--
	}
	return subs, nil
}

// steady writes deliveries of the subscriptions in turn until ctx ends, and returns how many.
func (l *lane) steady(ctx context.Context, s *sink, subs []string) (n int, err error) {
	body := eventBody(nil, "scaling", "call.ended", 0)
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return n, nil
		}
		to := min(int(time.Since(began).Seconds()*scalingPerSecond), scalingMost)
		// What was begun is written: it is waited for.
		if err := l.produce(context.WithoutCancel(ctx), func() (*kgo.Record, error) {
			if n >= to {
				return nil, nil
			}
			s.sent[n].Store(time.Now().UnixNano())
			n++
			return l.delivery(ctx, subs[(n-1)%len(subs)], "scaling", n-1, body)
		}); err != nil {
			return n, err
		}
	}
}

// waits are what deliveries wait, and for how long their partitions pause.
type waits struct {
	*gaps
	mu   sync.Mutex
	took []time.Duration
}

func (w *waits) arrived(partition int32, took time.Duration) {
	w.gaps.arrived(partition)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took = append(w.took, took)
}

// take returns the longest pause and the 99th percentile since it was last called.
func (w *waits) take() (longest, p99 time.Duration) {
	w.mu.Lock()
	took := w.took
	w.took = nil
	w.mu.Unlock()
	return w.gaps.take(), quantile(took, 0.99)
}

// dispatchers are processes that come and go.
type dispatchers struct {
	b   *bench
	env []string
	all []*process.Process
}

// add starts one and waits until it is ready.
func (d *dispatchers) add(ctx context.Context) error {
	p, err := process.Start(process.Options{Binary: filepath.Join(d.b.bin, "dispatcher"), Env: d.env, Dir: d.b.data("dispatcher")})
	if err != nil {
		return err
	}
	d.all = append(d.all, p)
	_, err = p.Ready(ctx)
	return err
}

// oldest takes the one out that has been there for longest.
func (d *dispatchers) oldest() *process.Process {
	p := d.all[0]
	d.all = d.all[1:]
	return p
}

// drain ends one in good order.
func (d *dispatchers) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return d.oldest().Terminate(ctx)
}

// kill ends one as a power cut would.
func (d *dispatchers) kill(context.Context) error {
	d.oldest().Kill()
	return nil
}

func (d *dispatchers) end() {
	for _, p := range d.all {
		p.Kill()
	}
}
