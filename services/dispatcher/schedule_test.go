package dispatcher

import (
	"slices"
	"testing"
	"time"

	"github.com/callstream/callstream/schemas/topic"
	"pgregory.net/rapid"
)

func genTiers(t *rapid.T) tiers {
	return newTiers(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.Int64Range(1000, 86_400_000).Draw(t, "ms")) * time.Millisecond
	}), 1, 8).Draw(t, "tiers"))
}

func TestTierIsTheLargestThatFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := genTiers(t)
		remaining := time.Duration(rapid.Int64Range(-1000, 100_000_000).Draw(t, "remaining")) * time.Millisecond
		got := all.choose(remaining)
		if !slices.Contains(all, got) {
			t.Fatalf("%v is none of %v", got, all)
		}
		for _, d := range all {
			if d <= remaining && d > got {
				t.Fatalf("%v fits into %v and is larger than %v", d, remaining, got)
			}
		}
		if got > remaining && got != all[0] {
			t.Fatalf("%v doesn't fit into %v, so the smallest, %v, is the tier", got, remaining, all[0])
		}
	})
}

// A record that goes from tier to tier as choose and leaves say is sent no earlier than it is due, no later than it is due
// plus the smallest tier's delay, and never goes round for nothing.
func TestHopsEndWhenTheRecordIsDue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := newTiers(topic.DefaultRetryDelays())
		if rapid.Bool().Draw(t, "own tiers") {
			all = genTiers(t)
		}
		start := time.UnixMilli(1_700_000_000_000)
		due := start.Add(time.Duration(rapid.Int64Range(0, 30*3600*1000).Draw(t, "delay")) * time.Millisecond)
		now, hops := start, 0
		for {
			tier := all.choose(due.Sub(now))
			now = leaves(now, due, tier)
			if !now.Before(due) {
				break
			}
			if hops++; hops > int(due.Sub(start)/all[0])+1 {
				t.Fatalf("still going round after %d hops, %v before it is due", hops, due.Sub(now))
			}
		}
		if late := now.Sub(due); late > all[0] {
			t.Fatalf("late by %v, the smallest tier is %v", late, all[0])
		}
	})
}

// What is parked comes back after about as long as it was to, never together with what was parked at the same time, and
// goes through two tiers at most.
func TestParkedDeliveriesMakeNoDetours(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := genTiers(t)
		about := time.Duration(rapid.Int64Range(1000, 300_000).Draw(t, "about")) * time.Millisecond
		tier, delay := all.aside(about, rapid.Float64Range(0, 0.999).Draw(t, "random"))
		if delay > 2*about || delay < min(about, tier) {
			t.Fatalf("about %v became %v", about, delay)
		}
		start := time.UnixMilli(1_700_000_000_000)
		due, hops := start.Add(delay), 0
		for now := leaves(start, due, tier); now.Before(due); hops++ {
			now = leaves(now, due, all.choose(due.Sub(now)))
		}
		if hops > 1 {
			t.Fatalf("%d hops on the way to %v through %v", hops, delay, all)
		}
	})
}

func TestJitterOnlyLengthens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		delay := time.Duration(rapid.Int64Range(0, int64(7*24*time.Hour)).Draw(t, "delay"))
		got := withJitter(delay, rapid.Float64Range(0, 0.9999999).Draw(t, "random"))
		if got < delay || got > delay+delay/10+1 {
			t.Fatalf("%v became %v", delay, got)
		}
	})
	now := time.Now()
	if d := dueAfter(now, time.Second, time.Minute).Sub(now); d != time.Minute {
		t.Errorf("a Retry-After of a minute over a delay of a second: %v", d)
	}
	if d := dueAfter(now, time.Hour, time.Minute).Sub(now); d < time.Hour {
		t.Errorf("a Retry-After of a minute under a delay of an hour: %v", d)
	}
	if d := dueAfter(now, time.Second, 1000*time.Hour).Sub(now); d != maxRetryAfter {
		t.Errorf("a Retry-After of 1,000 hours: %v", d)
	}
}

func TestParkDelayGrowsToItsBound(t *testing.T) {
	last := time.Duration(0)
	for parked := -1; parked < 70; parked++ {
		d := parkDelay(parked)
		if d < last || d < 5*time.Second || d > 5*time.Minute {
			t.Fatalf("parked %d times: %v after %v", parked, d, last)
		}
		last = d
	}
	if last != 5*time.Minute {
		t.Errorf("it ends at %v", last)
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 20, 10, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, " 120 ": 2 * time.Minute, "-5": 0, "soon": 0, "1.5": 0,
		"999999999999":                         maxRetryAfter,
		"99999999999999999999999":              0,
		"Tue, 20 Jan 2026 10:00:30 GMT":        30 * time.Second,
		"Tue, 20 Jan 2026 09:00:00 GMT":        0,
		"Sun, 20 Jan 2036 10:00:00 GMT":        maxRetryAfter,
		now.Add(time.Hour).Format(time.RFC850): time.Hour,
	} {
		if got := parseRetryAfter(value, now); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}
