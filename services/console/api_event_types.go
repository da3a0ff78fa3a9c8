package console

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/services/console/storage"
)

// eventType is a type of the catalogue as people see it.
type eventType struct {
	Type        string          `json:"type"`
	Title       string          `json:"title,omitempty"`
	Description string          `json:"description"`
	Topic       string          `json:"topic"`
	Schema      json.RawMessage `json:"schema,omitempty" doc:"JSON Schema of the event"`
	Sample      json.RawMessage `json:"sample,omitempty" doc:"a whole event"`
}

type eventTypeName struct {
	Type string `path:"type" maxLength:"100"`
}

type oneEventType struct{ Body eventType }

type manyEventTypes struct{ Body list[eventType] }

func (a *apiSet) registerEventTypes() {
	register(a, operation{id: "list-event-types", method: http.MethodGet, path: "/v1/event-types",
		summary: "The catalogue of event types, with a JSON Schema and a sample each"}, a.eventTypes)
	register(a, operation{id: "get-event-type", method: http.MethodGet, path: "/v1/event-types/{type}",
		summary: "One event type", errors: []int{http.StatusNotFound}}, a.eventType)
}

// eventTypes lists the whole catalogue: it is short, and no page of it makes sense.
func (a *apiSet) eventTypes(context.Context, *storage.Store, auth.Principal, *struct{}) (*manyEventTypes, error) {
	out := &manyEventTypes{}
	for _, t := range catalog.Types() {
		out.Body.Items = append(out.Body.Items, describe(t))
	}
	return out, nil
}

func (a *apiSet) eventType(_ context.Context, _ *storage.Store, _ auth.Principal, in *eventTypeName) (*oneEventType, error) {
	t, ok := catalog.Lookup(in.Type)
	if !ok {
		return nil, refuse(http.StatusNotFound, "the catalogue has no such event type")
	}
	return &oneEventType{describe(t)}, nil
}

func describe(t catalog.Type) eventType {
	return eventType{Type: t.Name, Title: t.Title, Description: t.Description, Topic: t.Topic, Schema: t.JSONSchema(), Sample: t.Sample}
}
