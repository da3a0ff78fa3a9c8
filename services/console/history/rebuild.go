package history

import (
	"context"
	"fmt"

	"github.com/callstream/callstream/services/console/storage"
)

// Rebuild drops the history of the database that cfg names, so that a console makes it again from what Kafka still has: one
// that runs begins at once, else the next one does. Rows older than the topics' retention don't come back.
func Rebuild(ctx context.Context, cfg storage.Config) error {
	s, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.change(ctx, "start the history over", func(t tx) error {
		if _, err := t.state(ctx); err != nil {
			return err
		}
		for _, table := range []string{"history_deliveries", "history_events", "history_responses", "history_dead_letters", "history_progress", "history_forgotten"} {
			query := "DELETE FROM " + table
			if t.db.Postgres {
				query = "TRUNCATE " + table
			}
			if _, err := t.ExecContext(ctx, query); err != nil {
				return fmt.Errorf("%s: %w", table, err)
			}
		}
		// Whoever is writing notices by the number that his rows and offsets are gone.
		_, err := t.ExecContext(ctx, `UPDATE history_state SET generation = generation + 1 WHERE id = 1`)
		return err
	})
}

// Status is how far the history is.
type Status struct {
	// Generation counts how often the history was begun.
	Generation int64
	Events     int64
	Deliveries int64
	// DeadLetters are those of all tenants, and of none.
	DeadLetters int64
	// Behind is how many records of the topics are not in it yet, by topic.
	Behind map[string]int64
}

// Status counts the rows, and how far they are behind the topics.
func (p *Projection) Status(ctx context.Context) (Status, error) {
	status := Status{Behind: map[string]int64{}}
	if err := p.store.db.Row(ctx, `SELECT generation, (SELECT COUNT(*) FROM history_events), (SELECT COUNT(*) FROM history_deliveries),
		(SELECT COUNT(*) FROM history_dead_letters) FROM history_state WHERE id = 1`).Scan(&status.Generation, &status.Events, &status.Deliveries, &status.DeadLetters); err != nil {
		return status, fmt.Errorf("read the history's state: %w", err)
	}
	next, err := p.store.progress(ctx)
	if err != nil {
		return status, err
	}
	starts, ends, err := p.bounds(ctx)
	if err != nil {
		return status, err
	}
	for at, end := range ends {
		status.Behind[at.Topic] += max(0, end-max(next[at], starts[at]))
	}
	return status, nil
}
