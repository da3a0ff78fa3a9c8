package kafka

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Task is one record, handed out to be done. Its methods may be called from any goroutine; of Done, Abandon and Defer
// the first call counts.
type Task struct {
	Record *kgo.Record

	p           *partition
	size        int64
	incarnation int
	state       atomic.Int32
	until       time.Time
}

const (
	taskOpen = iota
	taskDone
	taskAbandoned
	taskDeferred
)

// Context ends when the partition is lost, which for one that is taken away is at most RevokeTimeout after Stopping.
func (t *Task) Context() context.Context { return t.p.workCtx }

// Stopping is closed when the partition is to be given up or the loop drains: begin nothing new.
func (t *Task) Stopping() <-chan struct{} { return t.p.intake.Done() }

// Done completes the record's offset. After the partition was lost it does nothing.
func (t *Task) Done() {
	if t.state.CompareAndSwap(taskOpen, taskDone) {
		t.p.complete(t)
	}
}

// Abandon gives the record back undone, so that nobody waits for it when its partition is given up: its offset stays
// open, and it is handed out again by the partition's next owner. Only sensible after Stopping: before, the partition
// would stand still in the end.
func (t *Task) Abandon() {
	if t.state.CompareAndSwap(taskOpen, taskAbandoned) {
		t.p.abandon(t)
	}
}

// Defer says that the record is not due before until. It is only valid inside Handle, which then returns: the partition
// waits, and hands out this record again, with a new Task. Nothing behind it is handed out meanwhile.
func (t *Task) Defer(until time.Time) {
	if t.state.CompareAndSwap(taskOpen, taskDeferred) {
		t.until = until
	}
}

// deferred is called after Handle, by the goroutine that Defer was called in.
func (t *Task) deferred() (time.Time, bool) {
	if t.state.Load() != taskDeferred {
		return time.Time{}, false
	}
	return t.until, true
}
