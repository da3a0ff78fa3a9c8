package history

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/services/console/storage"
)

// errNotWriter means that another process writes now, or that the projection is being made anew: begin again from what
// the database says.
var errNotWriter = errors.New("another process writes the history, or it was started over")

// claim makes this process the writer, under a name that no other has.
func (s *Store) claim(ctx context.Context, writer string) (state, error) {
	var now state
	err := s.change(ctx, "claim the history", func(t tx) error {
		var err error
		if now, err = t.state(ctx); err != nil {
			return err
		}
		now.writer = writer
		_, err = t.Exec(ctx, `UPDATE history_state SET writer = ? WHERE id = 1`, writer)
		return err
	})
	s.forget()
	return now, err
}

// written are rows of the last two batches or so.
type written struct {
	events     [2]map[eventKey]*Event
	deliveries [2]map[deliveryKey]*Delivery
}

// mostWritten bounds each half of what is kept.
const mostWritten = 20_000

// forget drops what is known of the rows: they were changed by somebody else, or may have been.
func (s *Store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written = written{}
}

// keep remembers the rows of a batch that was committed.
func (s *Store) keep(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &s.written
	if w.events[0] == nil || len(w.events[0])+len(w.deliveries[0]) > mostWritten {
		w.events = [2]map[eventKey]*Event{{}, w.events[0]}
		w.deliveries = [2]map[deliveryKey]*Delivery{{}, w.deliveries[0]}
	}
	maps.Copy(w.events[0], b.events)
	maps.Copy(w.deliveries[0], b.deliveries)
}

// recall finds the rows of keys that are known.
func (s *Store) recall(b *batch) (events map[eventKey]*Event, deliveries map[deliveryKey]*Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return known(s.written.events, b.events), known(s.written.deliveries, b.deliveries)
}

func known[K comparable, V any](kept [2]map[K]*V, asked map[K]*V) map[K]*V {
	found := make(map[K]*V, len(asked))
	for key := range asked {
		for _, half := range kept {
			if row, ok := half[key]; ok {
				found[key] = row
				break
			}
		}
	}
	return found
}

// counts are numbers of rows.
type counts struct{ events, deliveries, responses, letters int64 }

// apply writes a batch and the offsets behind it, all or nothing, and returns how many rows are new. The rows of the
// batch come to be what the database has. It fails with errNotWriter where the state is not the one that was claimed.
func (s *Store) apply(ctx context.Context, as state, b *batch) (counts, error) {
	var added counts
	err := s.change(ctx, "write the history", func(t tx) error {
		now, err := t.state(ctx)
		if err != nil {
			return err
		}
		if now != as {
			return errNotWriter
		}
		oldEvents, oldDeliveries := s.recall(b)
		if added.events, err = mergeRows(ctx, t, eventRows(), b.events, oldEvents); err != nil {
			return fmt.Errorf("events: %w", err)
		}
		if added.deliveries, err = mergeRows(ctx, t, deliveryRows(), b.deliveries, oldDeliveries); err != nil {
			return fmt.Errorf("deliveries: %w", err)
		}
		if err := t.writeResponses(ctx, b.responses); err != nil {
			return fmt.Errorf("responses: %w", err)
		}
		added.responses = int64(len(b.responses))
		if added.letters, err = mergeRows(ctx, t, deadLetterRows(), b.letters, map[deadLetterKey]*DeadLetter{}); err != nil {
			return fmt.Errorf("dead letters: %w", err)
		}
		next := make([][]any, 0, len(b.next))
		for at, offset := range b.next {
			next = append(next, []any{at.Topic, at.Partition, offset})
		}
		if err := t.upsert(ctx, upsert{"history_progress", []string{"topic", "number", "next_offset"}, 2, next}); err != nil {
			return fmt.Errorf("progress: %w", err)
		}
		return nil
	})
	if err != nil {
		s.forget()
		return counts{}, err
	}
	s.keep(b)
	return added, nil
}

// check fails with errNotWriter where apply would.
func (s *Store) check(ctx context.Context, as state) error {
	var now state
	if err := s.db.Row(ctx, `SELECT generation, writer FROM history_state WHERE id = 1`).Scan(&now.generation, &now.writer); err != nil {
		return fmt.Errorf("read the history's state: %w", err)
	}
	if now != as {
		return errNotWriter
	}
	return nil
}

// skip moves the progress of partitions without a record.
func (s *Store) skip(ctx context.Context, as state, next map[kafka.TopicPartition]int64) error {
	b := newBatch()
	b.next = next
	_, err := s.apply(ctx, as, b)
	return err
}

