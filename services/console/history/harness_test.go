package history

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/services/console/storage/pgtest"
	"github.com/callstream/callstream/services/console/storage/storagetest"
)

// onEach runs a test on SQLite, and on PostgreSQL where the environment names one (make test-postgres does).
func onEach(t *testing.T, test func(t *testing.T, cfg storage.Config)) {
	t.Run("sqlite", func(t *testing.T) { test(t, storage.Config{DataDir: t.TempDir()}) })
	if base := os.Getenv(pgtest.EnvURL); base != "" {
		t.Run("postgres", func(t *testing.T) { test(t, storage.Config{URL: storagetest.NewDatabase(t, base)}) })
	}
}

func open(t *testing.T, cfg storage.Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// memoryRegistry is a schema registry without a server.
type memoryRegistry struct {
	mu      sync.Mutex
	schemas []string
}

func (r *memoryRegistry) SchemaByID(_ context.Context, id int) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id < 1 || id > len(r.schemas) {
		return "", errors.New("no such schema")
	}
	return r.schemas[id-1], nil
}

func (r *memoryRegistry) Register(_ context.Context, _, schema string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.schemas, schema); i >= 0 {
		return i + 1, nil
	}
	r.schemas = append(r.schemas, schema)
	return len(r.schemas), nil
}

// world writes the records that a pipeline would, on one partition of each topic.
type world struct {
	t     testing.TB
	codec *event.Codec
	start time.Time
	logs  map[string][]*kgo.Record
}

func newWorld(t testing.TB) *world {
	return &world{t: t, codec: event.NewCodec(&memoryRegistry{}), start: time.Date(2026, 1, 20, 10, 0, 0, 0, time.UTC), logs: map[string][]*kgo.Record{}}
}

// at is a time in the world, in seconds.
func (w *world) at(seconds int) time.Time { return w.start.Add(time.Duration(seconds) * time.Second) }

func (w *world) put(name string, value []byte, headers ...kgo.RecordHeader) *kgo.Record {
	r := &kgo.Record{Topic: name, Offset: int64(len(w.logs[name])), Value: value, Headers: headers, Timestamp: w.start}
	w.logs[name] = append(w.logs[name], r)
	return r
}

func (w *world) record(name string, r event.Record) {
	value, err := w.codec.Encode(w.t.Context(), nil, r)
	require.NoError(w.t, err)
	w.put(name, value)
}

// happens writes an event of tenant acme on the call c-1, at a second.
func (w *world) happens(id string, second int) *kgo.Record { return w.call(id, "c-1", second) }

func (w *world) call(id, call string, second int) *kgo.Record {
	e, err := event.Parse(fmt.Appendf(nil, `{"id":%q,"type":"call.ended","tenant":"acme","source":"dialer","call_id":%q,"time":%q,"data":{"duration_ms":1000}}`,
		id, call, w.at(second).Format(time.RFC3339)))
	require.NoError(w.t, err)
	e.IngestedAt = w.at(second)
	value, err := w.codec.EncodeEvent(w.t.Context(), nil, e)
	require.NoError(w.t, err)
	return w.put(topic.CallsEvents, value, kafka.StringHeader(kafka.HeaderTenant, "acme"), kafka.StringHeader(kafka.HeaderID, id))
}

// decided writes what the filter decided about an event, at a second.
func (w *world) decided(of *kgo.Record, id string, second int, replay string, entries ...event.DecisionEntry) {
	for i := range entries {
		if entries[i].Outcome == StateQueued {
			entries[i].DeliveryID = w.delivery(id, entries[i].SubscriptionID)
		}
		entries[i].SubscriptionVersion = max(entries[i].SubscriptionVersion, 1)
	}
	w.record(topic.Decisions, &event.Decision{Tenant: "acme", EventID: id, EventType: "call.ended", Source: "dialer", CallID: "c-1",
		EventTime: w.accepted(of), AcceptedAt: w.accepted(of), EventTopic: of.Topic, EventPartition: of.Partition, EventOffset: of.Offset,
		DecidedAt: w.at(second), ReplayID: replay, Decisions: entries})
}

func (w *world) accepted(of *kgo.Record) time.Time {
	e, err := w.codec.DecodeEvent(w.t.Context(), of.Topic, of.Value)
	require.NoError(w.t, err)
	return e.IngestedAt
}

func (w *world) delivery(id, sub string) string {
	return event.DeliveryID("acme", "dialer", id, sub)
}

// tried writes an attempt to deliver an event, begun at a second.
func (w *world) tried(id, sub string, second int, change func(*event.Attempt)) {
	a := &event.Attempt{DeliveryID: w.delivery(id, sub), Tenant: "acme", SubscriptionID: sub, SubscriptionVersion: 1, EventID: id, EventType: "call.ended",
		Source: "dialer", CallID: "c-1", Attempt: 1, Via: "primary", Outcome: StateDelivered, StartedAt: w.at(second), DurationMicros: 30_000, HTTPStatus: 200, AcceptedAt: w.start}
	if change != nil {
		change(a)
	}
	w.record(topic.Attempts, a)
}

// all are the records of the world, topic by topic.
func (w *world) all() []*kgo.Record {
	var all []*kgo.Record
	for _, name := range topics() {
		all = append(all, w.logs[name]...)
	}
	return all
}

// project writes records in one batch, as the writer that claims the store now.
func (w *world) project(s *Store, records ...*kgo.Record) {
	w.t.Helper()
	as, err := s.claim(w.t.Context(), "test")
	require.NoError(w.t, err)
	w.projectAs(s, as, records...)
}

// projectAs writes records in one batch.
func (w *world) projectAs(s *Store, as state, records ...*kgo.Record) {
	w.t.Helper()
	b := newBatch()
	for _, r := range records {
		require.NoError(w.t, b.fold(w.t.Context(), w.codec, r))
	}
	_, err := s.apply(w.t.Context(), as, b)
	require.NoError(w.t, err)
}

// dump is everything that the rows say, as text to compare.
func dump(t testing.TB, s *Store) string {
	t.Helper()
	var out strings.Builder
	for _, table := range []struct {
		name, order string
		columns     []string
	}{
		{"history_events", "id, tenant, source", eventColumns()},
		{"history_deliveries", "id, occurrence", deliveryColumns()},
		{"history_dead_letters", "id", deadLetterColumns()},
	} {
		rows, err := s.db.Read.QueryContext(t.Context(), "SELECT "+strings.Join(table.columns, ", ")+" FROM "+table.name+" ORDER BY "+table.order)
		require.NoError(t, err)
		for rows.Next() {
			values := make([]any, len(table.columns))
			into := make([]any, len(values))
			for i := range values {
				into[i] = &values[i]
			}
			require.NoError(t, rows.Scan(into...))
			for i, c := range table.columns {
				fmt.Fprintf(&out, "%s=%v ", c, values[i])
			}
			out.WriteByte('\n')
		}
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())
	}
	return out.String()
}
