// Package payload renders events as the bodies that endpoints are sent, one file for each profile. Renderings are
// deterministic and written by hand, straight from the event: the filter renders every delivery here, and a record that it
// reads again after a crash must make the same bytes.
package payload

import (
	"fmt"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

// ContentTypeJSON is the content type of the profiles whose body is JSON.
const ContentTypeJSON = "application/json"

// Rendered is what a request is made of, besides what the endpoint's settings add when it is sent.
type Rendered struct {
	// Body is sent as it is.
	Body []byte
	// ContentType of the body.
	ContentType string
	// Headers that the profile adds; nil for most.
	Headers map[string]string
	// Query string to add to the URL, without the question mark; empty for most.
	Query string
}

// Size is how many bytes of the rendering come from the event: those of the body and of the query.
func (r *Rendered) Size() int { return len(r.Body) + len(r.Query) }

// UnknownProfileError names a profile that this build does not render. Saving a subscription with one is refused, so it
// means that a newer version of callstream wrote the subscription.
type UnknownProfileError struct{ Profile string }

func (e *UnknownProfileError) Error() string {
	return fmt.Sprintf("this version does not render the payload profile %q", e.Profile)
}

// Renderer renders events for every subscription with the same Key. It is safe for concurrent use.
type Renderer struct {
	profile string
	key     string
}

// Compile makes the renderer of a subscription's payload, for requests of the method. The error is an
// *UnknownProfileError.
func Compile(p subscription.Payload, method string) (*Renderer, error) {
	switch p.Profile {
	case "", subscription.ProfileStandard, subscription.ProfilePostCall:
	default:
		return nil, &UnknownProfileError{Profile: p.Profile}
	}
	return &Renderer{profile: p.Profile, key: p.Profile}, nil
}

// For returns the renderer of a version of a subscription, which is compiled once and kept with the version.
func For(c *subscription.Compiled) (*Renderer, error) {
	kept := c.Derived(func() any {
		r, err := Compile(c.Subscription.Payload, c.Subscription.Request.Method)
		return &compiled{r, err}
	}).(*compiled)
	return kept.renderer, kept.err
}

type compiled struct {
	renderer *Renderer
	err      error
}

// Key tells renderings apart: two subscriptions whose renderers have the same key are sent the same bytes for the same
// event.
func (r *Renderer) Key() string { return r.key }

// Render renders an event.
func (r *Renderer) Render(e *event.Event) (Rendered, error) {
	_, rendered, err := r.Append(nil, e)
	return rendered, err
}

// Append is Render into a buffer of the caller's: it appends the body to dst, returns the grown buffer, and the rendering
// with its body there. It allocates only where the buffer is too small.
func (r *Renderer) Append(dst []byte, e *event.Event) ([]byte, Rendered, error) {
	from := len(dst)
	switch r.profile {
	case subscription.ProfilePostCall:
		dst = AppendPostCall(dst, e)
	default:
		dst = AppendStandard(dst, e)
	}
	return dst, Rendered{Body: dst[from:len(dst):len(dst)], ContentType: ContentTypeJSON}, nil
}

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
