// Package outbound makes the requests to subscriptions' endpoints: deliveries, verification, tests and previews are all
// made here, so that what a preview shows and a test tries is what a delivery is.
package outbound

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/callstream/callstream/pkg/egress"
)

// Options of a Sender.
type Options struct {
	// Egress says what connections may be opened, and how many are kept.
	Egress egress.Options
	// Version of callstream goes into the user agent; "dev" where empty.
	Version string
	// Now is the clock of signatures and tokens; time.Now where nil.
	Now func() time.Time
}

// Sender sends requests to the endpoints of subscriptions, each made ready as a Target. It is safe for concurrent use.
type Sender struct {
	opts      Options
	client    *egress.Client
	userAgent string

	// What goes on for no one request: the fetching of tokens.
	working context.Context
	stop    context.CancelFunc
	mu      sync.Mutex // so that nothing begins when Close has been called
	works   sync.WaitGroup
}

// New returns a Sender. Close ends it.
func New(o Options) (*Sender, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	client, err := egress.NewClient(o.Egress)
	if err != nil {
		return nil, err
	}
	s := &Sender{opts: o, client: client, userAgent: "callstream/" + cmp.Or(o.Version, "dev")}
	s.working, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// begin does work of its own until Close; false after that.
func (s *Sender) begin(work func(ctx context.Context)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.working.Err() != nil {
		return false
	}
	s.works.Go(func() { work(s.working) })
	return true
}

// MaxConnections is how many connections may be open at once: more requests than that wait for each other, in their own
// time.
func (s *Sender) MaxConnections() int { return s.client.MaxConnections() }

// Close ends what is under way for no request, and closes the idle connections that Targets share.
func (s *Sender) Close() {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.works.Wait()
	s.client.Close()
}
