package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/test/process"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	parkedRetries       = 1_000_000
	parkedSubscriptions = 800
	parkedTraffic       = 20_000
)

var errMissing = errors.New("not everything was delivered")

// parkedRow compares the resident memory of a dispatcher whose retry tiers hold a million deliveries, due in hours, with one
// that has none. Both have the same subscriptions, and send the same deliveries while they are looked at.
func parkedRow(ctx context.Context, b *bench) ([]line, error) {
	schedule := topic.DefaultRetryDelays()
	sink, err := newSink(1, parkedTraffic)
	if err != nil {
		return nil, err
	}
	defer sink.close()
	var lanes [2]*lane
	for i := range lanes {
		l, err := b.newLane(ctx, schedule)
		if err != nil {
			return nil, err
		}
		defer l.close()
		lanes[i] = l
		for n := range parkedSubscriptions {
			if err := l.subscribe(ctx, parkedSubscription(n), sink.url(0), func(s *subscription.Subscription) { s.MaxInFlight = 32 }); err != nil {
				return nil, err
			}
		}
	}
	b.say("writing %d parked deliveries of 2 KB", parkedRetries)
	if err := fillTiers(ctx, lanes[1], schedule); err != nil {
		return nil, err
	}
	var resident [2][]int64
	for round := range b.rounds {
		for i, l := range lanes {
			bytes, err := b.residentWith(ctx, l, sink, fmt.Sprintf("m%dr%d", i, round))
			if err != nil {
				return nil, err
			}
			b.say("%d parked: %d MiB", i*parkedRetries, bytes>>20)
			resident[i] = append(resident[i], bytes)
		}
	}
	mib := func(all []int64) string { return fmt.Sprintf("%d MiB", median(all)>>20) }
	return []line{{"memory with none and with a million parked retries", mib(resident[0]), mib(resident[1]), times(median(ratios(resident[1], resident[0]))), "≤ 1.1"}}, nil
}

func parkedSubscription(n int) string { return fmt.Sprintf("sub_parked_%d", n%parkedSubscriptions) }

// fillTiers parks deliveries in the tiers of an hour and more.
func fillTiers(ctx context.Context, l *lane, schedule []time.Duration) error {
	long := schedule[len(schedule)-3:]
	body := eventBody(nil, "parked", "call.ended", 0)
	n := 0
	return l.produce(ctx, func() (*kgo.Record, error) {
		if n == parkedRetries {
			return nil, nil
		}
		r, err := l.delivery(ctx, parkedSubscription(n), "parked", n, body)
		if err != nil {
			return nil, err
		}
		tier, now := long[n%len(long)], time.Now()
		r.Topic = topic.RetryTier(tier)
		r.Headers = append(r.Headers, kafka.IntHeader(kafka.HeaderAttempt, 4), kafka.IntHeader(kafka.HeaderEnqueued, now.UnixMilli()),
			kafka.IntHeader(kafka.HeaderDue, now.Add(tier).UnixMilli()), kafka.StringHeader(kafka.HeaderTier, tier.String()),
			kafka.IntHeader(kafka.HeaderFirstFailedAt, now.UnixMilli()), kafka.StringHeader(kafka.HeaderLastErrorClass, "timeout"))
		n++
		return r, nil
	})
}

// residentWith runs a dispatcher on a lane, has it send deliveries, and returns the median of its memory while it does and
// for some seconds afterwards.
func (b *bench) residentWith(ctx context.Context, l *lane, sink *sink, run string) (int64, error) {
	p, err := process.Start(process.Options{Binary: filepath.Join(b.bin, "dispatcher"), Env: l.env(), Dir: b.data("dispatcher")})
	if err != nil {
		return 0, err
	}
	defer p.Kill()
	if _, err := p.Ready(ctx); err != nil {
		return 0, err
	}
	sink.begin(run, nil)
	body := eventBody(nil, run, "call.ended", 0)
	var samples []int64
	const slices = 20
	for slice := range slices {
		n, to := slice*parkedTraffic/slices, (slice+1)*parkedTraffic/slices
		if err := l.produce(ctx, func() (*kgo.Record, error) {
			if n == to {
				return nil, nil
			}
			n++
			return l.delivery(ctx, parkedSubscription(n), run, n-1, body)
		}); err != nil {
			return 0, err
		}
		if !until(ctx, time.Minute, func() bool { return sink.have(0) >= to }) {
			return 0, fmt.Errorf("%w: %d of %d", errMissing, sink.have(0), to)
		}
		bytes, err := p.Resident()
		if err != nil {
			return 0, err
		}
		samples = append(samples, bytes)
	}
	for range 10 {
		time.Sleep(500 * time.Millisecond)
		bytes, err := p.Resident()
		if err != nil {
			return 0, err
		}
		samples = append(samples, bytes)
	}
	end, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return median(samples), p.Terminate(end)
}
