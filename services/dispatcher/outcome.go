package dispatcher

import (
	"strconv"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/outbound"
)

// The outcomes of one try to send a delivery, from a closed set.
const (
	outcomeDelivered = "delivered"
	outcomeRetry     = "retry"
	outcomeDead      = "dead"
	outcomeSkipped   = "skipped"
	// outcomeSuperseded is that of a copy which another one of the delivery, or a redrive of it, has overtaken. It has no
	// record: those of the other stand.
	outcomeSuperseded = "superseded"
)

// The reasons that go with an outcome. Those of a retry are the error classes, and one more.
const (
	reasonFallback = "fallback" // the endpoint's last attempt failed, the next one goes to fallback_url

	reasonExhausted = "exhausted" // the last attempt failed
	reasonRejected  = "rejected"  // an answer that another attempt would not change
	reasonRedirect  = "redirect"  // 3xx: redirects are not followed
	reasonGone      = "gone"      // 410
	reasonBlocked   = "blocked"   // the endpoint's address is not allowed
	reasonInvalid   = "invalid"   // no request can be made of it
	reasonPoison    = "poison"    // the record does not decode
	reasonTooLarge  = "payload_too_large"
	reasonRefused   = "unwritable" // the brokers don't take the record
	reasonUnknown   = "unknown_subscription"
	reasonUnsent    = "unsendable"     // its secrets could not be opened for a day
	reasonInternal  = "internal_error" // our own code panicked

	reasonExpired  = "expired"
	reasonPaused   = "paused"
	reasonPending  = "pending"
	reasonDisabled = "disabled"
	reasonDeleted  = "deleted"

	reasonFrequency = "frequency" // as many as are wanted were let through
)

// result is what a request came to.
type result struct {
	status       int   // 0 where no answer came
	err          error // of the request, or of reading its answer
	tokenRefused bool  // 401 to an access token, which is replaced for the next attempt
}

// errorClass is the class of a result that is no success: of the transport, or of the status.
func (r result) errorClass() string {
	switch {
	case r.status == 0:
		return string(egress.ClassOf(r.err))
	case r.status >= 200 && r.status < 300:
		return ""
	}
	return "http_" + strconv.Itoa(r.status/100) + "xx"
}

// verdict is the outcome of an attempt.
type verdict struct {
	outcome string
	reason  string
	delay   time.Duration // until the next attempt by the schedule, where outcome is retry
	disable bool          // the subscription is to be disabled

	// What next adds:
	due      time.Time // of the next attempt
	fallback bool      // it goes to fallback_url
}

// judge decides what becomes of a delivery after attempt number n (from 1) of its present schedule. fallback is the
// service's retry schedule.
func judge(r result, n int, retry subscription.Retry, fallback []time.Duration) verdict {
	class := r.errorClass()
	retryable := false
	if r.status == 0 {
		switch egress.Class(class) {
		case egress.ClassBlocked:
			return verdict{outcome: outcomeDead, reason: reasonBlocked}
		case egress.ClassInvalid:
			return verdict{outcome: outcomeDead, reason: reasonInvalid}
		case outbound.ClassOAuth2:
			retryable = true // whatever retry_on says: it was never sent
		default:
			retryable = retry.RetryableError(egress.Class(class) == egress.ClassTimeout)
		}
	} else {
		switch {
		case r.status >= 200 && r.status < 300:
			// The endpoint took it. What its body came to after that changes nothing.
			return verdict{outcome: outcomeDelivered}
		case r.status == 410:
			return verdict{outcome: outcomeDead, reason: reasonGone, disable: true}
		}
		retryable = r.tokenRefused || retry.RetryableStatus(r.status)
	}
	if !retryable {
		if r.status >= 300 && r.status < 400 {
			return verdict{outcome: outcomeDead, reason: reasonRedirect}
		}
		return verdict{outcome: outcomeDead, reason: reasonRejected}
	}
	delay, more := retry.Delay(n, fallback)
	if !more {
		return verdict{outcome: outcomeDead, reason: reasonExhausted}
	}
	return verdict{outcome: outcomeRetry, reason: class, delay: delay}
}
