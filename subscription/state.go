package subscription

import (
	"fmt"
)

// State says whether events are sent.
type State string

// The states. A subscription is created pending; only an active one is sent to.
const (
	StatePending  State = "pending"
	StateActive   State = "active"
	StatePaused   State = "paused"
	StateDisabled State = "disabled"
)

// Verification is how an endpoint shows that it wants the events.
type Verification string

// The ways to verify.
const (
	VerifyChallenge Verification = "challenge"
	VerifyOptions   Verification = "options"
	VerifyAck       Verification = "ack"
	VerifyManual    Verification = "manual"
)

// ByAdminOnly says whether only an admin may verify this way: it takes the endpoint's word for less.
func (v Verification) ByAdminOnly() bool { return v == VerifyAck || v == VerifyManual }

// StateError says that a change does not fit the state that the subscription is in.
type StateError struct {
	State  State
	Action string
	Detail string
}

func (e *StateError) Error() string {
	return fmt.Sprintf("a subscription that is %s can't be %s: %s", e.State, e.Action, e.Detail)
}

// VerifyURL is the URL whose endpoint must pass verification next: the pending one if there is one.
func (s *Subscription) VerifyURL() string {
	if s.PendingURL != "" {
		return s.PendingURL
	}
	return s.URL
}

// Verified records that the endpoint at url passed. It reports false, and changes nothing, when url is no longer the
// one that VerifyURL names: the subscription was changed while the endpoint was asked.
func (s *Subscription) Verified(url string) bool {
	if url != s.VerifyURL() {
		return false
	}
	s.URL, s.PendingURL = url, ""
	switch s.State {
	case StatePending:
		s.State = StateActive
		if s.Activate != nil && !*s.Activate {
			s.State = StatePaused
		}
		s.Activate = nil // it has had its effect
	case StateDisabled:
		s.State, s.StateReason = StateActive, ""
	}
	return true
}

// Resume makes a paused or disabled subscription active.
func (s *Subscription) Resume() error {
	if s.State == StatePending {
		return &StateError{s.State, "activated", "its endpoint has to be verified first"}
	}
	s.State, s.StateReason = StateActive, ""
	return nil
}

// Pause stops sending until Resume.
func (s *Subscription) Pause() error {
	switch s.State {
	case StatePending:
		return &StateError{s.State, "paused", "nothing is sent before its endpoint is verified"}
	case StateDisabled:
		return &StateError{s.State, "paused", "nothing is sent to it as it is"}
	}
	s.State = StatePaused
	return nil
}

// Disable records that the system stopped sending, and why. It reports whether that changed anything: what a person
// paused, and what was never verified, stays as it is.
func (s *Subscription) Disable(reason string) bool {
	if s.State != StateActive {
		return false
	}
	s.State, s.StateReason = StateDisabled, reason
	return true
}

// Recover undoes Disable. It reports whether that changed anything.
func (s *Subscription) Recover() bool {
	if s.State != StateDisabled {
		return false
	}
	s.State, s.StateReason = StateActive, ""
	return true
}
