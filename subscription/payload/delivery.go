package payload

import (
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

// NewDelivery returns the delivery of a rendering to a subscription, all of it that follows from the event and the
// subscription. Whoever has read the event from a topic adds its place there.
func NewDelivery(s *subscription.Subscription, e *event.Event, r Rendered) event.Delivery {
	d := event.Delivery{
		ID: event.DeliveryID(e.Tenant, e.Source, e.ID, s.ID), Tenant: e.Tenant, SubscriptionID: s.ID, SubscriptionVersion: s.Version,
		EventID: e.ID, EventType: e.Type, Source: e.Source, CallID: e.CallID, AgentID: e.AgentID,
		EventTime: e.Time, AcceptedAt: e.IngestedAt,
		ContentType: r.ContentType, Method: s.Request.Method, Query: r.Query, Headers: r.Headers, Body: r.Body,
		Traceparent: e.Traceparent, Test: e.Test, Lane: s.Lane,
	}
	if ttl := s.TTL.For(e.Type); ttl > 0 {
		d.ExpiresAt = e.IngestedAt.Add(ttl)
	}
	if e.HasSequence {
		sequence := e.Sequence
		d.Sequence = &sequence
	}
	return d
}