// lookup is how many keys one SELECT asks for.
const lookup = 500

// rowKind says how rows of one table are read and written.
type rowKind[K comparable, V any] struct {
	table   string
	columns []string
	unique  int // how many columns, from the first, are the key
	key     func(*V) K
	id      func(K) string // the key's first column
	scan    func(scanner) (*V, error)
	values  func(*V) []any
	merge   func(*V, *V)
	order   func(*V, *V) int // in which rows are written: that of time, nearly, so that indexes grow at their ends
}

func eventRows() rowKind[eventKey, Event] {
	return rowKind[eventKey, Event]{
		table: "history_events", columns: eventColumns(), unique: 3, key: (*Event).key, id: func(k eventKey) string { return k.id },
		scan: scanEvent, values: (*Event).values, merge: (*Event).merge,
		order: func(a, b *Event) int { return cmp.Or(a.AcceptedAt.Compare(b.AcceptedAt), cmp.Compare(a.ID, b.ID)) },
	}
}

func deliveryRows() rowKind[deliveryKey, Delivery] {
	return rowKind[deliveryKey, Delivery]{
		table: "history_deliveries", columns: deliveryColumns(), unique: 2, key: (*Delivery).key, id: func(k deliveryKey) string { return k.id },
		scan: scanDelivery, values: (*Delivery).values, merge: (*Delivery).merge,
		order: func(a, b *Delivery) int { return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID)) },
	}
}

