package console

import (
	"context"

	"github.com/callstream/callstream/pkg/auth"
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
	Events int    `json:"events" doc:"events that are sent again"`
	Lost   int    `json:"lost" doc:"events that were skipped and can't be sent any more: retention took them"`
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
	// Only now, when nothing more is skipped: what is missed is whole.
	out.Body.Replay, err = a.replayMissed(ctx, store, p, out.Body.Subscription)
	return out, err
}
