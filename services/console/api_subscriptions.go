package console

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/schemas/catalog"
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
	actionFailing   = "failing"
	actionRecovered = "recovered"
	actionRotated   = "rotated"
	actionExpired   = "expired"  // the signing key before the present one
	actionReplayed  = "replayed" // what was missed, or an event by hand
	actionRedriven  = "redriven" // dead letters
	actionCancelled = "cancelled"
	actionRetried   = "retried" // a delivery, by hand
)

// action is what the audit log says of a change.
type action struct {
	name   string
	detail map[string]any // besides the subscription's own; nil for nothing
}

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

// shownSubscription is a subscription with the secret that its owner sees this once.
type shownSubscription struct {
	*subscription.Subscription
	Secret string `json:"secret,omitempty" readOnly:"true" doc:"the signing secret, in the answer that made it and never again"`
	// Replay is in the answer to an activation that asked for one.
	Replay *startedReplay `json:"replay,omitempty" readOnly:"true"`
}

type oneSubscription struct {
	Status int
	ETag   string `header:"ETag"`
	// CacheControl keeps an answer that holds a secret from being kept on the way.
	CacheControl string `header:"Cache-Control"`
	Body         shownSubscription
}

type newSubscription struct {
	Status       int
	ETag         string `header:"ETag"`
	Location     string `header:"Location"`
	CacheControl string `header:"Cache-Control"`
	Body         shownSubscription
}

type manySubscriptions struct {
	Body list[*subscription.Subscription]
}

type noContent struct{ Status int }

func (a *apiSet) registerSubscriptions() {
	const path = "/v1/subscriptions"
	create, merge := subscriptionSchema(a, "NewSubscription", "url", "events"), patchSchema(a, "SubscriptionPatch", "url", "events")
	body := []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}
	change := append([]int{http.StatusNotFound, http.StatusPreconditionFailed}, body...)
	act := append([]int{http.StatusConflict}, change...)
	example := exampleSubscription(a.log)
	register(a, operation{id: "create-subscription", method: http.MethodPost, path: path, scope: auth.ScopeSubscriptionsWrite, status: http.StatusCreated, accepted: true,
		summary: "Create a subscription; its signing secret is shown this once", body: create, errors: body, request: exampleDocument(), answer: withSecret(example)}, a.create)
	register(a, operation{id: "list-subscriptions", method: http.MethodGet, path: path, scope: auth.ScopeSubscriptionsRead,
		summary: "List and search subscriptions, newest first", errors: []int{http.StatusBadRequest, http.StatusUnprocessableEntity}}, a.list)
	register(a, operation{id: "get-subscription", method: http.MethodGet, path: path + "/{id}", scope: auth.ScopeSubscriptionsRead,
		summary: "Get a subscription", errors: []int{http.StatusNotFound}, answer: example}, a.get)
	register(a, operation{id: "patch-subscription", method: http.MethodPatch, path: path + "/{id}", scope: auth.ScopeSubscriptionsWrite, accepted: true,
		summary: "Change a subscription by a JSON merge patch; a new origin waits in pending_url, pending_routes or pending_fallback_url for /verify", body: merge,
		mediaTypes: []string{"application/merge-patch+json", "application/json"}, errors: change, request: map[string]any{"name": "CRM", "filter": nil}, answer: example}, a.patch)
	register(a, operation{id: "delete-subscription", method: http.MethodDelete, path: path + "/{id}", scope: auth.ScopeSubscriptionsWrite, status: http.StatusNoContent, accepted: true,
		summary: "Delete a subscription", errors: change}, a.delete)
	register(a, operation{id: "verify-subscription", method: http.MethodPost, path: path + "/{id}/verify", scope: auth.ScopeSubscriptionsWrite, accepted: true,
		summary: "Run the verification handshake with every endpoint that has not passed; ack and manual are for admins", body: schemaOf[nothing](a), bodyOptional: true, errors: act, answer: example}, a.verify)
	register(a, operation{id: "activate-subscription", method: http.MethodPost, path: path + "/{id}/activate", scope: auth.ScopeSubscriptionsWrite, accepted: true,
		summary: "Activate a paused or disabled subscription, and send what it missed if asked to", body: schemaOf[activation](a), bodyOptional: true, errors: act,
		request: map[string]any{"replay_missed": true}}, a.activate)
	register(a, operation{id: "pause-subscription", method: http.MethodPost, path: path + "/{id}/pause", scope: auth.ScopeSubscriptionsWrite, accepted: true,
		summary: "Pause a subscription", body: schemaOf[nothing](a), bodyOptional: true, errors: act, answer: example}, a.pause)
	register(a, operation{id: "rotate-secret", method: http.MethodPost, path: path + "/{id}/rotate-secret", scope: auth.ScopeSubscriptionsWrite, accepted: true,
		summary: "Replace the signing key; the one before signs beside it for the overlap. The new secret is shown this once", body: schemaOf[rotation](a), bodyOptional: true, errors: act,
		request: map[string]any{"overlap": "24h"}, answer: withSecret(example)}, a.rotate)
}

