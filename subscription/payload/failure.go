package payload

import (
	"errors"
	"fmt"

	"github.com/callstream/callstream/subscription"
)

// MaxBody is the largest rendering that is sent, in bytes. What carries a delivery is larger than its body, and topics take
// 4 MiB of it.
const MaxBody = subscription.MaxBody

// ReasonRender is why there is no delivery of an event that its profile has no rendering of. Other reasons are
// subscription.ReasonTooLarge, and those of templates.
const ReasonRender = "render_failed"

// TooLargeError says that a rendering is larger than what is sent.
type TooLargeError struct{ Bytes int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the body is %d bytes, at most %d are sent", e.Bytes, MaxBody)
}

// Reason says in one word, from a closed set, why there is no rendering: what decisions, dead letters and previews give as
// the reason of an error of Render, Append or Compile.
func Reason(err error) string {
	var template *subscription.TemplateError
	var large *TooLargeError
	switch {
	case errors.As(err, &template):
		return template.Reason
	case errors.As(err, &large), errors.Is(err, ErrQueryTooLong):
		return subscription.ReasonTooLarge
	}
	return ReasonRender
}
