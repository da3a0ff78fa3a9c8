package egress

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// room bounds the open connections of a Client and of those made from it, so that endpoints can't use up the files of the
// process. When it is full, idle connections make place for new ones.
type room struct {
	slots   chan struct{}
	waiting atomic.Int32

	mu      sync.Mutex
	clients map[*Client]struct{}
}

// errFull says that no connection was closed in time for another one.
var errFull = errors.New("as many connections are open as may be (CALLSTREAM_EGRESS_MAX_CONNECTIONS)")

// lookAgain is how often who waits for room looks for a connection that has become idle: the transport doesn't tell.
const lookAgain = 20 * time.Millisecond

func newRoom(most int) *room {
	return &room{slots: make(chan struct{}, most), clients: map[*Client]struct{}{}}
}

// enter takes room for one connection. It waits while all are in use, until ctx ends.
func (r *room) enter(ctx context.Context) error {
	select {
	case r.slots <- struct{}{}:
		return nil
	default:
	}
	r.waiting.Add(1)
	defer r.waiting.Add(-1)
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		r.closeIdle()
		select {
		case r.slots <- struct{}{}:
			return nil
		case <-again.C:
		case <-ctx.Done():
			if class := classify(ctx.Err()); class == ClassCanceled {
				return &Error{class, "connect", ctx.Err()}
			}
			return &Error{ClassConnect, "connect", errFull} // no fault of the endpoint's, whose time it took
		}
	}
}

func (r *room) exit() { <-r.slots }

// full says whether somebody waits for room: a connection that becomes idle is better closed than kept.
func (r *room) full() bool { return r.waiting.Load() > 0 }

// closeIdle closes the idle connection of some client that was used the longest ago, or, where only transports have idle
// ones, all of theirs.
func (r *room) closeIdle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.clients {
		if c.http1.closeOldest() {
			return
		}
	}
	for c := range r.clients {
		c.transport.CloseIdleConnections()
	}
}

func (r *room) join(c *Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients[c] = struct{}{}
}

func (r *room) leave(c *Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.clients, c)
}

// roomed is a connection that gives its room back when it is closed.
type roomed struct {
	*net.TCPConn
	room   *room
	closed atomic.Bool
}

// Close closes the connection.
func (c *roomed) Close() error {
	err := c.TCPConn.Close()
	if !c.closed.Swap(true) {
		c.room.exit()
	}
	return err
}