// mergeRows merges the rows of a batch with those that are known or in the database, and writes the ones that are other
// than before. It returns how many are new.
func mergeRows[K comparable, V any](ctx context.Context, t tx, kind rowKind[K, V], batch, known map[K]*V) (added int64, err error) {
	if err := load(ctx, t, kind, batch, known); err != nil {
		return 0, err
	}
	rows := make([]*V, 0, len(batch))
	for key, row := range batch {
		if old := known[key]; old != nil {
			kind.merge(row, old)
			if slices.EqualFunc(kind.values(row), kind.values(old), equalValue) {
				continue
			}
		} else {
			added++
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, kind.order)
	values := make([][]any, len(rows))
	for i, row := range rows {
		values[i] = kind.values(row)
	}
	return added, t.upsert(ctx, upsert{kind.table, kind.columns, kind.unique, values})
}

// load adds to known the rows that the database has under the keys of asked. It selects by ids, which are nearly the keys:
// other rows that have them are left alone.
func load[K comparable, V any](ctx context.Context, t tx, kind rowKind[K, V], asked, known map[K]*V) error {
	ids := make([]any, 0, len(asked)-len(known))
	for key := range asked {
		if known[key] == nil {
			ids = append(ids, kind.id(key))
		}
	}
	for part := range slices.Chunk(ids, lookup) {
		rows, err := t.Query(ctx, `SELECT `+strings.Join(kind.columns, ", ")+` FROM `+kind.table+` WHERE id IN (`+marks(len(part))+`)`, part...)
		if err != nil {
			return err
		}
		if err := scanAll(rows, func(row *V) {
			if key := kind.key(row); asked[key] != nil && known[key] == nil {
				known[key] = row
			}
		}, kind.scan); err != nil {
			return err
		}
	}
	return nil
}

func equalValue(a, b any) bool {
	x, isBytes := a.([]byte)
	if !isBytes {
		return a == b
	}
	y, _ := b.([]byte)
	return bytes.Equal(x, y)
}

// upsert are rows to insert, or to put in the place of those with the same key: the first columns.
type upsert struct {
	table   string
	columns []string
	key     int
	rows    [][]any
}

// rowsAtOnce is how many rows one INSERT has: fewer cost a round trip each, more need statements that are long to parse.
const rowsAtOnce = 64

func (t tx) upsert(ctx context.Context, u upsert) error {
	sets := make([]string, 0, len(u.columns))
	for _, c := range u.columns[u.key:] {
		sets = append(sets, c+" = excluded."+c)
	}
	row := "(" + marks(len(u.columns)) + ")"
	text := func(n int) string {
		return t.db.Bind("INSERT INTO " + u.table + " (" + strings.Join(u.columns, ", ") + ") VALUES " +
			strings.TrimSuffix(strings.Repeat(row+",", n), ",") +
			" ON CONFLICT (" + strings.Join(u.columns[:u.key], ", ") + ") DO UPDATE SET " + strings.Join(sets, ", "))
	}
	for _, size := range []int{rowsAtOnce, 1} {
		if len(u.rows) < size {
			continue
		}
		statement, err := t.PrepareContext(ctx, text(size))
		if err != nil {
			return err
		}
		for len(u.rows) >= size {
			if _, err := statement.ExecContext(ctx, slices.Concat(u.rows[:size]...)...); err != nil {
				return err
			}
			u.rows = u.rows[size:]
		}
		if err := statement.Close(); err != nil {
			return err
		}
	}
	return nil
}

func eventColumns() []string {
	return []string{"id", "tenant", "source", "type", "call_id", "occurred_at", "accepted_at", "grade",
		"record_topic", "record_partition", "record_offset", "dead_at", "dead_reason", "dead_detail"}
}

func (e *Event) values() []any {
	return []any{e.ID, e.Tenant, e.Source, e.Type, e.CallID, storage.Micros(e.Time), storage.Micros(e.AcceptedAt), e.grade,
		e.Place.Topic, e.Place.Partition, e.Place.Offset, storage.Micros(e.DeadAt), e.DeadReason, e.DeadDetail}
}

func selectEvents() string {
	return "SELECT " + strings.Join(eventColumns(), ", ") + " FROM history_events"
}

type scanner interface{ Scan(into ...any) error }

func scanEvent(row scanner) (*Event, error) {
	var e Event
	var at, accepted, dead int64
	err := row.Scan(&e.ID, &e.Tenant, &e.Source, &e.Type, &e.CallID, &at, &accepted, &e.grade,
		&e.Place.Topic, &e.Place.Partition, &e.Place.Offset, &dead, &e.DeadReason, &e.DeadDetail)
	e.Time, e.AcceptedAt, e.DeadAt = storage.FromMicros(at), storage.FromMicros(accepted), storage.FromMicros(dead)
	return &e, err
}

func deliveryColumns() []string {
	return []string{"id", "occurrence", "tenant", "subscription_id", "subscription_version", "event_id", "source", "type", "call_id",
		"state", "reason", "detail", "replay_id", "state_kind", "state_attempt", "state_at", "next_attempt_at",
		"record_topic", "record_partition", "record_offset", "attempts", "via", "http_status", "error_class", "duration_us", "delivered_at", "created_at", "updated_at", "redrive"}
}

func (d *Delivery) values() []any {
	return []any{d.ID, d.Occurrence, d.Tenant, d.SubscriptionID, d.SubscriptionVersion, d.EventID, d.Source, d.Type, d.CallID,
		d.State, d.Reason, d.Detail, d.ReplayID, d.kind, d.number, storage.Micros(d.stateAt), storage.Micros(d.NextAttemptAt),
		d.Place.Topic, d.Place.Partition, d.Place.Offset, appendAttempts([]byte{}, d.Attempts), d.Via, d.HTTPStatus, d.ErrorClass, d.Duration.Microseconds(), storage.Micros(d.DeliveredAt()), storage.Micros(d.CreatedAt), storage.Micros(d.UpdatedAt), d.Redrive}
}

func selectDeliveries() string {
	return "SELECT " + strings.Join(deliveryColumns(), ", ") + " FROM history_deliveries"
}

func scanDelivery(row scanner) (*Delivery, error) {
	var d Delivery
	var stateAt, next, took, delivered, created, updated int64
	var attempts []byte
	if err := row.Scan(&d.ID, &d.Occurrence, &d.Tenant, &d.SubscriptionID, &d.SubscriptionVersion, &d.EventID, &d.Source, &d.Type, &d.CallID,
		&d.State, &d.Reason, &d.Detail, &d.ReplayID, &d.kind, &d.number, &stateAt, &next,
		&d.Place.Topic, &d.Place.Partition, &d.Place.Offset, &attempts, &d.Via, &d.HTTPStatus, &d.ErrorClass, &took, &delivered, &created, &updated, &d.Redrive); err != nil {
		return nil, err
	}
	d.stateAt, d.NextAttemptAt, d.Duration = storage.FromMicros(stateAt), storage.FromMicros(next), time.Duration(took)*time.Microsecond
	d.CreatedAt, d.UpdatedAt = storage.FromMicros(created), storage.FromMicros(updated)
	var err error
	d.Attempts, err = parseAttempts(attempts)
	return &d, err
}

// scanAll hands every row to each, and closes the rows.
func scanAll[T any](rows *sql.Rows, each func(*T), scan func(scanner) (*T, error)) error {
	defer rows.Close()
	for rows.Next() {
		row, err := scan(rows)
		if err != nil {
			return err
		}
		each(row)
	}
	return rows.Err()
}