func (a *apiSet) create(ctx context.Context, store *storage.Store, p auth.Principal, in *createSubscription) (*newSubscription, error) {
	sub, err := subscription.Parse(in.RawBody, a.rules)
	if err != nil {
		return nil, err
	}
	secret, err := a.prepare(sub, p.Tenant)
	if err != nil {
		return nil, err
	}
	receipt, err := store.CreateSubscription(ctx, sub, storage.Change{Actor: p.Actor(), Action: actionCreated, Detail: brief(sub)})
	if err != nil {
		return nil, err
	}
	out := answerOf(sub, http.StatusCreated, a.inForce(ctx, store, storage.KindSubscription, receipt)).showing(secret)
	return &newSubscription{Status: out.Status, ETag: out.ETag, Location: "/v1/subscriptions/" + sub.ID, CacheControl: out.CacheControl, Body: out.Body}, nil
}

// prepare gives a new subscription its identity and its keys, and seals its secrets. It returns the secret to show.
func (s *Service) prepare(sub *subscription.Subscription, tenant string) (string, error) {
	sub.ID, sub.Tenant = "sub_"+ulid.Make().String(), tenant
	secret, err := sub.MakeSigningKey(s.deps.Box, s.deps.Now(), 0)
	if err != nil {
		return "", err
	}
	return secret, sub.Seal(s.deps.Box)
}

func answerOf(sub *subscription.Subscription, status int, inForce bool) *oneSubscription {
	return &oneSubscription{Status: statusOf(status, inForce), ETag: etag(sub.Version), Body: shownSubscription{Subscription: sub}}
}

// brief is what the audit log says of a subscription. Its URL may hold a token in path or query, so only the origin is
// written.
func brief(sub *subscription.Subscription) map[string]any {
	m := map[string]any{"state": sub.State, "origin": subscription.Origin(sub.URL), "events": sub.Events}
	if urls := sub.Unverified(); len(urls) > 0 && sub.State != subscription.StatePending {
		origins := make([]string, len(urls))
		for i, url := range urls {
			origins[i] = subscription.Origin(url)
		}
		m["pending_origins"] = origins
	}
	return m
}

// listSubscriptions are the parameters of the list.
type listSubscriptions struct {
	ListInput
	Text  string `query:"q" maxLength:"200" doc:"a part of the name, the id, the URL's host or an event pattern, in any case"`
	State string `query:"state" enum:"pending,active,paused,disabled"`
	Event string `query:"event" maxLength:"100" doc:"an event type: those that get events of it"`
	Sort  string `query:"sort" enum:"created,position" default:"created" doc:"created: newest first; position: by position, then newest first"`
}

func (a *apiSet) list(ctx context.Context, store *storage.Store, p auth.Principal, in *listSubscriptions) (*manySubscriptions, error) {
	if _, known := catalog.Lookup(in.Event); in.Event != "" && !known {
		return nil, refuse(http.StatusUnprocessableEntity, "event: the catalogue has no such event type")
	}
	before, err := in.before()
	if err != nil {
		return nil, err
	}
	query := storage.SubscriptionQuery{Text: in.Text, State: subscription.State(in.State), Event: in.Event, ByPosition: in.Sort == "position", Limit: in.Limit + 1}
	place := func(s *subscription.Subscription) string { return s.ID }
	if query.ByPosition {
		place = func(s *subscription.Subscription) string { return strconv.Itoa(s.Position) + ":" + s.ID }
	}
	if before != "" {
		if query.After, err = placeOf(before, query.ByPosition); err != nil {
			return nil, err
		}
	}
	subs, err := store.Subscriptions(ctx, p.Tenant, query)
	if err != nil {
		return nil, err
	}
	return &manySubscriptions{page(subs, in.Limit, place)}, nil
}

// placeOf reads the place in a cursor: that of a list in another order is none.
func placeOf(cursor string, byPosition bool) (*storage.SubscriptionPlace, error) {
	position, id, two := strings.Cut(cursor, ":")
	if !two {
		position, id = "0", cursor
	}
	n, err := strconv.Atoi(position)
	if err != nil || two != byPosition {
		return nil, errCursor()
	}
	return &storage.SubscriptionPlace{Position: n, ID: id}, nil
}

