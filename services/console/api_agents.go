package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
)

// agentWebhooks are the webhooks of one agent.
type agentWebhooks struct {
	PostCall *string `json:"postCall" doc:"where the call.report of the agent's calls goes, in the payload post-call; null for nowhere" example:"https://crm.example.com/calls"`
}

// agentSettings is the shorthand for one agent: each webhook stands for a subscription.
type agentSettings struct {
	Webhooks       agentWebhooks `json:"webhooks"`
	SubscriptionID string        `json:"subscription_id,omitempty" readOnly:"true" doc:"the subscription that stands for it"`
	Secret         string        `json:"secret,omitempty" readOnly:"true" doc:"its signing secret, in the answer that made it and never again"`
}

// newAgentSettings is what a caller sends of agentSettings.
type newAgentSettings struct {
	Webhooks agentWebhooks `json:"webhooks"`
}

// AgentID is the id in a path. It is exported for huma, which sets embedded parameters by reflection.
type AgentID struct {
	AgentID string `path:"agent_id" maxLength:"256" doc:"the agent_id of events"`
}

type putAgent struct {
	AgentID
	IfMatch string `header:"If-Match" doc:"the version of the subscription that the change is meant for; another answers 412"`
	Document
}

type oneAgent struct {
	Status       int
	ETag         string `header:"ETag"`
	CacheControl string `header:"Cache-Control"`
	Body         agentSettings
}

func (a *apiSet) registerAgents() {
	const path = "/v1/agents/{agent_id}/settings"
	register(a, operation{id: "get-agent-settings", method: http.MethodGet, path: path, scope: auth.ScopeSubscriptionsRead,
		summary: "An agent's webhooks", errors: []int{http.StatusNotFound}}, a.agent)
	// An ack takes the endpoint's word for less than a challenge, so it is an admin's to ask for.
	register(a, operation{id: "put-agent-settings", method: http.MethodPut, path: path, scope: auth.ScopeAdmin, accepted: true,
		summary: "Set an agent's webhooks: makes, changes or, by null, removes the post-call subscription to its call.report, after the endpoint acknowledged a sample",
		body:    schemaOf[newAgentSettings](a), request: map[string]any{"webhooks": map[string]any{"postCall": "https://crm.example.com/calls"}},
		errors: []int{http.StatusBadRequest, http.StatusConflict, http.StatusPreconditionFailed, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}}, a.putAgent)
}

func (a *apiSet) agent(ctx context.Context, store *storage.Store, p auth.Principal, in *AgentID) (*oneAgent, error) {
	sub, err := store.AgentSubscription(ctx, p.Tenant, in.AgentID)
	if err != nil {
		return nil, err
	}
	return agentAnswer(sub, http.StatusOK, ""), nil
}

func agentAnswer(sub *subscription.Subscription, status int, secret string) *oneAgent {
	out := &oneAgent{Status: status, Body: agentSettings{Secret: secret}}
	if sub != nil {
		url := sub.URL
		out.ETag, out.Body.SubscriptionID, out.Body.Webhooks.PostCall = etag(sub.Version), sub.ID, &url
	}
	if secret != "" {
		out.CacheControl = "no-store"
	}
	return out
}

