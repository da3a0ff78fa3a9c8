package history

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/storage"
)

// DeadLetter is one record of the dead-letter topic: what is searched by, and where the rest is.
type DeadLetter struct {
	// Partition and Offset are its place in the topic, from which its ID is made.
	Partition int32
	Offset    int64

	Tenant         string // empty where nobody could tell whose the record was
	Reason         string
	Detail         string // the reason in words
	SubscriptionID string
	DeliveryID     string // empty for an event that never became a delivery
	EventID        string
	Source         string
	Type           string
	CallID         string
	Attempts       int
	FirstFailedAt  time.Time
	LastFailedAt   time.Time
	DeadAt         time.Time
	ErrorClass     string
	HTTPStatus     int    // 0 where no answer came
	Service        string // that gave it up
	Original       kafka.Place

	// Of its newest redrive:
	RedrivenAt time.Time // zero: there was none
	RedrivenBy string
}

// reasonUnknown stands for the reason of a letter that names none.
const reasonUnknown = "unknown"

const deadLetterPrefix = "dlq_"

// DeadLetterID names the dead letter at a place.
func DeadLetterID(partition int32, offset int64) string {
	return deadLetterPrefix + strconv.FormatInt(int64(partition), 10) + "_" + strconv.FormatInt(offset, 10)
}

// ID is the letter's name, which follows from its place: the same however often the history is made again.
func (l *DeadLetter) ID() string { return DeadLetterID(l.Partition, l.Offset) }

// Place is where the letter is, with the original bytes.
func (l *DeadLetter) Place() kafka.Place {
	return kafka.Place{Topic: topic.DeadLetters, Partition: l.Partition, Offset: l.Offset}
}

// Redriven says whether the letter was redriven. A mark from before the letter is that of another one, which stood at the
// place until the topic was made anew.
func (l *DeadLetter) Redriven() bool { return !l.RedrivenAt.IsZero() && !l.RedrivenAt.Before(l.DeadAt) }

// known says whether the letter itself was read, not only that it was redriven.
func (l *DeadLetter) known() bool { return l.Reason != "" }

type deadLetterKey struct{ id string }

func (l *DeadLetter) key() deadLetterKey { return deadLetterKey{l.ID()} }

// compareLetter orders what is known of a place's letter: the greatest is the one that stands there now.
func (l *DeadLetter) compareLetter(o *DeadLetter) int {
	return cmp.Or(
		compareBool(l.known(), o.known()), l.DeadAt.Compare(o.DeadAt),
		cmp.Compare(l.Tenant, o.Tenant), cmp.Compare(l.DeliveryID, o.DeliveryID), cmp.Compare(l.EventID, o.EventID),
		comparePlace(l.Original, o.Original), cmp.Compare(l.Reason, o.Reason), cmp.Compare(l.Detail, o.Detail),
	)
}

// merge adds what another row says of the same place. It is commutative, associative and idempotent.
func (l *DeadLetter) merge(o *DeadLetter) {
	at, by := l.RedrivenAt, l.RedrivenBy
	if cmp.Or(at.Compare(o.RedrivenAt), cmp.Compare(by, o.RedrivenBy)) < 0 {
		at, by = o.RedrivenAt, o.RedrivenBy
	}
	if l.compareLetter(o) < 0 {
		*l = *o
	}
	l.RedrivenAt, l.RedrivenBy = at, by
}

// letter adds the row of a dead letter to the batch.
func (b *batch) letter(l DeadLetter) {
	for _, text := range []*string{&l.Tenant, &l.Reason, &l.SubscriptionID, &l.DeliveryID, &l.EventID, &l.Source, &l.Type, &l.CallID, &l.ErrorClass, &l.Service, &l.Original.Topic, &l.RedrivenBy} {
		*text = name(*text)
	}
	l.Detail = prose(l.Detail)
	if have := b.letters[l.key()]; have != nil {
		have.merge(&l)
		return
	}
	b.letters[l.key()] = &l
}

