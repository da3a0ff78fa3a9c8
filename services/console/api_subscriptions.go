package console

import (
	"context"
	"net/http"
	"strings"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"github.com/oklog/ulid/v2"
)

// The actions of the audit log.
const (
	actionCreated   = "created"
	actionUpdated   = "updated"
	actionDeleted   = "deleted"
	actionVerified  = "verified"
	actionActivated = "activated"
	actionPaused    = "paused"
	actionDisabled  = "disabled"
	actionRecovered = "recovered"
	actionRotated   = "rotated"
)

type createSubscription struct{ Document }

// SubscriptionID is the id in a path. It is exported for huma, which sets embedded parameters by reflection.
type SubscriptionID struct {
	ID string `path:"id" maxLength:"64"`
}

type patchSubscription struct {
	SubscriptionID
	IfMatch string `header:"If-Match" doc:"the version that the change is meant for; another answers 412"`
	Document
}

type deleteSubscription struct {
	SubscriptionID
	IfMatch string `header:"If-Match" doc:"the version that the change is meant for; another answers 412"`
}

type actOnSubscription struct {
	SubscriptionID
	IfMatch string `header:"If-Match" doc:"the version that the change is meant for; another answers 412"`
	Document
}

type activation struct {
	ReplayMissed bool `json:"replay_missed,omitempty" doc:"send what was skipped; not supported yet"`
}

// created is a subscription with the secret that its owner sees this once.
type created struct {
	*subscription.Subscription
	Secret string `json:"secret,omitempty"`
}

type oneSubscription struct {
	Status int
	ETag   string `header:"ETag"`
	Body   *subscription.Subscription
}

type newSubscription struct {
	Status   int
	ETag     string `header:"ETag"`
	Location string `header:"Location"`
	// The answer holds a secret, so nothing on the way may keep it.
	CacheControl string `header:"Cache-Control"`
	Body         created
}

type manySubscriptions struct {
	Body list[*subscription.Subscription]
}

type noContent struct{ Status int }

func (a *apiSet) registerSubscriptions() {
	const path = "/v1/subscriptions"
	create, merge := subscriptionSchema(a, "NewSubscription", "url", "events"), subscriptionSchema(a, "SubscriptionPatch")
	change := []int{http.StatusBadRequest, http.StatusNotFound, http.StatusPreconditionFailed, http.StatusUnprocessableEntity}
	register(a, operation{id: "create-subscription", method: http.MethodPost, path: path, scope: auth.ScopeSubscriptionsWrite, status: http.StatusCreated,
		summary: "Create a subscription", body: create,
		errors: []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}}, a.create)
	register(a, operation{id: "list-subscriptions", method: http.MethodGet, path: path, scope: auth.ScopeSubscriptionsRead,
		summary: "List subscriptions, newest first", errors: []int{http.StatusUnprocessableEntity}}, a.list)
	register(a, operation{id: "get-subscription", method: http.MethodGet, path: path + "/{id}", scope: auth.ScopeSubscriptionsRead,
		summary: "Get a subscription", errors: []int{http.StatusNotFound}}, a.get)
	register(a, operation{id: "patch-subscription", method: http.MethodPatch, path: path + "/{id}", scope: auth.ScopeSubscriptionsWrite, status: http.StatusOK,
		summary: "Change a subscription by a JSON merge patch", body: merge, mediaTypes: []string{"application/merge-patch+json", "application/json"},
		errors: append([]int{http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType}, change...)}, a.patch)
	register(a, operation{id: "delete-subscription", method: http.MethodDelete, path: path + "/{id}", scope: auth.ScopeSubscriptionsWrite, status: http.StatusNoContent,
		summary: "Delete a subscription", errors: change}, a.delete)
	register(a, operation{id: "verify-subscription", method: http.MethodPost, path: path + "/{id}/verify", scope: auth.ScopeSubscriptionsWrite, status: http.StatusOK,
		summary: "Run the verification handshake", body: schemaOf[nothing](a), bodyOptional: true, errors: append([]int{http.StatusConflict}, change...)}, a.verify)
	register(a, operation{id: "activate-subscription", method: http.MethodPost, path: path + "/{id}/activate", scope: auth.ScopeSubscriptionsWrite, status: http.StatusOK,
		summary: "Activate a paused or disabled subscription", body: schemaOf[activation](a), bodyOptional: true, errors: append([]int{http.StatusConflict}, change...)}, a.activate)
	register(a, operation{id: "pause-subscription", method: http.MethodPost, path: path + "/{id}/pause", scope: auth.ScopeSubscriptionsWrite, status: http.StatusOK,
		summary: "Pause a subscription", body: schemaOf[nothing](a), bodyOptional: true, errors: append([]int{http.StatusConflict}, change...)}, a.pause)
}

func (a *apiSet) create(ctx context.Context, store *storage.Store, p auth.Principal, in *createSubscription) (*newSubscription, error) {
	sub, err := subscription.Parse(in.RawBody, a.rules)
	if err != nil {
		return nil, err
	}
	sub.ID, sub.Tenant = "sub_"+ulid.Make().String(), p.Tenant
	secret := ""
	if sub.Signing.Secret.IsZero() {
		if secret, err = subscription.NewSigningSecret(); err != nil {
			return nil, err
		}
		sub.Signing.Secret = subscription.NewHidden(secret)
	}
	if err := sub.Seal(a.deps.Box); err != nil {
		return nil, err
	}
	receipt, err := store.CreateSubscription(ctx, sub, storage.Change{Actor: p.Actor(), Action: actionCreated, Detail: brief(sub)})
	if err != nil {
		return nil, err
	}
	return &newSubscription{
		Status: statusOf(http.StatusCreated, a.inForce(ctx, store, storage.KindSubscription, receipt)),
		ETag:   etag(sub.Version), Location: "/v1/subscriptions/" + sub.ID, CacheControl: "no-store",
		Body: created{sub, secret},
	}, nil
}

