package history

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/callstream/callstream/services/console/storage"
)

// Filter chooses deliveries of a tenant. Zero fields choose nothing.
type Filter struct {
	ID             string
	SubscriptionID string
	EventID        string
	CallID         string
	Type           string
	State          string
	Reason         string
	ErrorClass     string    // of the newest request
	HTTPStatus     int       // of the newest request
	Since          time.Time // accepted at this time or after it
	Until          time.Time // accepted before it
}

// Cursor is the place of a row in a list. The zero value is the list's beginning.
type Cursor struct {
	CreatedAt  time.Time
	ID         string
	Occurrence string
}

// Cursor is the delivery's place in lists.
func (d *Delivery) Cursor() Cursor { return Cursor{d.CreatedAt, d.ID, d.Occurrence} }

// where collects conditions.
type where struct {
	text strings.Builder
	args []any
}

func (w *where) and(condition string, args ...any) {
	if w.text.Len() == 0 {
		w.text.WriteString(" WHERE ")
	} else {
		w.text.WriteString(" AND ")
	}
	w.text.WriteString(condition)
	w.args = append(w.args, args...)
}

func (w *where) equal(column, value string) {
	if value != "" {
		w.and(column+" = ?", name(value))
	}
}

// after continues a list of descending order behind a cursor.
func (w *where) after(c Cursor) {
	if c != (Cursor{}) {
		w.and("(created_at, id, occurrence) < (?, ?, ?)", storage.Micros(c.CreatedAt), c.ID, c.Occurrence)
	}
}

// Deliveries lists a tenant's deliveries, those of the newest events first. It fails with ErrTooSlow where too many others
// have to be looked at to find them.
func (s *Store) Deliveries(ctx context.Context, tenant string, f Filter, after Cursor, limit int) ([]*Delivery, error) {
	var w where
	w.and("tenant = ?", name(tenant))
	w.equal("id", f.ID)
	w.equal("subscription_id", f.SubscriptionID)
	w.equal("event_id", f.EventID)
	w.equal("type", f.Type)
	w.equal("state", f.State)
	w.equal("reason", f.Reason)
	w.equal("error_class", f.ErrorClass)
	if f.CallID != "" {
		// The index by call is that of the events.
		w.and("call_id = ? AND event_id IN (SELECT id FROM history_events WHERE tenant = ? AND call_id = ? AND call_id <> '')", name(f.CallID), name(tenant), name(f.CallID))
	}
	if f.HTTPStatus != 0 {
		w.and("http_status = ?", f.HTTPStatus)
	}
	if !f.Since.IsZero() {
		w.and("created_at >= ?", storage.Micros(f.Since))
	}
	if !f.Until.IsZero() {
		w.and("created_at < ?", storage.Micros(f.Until))
	}
	w.after(after)
	var found []*Delivery
	err := s.search(ctx, func(ctx context.Context) (err error) {
		found, err = s.deliveries(ctx, w, "created_at DESC, id DESC, occurrence DESC", limit)
		return err
	})
	return found, err
}

func (s *Store) deliveries(ctx context.Context, w where, order string, limit int) ([]*Delivery, error) {
	rows, err := s.db.Query(ctx, selectDeliveries()+w.text.String()+" ORDER BY "+order+" LIMIT ?", append(w.args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	found := []*Delivery{}
	if err := scanAll(rows, func(d *Delivery) { found = append(found, d) }, scanDelivery); err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	return found, nil
}

// mostRepeats bounds how many repeats of one event are shown beside it.
const mostRepeats = 100

// Delivery returns a tenant's delivery, and behind it the repeats of its event that were not delivered for being
// repeats; nothing where there is no such delivery.
func (s *Store) Delivery(ctx context.Context, tenant, id string) ([]*Delivery, error) {
	var w where
	w.and("id = ? AND tenant = ?", name(id), name(tenant))
	return s.deliveries(ctx, w, "occurrence", 1+mostRepeats)
}

// Of returns the deliveries of a tenant's events, by event id, the oldest first.
func (s *Store) Of(ctx context.Context, tenant string, events []*Event, limit int) (map[string][]*Delivery, error) {
	of := make(map[string][]*Delivery, len(events))
	if len(events) == 0 {
		return of, nil
	}
	var w where
	ids := make([]any, 0, len(events))
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	w.and("event_id IN ("+marks(len(ids))+")", ids...)
	w.and("tenant = ?", name(tenant))
	found, err := s.deliveries(ctx, w, "created_at, id, occurrence", limit)
	for _, d := range found {
		of[d.EventID] = append(of[d.EventID], d)
	}
	return of, err
}

// Events returns a tenant's events of that id: one, or one for each source that used it, the oldest first.
func (s *Store) Events(ctx context.Context, tenant, id string) ([]*Event, error) {
	var w where
	w.and("id = ? AND tenant = ?", name(id), name(tenant))
	return s.events(ctx, w, "accepted_at, source", mostRepeats)
}

// Call returns the events of a tenant's call in the order in which they happened, at most limit.
func (s *Store) Call(ctx context.Context, tenant, call string, limit int) ([]*Event, error) {
	if call == "" {
		return nil, nil
	}
	var w where
	w.and("tenant = ? AND call_id = ? AND call_id <> ''", name(tenant), name(call))
	return s.events(ctx, w, "occurred_at, accepted_at, record_topic, record_partition, record_offset, id", limit)
}

func (s *Store) events(ctx context.Context, w where, order string, limit int) ([]*Event, error) {
	rows, err := s.db.Query(ctx, selectEvents()+w.text.String()+" ORDER BY "+order+" LIMIT ?", append(w.args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	found := []*Event{}
	if err := scanAll(rows, func(e *Event) { found = append(found, e) }, scanEvent); err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	return found, nil
}