// letterOf is the row of a dead letter's record. detail falls back on the error, which says more than nothing.
func letterOf(at kafka.Place, written time.Time, l *event.DeadLetter) DeadLetter {
	return DeadLetter{
		Partition: at.Partition, Offset: at.Offset,
		Tenant: l.Tenant, Reason: cmp.Or(l.Reason, reasonUnknown), Detail: cmp.Or(l.Detail, l.Error), SubscriptionID: l.SubscriptionID, DeliveryID: l.DeliveryID,
		EventID: l.EventID, Source: l.Source, Type: l.EventType, CallID: l.CallID, Attempts: l.Attempts,
		FirstFailedAt: l.FirstFailedAt, LastFailedAt: l.LastFailedAt, DeadAt: or(l.DeadAt, written).UTC(), ErrorClass: l.ErrorClass, HTTPStatus: l.HTTPStatus, Service: l.Service,
		Original: kafka.Place{Topic: l.SourceTopic, Partition: l.SourcePartition, Offset: l.SourceOffset},
	}
}

func deadLetterColumns() []string {
	return []string{"id", "tenant", "reason", "detail", "subscription_id", "delivery_id", "event_id", "source", "type", "call_id", "attempts",
		"first_failed_at", "last_failed_at", "dead_at", "error_class", "http_status", "service", "number", "record_offset",
		"source_topic", "source_partition", "source_offset", "redriven_at", "redriven_by"}
}

func (l *DeadLetter) values() []any {
	return []any{l.ID(), l.Tenant, l.Reason, l.Detail, l.SubscriptionID, l.DeliveryID, l.EventID, l.Source, l.Type, l.CallID, l.Attempts,
		storage.Micros(l.FirstFailedAt), storage.Micros(l.LastFailedAt), storage.Micros(l.DeadAt), l.ErrorClass, l.HTTPStatus, l.Service, l.Partition, l.Offset,
		l.Original.Topic, l.Original.Partition, l.Original.Offset, storage.Micros(l.RedrivenAt), l.RedrivenBy}
}

func scanDeadLetter(row scanner) (*DeadLetter, error) {
	var l DeadLetter
	var id string
	var first, last, dead, redriven int64
	err := row.Scan(&id, &l.Tenant, &l.Reason, &l.Detail, &l.SubscriptionID, &l.DeliveryID, &l.EventID, &l.Source, &l.Type, &l.CallID, &l.Attempts,
		&first, &last, &dead, &l.ErrorClass, &l.HTTPStatus, &l.Service, &l.Partition, &l.Offset,
		&l.Original.Topic, &l.Original.Partition, &l.Original.Offset, &redriven, &l.RedrivenBy)
	l.FirstFailedAt, l.LastFailedAt, l.DeadAt, l.RedrivenAt = storage.FromMicros(first), storage.FromMicros(last), storage.FromMicros(dead), storage.FromMicros(redriven)
	return &l, err
}

func deadLetterRows() rowKind[deadLetterKey, DeadLetter] {
	return rowKind[deadLetterKey, DeadLetter]{
		table: "history_dead_letters", columns: deadLetterColumns(), unique: 1, key: (*DeadLetter).key, id: func(k deadLetterKey) string { return k.id },
		scan: scanDeadLetter, values: (*DeadLetter).values, merge: (*DeadLetter).merge,
		order: func(a, b *DeadLetter) int { return cmp.Or(a.DeadAt.Compare(b.DeadAt), cmp.Compare(a.ID(), b.ID())) },
	}
}

// DeadFilter chooses dead letters. Zero fields choose nothing.
type DeadFilter struct {
	SubscriptionID string
	DeliveryID     string
	EventID        string
	CallID         string
	Type           string // of the event
	Reason         string
	ErrorClass     string
	HTTPStatus     int
	Service        string
	Since          time.Time // dead at this time or after it
	Until          time.Time // dead before it
	Redriven       *bool
}

