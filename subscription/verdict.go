package subscription

import (
	"slices"
	"time"

	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
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
	ReasonItself       = "itself" // it would be told of itself, and didn't ask for that by name
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
	if e.Topic() == topic.OwnEvents && c.itself(e) {
		return ReasonItself, "it tells of this subscription, which doesn't name the type " + e.Type
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

// itself says whether one of callstream's own events tells of this subscription, which asked for everything and not for
// this. Whoever subscribes to "*" wants what happens on the platform: its endpoint knows that it was verified, and can't be
// told that it doesn't answer.
func (c *Compiled) itself(e *event.Event) bool {
	about, ok := e.Lookup("data.subscription_id")
	if !ok || about.String() != c.ID {
		return false
	}
	return !slices.ContainsFunc(c.Subscription.Events, func(pattern string) bool { return pattern != "*" && catalog.Match(pattern, e.Type) })
}

func (c *Compiled) gone() (reason, detail string) {
	if c.Deleted {
		return ReasonDeleted, ""
	}
	return ReasonUnreadable, c.Fault.Error()
}
