// Package payload renders events as the bodies that endpoints are sent, one file for each profile. Renderings are
// deterministic and written by hand, straight from the event: the filter renders every delivery here, and a record that it
// reads again after a crash must make the same bytes.
package payload

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/scope"
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

// UnknownProfileError names a profile that this build does not render. Saving a subscription with one is refused, so it
// means that a newer version of callstream wrote the subscription.
type UnknownProfileError struct{ Profile string }

func (e *UnknownProfileError) Error() string {
	return fmt.Sprintf("this version does not render the payload profile %q", e.Profile)
}

// Renderer renders events for every subscription with the same Key. It is safe for concurrent use.
type Renderer struct {
	key      string
	profile  string
	shape    *shape                 // of the profiles that have one
	template *subscription.Template // of the profile custom
	scope    *scope.Scope
	extra    *extra
	query    bool // the members go into the query of a GET request
}

// Compile makes the renderer of a subscription's payload, for requests of the method. Saving a subscription checks all that
// it checks, so an error means that another version of callstream wrote it: an *UnknownProfileError, a
// *subscription.ExpressionError, or one that names the rule.
func Compile(p subscription.Payload, method string) (*Renderer, error) {
	r := &Renderer{profile: p.Profile, query: method == http.MethodGet}
	var err error
	switch p.Profile {
	case "":
		r.profile = subscription.ProfileStandard
	case subscription.ProfileStandard, subscription.ProfilePostCall, subscription.ProfileRaw,
		subscription.ProfileCloudEvents, subscription.ProfileCloudEventsBinary:
	case subscription.ProfilePush:
		r.shape = pushShape()
	case subscription.ProfileCallback:
		r.shape = callbackShape()
	case subscription.ProfileDialer:
		r.shape = dialerShape()
	case subscription.ProfilePlatform:
		r.shape = platformShape()
	case subscription.ProfileCustom:
		if r.template, err = subscription.CompileTemplate(p.Template); err != nil {
			return nil, fmt.Errorf("payload.template: %w", err)
		}
	default:
		return nil, &UnknownProfileError{Profile: p.Profile}
	}
	var faults []scope.Fault
	r.scope, faults = scope.Compile(scope.Rules{Include: p.Include, Exclude: p.Exclude, Transcript: p.Transcript, Redact: p.Redact})
	if len(faults) > 0 {
		return nil, fmt.Errorf("payload.%s: %s", faults[0].Member, faults[0].Detail)
	}
	if r.extra, err = newExtra(p.Extra); err != nil {
		return nil, err
	}
	if r.key, err = r.makeKey(p); err != nil {
		return nil, err
	}
	return r, nil
}

// makeKey returns the profile and the method, and a hash of the rules where there are any.
func (r *Renderer) makeKey(p subscription.Payload) (string, error) {
	key := r.profile
	if r.query {
		key += " GET"
	}
	if r.scope == nil && r.extra == nil && r.template == nil {
		return key, nil
	}
	rules, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("write the payload's rules as JSON: %w", err)
	}
	return fmt.Sprintf("%s %x", key, sha256.Sum256(rules)), nil
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

// Render renders an event. The error is a *subscription.TemplateError, a *TooLargeError, ErrNoObject or ErrQueryTooLong: this
// event has no rendering, and never will. Reason puts it into one word.
func (r *Renderer) Render(e *event.Event) (Rendered, error) {
	_, rendered, err := r.Append(nil, e)
	return rendered, err
}

// Append is Render into a buffer of the caller's: it appends the body to dst, returns the grown buffer, and the rendering
// with its body there. It allocates only where the buffer is too small; for the profiles custom and cloudevents-binary and
// for GET requests; and where the flat profiles meet undeclared members of the event's root, which may repeat names.
func (r *Renderer) Append(dst []byte, e *event.Event) ([]byte, Rendered, error) {
	e = r.scope.Apply(e)
	from := len(dst)
	out := Rendered{ContentType: ContentTypeJSON}
	x := r.extra
	var err error
	switch r.profile {
	case subscription.ProfileStandard:
		dst = AppendStandard(dst, e)
	case subscription.ProfilePostCall:
		dst = AppendPostCall(dst, e)
	case subscription.ProfileRaw:
		dst = e.AppendData(dst)
	case subscription.ProfileCloudEvents:
		dst, x = appendCloudEvent(dst, e, x), nil
		out.ContentType = ContentTypeCloudEvents
	case subscription.ProfileCloudEventsBinary:
		dst, x = appendCloudData(dst, e, x), nil
		out.Headers = cloudHeaders(e)
	case subscription.ProfileCustom:
		if dst, err = r.template.AppendJSON(dst, e); err != nil {
			return dst, Rendered{}, fmt.Errorf("the template: %w", err)
		}
	default:
		dst = r.shape.append(dst, e)
	}
	if r.query {
		out.ContentType = ""
		if out.Query, err = queryOf(dst[from:], x); err != nil {
			return dst[:from], Rendered{}, err
		}
		return dst[:from], out, nil
	}
	dst = x.merge(dst, from)
	if size := len(dst) - from; size > MaxBody {
		return dst[:from], Rendered{}, &TooLargeError{Bytes: size}
	}
	out.Body = dst[from:len(dst):len(dst)]
	return dst, out, nil
}
