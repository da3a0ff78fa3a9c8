package console

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
)

// The ways in which a delivery is sent again.
const (
	retryRedrive = "redrive"
	retryReplay  = "replay"
	retryAttempt = "attempt"
)

// retried says what was done to send a delivery again.
type retried struct {
	DeliveryID string `json:"delivery_id"`
	Action     string `json:"action" enum:"redrive,replay,attempt" doc:"redrive: the dead letter is put back, the same bytes; replay: the event is rendered anew by the subscription's present version; attempt: the next attempt is made now"`
	RedriveID  string `json:"redrive_id,omitempty" doc:"of the redrive, or what the attempt carries"`
	ReplayID   string `json:"replay_id,omitempty"`
}

type oneRetry struct{ Body retried }

type actOnDelivery struct {
	DeliveryID
	Document
}

func (a *apiSet) retryDelivery(ctx context.Context, store *storage.Store, p auth.Principal, in *actOnDelivery) (*oneRetry, error) {
	if err := onlyMembers(in.RawBody); err != nil {
		return nil, err
	}
	if a.redrive == nil {
		return nil, errNoKafka()
	}
	rows, err := a.rows()
	if err != nil {
		return nil, err
	}
	found, err := rows.Delivery(ctx, p.Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, storage.ErrNotFound
	}
	d := found[0]
	state, err := stateOf(ctx, store, p.Tenant, d.SubscriptionID)
	if err != nil {
		return nil, err
	}
	if inactive(state) != "" {
		return nil, refuse(http.StatusConflict, inactiveDetail(d.SubscriptionID, state))
	}
	out := &oneRetry{retried{DeliveryID: d.ID}}
	switch d.State {
	case history.StateDead:
		err = a.retryDead(ctx, store, p, rows, d, &out.Body)
	case history.StateSkipped, history.StateDelivered:
		err = a.retryAnew(ctx, store, p, d, &out.Body)
	default:
		err = a.retryNow(ctx, store, p, d, &out.Body)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// retryDead redrives the newest dead letter of a delivery. Where the history has none any more, its event is replayed.
func (a *apiSet) retryDead(ctx context.Context, store *storage.Store, p auth.Principal, rows *history.Store, d *history.Delivery, out *retried) error {
	letters, err := rows.DeadLetters(ctx, []string{p.Tenant}, history.DeadFilter{DeliveryID: d.ID}, history.DeadCursor{}, 1)
	if err != nil {
		return err
	}
	if len(letters) == 0 {
		return a.retryAnew(ctx, store, p, d, out)
	}
	l := letters[0]
	if reason, detail := unredrivable(l); reason != "" {
		return refuse(http.StatusConflict, detail)
	}
	item := storage.RedriveItem{Partition: l.Partition, Offset: l.Offset, DeadAt: l.DeadAt, State: storage.ItemWaiting}
	r, err := a.startRedrive(ctx, store, p, map[string]any{"ids": []string{l.ID()}}, redriveRate, []storage.RedriveItem{item}, true)
	if err != nil {
		return err
	}
	if r.Skipped > 0 {
		return refuse(http.StatusConflict, "it was put back, or is about to be: a redrive has its dead letter. Should it die again, it can be asked for again")
	}
	out.Action, out.RedriveID = retryRedrive, r.ID
	return nil
}

// retryAnew replays the event of a delivery for its subscription.
func (a *apiSet) retryAnew(ctx context.Context, store *storage.Store, p auth.Principal, d *history.Delivery, out *retried) error {
	if d.Place == (kafka.Place{}) {
		return refuse(http.StatusConflict, "where its event is in the log is not known any more")
	}
	if _, err := a.recorded(ctx, &history.Event{ID: d.EventID, Tenant: d.Tenant, Source: d.Source, Type: d.Type, Place: d.Place}); err != nil {
		if note := noteOf(err); note != noteAway {
			return refuse(http.StatusConflict, "its event can't be sent again: "+note)
		}
		return a.away("a delivery's event can't be read", d, err)
	}
	command := event.Replay{
		ID: replayPrefix + ulid.Make().String(), Tenant: d.Tenant, SubscriptionID: d.SubscriptionID, Command: replayStart,
		RequestedAt: a.deps.Now().UTC(), RequestedBy: p.Actor(), Reason: actionRetried,
		Events: []event.ReplayEvent{{Topic: d.Place.Topic, Partition: d.Place.Partition, Offset: d.Place.Offset, ID: d.EventID, Source: d.Source}},
	}
	receipt, err := store.ReplayAgain(ctx, command, storage.Change{Actor: p.Actor(), Action: actionReplayed})
	if err != nil {
		return err
	}
	a.inForce(ctx, store, storage.KindReplay, receipt)
	out.Action, out.ReplayID = retryReplay, command.ID
	return nil
}

// retryNow puts a delivery that waits for its next attempt on its lane, from where it is sent as soon as there is room. The
// copy that is parked comes due all the same: the dispatcher knows that another one has taken its turn.
func (a *apiSet) retryNow(ctx context.Context, store *storage.Store, p auth.Principal, d *history.Delivery, out *retried) error {
	newest, made := d.Newest()
	switch {
	case d.State == history.StateQueued && d.Reason == history.ReasonRedriven:
		return refuse(http.StatusConflict, onItsWay(d.Redrive))
	case !made, d.State == history.StateQueued: // the attempts may be those of a turn before, that a replay is after
		return refuse(http.StatusConflict, "it waits for its first attempt, which is made as soon as its endpoint has room")
	}
	ctx, cancel := context.WithTimeout(ctx, detailsWait)
	defer cancel()
	attempt, original, err := a.attempted(ctx, d, newest)
	if err != nil {
		if note := noteOf(err); note != noteAway {
			return refuse(http.StatusConflict, "it can't be sent now: "+note)
		}
		return a.away("a delivery can't be read", d, err)
	}
	var sent event.Delivery
	if attempt.BatchID != "" {
		if err := a.deps.Codec.Decode(ctx, original.Value, &sent); err == nil && len(sent.Members) == 0 {
			// By itself it would go out a second time, under another id than the batch that was frozen then.
			return refuse(http.StatusConflict, "it was sent in the batch "+attempt.BatchID+", which is on its way to its next attempt as it is; after that one it can be asked for")
		}
	}
	lanes, err := a.redrive.existing(ctx)
	if err != nil {
		return err
	}
	id := redrivePrefix + ulid.Make().String()
	one := &returned{item: storage.RedriveItem{Partition: original.Partition, State: storage.ItemDone}, mark: event.Attempt{
		DeliveryID: d.ID, Tenant: d.Tenant, SubscriptionID: d.SubscriptionID, SubscriptionVersion: d.SubscriptionVersion, EventID: d.EventID, EventType: d.Type,
		Source: d.Source, CallID: d.CallID, Attempt: attempt.Attempt, BodyTopic: original.Topic, BodyPartition: original.Partition, BodyOffset: original.Offset,
		StartedAt: a.deps.Now().UTC().Truncate(time.Microsecond), Redrive: id,
	}}
	if a.redrive.putBack(ctx, one, original, attempt.Attempt, lanes); one.err == nil && one.item.State == storage.ItemDone {
		schedule := scheduleOf(original)
		// First, so that nothing is sent that nobody has answered for, and nothing twice: the history follows, and each member of
		// a batch may be asked for.
		other, err := store.BeginRetry(ctx, d.Tenant, id, schedule, storage.Change{Actor: p.Actor(), Action: actionRetried, Detail: map[string]any{"delivery": d.ID, "subscription": d.SubscriptionID}})
		switch {
		case err != nil:
			return err
		case other != "":
			return refuse(http.StatusConflict, onItsWay(other))
		}
		if a.redrive.send(ctx, []*returned{one}); one.taken() {
			others := companions(one, &sent)
			a.redrive.send(ctx, others)
			for _, other := range others {
				if other.err != nil {
					a.log.Warn("the history can't be told of a retry", zap.String("delivery", other.mark.DeliveryID), zap.Error(other.err))
				}
			}
		} else if err := store.CancelRetry(context.WithoutCancel(ctx), id, schedule); err != nil {
			a.log.Warn("a retry that was not made can't be asked for again for an hour", zap.String("delivery", d.ID), zap.Error(err))
		}
	}
	switch {
	case one.err != nil && one.taken():
		// It is sent, which its attempt will tell: "try again" would send it once more.
		a.log.Warn("the history can't be told of a retry", zap.String("delivery", d.ID), zap.Error(one.err))
	case one.err != nil:
		return a.away("a delivery can't be put back", d, one.err)
	case one.item.State != storage.ItemDone:
		return refuse(http.StatusConflict, "it can't be sent now: "+one.item.Detail)
	}
	out.Action, out.RedriveID = retryAttempt, id
	return nil
}

// onItsWay refuses a second retry.
func onItsWay(id string) string {
	return "it is on its way, put back by " + id + ", and is sent as soon as its endpoint has room"
}

// scheduleOf names the run of attempts that a record belongs to, of which one retry takes over: its first record, and what
// it was sent again by.
func scheduleOf(r *kgo.Record) string {
	return cmp.Or(kafka.Header(r, kafka.HeaderOrigin), placeOfRecord(r).String()) + " " + kafka.Header(r, kafka.HeaderRedrive)
}

// companions are what tells the history of the other members of a batch that was put back.
func companions(one *returned, batch *event.Delivery) []*returned {
	var all []*returned
	for i := range batch.Members {
		m := &batch.Members[i]
		if m.ID == one.mark.DeliveryID {
			continue
		}
		mark := one.mark
		mark.DeliveryID, mark.EventID, mark.EventType, mark.Source, mark.CallID, mark.AcceptedAt, mark.Test = m.ID, m.EventID, m.EventType, m.Source, m.CallID, m.AcceptedAt, m.Test
		all = append(all, &returned{item: one.item, mark: mark})
	}
	return all
}

// away answers where Kafka was needed and could not be had.
func (s *Service) away(what string, d *history.Delivery, err error) error {
	s.log.Warn(what, zap.String("delivery", d.ID), zap.Error(err))
	return refuse(http.StatusServiceUnavailable, noteAway+"; try again")
}

// attempted reads the record of an attempt, and that of the delivery that it sent.
func (s *Service) attempted(ctx context.Context, d *history.Delivery, at history.Attempt) (*event.Attempt, *kgo.Record, error) {
	r, err := s.deps.records.Record(ctx, at.Place())
	if err != nil {
		return nil, nil, err
	}
	var a event.Attempt
	if err := s.deps.Codec.Decode(ctx, r.Value, &a); err != nil {
		return nil, nil, err
	}
	if a.DeliveryID != d.ID || a.Tenant != d.Tenant {
		return nil, nil, errAnother
	}
	original, err := s.deps.records.Record(ctx, kafka.Place{Topic: a.BodyTopic, Partition: a.BodyPartition, Offset: a.BodyOffset})
	return &a, original, err
}
