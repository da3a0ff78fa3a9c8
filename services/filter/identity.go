package filter

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/payload"
)

// The reasons of dead letters that the filter writes. They are a closed set: metrics carry them.
const (
	deadPoison         = "poison"          // the bytes don't decode, or nobody knows their schema
	deadHeaderMismatch = "header_mismatch" // headers and value name different identities
	deadUnknownType    = "unknown_type"    // no such event type, or not on this topic
	deadNoTenant       = "no_tenant"       // neither value nor headers name a tenant
	deadInvalid        = "invalid_event"   // it decodes, and breaks a rule that an event from the API has to keep
	deadInternal       = "internal_error"  // a fault of ours, which the log tells more of
	deadRefused        = "unwritable"      // the brokers don't take the record
)

// deadEvents are the reasons why an event record is a dead letter before any subscription is looked at.
func deadEvents() []string {
	return []string{deadPoison, deadHeaderMismatch, deadUnknownType, deadNoTenant, deadInvalid, deadInternal}
}

// deadDeliveries are the reasons why a delivery is a dead letter before it is sent.
func deadDeliveries() []string {
	return []string{subscription.ReasonTooLarge, payload.ReasonRender, deadInternal, deadRefused, subscription.ReasonMissingField, subscription.ReasonTemplateError}
}

// unusable is why a record ends as a dead letter before any subscription is looked at.
type unusable struct {
	reason string
	detail string
	err    error
}

func (u *unusable) Error() string { return u.reason + ": " + u.detail }

func (u *unusable) Unwrap() error { return u.err }

// identity is who an event is. made says that its id was made from its place in the log.
type identity struct {
	event.Identity
	made bool
}

// peeker is the part of the codec that identify needs.
type peeker interface {
	PeekIdentity(ctx context.Context, topic string, value []byte) (event.Identity, error)
}

// identify tells who a record's event is, without decoding more than its envelope. The value speaks; headers may fill in
// what it lacks and must not contradict it, because whoever may write to the topic could otherwise have one tenant's
// data routed as another's. The error is an *unusable, or says that the registry could not be asked.
func identify(ctx context.Context, codec peeker, r *kgo.Record) (identity, error) {
	peeked, err := codec.PeekIdentity(ctx, r.Topic, r.Value)
	if err != nil {
		return identity{}, classify("read the event's envelope", err)
	}
	id := identity{Identity: peeked}
	if m := kafka.CompleteIdentity(r, &id.Type, &id.ID, &id.Source, &id.Tenant); m != nil {
		return id, &unusable{reason: deadHeaderMismatch, detail: fmt.Sprintf("the header %s says %q, the value says %q", m.Key, clip(m.Header), clip(m.Value))}
	}
	if id.Tenant == "" {
		return id, &unusable{reason: deadNoTenant, detail: "the event names no tenant"}
	}
	switch belongs := event.TopicOf(id.Type); belongs {
	case r.Topic:
	case "":
		return id, &unusable{reason: deadUnknownType, detail: fmt.Sprintf("there is no event type %q", clip(id.Type))}
	default:
		return id, &unusable{reason: deadUnknownType, detail: fmt.Sprintf("events of type %s belong on %s", id.Type, belongs)}
	}
	if id.ID == "" {
		id.ID, id.made = event.PlaceID(r.Topic, r.Partition, r.Offset), true
	}
	return id, nil
}

// complete gives a decoded event what its record knows and its value lacks. All of it comes from the log, so a reread
// makes the same event.
func complete(e *event.Event, id identity, r *kgo.Record) {
	e.ID, e.Type, e.Tenant, e.Source = id.ID, id.Type, id.Tenant, id.Source
	if e.Time.IsZero() {
		e.Time = r.Timestamp.UTC()
	}
	if e.IngestedAt.IsZero() {
		e.IngestedAt = r.Timestamp.UTC()
	}
	if e.Traceparent == "" {
		e.Traceparent = kafka.Header(r, kafka.HeaderTraceparent)
	}
	if !telemetry.ValidTraceparent(e.Traceparent) {
		e.Traceparent = "" // it goes into HTTP headers
	}
}

// classify tells what no retry will mend, which is an *unusable, from what it may.
func classify(doing string, err error) error {
	if errors.Is(err, event.ErrPoison) {
		return &unusable{reason: deadPoison, detail: doing + ": " + clip(err.Error()), err: err}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func asUnusable(err error) (*unusable, bool) {
	var u *unusable
	ok := errors.As(err, &u)
	return u, ok
}

// clip keeps foreign text in a detail short.
func clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
