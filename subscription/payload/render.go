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

// UnknownProfileError names a profile that this build does not render. Saving a subscription with one is refused, so it
// means that a newer version of callstream wrote the subscription.
type UnknownProfileError struct{ Profile string }

func (e *UnknownProfileError) Error() string {
	return fmt.Sprintf("this version does not render the payload profile %q", e.Profile)
}

// Key tells renderings apart: two subscriptions with the same key are sent the same bytes for the same event.
func Key(s *subscription.Subscription) string { return s.Payload.Profile }

// Render renders an event for a subscription. The error is an *UnknownProfileError.
func Render(s *subscription.Subscription, e *event.Event) (Rendered, error) {
	_, r, err := Append(nil, s, e)
	return r, err
}

// Append is Render into a buffer of the caller's: it appends the body to dst, returns the grown buffer, and the rendering
// with its body there. It allocates only where the buffer is too small.
func Append(dst []byte, s *subscription.Subscription, e *event.Event) ([]byte, Rendered, error) {
	from := len(dst)
	switch s.Payload.Profile {
	case subscription.ProfileStandard, "":
		dst = AppendStandard(dst, e)
	case subscription.ProfilePostCall:
		dst = AppendPostCall(dst, e)
	default:
		return dst, Rendered{}, &UnknownProfileError{Profile: s.Payload.Profile}
	}
	return dst, Rendered{Body: dst[from:len(dst):len(dst)], ContentType: ContentTypeJSON}, nil
}