// brief is what the audit log says of a subscription. Its URL may hold a token in path or query, so only the origin is
// written.
func brief(sub *subscription.Subscription) map[string]any {
	m := map[string]any{"state": sub.State, "origin": subscription.Origin(sub.URL), "events": sub.Events}
	if sub.PendingURL != "" {
		m["pending_origin"] = subscription.Origin(sub.PendingURL)
	}
	return m
}

func (a *apiSet) list(ctx context.Context, store *storage.Store, p auth.Principal, in *listInput) (*manySubscriptions, error) {
	before, err := in.before()
	if err != nil {
		return nil, err
	}
	subs, err := store.Subscriptions(ctx, p.Tenant, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return &manySubscriptions{page(subs, in.Limit, func(s *subscription.Subscription) string { return s.ID })}, nil
}

func (a *apiSet) get(ctx context.Context, store *storage.Store, p auth.Principal, in *SubscriptionID) (*oneSubscription, error) {
	sub, err := store.Subscription(ctx, p.Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	return &oneSubscription{Status: http.StatusOK, ETag: etag(sub.Version), Body: sub}, nil
}

func (a *apiSet) patch(ctx context.Context, store *storage.Store, p auth.Principal, in *patchSubscription) (*oneSubscription, error) {
	return a.change(ctx, store, p, in.ID, in.IfMatch, actionUpdated, func(sub *subscription.Subscription) (*subscription.Subscription, error) {
		next, err := sub.Patch(in.RawBody, a.rules)
		if err != nil {
			return nil, err
		}
		return next, next.Seal(a.deps.Box)
	})
}

// change edits a subscription, waits until that is in force and answers with it.
func (a *apiSet) change(ctx context.Context, store *storage.Store, p auth.Principal, id, ifMatch, action string,
	edit func(*subscription.Subscription) (*subscription.Subscription, error)) (*oneSubscription, error) {
	version, err := expectedVersion(ifMatch)
	if err != nil {
		return nil, err
	}
	detail := map[string]any{}
	sub, receipt, err := store.UpdateSubscription(ctx, p.Tenant, id, version, storage.Change{Actor: p.Actor(), Action: action, Detail: detail},
		func(sub *subscription.Subscription) (*subscription.Subscription, error) {
			next, err := edit(sub)
			if err == nil && next != nil {
				for k, v := range brief(next) {
					detail[k] = v
				}
			}
			return next, err
		})
	if err != nil {
		return nil, err
	}
	inForce := a.inForce(ctx, store, storage.KindSubscription, receipt)
	return &oneSubscription{Status: statusOf(http.StatusOK, inForce), ETag: etag(sub.Version), Body: sub}, nil
}

func (a *apiSet) delete(ctx context.Context, store *storage.Store, p auth.Principal, in *deleteSubscription) (*noContent, error) {
	version, err := expectedVersion(in.IfMatch)
	if err != nil {
		return nil, err
	}
	receipt, err := store.DeleteSubscription(ctx, p.Tenant, in.ID, version, storage.Change{Actor: p.Actor(), Action: actionDeleted})
	if err != nil {
		return nil, err
	}
	return &noContent{statusOf(http.StatusNoContent, a.inForce(ctx, store, storage.KindSubscription, receipt))}, nil
}

func (a *apiSet) activate(ctx context.Context, store *storage.Store, p auth.Principal, in *actOnSubscription) (*oneSubscription, error) {
	if err := onlyMembers(in.RawBody, "replay_missed"); err != nil {
		return nil, err
	}
	return a.change(ctx, store, p, in.ID, in.IfMatch, actionActivated, func(sub *subscription.Subscription) (*subscription.Subscription, error) {
		if sub.State == subscription.StateActive {
			return nil, nil
		}
		return sub, sub.Resume()
	})
}

func (a *apiSet) pause(ctx context.Context, store *storage.Store, p auth.Principal, in *actOnSubscription) (*oneSubscription, error) {
	if err := onlyMembers(in.RawBody); err != nil {
		return nil, err
	}
	return a.change(ctx, store, p, in.ID, in.IfMatch, actionPaused, func(sub *subscription.Subscription) (*subscription.Subscription, error) {
		if sub.State == subscription.StatePaused {
			return nil, nil
		}
		return sub, sub.Pause()
	})
}

// onlyMembers checks the body of an action: absent, or an object. Members that will mean something are refused while
// they have a value that asks for it.
func onlyMembers(raw []byte, later ...string) error {
	if len(strings.TrimSpace(string(raw))) == 0 {
		return nil
	}
	object, err := subscription.ParseObject(raw)
	if err != nil {
		return err
	}
	var faults subscription.Faults
	for name, v := range object {
		detail := "there is no such member"
		for _, known := range later {
			if name == known {
				switch v {
				case false, nil:
					detail = ""
				case true:
					detail = "it isn't supported yet"
				default:
					detail = "want true or false"
				}
			}
		}
		if detail != "" {
			faults = append(faults, problem.Fault{Pointer: problem.Pointer("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)), Detail: detail})
		}
	}
	if len(faults) > 0 {
		return faults
	}
	return nil
}
