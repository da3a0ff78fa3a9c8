package history

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/storage"
)

// Response is what is known of an endpoint's captured answer without its record, which has the body.
type Response struct {
	Partition      int32
	Offset         int64
	Tenant         string
	CallID         string
	ReceivedAt     time.Time
	EventID        string
	Type           string
	SubscriptionID string
	DeliveryID     string
	Attempt        int
	HTTPStatus     int
	Valid          bool
	Problem        string
}

// Place is where its record is.
func (r *Response) Place() kafka.Place {
	return kafka.Place{Topic: topic.Responses, Partition: r.Partition, Offset: r.Offset}
}

// ResponseAt is the place of a response among those of a call, which are all in one partition, in the order in which they
// came. The zero value is before all of them.
type ResponseAt struct {
	Partition int32
	Offset    int64
}

// response takes a captured answer. Each record is a row: a request that was repeated after a crash was answered twice.
func (b *batch) response(ctx context.Context, codec Codec, r *kgo.Record) error {
	var a event.Response
	if err := codec.Decode(ctx, r.Value, &a); err != nil {
		return err
	}
	if a.Tenant == "" || a.CallID == "" {
		return errUseless
	}
	b.responses = append(b.responses, Response{
		Partition: r.Partition, Offset: r.Offset, Tenant: name(a.Tenant), CallID: name(a.CallID), ReceivedAt: or(a.ReceivedAt, r.Timestamp),
		EventID: name(a.EventID), Type: name(a.EventType), SubscriptionID: name(a.SubscriptionID), DeliveryID: name(a.DeliveryID),
		Attempt: a.Attempt, HTTPStatus: a.HTTPStatus, Valid: a.Valid, Problem: prose(a.Problem),
	})
	return nil
}

func responseColumns() []string {
	return []string{"record_partition", "record_offset", "tenant", "call_id", "received_at", "event_id", "type", "subscription_id", "delivery_id",
		"attempt", "http_status", "valid", "problem"}
}

func (r *Response) values() []any {
	valid := 0
	if r.Valid {
		valid = 1
	}
	return []any{r.Partition, r.Offset, r.Tenant, r.CallID, storage.Micros(r.ReceivedAt), r.EventID, r.Type, r.SubscriptionID, r.DeliveryID,
		r.Attempt, r.HTTPStatus, valid, r.Problem}
}

func scanResponse(row scanner) (*Response, error) {
	var r Response
	var received int64
	var valid int
	err := row.Scan(&r.Partition, &r.Offset, &r.Tenant, &r.CallID, &received, &r.EventID, &r.Type, &r.SubscriptionID, &r.DeliveryID,
		&r.Attempt, &r.HTTPStatus, &valid, &r.Problem)
	r.ReceivedAt, r.Valid = storage.FromMicros(received), valid != 0
	return &r, err
}

// writeResponses writes the rows of a batch. One that is there already, of the same place, is replaced.
func (t tx) writeResponses(ctx context.Context, rows []Response) error {
	values := make([][]any, len(rows))
	for i := range rows {
		values[i] = rows[i].values()
	}
	return t.upsert(ctx, upsert{"history_responses", responseColumns(), 2, values})
}

// Responses lists what endpoints answered to the events of a tenant's call, the newest first, from before a place on; the
// zero place is the list's beginning.
func (s *Store) Responses(ctx context.Context, tenant, call string, before ResponseAt, limit int) ([]*Response, error) {
	var w where
	if before != (ResponseAt{}) {
		w.and("(record_partition, record_offset) < (?, ?)", before.Partition, before.Offset)
	}
	return s.responses(ctx, &w, tenant, call, "record_partition DESC, record_offset DESC", limit)
}

// ResponsesAfter lists those behind a place, the oldest first; nil is before all of them.
func (s *Store) ResponsesAfter(ctx context.Context, tenant, call string, after *ResponseAt, limit int) ([]*Response, error) {
	var w where
	if after != nil {
		w.and("(record_partition, record_offset) > (?, ?)", after.Partition, after.Offset)
	}
	return s.responses(ctx, &w, tenant, call, "record_partition, record_offset", limit)
}

func (s *Store) responses(ctx context.Context, w *where, tenant, call, order string, limit int) ([]*Response, error) {
	found := []*Response{}
	if call == "" {
		return found, nil
	}
	w.and("tenant = ? AND call_id = ?", name(tenant), name(call))
	rows, err := s.db.Query(ctx, "SELECT "+strings.Join(responseColumns(), ", ")+" FROM history_responses"+w.text.String()+" ORDER BY "+order+" LIMIT ?",
		append(w.args, limit)...)
	if err == nil {
		err = scanAll(rows, func(r *Response) { found = append(found, r) }, scanResponse)
	}
	if err != nil {
		return nil, fmt.Errorf("list responses: %w", err)
	}
	return found, nil
}

// ResponsesBelow says whether every response below these offsets of the partitions is in the rows.
func (s *Store) ResponsesBelow(ctx context.Context, ends map[int32]int64) (bool, error) {
	next, err := s.progress(ctx)
	if err != nil {
		return false, err
	}
	for partition, end := range ends {
		if next[kafka.TopicPartition{Topic: topic.Responses, Partition: partition}] < end {
			return false, nil
		}
	}
	return true, nil
}
