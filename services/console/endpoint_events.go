package console

import (
	"strconv"
	"time"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

// occasion is what changes a subscription, for the events that tell of it.
type occasion struct {
	verified  bool   // its endpoints passed verification
	delivered bool   // its endpoint took a delivery
	reason    string // why it is disabled, or active again
	detail    string // the same in words, where it was a fault of the endpoint
	status    int    // that the endpoint answered; 0 for none
}

// events are the events of callstream's own that tell of a change of a subscription; before is nil for a new one.
func (o occasion) events(before, after *subscription.Subscription) ([]*event.Event, error) {
	var list []*event.Event
	var failed error
	tell := func(eventType string, data map[string]any) {
		data["subscription_id"], data["subscription_version"] = after.ID, after.Version
		// The time tells apart what has one version: a database that was restored from a backup counts on from a lower one.
		e, err := event.NewOwn(eventType, after.Tenant, after.UpdatedAt, data,
			after.ID, strconv.FormatInt(after.Version, 10), after.UpdatedAt.Format(time.RFC3339Nano))
		if err != nil {
			failed = err
			return
		}
		list = append(list, e)
	}
	if o.verified {
		tell(event.TypeVerified, map[string]any{"reason": string(after.Verification)})
	}
	was := before != nil && before.State == subscription.StateDisabled
	failing := before != nil && !before.FailingSince.IsZero()
	switch is := after.State == subscription.StateDisabled; {
	case is && !was:
		data := map[string]any{"reason": o.reason}
		if o.detail != "" {
			data["error"] = o.detail
		}
		if o.status != 0 {
			data["http_status"] = o.status
		}
		tell(event.TypeDisabled, data)
	case after.State == subscription.StateActive && (was || o.delivered && failing):
		tell(event.TypeRecovered, map[string]any{"reason": o.reason})
	}
	return list, failed
}
