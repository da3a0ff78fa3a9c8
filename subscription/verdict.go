package subscription

import (
	"time"

	"github.com/callstream/callstream/schemas/event"
)

// The reasons why a subscription is not sent an event. They are what deliveries.decisions records. Besides them a
// template has its own.
const (
	ReasonDeleted      = "deleted"
	ReasonUnreadable   = "unreadable" // the subscription's record can't be read
	ReasonPending      = string(StatePending)
	ReasonPaused       = string(StatePaused)
	ReasonDisabled     = string(StateDisabled)
	ReasonType         = "type"
	ReasonAgent        = "agent"
	ReasonExpired      = "expired"
	ReasonFiltered     = "filtered"
	ReasonMissingField = "missing_field"
	ReasonFilterError  = "filter_error"
)

// Wants says whether the subscription asks for events like e by type and agent: reason is "" where it does, else ReasonType
// or ReasonAgent. Whoever has it from Candidates knows that already.
func (c *Compiled) Wants(e *event.Event) (reason, detail string) {
	switch s := c.Subscription; {
	case s == nil:
		return c.gone()
	case !s.MatchesType(e.Type):
		return ReasonType, "the subscription doesn't name the type " + e.Type
	case !s.MatchesAgent(e.AgentID):
		return ReasonAgent, c.forAgents
	}
	return "", ""
}

// Verdict says whether an event that the subscription wants is sent to it now: reason is "" where it is, else why not, and
// detail says more for a person. An event is as old as its acceptance says; one that was not accepted yet has no age.
// Replays are sent whatever the event's age. allowance is one for all subscriptions that are asked about the event, or nil.
func (c *Compiled) Verdict(e *event.Event, now time.Time, replay bool, allowance *Allowance) (reason, detail string) {
	s := c.Subscription
	if s == nil {
		return c.gone()
	}
	switch s.State {
	case StateActive:
	case StatePending:
		return ReasonPending, "its endpoint has not passed verification"
	case StatePaused:
		return ReasonPaused, ""
	default:
		return string(s.State), s.StateReason
	}
	if !replay && !s.TTL.IsZero() && !e.IngestedAt.IsZero() {
		if ttl := s.TTL.For(e.Type); ttl > 0 && now.Sub(e.IngestedAt) >= ttl {
			return ReasonExpired, "older than its time to live of " + Duration(ttl).String()
		}
	}
	filter, err := c.Filter()
	if err != nil {
		return ReasonFilterError, err.Error()
	}
	_, reason, detail = filter.within(allowance, e)
	return reason, detail
}

func (c *Compiled) gone() (reason, detail string) {
	if c.Deleted {
		return ReasonDeleted, ""
	}
	return ReasonUnreadable, c.Fault.Error()
}
