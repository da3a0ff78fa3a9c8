package history

import (
	"cmp"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
)

// Event is one event and where its record is.
type Event struct {
	Tenant     string
	ID         string
	Source     string
	Type       string
	CallID     string
	Time       time.Time // when it happened
	AcceptedAt time.Time // when callstream accepted it
	Place      kafka.Place
	grade      int

	// Dead letters of the event itself, which no subscription was asked about.
	DeadAt     time.Time // zero: there is none
	DeadReason string
	DeadDetail string
}

// The grades of what tells of an event's record. A record that was decided about is whole; one that nobody wanted was
// perhaps never decoded; that of a dead letter is not to be read.
const (
	gradeDead = iota
	gradeSeen
	gradeDecided
)

type eventKey struct{ id, tenant, source string }

func (e *Event) key() eventKey { return eventKey{e.ID, e.Tenant, e.Source} }

// compareRecord orders what is known of the event's records: the greatest is the one to show. An event that came more
// than once is shown as it came first.
func (e *Event) compareRecord(o *Event) int {
	return cmp.Or(
		cmp.Compare(e.grade, o.grade),
		o.AcceptedAt.Compare(e.AcceptedAt),
		comparePlace(o.Place, e.Place),
		cmp.Compare(e.Type, o.Type), cmp.Compare(e.CallID, o.CallID), e.Time.Compare(o.Time),
	)
}

// merge adds what another row says of the same event. It is commutative, associative and idempotent.
func (e *Event) merge(o *Event) {
	if cmp.Or(e.DeadAt.Compare(o.DeadAt), cmp.Compare(e.DeadReason, o.DeadReason), cmp.Compare(e.DeadDetail, o.DeadDetail)) < 0 {
		e.DeadAt, e.DeadReason, e.DeadDetail = o.DeadAt, o.DeadReason, o.DeadDetail
	}
	if e.compareRecord(o) < 0 {
		e.Type, e.CallID, e.Time, e.AcceptedAt, e.Place, e.grade = o.Type, o.CallID, o.Time, o.AcceptedAt, o.Place, o.grade
	}
}
