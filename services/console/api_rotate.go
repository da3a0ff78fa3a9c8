package console

import (
	"context"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
)

// How long the key before a rotation signs beside the new one.
const (
	defaultOverlap = 24 * time.Hour
	maxOverlap     = 7 * 24 * time.Hour
)

// rotation is the body of a request for a new signing key.
type rotation struct {
	Overlap string `json:"overlap,omitempty" default:"24h" doc:"how long the key before signs beside the new one, 0s to 7d"`
}

func (a *apiSet) rotate(ctx context.Context, store *storage.Store, p auth.Principal, in *actOnSubscription) (*oneSubscription, error) {
	overlap, err := parseOverlap(in.RawBody)
	if err != nil {
		return nil, err
	}
	secret := ""
	what := action{name: actionRotated, detail: map[string]any{"overlap": subscription.Duration(overlap)}}
	out, err := a.change(ctx, store, p, in.ID, in.IfMatch, what, func(sub *subscription.Subscription) (*subscription.Subscription, error) {
		secret, err = sub.Rotate(a.deps.Box, a.deps.Now(), overlap)
		return sub, err
	})
	if err != nil {
		return nil, err
	}
	out.showing(secret)
	out.CacheControl = "no-store"
	return out, nil
}

func parseOverlap(raw []byte) (time.Duration, error) {
	object, err := actionBody(raw, "overlap")
	if err != nil {
		return 0, err
	}
	v, given := object["overlap"]
	if !given || v == nil {
		return defaultOverlap, nil
	}
	text, _ := asString(v)
	d, err := subscription.ParseDuration(text)
	if overlap := time.Duration(d); err == nil && overlap >= 0 && overlap <= maxOverlap {
		return overlap, nil
	}
	return 0, subscription.Faults{faultAt("/overlap", `want a duration of "0s" to "7d"`)}
}

// expireKey forgets the signing key before the present one, once it signs no more.
func expireKey(now time.Time) func(*subscription.Subscription) (*subscription.Subscription, error) {
	return func(sub *subscription.Subscription) (*subscription.Subscription, error) {
		if sub.Signing.PreviousExpiresAt.IsZero() || now.Before(sub.Signing.PreviousExpiresAt) {
			return nil, nil // it was rotated again since
		}
		sub.Signing.PreviousPublicKey, sub.Signing.PreviousExpiresAt = "", time.Time{}
		delete(sub.Sealed, subscription.FieldPrevious)
		return sub, nil
	}
}