// DeadCursor is the place of a dead letter in a list. The zero value is the list's beginning.
type DeadCursor struct {
	DeadAt time.Time
	ID     string
}

// Cursor is the letter's place in lists.
func (l *DeadLetter) Cursor() DeadCursor { return DeadCursor{l.DeadAt, l.ID()} }

// choose adds the filter's conditions, for one tenant.
func (f *DeadFilter) choose(w *where, tenant string) {
	w.and("tenant = ?", name(tenant))
	w.and("reason <> ''")
	w.equal("subscription_id", f.SubscriptionID)
	w.equal("delivery_id", f.DeliveryID)
	w.equal("event_id", f.EventID)
	w.equal("call_id", f.CallID)
	w.equal("type", f.Type)
	w.equal("reason", f.Reason)
	w.equal("error_class", f.ErrorClass)
	w.equal("service", f.Service)
	if f.HTTPStatus != 0 {
		w.and("http_status = ?", f.HTTPStatus)
	}
	if !f.Since.IsZero() {
		w.and("dead_at >= ?", storage.Micros(f.Since))
	}
	if !f.Until.IsZero() {
		w.and("dead_at < ?", storage.Micros(f.Until))
	}
	if f.Redriven != nil {
		condition := "redriven_at < dead_at"
		if *f.Redriven {
			condition = "redriven_at >= dead_at"
		}
		w.and(condition)
	}
}

// DeadLetters lists dead letters of some tenants, the newest first; the tenant "" has those that nobody could tell whose
// they are. It fails with ErrTooSlow where too many others have to be looked at to find them.
func (s *Store) DeadLetters(ctx context.Context, tenants []string, f DeadFilter, after DeadCursor, limit int) ([]*DeadLetter, error) {
	found := []*DeadLetter{}
	err := s.search(ctx, func(ctx context.Context) error {
		for _, tenant := range tenants { // one after the other: each has its place in an index
			var w where
			f.choose(&w, tenant)
			if after != (DeadCursor{}) {
				w.and("(dead_at, id) < (?, ?)", storage.Micros(after.DeadAt), after.ID)
			}
			some, err := s.deadLetters(ctx, w, limit)
			if err != nil {
				return err
			}
			found = append(found, some...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b *DeadLetter) int { return cmp.Or(b.DeadAt.Compare(a.DeadAt), cmp.Compare(b.ID(), a.ID())) })
	return found[:min(len(found), limit)], nil
}

func (s *Store) deadLetters(ctx context.Context, w where, limit int) ([]*DeadLetter, error) {
	rows, err := s.db.Query(ctx, "SELECT "+strings.Join(deadLetterColumns(), ", ")+" FROM history_dead_letters"+w.text.String()+" ORDER BY dead_at DESC, id DESC LIMIT ?", append(w.args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	found := []*DeadLetter{}
	if err := scanAll(rows, func(l *DeadLetter) { found = append(found, l) }, scanDeadLetter); err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return found, nil
}

// DeadLettersOf returns those of some tenants that have one of these ids, in no order.
func (s *Store) DeadLettersOf(ctx context.Context, tenants, ids []string) ([]*DeadLetter, error) {
	found := []*DeadLetter{}
	for part := range slices.Chunk(ids, lookup) {
		var w where
		w.and("id IN ("+marks(len(part))+")", anys(part)...)
		w.and("tenant IN ("+marks(len(tenants))+")", anys(tenants)...)
		w.and("reason <> ''")
		some, err := s.deadLetters(ctx, w, len(part))
		if err != nil {
			return nil, err
		}
		found = append(found, some...)
	}
	return found, nil
}

func anys(texts []string) []any {
	out := make([]any, len(texts))
	for i, text := range texts {
		out[i] = name(text)
	}
	return out
}
