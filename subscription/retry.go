package subscription

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Retry says when and how often a delivery is attempted again.
type Retry struct {
	Schedule    []Duration `json:"schedule,omitempty" maxItems:"50" doc:"delays between attempts, 100ms to 7d each; empty for those of the installation"`
	MaxAttempts int        `json:"max_attempts,omitempty" minimum:"0" maximum:"100" doc:"attempts in all; 0 for one more than the schedule has delays"`
	RetryOn     []string   `json:"retry_on,omitempty" maxItems:"50" doc:"what is retried, in place of the default: timeout, connection, a status (429) or a class (5xx)"`
}

// Limits of a retry policy.
const (
	maxSchedule    = 50
	maxAttempts    = 100
	maxRetryDelay  = 7 * 24 * time.Hour
	minRetryDelay  = 100 * time.Millisecond
	retryTimeout   = "timeout"
	retryConnError = "connection"
)

func (r *Retry) validate(dec *decoder, at pointer) {
	if len(r.Schedule) > maxSchedule {
		dec.faultf(at.member("schedule"), "more than %d delays", maxSchedule)
	}
	for i, d := range r.Schedule {
		if time.Duration(d) < minRetryDelay || time.Duration(d) > maxRetryDelay {
			dec.fault(at.member("schedule").index(i), "want a delay of 100ms to 7d")
		}
	}
	if r.MaxAttempts < 0 || r.MaxAttempts > maxAttempts {
		dec.faultf(at.member("max_attempts"), "want 1 to %d", maxAttempts)
	}
	if len(r.RetryOn) > maxSchedule {
		dec.faultf(at.member("retry_on"), "more than %d", maxSchedule)
	}
	for i, on := range r.RetryOn {
		if !validRetryOn(on) {
			dec.fault(at.member("retry_on").index(i), `want "timeout", "connection", a status from "300" to "599", or "3xx", "4xx" or "5xx"`)
		}
	}
}

func validRetryOn(on string) bool {
	switch on {
	case retryTimeout, retryConnError, "3xx", "4xx", "5xx":
		return true
	}
	n, err := strconv.Atoi(on)
	return err == nil && len(on) == 3 && n >= 300 && n <= 599
}

// Delay returns how long after its failed attempt (counted from 1) a delivery is tried again; false when it is out of
// attempts. fallback is the service's schedule. When there are more attempts than delays, the last delay repeats.
func (r Retry) Delay(attempt int, fallback []time.Duration) (time.Duration, bool) {
	schedule := fallback
	if len(r.Schedule) > 0 {
		schedule = make([]time.Duration, len(r.Schedule))
		for i, d := range r.Schedule {
			schedule[i] = time.Duration(d)
		}
	}
	limit := r.MaxAttempts
	if limit == 0 {
		limit = len(schedule) + 1
	}
	if attempt >= limit || len(schedule) == 0 || attempt < 1 {
		return 0, false
	}
	return schedule[min(attempt, len(schedule))-1], true
}

// RetryableStatus says whether an answer with this HTTP status is tried again: 408, 425, 429 and 5xx unless RetryOn
// says otherwise.
func (r Retry) RetryableStatus(status int) bool {
	if len(r.RetryOn) == 0 {
		return status == 408 || status == 425 || status == 429 || (status >= 500 && status <= 599)
	}
	code := strconv.Itoa(status)
	return slices.ContainsFunc(r.RetryOn, func(on string) bool {
		class, isClass := strings.CutSuffix(on, "xx")
		return on == code || (isClass && len(code) == 3 && class == code[:1])
	})
}

// RetryableError says whether an attempt without an answer is tried again: always, unless RetryOn says otherwise.
func (r Retry) RetryableError(timeout bool) bool {
	if len(r.RetryOn) == 0 {
		return true
	}
	if timeout {
		return slices.Contains(r.RetryOn, retryTimeout)
	}
	return slices.Contains(r.RetryOn, retryConnError)
}
