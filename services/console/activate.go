package console

import (
	"context"
	"net/http"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
)

// activation is the body of a request to activate.
type activation struct {
	ReplayMissed bool `json:"replay_missed,omitempty" doc:"send what was skipped while the subscription was paused or disabled; each event once, however often it is asked for"`
}

// startedReplay says what a replay sends.
type startedReplay struct {
	ID     string `json:"id,omitempty" doc:"of the replay, sent as webhook-replay; absent where there is nothing to send"`
	Events int    `json:"events" doc:"events that are asked for again; one that the present version does not want, by its filter for one, is skipped with that reason"`
	Lost   int    `json:"lost" doc:"events that were skipped and can't be sent any more: Kafka's retention took them, or the history had to delete what it knew of them"`
}

func (a *apiSet) activate(ctx context.Context, store *storage.Store, p auth.Principal, in *actOnSubscription) (*oneSubscription, error) {
	object, err := actionBody(in.RawBody, "replay_missed")
	if err != nil {
		return nil, err
	}
	replay, isBool := object["replay_missed"].(bool)
	if v := object["replay_missed"]; v != nil && !isBool {
		return nil, subscription.Faults{faultAt("/replay_missed", "want true or false")}
	}
	out, err := a.change(ctx, store, p, in.ID, in.IfMatch, action{name: actionActivated}, func(sub *subscription.Subscription) (*subscription.Subscription, error) {
		if sub.State == subscription.StateActive {
			return nil, nil
		}
		return sub, sub.Resume()
	})
	if err != nil || !replay {
		return out, err
	}
	if out.Status == http.StatusAccepted {
		return nil, refuse(http.StatusServiceUnavailable, "the activation is stored, but not in force yet: what is missed is not whole before that, so ask for it again then")
	}
	out.Body.Replay, err = a.replayMissed(ctx, store, p, out.Body.Subscription)
	return out, err
}

const (
	// replayStart is the command that sends the events it names.
	replayStart = "start"
	// replayStep is how many events one command names.
	replayStep = 1000
	// historyWait bounds how long an activation waits until the history knows all that was skipped.
	historyWait = 20 * time.Second
	// underWay is how long after an activation is in force it may take until what was skipped just before is on its topic.
	underWay = 250 * time.Millisecond
	// appliedWithin is how long a change takes, once it is on the feed, to be in force in services that run by themselves.
	appliedWithin = time.Second
)

// settled waits until nothing more is skipped by the state of before. The filter and the dispatchers of this process say
// when they have applied a change; of others is only known how long they take.
func (s *Service) settled(ctx context.Context) error {
	wait := underWay
	if s.deps.InForce == nil {
		wait += appliedWithin
	}
	return run.Sleep(ctx, wait)
}

// knowMissed waits until the history holds all that was skipped, and returns where the event topics begin.
func (s *Service) knowMissed(ctx context.Context) (map[kafka.TopicPartition]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, historyWait)
	defer cancel()
	if err := s.settled(ctx); err != nil {
		return nil, err
	}
	if err := s.project.CaughtUp(ctx); err != nil {
		return nil, err
	}
	return s.deps.starts(ctx)
}

// replayMissed asks for what a subscription missed while it was paused or disabled to be sent, each event once. A process
// that dies half way has asked for a part; whoever calls again gets the rest.
func (s *Service) replayMissed(ctx context.Context, store *storage.Store, p auth.Principal, sub *subscription.Subscription) (*startedReplay, error) {
	rows, err := s.rows()
	if err != nil {
		return nil, err
	}
	starts, err := s.knowMissed(ctx)
	if err != nil {
		s.log.Warn("what was missed can't be told", zap.Error(err))
		return nil, refuse(http.StatusServiceUnavailable, "the subscription is active; what it missed can't be told now, since the history is behind or Kafka away: ask for it again")
	}
	replay := &startedReplay{}
	command := event.Replay{
		ID: replayPrefix + ulid.Make().String(), Tenant: sub.Tenant, SubscriptionID: sub.ID, Command: replayStart,
		RequestedAt: s.deps.Now().UTC(), RequestedBy: p.Actor(), Reason: "missed",
	}
	change := storage.Change{Actor: p.Actor(), Action: actionReplayed}
	var last storage.Receipt
	var after history.Cursor
	for {
		missed, err := rows.Missed(ctx, sub.Tenant, sub.ID, after, replayStep)
		if err != nil {
			return nil, err
		}
		skipped := make([]storage.Skipped, 0, len(missed))
		for _, m := range missed {
			after = m.Cursor()
			if m.Place == (kafka.Place{}) || m.Place.Offset < starts[kafka.TopicPartition{Topic: m.Place.Topic, Partition: m.Place.Partition}] {
				replay.Lost++
				continue
			}
			skipped = append(skipped, storage.Skipped{Delivery: m.DeliveryID, AfterReplay: m.ReplayID,
				Event: event.ReplayEvent{Topic: m.Place.Topic, Partition: m.Place.Partition, Offset: m.Place.Offset, ID: m.EventID, Source: m.Source}})
		}
		events, receipt, err := store.Replay(ctx, command, skipped, change)
		if err != nil {
			return nil, err
		}
		if replay.Events += events; receipt != 0 {
			last = receipt
		}
		if len(missed) < replayStep {
			break
		}
	}
	// After the list: what is deleted meanwhile is counted at least once.
	forgotten, err := rows.Forgotten(ctx, sub.Tenant, sub.ID)
	if err != nil {
		return nil, err
	}
	replay.Lost += forgotten
	if replay.Events > 0 {
		replay.ID = command.ID
		s.inForce(ctx, store, storage.KindReplay, last)
	}
	return replay, nil
}
