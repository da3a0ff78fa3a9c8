package run

import (
	"context"
	"time"
)

// Sleep waits for d, and returns ctx's error where that ends before.
func Sleep(ctx context.Context, d time.Duration) error { return Await(ctx, nil, d) }

// Await waits for wake, but no longer than atMost; its error is ctx's, where that ends before.
func Await(ctx context.Context, wake <-chan struct{}, atMost time.Duration) error {
	if atMost <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-wake:
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// Backoff is how long to wait after so many tries that failed, from 1: 100 ms, doubling to 5 s.
func Backoff(tries int) time.Duration {
	return min(100*time.Millisecond<<min(max(tries-1, 0), 6), 5*time.Second)
}

// Again waits for Backoff, and returns ctx's error where that ends before.
func Again(ctx context.Context, tries int) error { return Sleep(ctx, Backoff(tries)) }
