package callstream

import (
	"context"
	"sync"
	"time"

	"github.com/callstream/callstream/pkg/run"
)

// pace spreads work evenly over time. A late worker may catch up at most a second's worth.
type pace struct {
	perSecond float64 // 0 sets no limit

	mu   sync.Mutex
	next time.Time
}

// wait returns when n more units may be done, or with ctx's error.
func (p *pace) wait(ctx context.Context, n int) error {
	if p.perSecond <= 0 {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.IsZero() {
		p.next = now
	} else if earliest := now.Add(-time.Second); p.next.Before(earliest) {
		p.next = earliest
	}
	due := p.next
	p.next = p.next.Add(time.Duration(float64(n) / p.perSecond * float64(time.Second)))
	p.mu.Unlock()
	return run.Sleep(ctx, time.Until(due))
}