func (a *apiSet) putAgent(ctx context.Context, store *storage.Store, p auth.Principal, in *putAgent) (*oneAgent, error) {
	url, err := parseAgentSettings(in.RawBody)
	if err != nil {
		return nil, err
	}
	version, err := expectedVersion(in.IfMatch)
	if err != nil {
		return nil, err
	}
	before, err := store.AgentSubscription(ctx, p.Tenant, in.AgentID.AgentID)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	if version != 0 && (before == nil || before.Version != version) {
		return nil, storage.ErrStale
	}
	var next *subscription.Subscription
	change, secret := storage.Change{Actor: p.Actor(), Action: actionDeleted}, ""
	detail := map[string]any{"agent": in.AgentID.AgentID}
	change.Detail = detail
	switch {
	case url == "":
	case before == nil:
		if next, secret, err = a.newPostCall(p.Tenant, in.AgentID.AgentID, url); err != nil {
			return nil, err
		}
		change.Action = actionCreated
	default:
		if next, err = a.movedPostCall(before, url); err != nil {
			return nil, err
		}
		change.Action = actionUpdated
		if next.URL == before.URL && next.State == before.State && len(next.Unverified()) == 0 {
			return agentAnswer(before, http.StatusOK, ""), nil // it is what was asked for
		}
	}
	if next != nil {
		urls := asked(next)
		if err := a.handshakes(ctx, next, urls); err != nil {
			return nil, atPostCall(err)
		}
		if !next.Verified(urls) {
			return nil, fmt.Errorf("verify %s: not all of its endpoints were asked", next.ID)
		}
		if before == nil {
			maps.Copy(detail, brief(next))
		} else if err := describeChange(detail, action{}, before, next); err != nil {
			return nil, err
		}
		detail["method"] = next.Verification
		change.Tells = occasion{verified: true, reason: actionVerified}.events
	}
	receipt, err := store.SetAgentSubscription(ctx, p.Tenant, in.AgentID.AgentID, before, next, change)
	if errors.Is(err, storage.ErrStale) && version == 0 {
		return nil, refuse(http.StatusConflict, "the settings were changed at the same time: get them again and decide anew")
	}
	if err != nil {
		return nil, err
	}
	return agentAnswer(next, statusOf(http.StatusOK, a.inForce(ctx, store, storage.KindSubscription, receipt)), secret), nil
}

// newPostCall is the subscription that an agent's post-call webhook stands for, and the secret to show.
func (a *apiSet) newPostCall(tenant, agent, url string) (*subscription.Subscription, string, error) {
	raw, err := json.Marshal(map[string]any{
		"name": "Post-call webhook", "url": url, "events": []string{"call.report"}, "agents": []string{agent},
		"payload": map[string]any{"profile": subscription.ProfilePostCall}, "verification": subscription.VerifyAck,
	})
	if err != nil {
		return nil, "", fmt.Errorf("write the document of a subscription: %w", err)
	}
	sub, err := subscription.Parse(raw, a.rules)
	if err != nil {
		return nil, "", atPostCall(err)
	}
	secret, err := a.prepare(sub, tenant)
	return sub, secret, err
}

// movedPostCall is the subscription with another URL, which waits for its verification where the origin is another.
func (a *apiSet) movedPostCall(before *subscription.Subscription, url string) (*subscription.Subscription, error) {
	raw, err := json.Marshal(map[string]any{"url": url, "verification": subscription.VerifyAck})
	if err != nil {
		return nil, fmt.Errorf("write the change of a subscription: %w", err)
	}
	next, err := before.Patch(raw, a.rules)
	if err != nil {
		return nil, atPostCall(err)
	}
	return next, nil
}

// atPostCall says faults of the subscription where the caller wrote its URL.
func atPostCall(err error) error {
	const place = "#/webhooks/postCall"
	var faults subscription.Faults
	if errors.As(err, &faults) {
		for i := range faults {
			if faults[i].Pointer == "#/url" {
				faults[i].Pointer = place
			}
		}
		return faults
	}
	var refused apiError
	if errors.As(err, &refused) {
		for i := range refused.Errors {
			refused.Errors[i].Pointer = place
		}
	}
	return err
}

// parseAgentSettings returns the URL of the post-call webhook, "" for null.
func parseAgentSettings(raw []byte) (string, error) {
	object, err := subscription.ParseObject(raw)
	if err != nil {
		return "", err
	}
	var faults subscription.Faults
	for name := range object {
		if name != "webhooks" {
			faults = append(faults, faultAt("/"+escapePointer(name), "there is no such member"))
		}
	}
	webhooks, ok := object["webhooks"].(map[string]any)
	if !ok {
		return "", append(faults, faultAt("/webhooks", "want an object with the member postCall"))
	}
	for name := range webhooks {
		if name != "postCall" {
			faults = append(faults, faultAt("/webhooks/"+escapePointer(name), "there is no such webhook"))
		}
	}
	v, given := webhooks["postCall"]
	url, bad := asString(v)
	if !given || v != nil && (bad || url == "") {
		faults = append(faults, faultAt("/webhooks/postCall", "want a URL, or null to remove it"))
	}
	if len(faults) > 0 {
		return "", faults
	}
	return url, nil
}