func (a *apiSet) get(ctx context.Context, store *storage.Store, p auth.Principal, in *SubscriptionID) (*oneSubscription, error) {
	sub, err := store.Subscription(ctx, p.Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	return answerOf(sub, http.StatusOK, true), nil
}

func (a *apiSet) patch(ctx context.Context, store *storage.Store, p auth.Principal, in *patchSubscription) (*oneSubscription, error) {
	secret := ""
	out, err := a.change(ctx, store, p, in.ID, in.IfMatch, action{name: actionUpdated}, func(sub *subscription.Subscription) (*subscription.Subscription, error) {
		next, err := sub.Patch(in.RawBody, a.rules)
		if err != nil {
			return nil, err
		}
		// Another scheme needs another key; receivers change over while both sign.
		if secret, err = next.MakeSigningKey(a.deps.Box, a.deps.Now(), defaultOverlap); err != nil {
			return nil, err
		}
		if err := next.Seal(a.deps.Box); err != nil {
			return nil, err
		}
		if changed, err := changedMembers(sub, next); err != nil || len(changed) == 0 {
			return nil, err // what is there already is no version of its own
		}
		return next, nil
	})
	if err != nil {
		return nil, err
	}
	return out.showing(secret), nil
}

// showing adds a secret to an answer.
func (o *oneSubscription) showing(secret string) *oneSubscription {
	if o.Body.Secret = secret; secret != "" {
		o.CacheControl = "no-store"
	}
	return o
}

// change edits a subscription, waits until that is in force and answers with it.
func (a *apiSet) change(ctx context.Context, store *storage.Store, p auth.Principal, id, ifMatch string, what action,
	edit func(*subscription.Subscription) (*subscription.Subscription, error)) (*oneSubscription, error) {
	version, err := expectedVersion(ifMatch)
	if err != nil {
		return nil, err
	}
	detail := map[string]any{}
	tells := occasion{verified: what.name == actionVerified, reason: what.name}.events
	sub, receipt, err := store.UpdateSubscription(ctx, p.Tenant, id, version, storage.Change{Actor: p.Actor(), Action: what.name, Detail: detail, Tells: tells},
		func(sub *subscription.Subscription) (*subscription.Subscription, error) {
			before := sub.Clone()
			next, err := edit(sub)
			if err == nil && next != nil {
				err = describeChange(detail, what, before, next)
			}
			return next, err
		})
	if err != nil {
		return nil, err
	}
	return answerOf(sub, http.StatusOK, a.inForce(ctx, store, storage.KindSubscription, receipt)), nil
}

// describeChange writes what the audit log says of a change.
func describeChange(detail map[string]any, what action, before, next *subscription.Subscription) error {
	changed, err := changedMembers(before, next)
	if err != nil {
		return err
	}
	maps.Copy(detail, brief(next))
	maps.Copy(detail, what.detail)
	detail["changed"] = changed
	return nil
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

func (a *apiSet) pause(ctx context.Context, store *storage.Store, p auth.Principal, in *actOnSubscription) (*oneSubscription, error) {
	if err := onlyMembers(in.RawBody); err != nil {
		return nil, err
	}
	return a.change(ctx, store, p, in.ID, in.IfMatch, action{name: actionPaused}, func(sub *subscription.Subscription) (*subscription.Subscription, error) {
		if sub.State == subscription.StatePaused {
			return nil, nil
		}
		return sub, sub.Pause()
	})
}

// onlyMembers checks the body of an action that takes no members: absent, or an empty object.
func onlyMembers(raw []byte) error {
	_, err := actionBody(raw)
	return err
}

// actionBody reads the body of an action: absent, or an object with no other members than these.
func actionBody(raw []byte, known ...string) (map[string]any, error) {
	if len(strings.TrimSpace(string(raw))) == 0 {
		return map[string]any{}, nil
	}
	object, err := subscription.ParseObject(raw)
	if err != nil {
		return nil, err
	}
	var faults subscription.Faults
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if !slices.Contains(known, name) {
			faults = append(faults, faultAt("/"+escapePointer(name), "there is no such member"))
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return object, nil
}

func faultAt(pointer, detail string) problem.Fault {
	return problem.Fault{Pointer: problem.Pointer(pointer), Detail: detail}
}

// escapePointer writes a member's name as a part of a JSON pointer (RFC 6901).
func escapePointer(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}
