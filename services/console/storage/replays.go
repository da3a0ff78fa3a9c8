package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/callstream/callstream/schemas/event"
)

// Skipped is a delivery that was skipped and can be sent again.
type Skipped struct {
	Delivery string
	// AfterReplay is the replay that skipped it again; empty where none did.
	AfterReplay string
	Event       event.ReplayEvent
}

// maxReplayEvents is how many events one call of Replay takes: what one command names.
const maxReplayEvents = 1000

// Replay puts a command into the outbox that sends the events of skipped deliveries again, but for those that were asked
// for before. It returns how many the command names; 0 means that there is none. skipped holds at most maxReplayEvents.
func (s *Store) Replay(ctx context.Context, command event.Replay, skipped []Skipped, c Change) (int, Receipt, error) {
	if len(skipped) > maxReplayEvents {
		return 0, 0, fmt.Errorf("ask for a replay: %d events, at most %d are in one command", len(skipped), maxReplayEvents)
	}
	var receipt Receipt
	events := 0
	err := s.Change(ctx, "ask for a replay", func(t Tx) error {
		command.Events = nil
		fresh, err := s.askOnce(ctx, t, skipped)
		if err != nil {
			return err
		}
		for _, d := range skipped {
			if fresh[d.Delivery] {
				command.Events = append(command.Events, d.Event)
			}
		}
		if events = len(command.Events); events == 0 {
			return nil
		}
		receipt, err = s.replay(ctx, t, command, c)
		return err
	})
	return events, receipt, err
}

// ReplayAgain puts a command into the outbox that sends the events it names, whether they were asked for before or not.
func (s *Store) ReplayAgain(ctx context.Context, command event.Replay, c Change) (Receipt, error) {
	var receipt Receipt
	err := s.Change(ctx, "ask for a replay", func(t Tx) (err error) {
		receipt, err = s.replay(ctx, t, command, c)
		return err
	})
	return receipt, err
}

func (s *Store) replay(ctx context.Context, t Tx, command event.Replay, c Change) (Receipt, error) {
	c.Detail = map[string]any{"replay": command.ID, "events": len(command.Events)}
	if err := audit(ctx, t, s.Now(), Entry{Kind: KindSubscription, ID: command.SubscriptionID, Tenant: command.Tenant}, c); err != nil {
		return 0, err
	}
	return askReplay(ctx, t, s.Now(), command)
}

func askReplay(ctx context.Context, t Tx, at time.Time, command event.Replay) (Receipt, error) {
	spec, err := json.Marshal(command)
	if err != nil {
		return 0, err
	}
	return insertEntry(ctx, t, at, Entry{Kind: KindReplay, ID: command.ID, Tenant: command.Tenant, Version: 1, Spec: spec})
}

// askOnce notes what is asked for, and returns the deliveries that had not been noted.
func (s *Store) askOnce(ctx context.Context, t Tx, skipped []Skipped) (map[string]bool, error) {
	fresh := make(map[string]bool, len(skipped))
	if len(skipped) == 0 {
		return fresh, nil
	}
	at := Micros(s.Now())
	args := make([]any, 0, 3*len(skipped))
	for _, d := range skipped {
		args = append(args, d.Delivery, d.AfterReplay, at)
	}
	rows, err := t.Query(ctx, `INSERT INTO replayed (delivery, after_replay, at) VALUES `+
		strings.TrimSuffix(strings.Repeat("(?, ?, ?), ", len(skipped)), ", ")+` ON CONFLICT DO NOTHING RETURNING delivery`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		fresh[id] = true
	}
	return fresh, rows.Err()
}

// ForgetReplayed drops what was noted before a time: its events are in no log any more.
func (s *Store) ForgetReplayed(ctx context.Context, before time.Time) error {
	return s.Change(ctx, "forget old replays", func(t Tx) error {
		_, err := t.Exec(ctx, `DELETE FROM replayed WHERE at < ?`, Micros(before))
		return err
	})
}

// Replay reads the entry of a replay's command.
func (e Entry) Replay() (*event.Replay, error) {
	var command event.Replay
	if err := json.Unmarshal(e.Spec, &command); err != nil {
		return nil, fmt.Errorf("read the entry of replay %s: %w", e.ID, err)
	}
	return &command, nil
}
