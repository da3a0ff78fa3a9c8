package history

import (
	"cmp"
	"strings"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
)

// The states of a delivery.
const (
	StateQueued    = "queued"    // waits for its first attempt
	StateDelivered = "delivered" // the endpoint took it
	StateRetrying  = "retrying"  // waits for another attempt
	StateDead      = "dead"      // given up, and in the dead-letter topic
	StateSkipped   = "skipped"   // not sent, for the reason
)

// States returns all states of a delivery.
func States() []string {
	return []string{StateQueued, StateDelivered, StateRetrying, StateDead, StateSkipped}
}

// reasonDuplicate is the filter's for an event that was seen within ten minutes.
const reasonDuplicate = "duplicate"

// ReasonRedriven is that of a delivery which waits because somebody asked for it to be sent again.
const ReasonRedriven = "redriven"

// Delivery is what became of one event for one subscription.
type Delivery struct {
	// ID is the webhook-id.
	ID string
	// Occurrence is empty but for a repeat of the event that was not delivered because it is one: then it is the place
	// of the repeat, and the row explains it beside that of the first.
	Occurrence string

	Tenant         string
	SubscriptionID string
	EventID        string
	Source         string
	Type           string
	CallID         string
	CreatedAt      time.Time // when callstream accepted the event
	UpdatedAt      time.Time // when the newest of its records was made

	// What holds now, as the newest record says.
	State               string
	Reason              string
	Detail              string // the reason in words
	SubscriptionVersion int64
	NextAttemptAt       time.Time // while retrying
	ReplayID            string    // of the replay that led to it
	Redrive             string    // the redrive that did, after that
	kind                int
	number              int // of the attempt; 0 where it was none
	stateAt             time.Time

	// Place is where the event's record is; zero where no decision tells.
	Place kafka.Place

	// Attempts points to what was tried, oldest first.
	Attempts []Attempt
	// Of the newest request:
	Via        string
	HTTPStatus int // 0 where no answer came
	ErrorClass string
	Duration   time.Duration
}

// The kinds of records that a state comes from. What was tried outranks what was decided, whatever the clocks say: the
// filter's and the dispatchers' may differ.
const (
	kindDecision = iota
	kindAttempt
)

// Requests is how many requests were made.
func (d *Delivery) Requests() int {
	n := 0
	for _, a := range d.Attempts {
		if a.Number > 0 {
			n++
		}
	}
	return n
}

// Newest is the newest request that was made; false where there is none.
func (d *Delivery) Newest() (Attempt, bool) { return sent(d.Attempts) }

// DeliveredAt is when the endpoint had answered; zero where the delivery is not delivered.
func (d *Delivery) DeliveredAt() time.Time {
	last, ok := sent(d.Attempts)
	if !ok || d.State != StateDelivered {
		return time.Time{}
	}
	return last.StartedAt.Add(d.Duration)
}

// deliveryKey identifies a row.
type deliveryKey struct{ id, occurrence string }

func (d *Delivery) key() deliveryKey { return deliveryKey{d.ID, d.Occurrence} }

// ended says whether the record is of an attempt, or of the decision not to make one, that no other comes after.
func (d *Delivery) ended() bool {
	return d.kind == kindAttempt && d.State != StateRetrying && d.State != StateQueued
}

// turn is the newest of the replay and the redrive that led to the state, without the prefix that says which of them it
// is: what is left grows with time.
func (d *Delivery) turn() string {
	return max(strings.TrimPrefix(d.ReplayID, "rpl_"), strings.TrimPrefix(d.Redrive, "rdr_"))
}

// compareState orders what records say of the state; the greatest holds. What the endpoint took it has, whatever a replay
// decides later. Clocks come late: an attempt and the next are often made by two dispatchers, whose clocks may differ by
// more than the time between them. The last comparisons only make it the same whatever the order that records come in.
func (d *Delivery) compareState(o *Delivery) int {
	return cmp.Or(
		compareBool(d.State == StateDelivered, o.State == StateDelivered),
		cmp.Compare(d.turn(), o.turn()), // a replay or a redrive begins anew; their ids grow
		cmp.Compare(d.ReplayID, o.ReplayID), cmp.Compare(d.Redrive, o.Redrive),
		cmp.Compare(d.kind, o.kind),
		compareBool(d.ended(), o.ended()),
		cmp.Compare(d.number, o.number),
		d.stateAt.Compare(o.stateAt),
		cmp.Compare(d.State, o.State), cmp.Compare(d.Reason, o.Reason), cmp.Compare(d.Detail, o.Detail),
		cmp.Compare(d.SubscriptionVersion, o.SubscriptionVersion), d.NextAttemptAt.Compare(o.NextAttemptAt),
	)
}

// merge adds what another row, or a record as a row of its own, says of the same delivery. It is commutative, associative
// and idempotent.
func (d *Delivery) merge(o *Delivery) {
	for _, f := range [...]struct {
		to   *string
		from string
	}{
		{&d.Tenant, o.Tenant}, {&d.SubscriptionID, o.SubscriptionID}, {&d.EventID, o.EventID}, {&d.Source, o.Source},
		{&d.Type, o.Type}, {&d.CallID, o.CallID},
	} {
		*f.to = max(*f.to, f.from) // they are equal, or one is not known
	}
	d.CreatedAt = earlier(d.CreatedAt, o.CreatedAt)
	d.UpdatedAt = later(d.UpdatedAt, o.UpdatedAt)
	if d.compareState(o) < 0 {
		d.State, d.Reason, d.Detail, d.SubscriptionVersion, d.NextAttemptAt = o.State, o.Reason, o.Detail, o.SubscriptionVersion, o.NextAttemptAt
		d.ReplayID, d.Redrive, d.kind, d.number, d.stateAt = o.ReplayID, o.Redrive, o.kind, o.number, o.stateAt
	}
	if comparePlace(d.Place, o.Place) < 0 {
		d.Place = o.Place
	}
	mine, have := sent(d.Attempts)
	if theirs, ok := sent(o.Attempts); ok && (!have || mine.compare(theirs) < 0) {
		d.Via, d.HTTPStatus, d.ErrorClass, d.Duration = o.Via, o.HTTPStatus, o.ErrorClass, o.Duration
	}
	d.Attempts = union(d.Attempts, o.Attempts)
}

// comparePlace orders places; that of the later record of a repeated event is the greater, and is kept the longest.
func comparePlace(a, b kafka.Place) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
}

// compareBool has false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// earlier is the earlier of two times, where both are known.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
