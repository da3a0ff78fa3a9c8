package subscription

import (
	"fmt"
	"maps"
	"slices"
	"time"
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

// Unverified lists the endpoints that have to pass verification before anything else is sent to them, one URL for each
// origin: what waits in PendingURL, PendingRoutes and PendingFallbackURL, while the subscription is pending every endpoint
// it has, and while it is disabled its URL, which has to show that it is back.
func (s *Subscription) Unverified() []string {
	var urls []string
	switch s.State {
	case StatePending:
		urls = endpoints(s.URL, s.Request.Routes, s.FallbackURL)
	case StateDisabled:
		urls = []string{s.URL}
	}
	urls = append(urls, endpoints(s.PendingURL, s.PendingRoutes, s.PendingFallbackURL)...)
	seen := make(map[string]bool, len(urls))
	return slices.DeleteFunc(urls, func(u string) bool {
		origin := Origin(u)
		repeats := seen[origin]
		seen[origin] = true
		return repeats
	})
}

// Verified records that the endpoints at urls passed: what waited for that is in force. It reports false, and changes
// nothing, when they are not all that Unverified lists: the subscription was changed while the endpoints were asked.
func (s *Subscription) Verified(urls []string) bool {
	passed := origins(urls)
	for _, u := range s.Unverified() {
		if !passed[Origin(u)] {
			return false
		}
	}
	s.putInForce()
	s.FailingSince = time.Time{}
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

// Proposed returns a copy of s with everything in force that waits: what its endpoints are verified with.
func (s *Subscription) Proposed() *Subscription {
	c := s.Clone()
	c.putInForce()
	return c
}

func (s *Subscription) putInForce() {
	if s.PendingURL != "" {
		s.URL, s.PendingURL = s.PendingURL, ""
	}
	if len(s.PendingRoutes) > 0 {
		routes := maps.Clone(s.Request.Routes)
		if routes == nil {
			routes = make(map[string]string, len(s.PendingRoutes))
		}
		maps.Copy(routes, s.PendingRoutes)
		s.Request.Routes, s.PendingRoutes = routes, nil
	}
	if s.PendingFallbackURL != "" {
		s.FallbackURL, s.PendingFallbackURL = s.PendingFallbackURL, ""
	}
	if s.PendingAuth != nil {
		for field := range s.Auth.hidden() {
			delete(s.Sealed, field)
			if v, ok := s.Sealed[waiting+field]; ok {
				s.Sealed[field] = v
				delete(s.Sealed, waiting+field)
			}
		}
		s.Auth, s.PendingAuth = *s.PendingAuth, nil
	}
}

// endpoints are the absolute URLs among those given, in a fixed order.
func endpoints(url string, routes map[string]string, fallback string) []string {
	urls := []string{url}
	for _, pattern := range slices.Sorted(maps.Keys(routes)) {
		urls = append(urls, routes[pattern])
	}
	urls = append(urls, fallback)
	return slices.DeleteFunc(urls, func(u string) bool { return u == "" || isPath(u) })
}

func origins(urls []string) map[string]bool {
	set := make(map[string]bool, len(urls))
	for _, u := range urls {
		set[Origin(u)] = true
	}
	return set
}

// Resume makes a paused or disabled subscription active.
func (s *Subscription) Resume() error {
	if s.State == StatePending {
		return &StateError{s.State, "activated", "its endpoint has to be verified first"}
	}
	s.State, s.StateReason, s.FailingSince = StateActive, "", time.Time{}
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

// SameEndpoints says whether deliveries go to the same places as under another version, the fallback aside: whatever an
// endpoint did says nothing of the one that takes its place.
func (s *Subscription) SameEndpoints(o *Subscription) bool {
	return s.URL == o.URL && maps.Equal(s.Request.Routes, o.Request.Routes)
}

// Fail records since when the endpoint has failed. It reports whether that changed anything: only what is sent to can fail,
// and it has not failed for less because somebody noticed later.
func (s *Subscription) Fail(since time.Time) bool {
	if s.State != StateActive || !s.FailingSince.IsZero() {
		return false
	}
	s.FailingSince = since.UTC()
	return true
}

// ReasonFailing is why a subscription is disabled of whose attempts none has succeeded for too long.
const ReasonFailing = "failing"

// Disable records that the system stopped sending, and why. It reports whether that changed anything: what a person
// paused, and what was never verified, stays as it is.
func (s *Subscription) Disable(reason string) bool {
	if s.State != StateActive {
		return false
	}
	s.State, s.StateReason = StateDisabled, reason
	return true
}

// Recover records that the endpoint took a delivery. It reports whether that changed anything: a failure after that stands.
// One that was disabled for failing has shown that it didn't; an endpoint that said it is gone is not asked again.
func (s *Subscription) Recover(at time.Time) bool {
	if s.FailingSince.IsZero() || s.FailingSince.After(at) {
		return false
	}
	s.FailingSince = time.Time{}
	if s.State == StateDisabled && s.StateReason == ReasonFailing {
		s.State, s.StateReason = StateActive, ""
	}
	return true
}
