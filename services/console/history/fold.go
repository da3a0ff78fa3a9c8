package history

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Codec is what the projection needs of event.Codec.
type Codec interface {
	Decode(ctx context.Context, value []byte, r event.Record) error
	DecodeEvent(ctx context.Context, topic string, value []byte) (*event.Event, error)
}

// errUseless marks a record that says nothing that could be shown to anyone.
var errUseless = errors.New("the record names no event or delivery")

// batch is what a number of records come to: the rows they make, merged with each other, and the offsets behind them.
type batch struct {
	events     map[eventKey]*Event
	deliveries map[deliveryKey]*Delivery
	responses  []Response
	letters    map[deadLetterKey]*DeadLetter
	next       map[kafka.TopicPartition]int64
	records    int
	useless    int
}

func newBatch() *batch {
	return &batch{events: map[eventKey]*Event{}, deliveries: map[deliveryKey]*Delivery{}, letters: map[deadLetterKey]*DeadLetter{},
		next: map[kafka.TopicPartition]int64{}}
}

func (b *batch) event(e Event) {
	e.ID, e.Tenant, e.Source, e.Type, e.CallID = name(e.ID), name(e.Tenant), name(e.Source), name(e.Type), name(e.CallID)
	e.DeadReason, e.DeadDetail = name(e.DeadReason), prose(e.DeadDetail)
	if have := b.events[e.key()]; have != nil {
		have.merge(&e)
		return
	}
	b.events[e.key()] = &e
}

func (b *batch) delivery(d Delivery) {
	for _, text := range []*string{&d.ID, &d.Tenant, &d.SubscriptionID, &d.EventID, &d.Source, &d.Type, &d.CallID, &d.State, &d.Reason, &d.ReplayID, &d.Redrive, &d.Via, &d.ErrorClass} {
		*text = name(*text)
	}
	d.Detail = prose(d.Detail)
	if have := b.deliveries[d.key()]; have != nil {
		have.merge(&d)
		return
	}
	b.deliveries[d.key()] = &d
}

// fold adds a record to the batch. Its error is worth a retry: the registry could not be asked.
func (b *batch) fold(ctx context.Context, codec Codec, r *kgo.Record) error {
	b.records++
	var err error
	switch {
	case r.Attrs.IsControl():
	case r.Topic == topic.Decisions:
		err = b.decision(ctx, codec, r)
	case r.Topic == topic.Attempts:
		err = b.attempt(ctx, codec, r)
	case r.Topic == topic.DeadLetters:
		err = b.deadLetter(ctx, codec, r)
	case r.Topic == topic.Responses:
		err = b.response(ctx, codec, r)
	default:
		err = b.seen(ctx, codec, r)
	}
	if errors.Is(err, event.ErrPoison) || errors.Is(err, errUseless) {
		b.useless++
		err = nil
	}
	if err != nil {
		return fmt.Errorf("read %s/%d/%d: %w", r.Topic, r.Partition, r.Offset, err)
	}
	b.next[kafka.TopicPartition{Topic: r.Topic, Partition: r.Partition}] = r.Offset + 1
	return nil
}

// seen takes an event's own record. One that doesn't decode, or whose headers contradict it, is the filter's to judge:
// its dead letter says why.
func (b *batch) seen(ctx context.Context, codec Codec, r *kgo.Record) error {
	e, err := codec.DecodeEvent(ctx, r.Topic, r.Value)
	if err != nil {
		return err
	}
	if kafka.CompleteIdentity(r, &e.Type, &e.ID, &e.Source, &e.Tenant) != nil {
		return errUseless
	}
	if e.Tenant == "" || event.TopicOf(e.Type) != r.Topic {
		return errUseless
	}
	if e.ID == "" {
		e.ID = event.PlaceID(r.Topic, r.Partition, r.Offset)
	}
	e.Time, e.IngestedAt = or(e.Time, r.Timestamp), or(e.IngestedAt, r.Timestamp)
	b.event(Event{Tenant: e.Tenant, ID: e.ID, Source: e.Source, Type: e.Type, CallID: e.CallID, Time: e.Time.UTC(), AcceptedAt: e.IngestedAt.UTC(),
		Place: kafka.Place{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}, grade: gradeSeen})
	return nil
}

