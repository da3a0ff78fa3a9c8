package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/test/process"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	fleetEndpoints = 10_000
	fleetDead      = 100 // one of so many is
	// fleetMinutes of traffic are sent so many times faster than they would come: every rate is multiplied by it, and every
	// time that a subscription or the policy sets (timeout, delays between attempts) is divided. What the dispatcher's own
	// constants set (how often it commits, how long it waits before it parks) is not, so those weigh more than they would.
	fleetMinutes   = 10
	fleetFaster    = 8
	fleetPerSecond = 1600 // deliveries: 200 a second, eight times faster
)

// fleetRow sends to 10,000 endpoints on hosts of their own, of which every hundredth is dead: half of those refuse
// connections, half take them and hang. It compares the memory of the last third with that of the first, and looks for
// partitions that stand still.
func fleetRow(ctx context.Context, b *bench) ([]line, error) {
	schedule := []time.Duration{5 * time.Second / fleetFaster, 30 * time.Second / fleetFaster, 2 * time.Minute / fleetFaster, 10 * time.Minute / fleetFaster}
	count := fleetMinutes * 60 / fleetFaster * fleetPerSecond
	s, err := newSinkOn("0.0.0.0:0", fleetEndpoints, count)
	if err != nil {
		return nil, err
	}
	defer s.close()
	l, err := b.newLane(ctx, schedule)
	if err != nil {
		return nil, err
	}
	defer l.close()
	gone := func(n int) bool { return n%fleetDead == 0 }
	for n := range fleetEndpoints {
		url := s.urlOn(fmt.Sprintf("127.1.%d.%d", n/250, 1+n%250), n)
		if gone(n) && n%(2*fleetDead) == 0 {
			url = fmt.Sprintf("http://127.1.%d.%d:1/%d", n/250, 1+n%250, n) // nobody listens there
		}
		if err := l.subscribe(ctx, fleetSubscription(n), url, func(s *subscription.Subscription) {
			s.Request.Timeout = subscription.Duration(10 * time.Second / fleetFaster)
		}); err != nil {
			return nil, err
		}
	}
	p, err := process.Start(process.Options{
		Binary: filepath.Join(b.bin, "dispatcher"), Dir: b.data("dispatcher"), Env: l.env("CALLSTREAM_RETRY_SCHEDULE=" + spelled(schedule)),
	})
	if err != nil {
		return nil, err
	}
	defer p.Kill()
	if _, err := p.Ready(ctx); err != nil {
		return nil, err
	}
	g := newGaps(lanePartitions)
	s.begin("fleet", func(endpoint, _, _ int) verdict {
		if gone(endpoint) {
			return hang
		}
		g.arrived(topic.PartitionFor(fleetSubscription(endpoint), "", 1, lanePartitions))
		return take
	})
	var samples []int64
	began := time.Now()
	want := 0
	for n := 0; n < count; {
		to := min(count, int(time.Since(began).Seconds()*fleetPerSecond))
		now := time.Now().UnixNano()
		if err := l.produce(ctx, func() (*kgo.Record, error) {
			if n >= to {
				return nil, nil
			}
			endpoint := n % fleetEndpoints
			if !gone(endpoint) {
				want++
			}
			s.sent[n].Store(now)
			n++
			return l.delivery(ctx, fleetSubscription(endpoint), "fleet", n-1, eventBody(nil, "fleet", "call.ended", n-1))
		}); err != nil {
			return nil, err
		}
		bytes, err := p.Resident()
		if err != nil {
			return nil, err
		}
		samples = append(samples, bytes)
		time.Sleep(20 * time.Millisecond)
	}
	longest := g.take()
	until(ctx, time.Minute, func() bool { return s.have(0) >= want })
	third := len(samples) / 3
	first, last := median(samples[:third]), median(samples[2*third:])
	took := s.latencies(0)
	b.say("p50 %s, p99 %s", ms(quantile(took, 0.5)), ms(quantile(took, 0.99)))
	return []line{
		{"10,000 endpoints, 1 % dead: memory, first third and last", fmt.Sprintf("%d MiB", first>>20), fmt.Sprintf("%d MiB", last>>20), times(float64(last) / float64(first)), "flat"},
		{"its deliveries made, but to the dead", "", share(s.have(0), want-s.have(0)), "", "100 %"},
		{"its longest time without a delivery on a partition", "", ms(longest), "", "none stalled"},
	}, nil
}

func fleetSubscription(n int) string { return fmt.Sprintf("sub_fleet_%d", n) }

// spelled writes delays as the configuration has them.
func spelled(delays []time.Duration) string {
	text := ""
	for i, d := range delays {
		if i > 0 {
			text += ","
		}
		text += d.String()
	}
	return text
}
