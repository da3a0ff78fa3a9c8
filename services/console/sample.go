package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/payload"
	"github.com/oklog/ulid/v2"
)

// chosenEvent is what a request says of the event to use: one of the three, or nothing for the sample of the first type
// that the subscription names.
type chosenEvent struct {
	Type    string          `json:"type,omitempty" doc:"an event type: its sample from the catalogue is used" example:"call.ended"`
	Event   json.RawMessage `json:"event,omitempty" doc:"an event, as POST /v1/events takes it"`
	EventID string          `json:"event_id,omitempty" doc:"the id of an event that was sent before; needs the scope deliveries:read"`
}

// parseChoice reads the members of chosenEvent, which stand beside others of the caller's in the body.
func parseChoice(raw []byte, others ...string) (chosenEvent, error) {
	object, err := actionBody(raw, append([]string{"type", "event", "event_id"}, others...)...)
	if err != nil {
		return chosenEvent{}, err
	}
	var faults subscription.Faults
	given := 0
	for name, v := range object {
		switch name {
		case "type", "event_id":
			if _, bad := asString(v); bad {
				faults = append(faults, faultAt("/"+name, "want a string"))
			}
			given++
		case "event":
			given++
		}
	}
	if len(faults) == 0 && given > 1 {
		faults = append(faults, faultAt("", "want one of type, event and event_id"))
	}
	if len(faults) > 0 {
		return chosenEvent{}, faults
	}
	var c chosenEvent
	if len(object) > 0 {
		err = json.Unmarshal(raw, &c) // of what was read above
	}
	return c, err
}

// choose returns the event that a request asks for.
func (s *Service) choose(ctx context.Context, p auth.Principal, sub *subscription.Subscription, c chosenEvent) (*event.Event, error) {
	switch {
	case c.EventID != "":
		if refusal := auth.Require(p, auth.ScopeDeliveriesRead); refusal != nil {
			return nil, apiError{refusal}
		}
		return s.past(ctx, p.Tenant, c.EventID)
	case c.Event != nil:
		return s.given(p.Tenant, c.Event)
	case c.Type != "":
		t, known := catalog.Lookup(c.Type)
		if !known {
			return nil, subscription.Faults{faultAt("/type", "the catalogue has no such event type")}
		}
		return s.sample(sub, t)
	}
	return s.firstSample(sub, func(string) bool { return true })
}

// given reads an event that the caller sent, and fills in what the API fills in for POST /v1/events.
func (s *Service) given(tenant string, raw json.RawMessage) (*event.Event, error) {
	e, err := event.Parse(raw)
	var faults event.Faults
	if err == nil {
		s.complete(e, tenant)
		if e.Tenant != tenant {
			return nil, refuse(http.StatusForbidden, "the event names another tenant than yours", faultAt("/event/tenant", "it is not your tenant"))
		}
		faults = e.Check()
	} else if !errors.As(err, &faults) {
		return nil, subscription.Faults{faultAt("/event", err.Error())}
	}
	if len(faults) == 0 {
		return e, nil
	}
	out := make(subscription.Faults, len(faults))
	for i, f := range faults {
		out[i] = faultAt("/event"+f.Pointer, f.Detail)
	}
	return nil, out
}

// complete fills in what an event may leave out.
func (s *Service) complete(e *event.Event, tenant string) {
	now := s.deps.Now().UTC().Truncate(time.Microsecond)
	e.IngestedAt = now
	if e.Tenant == "" {
		e.Tenant = tenant
	}
	if e.ID == "" {
		e.ID = "evt_" + ulid.Make().String()
	}
	if e.Source == "" {
		e.Source = s.cfg.DefaultSource
	}
	if e.Time.IsZero() {
		e.Time = now
	}
}

// sample is the catalogue's sample of a type, as one of the tenant's events happening now: it has an id of its own, and
// says that it is a test.
func (s *Service) sample(sub *subscription.Subscription, t catalog.Type) (*event.Event, error) {
	e, err := event.Parse(t.Sample)
	if err != nil {
		return nil, fmt.Errorf("read the catalogue's sample of %s: %w", t.Name, err)
	}
	e.ID, e.Tenant, e.Time, e.Source = "", "", time.Time{}, ""
	s.complete(e, sub.Tenant)
	e.Test, e.HasTest = true, true
	if len(sub.Agents) > 0 {
		e.AgentID = sub.Agents[0] // so that it is one that the subscription gets
	}
	return e, nil
}

// firstSample is the sample of the first event type of the catalogue that the subscription names and fits, or, where
// none fits, of the first that it names.
func (s *Service) firstSample(sub *subscription.Subscription, fits func(eventType string) bool) (*event.Event, error) {
	var first *catalog.Type
	for _, t := range catalog.Types() {
		if !sub.MatchesType(t.Name) {
			continue
		}
		if fits(t.Name) {
			return s.sample(sub, t)
		}
		if first == nil {
			first = &t
		}
	}
	if first == nil {
		return nil, refuse(http.StatusUnprocessableEntity, "no event type of the catalogue matches the subscription's events")
	}
	return s.sample(sub, *first)
}

// sampleFor is a delivery of the sample that fits a URL of the subscription: of the type that is routed there.
func (s *Service) sampleFor(sub *subscription.Subscription, url string) (event.Delivery, error) {
	e, err := s.firstSample(sub, func(eventType string) bool { return sub.RouteFor(eventType) == url })
	if err != nil {
		return event.Delivery{}, err
	}
	return render(sub, e)
}

// render makes the delivery of an event to a subscription, as the filter does.
func render(sub *subscription.Subscription, e *event.Event) (event.Delivery, error) {
	renderer, err := payload.Compile(sub.Payload, sub.Request.Method)
	if err != nil {
		return event.Delivery{}, err
	}
	rendered, err := renderer.Render(e)
	if err != nil {
		return event.Delivery{}, err
	}
	return payload.NewDelivery(sub, e, rendered), nil
}