func (b *batch) decision(ctx context.Context, codec Codec, r *kgo.Record) error {
	var d event.Decision
	if err := codec.Decode(ctx, r.Value, &d); err != nil {
		return err
	}
	if d.Tenant == "" || d.EventID == "" {
		return errUseless
	}
	at := kafka.Place{Topic: name(d.EventTopic), Partition: d.EventPartition, Offset: d.EventOffset}
	b.event(Event{Tenant: d.Tenant, ID: d.EventID, Source: d.Source, Type: d.EventType, CallID: d.CallID, Time: d.EventTime, AcceptedAt: or(d.AcceptedAt, d.DecidedAt),
		Place: at, grade: gradeDecided})
	for i := range d.Decisions {
		one := &d.Decisions[i]
		row := Delivery{
			ID: one.DeliveryID, Tenant: d.Tenant, SubscriptionID: one.SubscriptionID, EventID: d.EventID, Source: d.Source, Type: d.EventType, CallID: d.CallID,
			CreatedAt: or(d.AcceptedAt, d.DecidedAt), UpdatedAt: d.DecidedAt,
			State: one.Outcome, Reason: one.Reason, Detail: one.Detail, SubscriptionVersion: one.SubscriptionVersion, ReplayID: d.ReplayID,
			kind: kindDecision, stateAt: d.DecidedAt, Place: at,
		}
		if row.ID == "" {
			row.ID = event.DeliveryID(d.Tenant, d.Source, d.EventID, one.SubscriptionID)
		}
		if row.State == StateSkipped && row.Reason == reasonDuplicate {
			row.Occurrence = at.String()
		}
		b.delivery(row)
	}
	return nil
}

func (b *batch) attempt(ctx context.Context, codec Codec, r *kgo.Record) error {
	var a event.Attempt
	if err := codec.Decode(ctx, r.Value, &a); err != nil {
		return err
	}
	if a.Tenant == "" || a.DeliveryID == "" {
		return errUseless
	}
	if a.Reason == ReasonRedriven {
		b.redriven(&a)
		return nil
	}
	row := Delivery{
		ID: a.DeliveryID, Tenant: a.Tenant, SubscriptionID: a.SubscriptionID, EventID: a.EventID, Source: a.Source, Type: a.EventType, CallID: a.CallID,
		CreatedAt: or(a.AcceptedAt, a.StartedAt), UpdatedAt: a.StartedAt.Add(time.Duration(a.DurationMicros) * time.Microsecond),
		State: a.Outcome, Reason: a.Reason, SubscriptionVersion: a.SubscriptionVersion, NextAttemptAt: a.NextAttemptAt, ReplayID: a.ReplayID, Redrive: a.Redrive,
		kind: kindAttempt, number: a.Attempt, stateAt: a.StartedAt,
		Attempts: []Attempt{{Partition: r.Partition, Offset: r.Offset, Number: a.Attempt, StartedAt: a.StartedAt, ReplayID: name(a.ReplayID)}},
		Via:      a.Via, HTTPStatus: a.HTTPStatus, ErrorClass: a.ErrorClass, Duration: time.Duration(a.DurationMicros) * time.Microsecond,
	}
	if row.State == "retry" {
		row.State = StateRetrying
	}
	if a.Attempt == 0 {
		row.Via, row.HTTPStatus, row.ErrorClass, row.Duration = "", 0, "", 0
	}
	b.delivery(row)
	return nil
}

