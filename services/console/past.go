package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/history"
)

// recordReader is the part of kafka.Reader that the console uses.
type recordReader interface {
	Record(ctx context.Context, at kafka.Place) (*kgo.Record, error)
	Records(ctx context.Context, places []kafka.Place, each func(i int, record *kgo.Record, err error))
}

// rows returns the history, or what it waits for.
func (s *Service) rows() (*history.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.history, s.dbErr
}

// past reads an event that was sent before from the log; of several sources that used the id, the newest.
func (s *Service) past(ctx context.Context, tenant, id string) (*event.Event, error) {
	rows, err := s.rows()
	if err != nil {
		return nil, err
	}
	found, err := rows.Events(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, refuse(http.StatusNotFound, "there is no such event in your tenant")
	}
	known := found[len(found)-1]
	e, err := s.recorded(ctx, known)
	switch {
	case errors.Is(err, kafka.ErrGone), errors.Is(err, kafka.ErrNoRecord), errors.Is(err, errAnother):
		return nil, refuse(http.StatusNotFound, "the event is in the log no more")
	case err != nil:
		return nil, fmt.Errorf("read the event %s: %w", id, err)
	}
	if e.Time.IsZero() {
		e.Time = known.Time
	}
	if e.IngestedAt.IsZero() {
		e.IngestedAt = known.AcceptedAt
	}
	return e, nil
}

// recorded reads the record that the history points to. Where the log was made anew another may stand there, which may be
// another tenant's: then it is errAnother.
func (s *Service) recorded(ctx context.Context, known *history.Event) (*event.Event, error) {
	r, err := s.deps.records.Record(ctx, known.Place)
	if err != nil {
		return nil, err
	}
	e, err := s.deps.Codec.DecodeEvent(ctx, r.Topic, r.Value)
	if err != nil {
		return nil, err
	}
	id := cmp.Or(e.ID, kafka.Header(r, kafka.HeaderID), event.PlaceID(r.Topic, r.Partition, r.Offset))
	if id != known.ID || cmp.Or(e.Tenant, kafka.Header(r, kafka.HeaderTenant)) != known.Tenant {
		return nil, errAnother
	}
	// What direct producers leave to the record's headers, the history has.
	e.ID, e.Tenant, e.Source, e.Type = known.ID, known.Tenant, known.Source, cmp.Or(e.Type, known.Type)
	return e, nil
}
