package dispatcher

import (
	"errors"
	"time"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

// errNoFallback says that a delivery waits for a fallback_url that its subscription doesn't have any more.
var errNoFallback = errors.New("fallback_url was taken away, and the endpoint's attempts had run out")

// next completes a verdict on a failure: when the next attempt is due, that there is none once the event has expired, and
// that the fallback gets what the endpoint had its attempts of. What is dead for another reason stays so: the fallback
// stands in for an endpoint that is away, not for one that has refused.
//
// The fallback's own failures end the delivery alone. In particular its 410 doesn't disable the subscription, whose endpoint
// is another.
func (v verdict) next(j *job, d *event.Delivery, sub *subscription.Subscription, now time.Time, retryAfter time.Duration) verdict {
	v.disable = v.disable && !j.fallback
	if v.outcome == outcomeRetry {
		v.due = dueAfter(now, v.delay, retryAfter)
		if !expired(j, d, v.due) {
			return v
		}
		// It would wait only to be skipped: better it is known now.
		v = verdict{outcome: outcomeSkipped, reason: reasonExpired}
	}
	if (v.reason == reasonExhausted || v.reason == reasonExpired) && !j.fallback && sub.FallbackURL != "" {
		return verdict{outcome: outcomeRetry, reason: reasonFallback, due: now, fallback: true}
	}
	return v
}

// expired says whether an event is not worth sending any more at a time. What somebody asked for passes that by: replays
// and redrives.
func expired(j *job, d *event.Delivery, at time.Time) bool {
	return !d.ExpiresAt.IsZero() && d.ReplayID == "" && j.redrive == "" && at.After(d.ExpiresAt)
}

// withoutFallback gives a delivery up whose fallback is no more.
func (w *worker) withoutFallback(j *job, d *event.Delivery) {
	w.unsent(j, d, verdict{outcome: outcomeDead, reason: reasonExhausted}, errNoFallback)
}
