package history

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/services/console/storage"
)

// Stats are figures of one subscription.
type Stats struct {
	// States counts the deliveries of events that were accepted in the window, by state.
	States map[string]int64
	// Reasons counts those of them that were skipped or are dead, by reason.
	Reasons map[string]int64
	// Failures counts those of them whose newest request failed, by class of the error.
	Failures map[string]int64
	// Via counts those of them that were sent, by where their newest request went: primary or fallback.
	Via map[string]int64
	// Duration is how long the endpoint took for those that were delivered, Latency the time from acceptance to the
	// end of its answer, replays left out. Both are of the newest at most 10,000.
	Duration, Latency Percentiles
	// Queued and Retrying count what waits now, whenever it was accepted.
	Queued, Retrying int64
}

// Percentiles are those of Count measurements; zero where there is none.
type Percentiles struct {
	Count         int
	P50, P90, P99 time.Duration
}

// mostMeasured bounds the deliveries that percentiles are made of.
const mostMeasured = 10_000

// Stats counts a subscription's deliveries of events that were accepted since a time. It fails with ErrTooSlow where they
// are too many.
func (s *Store) Stats(ctx context.Context, tenant, subscription string, since time.Time) (Stats, error) {
	var stats Stats
	err := s.search(ctx, func(ctx context.Context) (err error) {
		stats, err = s.stats(ctx, tenant, subscription, since)
		return err
	})
	return stats, err
}

func (s *Store) stats(ctx context.Context, tenant, subscription string, since time.Time) (Stats, error) {
	stats := Stats{States: map[string]int64{}, Reasons: map[string]int64{}, Failures: map[string]int64{}, Via: map[string]int64{}}
	rows, err := s.db.Query(ctx, `SELECT state, CASE WHEN state IN ('skipped', 'dead') THEN reason ELSE '' END AS why,
			CASE WHEN state IN ('retrying', 'dead') THEN error_class ELSE '' END AS failure, via, COUNT(*)
		FROM history_deliveries WHERE tenant = ? AND subscription_id = ? AND created_at >= ? GROUP BY 1, 2, 3, 4`, name(tenant), name(subscription), storage.Micros(since))
	if err != nil {
		return stats, fmt.Errorf("count deliveries: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var state, reason, failure, via string
		var n int64
		if err := rows.Scan(&state, &reason, &failure, &via, &n); err != nil {
			return stats, fmt.Errorf("count deliveries: %w", err)
		}
		stats.States[state] += n
		if reason != "" {
			stats.Reasons[reason] += n
		}
		if failure != "" {
			stats.Failures[failure] += n
		}
		if via != "" {
			stats.Via[via] += n
		}
	}
	if err := rows.Err(); err != nil {
		return stats, fmt.Errorf("count deliveries: %w", err)
	}
	if err := s.measure(ctx, tenant, subscription, since, &stats); err != nil {
		return stats, fmt.Errorf("measure deliveries: %w", err)
	}
	for state, to := range map[string]*int64{StateQueued: &stats.Queued, StateRetrying: &stats.Retrying} {
		row := s.db.Row(ctx, `SELECT COUNT(*) FROM history_deliveries
			WHERE tenant = ? AND subscription_id = ? AND state IN ('queued', 'retrying') AND state = ?`, name(tenant), name(subscription), state)
		if err := row.Scan(to); err != nil {
			return stats, fmt.Errorf("count what waits: %w", err)
		}
	}
	return stats, nil
}

func (s *Store) measure(ctx context.Context, tenant, subscription string, since time.Time, stats *Stats) error {
	rows, err := s.db.Query(ctx, `SELECT duration_us, delivered_at - created_at, replay_id FROM history_deliveries
		WHERE tenant = ? AND subscription_id = ? AND created_at >= ? AND delivered_at > 0 ORDER BY created_at DESC, id DESC LIMIT ?`,
		name(tenant), name(subscription), storage.Micros(since), mostMeasured)
	if err != nil {
		return err
	}
	defer rows.Close()
	var durations, latencies []time.Duration
	for rows.Next() {
		var took, after int64
		var replay string
		if err := rows.Scan(&took, &after, &replay); err != nil {
			return err
		}
		durations = append(durations, time.Duration(took)*time.Microsecond)
		if replay == "" {
			latencies = append(latencies, max(0, time.Duration(after)*time.Microsecond)) // clocks of two machines differ
		}
	}
	stats.Duration, stats.Latency = percentiles(durations), percentiles(latencies)
	return rows.Err()
}

func percentiles(d []time.Duration) Percentiles {
	if len(d) == 0 {
		return Percentiles{}
	}
	slices.Sort(d)
	at := func(percent int) time.Duration { return d[(len(d)*percent+99)/100-1] }
	return Percentiles{Count: len(d), P50: at(50), P90: at(90), P99: at(99)}
}

// Missed is a delivery that was skipped because its subscription was paused or disabled.
type Missed struct {
	DeliveryID string
	EventID    string
	Source     string
	Reason     string
	// ReplayID is the replay that skipped it again; empty where none did.
	ReplayID string
	// Place is where the event's record is or was: Kafka's retention may have taken it meanwhile. Zero where it is not
	// known any more.
	Place  kafka.Place
	cursor Cursor
}

// Cursor is its place in the list.
func (m Missed) Cursor() Cursor { return m.cursor }

// missed is the condition of Missed; it is that of an index.
const missed = `state = 'skipped' AND reason IN ('paused', 'disabled')`

// Forgotten is how many deliveries that a subscription missed the history had to delete, for their age or because there
// were too many of all subscriptions'. It is remembered for as long as the history goes back.
func (s *Store) Forgotten(ctx context.Context, tenant, subscription string) (int, error) {
	var n int
	row := s.db.Row(ctx, `SELECT COALESCE(SUM(missed), 0) FROM history_forgotten WHERE tenant = ? AND subscription_id = ?`, name(tenant), name(subscription))
	if err := row.Scan(&n); err != nil {
		return 0, fmt.Errorf("count what was forgotten: %w", err)
	}
	return n, nil
}

// Missed lists what a subscription missed while it was paused or disabled, the oldest events first. What was replayed
// since has another state, unless that was skipped as well.
func (s *Store) Missed(ctx context.Context, tenant, subscription string, after Cursor, limit int) ([]Missed, error) {
	rows, err := s.db.Query(ctx, `SELECT id, event_id, source, reason, replay_id, created_at, record_topic, record_partition, record_offset
		FROM history_deliveries
		WHERE tenant = ? AND subscription_id = ? AND `+missed+` AND (created_at, id) > (?, ?)
		ORDER BY created_at, id LIMIT ?`, name(tenant), name(subscription), storage.Micros(after.CreatedAt), after.ID, limit)
	if err != nil {
		return nil, fmt.Errorf("list what was missed: %w", err)
	}
	defer rows.Close()
	var found []Missed
	for rows.Next() {
		var m Missed
		var created int64
		if err := rows.Scan(&m.DeliveryID, &m.EventID, &m.Source, &m.Reason, &m.ReplayID, &created, &m.Place.Topic, &m.Place.Partition, &m.Place.Offset); err != nil {
			return nil, fmt.Errorf("list what was missed: %w", err)
		}
		m.cursor = Cursor{CreatedAt: storage.FromMicros(created), ID: m.DeliveryID}
		found = append(found, m)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list what was missed: %w", err)
	}
	return found, nil
}