// redriven takes that a delivery was put back, so that it waits for attempts again, and that the dead letter which held it
// was. It is no attempt.
func (b *batch) redriven(a *event.Attempt) {
	b.delivery(Delivery{
		ID: a.DeliveryID, Tenant: a.Tenant, SubscriptionID: a.SubscriptionID, EventID: a.EventID, Source: a.Source, Type: a.EventType, CallID: a.CallID,
		CreatedAt: or(a.AcceptedAt, a.StartedAt), UpdatedAt: a.StartedAt,
		State: StateQueued, Reason: ReasonRedriven, SubscriptionVersion: a.SubscriptionVersion, ReplayID: a.ReplayID, Redrive: a.Redrive,
		kind: kindAttempt, number: a.Attempt, stateAt: a.StartedAt,
	})
	if a.BodyTopic == topic.DeadLetters {
		b.letter(DeadLetter{Partition: a.BodyPartition, Offset: a.BodyOffset, Tenant: a.Tenant, DeadAt: a.StartedAt, RedrivenAt: a.StartedAt, RedrivenBy: a.Redrive})
	}
}

// deadLetter takes what was given up. For a delivery it says no more than the last attempt where there is one, but some
// die without: what doesn't decode, or doesn't fit a topic. A letter without a delivery is of an event that no
// subscription was asked about.
func (b *batch) deadLetter(ctx context.Context, codec Codec, r *kgo.Record) error {
	var l event.DeadLetter
	if err := codec.Decode(ctx, r.Value, &l); err != nil {
		return err
	}
	b.letter(letterOf(kafka.Place{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}, r.Timestamp, &l))
	if l.Tenant == "" {
		return nil // the letter is all there is to show
	}
	if l.DeliveryID != "" {
		b.delivery(Delivery{
			ID: l.DeliveryID, Tenant: l.Tenant, SubscriptionID: l.SubscriptionID, EventID: l.EventID, Source: l.Source, Type: l.EventType, CallID: l.CallID,
			CreatedAt: l.DeadAt, UpdatedAt: l.DeadAt,
			State: StateDead, Reason: l.Reason, Detail: l.Detail, SubscriptionVersion: l.SubscriptionVersion, ReplayID: replayOf(ctx, codec, &l), Redrive: string(l.OriginalHeaders[kafka.HeaderRedrive]),
			kind: kindAttempt, number: l.Attempts, stateAt: l.DeadAt,
		})
		return nil
	}
	if !topic.IsEvents(l.SourceTopic) {
		return nil
	}
	at := kafka.Place{Topic: l.SourceTopic, Partition: l.SourcePartition, Offset: l.SourceOffset}
	e := Event{Tenant: l.Tenant, ID: l.EventID, Source: l.Source, Type: l.EventType, CallID: l.CallID, AcceptedAt: l.DeadAt, Place: at, grade: gradeDead,
		DeadAt: l.DeadAt, DeadReason: l.Reason, DeadDetail: l.Detail}
	if e.ID == "" {
		e.ID = event.PlaceID(at.Topic, at.Partition, at.Offset)
	}
	b.event(e)
	return nil
}

// or is a time, or another where that is not known: a row without one would be too old to be kept.
func or(t, other time.Time) time.Time {
	if t.IsZero() {
		return other
	}
	return t
}

// replayOf finds the replay that a dead delivery belonged to, in the record that the letter holds.
func replayOf(ctx context.Context, codec Codec, l *event.DeadLetter) string {
	if schema, _ := topic.SchemaOf(l.SourceTopic); schema != topic.DeliverySchema || len(l.OriginalValue) == 0 {
		return ""
	}
	var d event.Delivery
	if codec.Decode(ctx, l.OriginalValue, &d) != nil {
		return ""
	}
	return d.ReplayID
}

const (
	longestName  = 512
	longestProse = 2000
)

// name makes a text fit for a column that is searched by. Whoever may write to the topics may write anything, and a row
// that PostgreSQL refuses (a zero byte, a key beyond a third of a page) would hold up all that come after it.
func name(s string) string { return fit(s, longestName) }

// prose makes a text fit for a column.
func prose(s string) string { return fit(s, longestProse) }

func fit(s string, longest int) string {
	if len(s) > longest {
		s = s[:longest]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
