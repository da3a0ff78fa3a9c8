package subscription

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/schemas/catalog"
)

// Rules are what the installation allows.
type Rules struct {
	// AllowHTTP lets endpoints use plain http.
	AllowHTTP bool
	// SecretsElsewhere lets a new document say {"set": true} of its secrets: it is checked by someone who doesn't have
	// them at hand. What Parse returns then can't be sealed.
	SecretsElsewhere bool
}

// Limits of a subscription.
const (
	maxName     = 200
	maxEvents   = 100
	maxAgents   = 1000
	maxAgent    = 256
	maxInFlight = 1000
	maxSpread   = 64
	maxTimeout  = 30 * time.Second
	minTimeout  = 100 * time.Millisecond
	minTTL      = time.Second
	maxTTL      = 7 * 24 * time.Hour // how long delivery lanes keep their records
	maxTTLTypes = 100
	maxPosition = 1_000_000
)

// MaxDocument is the size of the largest document that describes a subscription, in bytes.
const MaxDocument = 256 << 10

var laneName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Validate returns everything that is wrong with s, each with its place. An empty result means that s may be stored.
func (s *Subscription) Validate(rules Rules) []problem.Fault {
	dec := &decoder{}
	s.validate(dec, rules)
	return dec.faults
}

func (s *Subscription) validate(dec *decoder, rules Rules) {
	const root = pointer("")
	text(dec, root.member("name"), s.Name, maxName)
	if detail := checkURL(s.URL, rules); detail != "" {
		dec.fault(root.member("url"), detail)
	}
	if s.FallbackURL != "" {
		if detail := checkURL(s.FallbackURL, rules); detail != "" {
			dec.fault(root.member("fallback_url"), detail)
		}
	}
	s.validateEvents(dec, root.member("events"))
	s.validateAgents(dec, root.member("agents"))
	if s.Filter != "" {
		if _, err := CompileFilter(s.Filter); err != nil {
			dec.fault(root.member("filter"), err.Error())
		}
	}
	s.validateEnums(dec)
	s.Auth.validate(dec, root.member("auth"))
	s.Signing.validate(dec, root.member("signing"))
	s.Retry.validate(dec, root.member("retry"))
	s.TTL.validate(dec, root.member("ttl"))
	validateHeaders(dec, root.member("request").member("headers"), s.Request.Headers)
	if s.Auth.Type == AuthAPIKey {
		for name := range s.Request.Headers {
			if strings.EqualFold(name, s.Auth.Header) {
				dec.fault(root.member("request").member("headers").member(name), "auth sets this header")
			}
		}
	}
	between(dec, root.member("request").member("timeout"), time.Duration(s.Request.Timeout), minTimeout, maxTimeout)
	within(dec, root.member("max_in_flight"), s.MaxInFlight, 1, maxInFlight)
	within(dec, root.member("spread"), s.Spread, 1, maxSpread)
	within(dec, root.member("position"), s.Position, -maxPosition, maxPosition)
	if !laneName.MatchString(s.Lane) {
		dec.fault(root.member("lane"), "want the name of a lane: up to 32 lowercase letters, digits and '-'")
	}
	if s.Frequency != nil {
		at := root.member("frequency")
		oneOf(dec, at.member("per"), s.Frequency.Per, "call", "agent", "subscription")
		within(dec, at.member("max"), s.Frequency.Max, 1, 1_000_000)
		between(dec, at.member("window"), time.Duration(s.Frequency.Window), time.Second, 30*24*time.Hour)
	}
	if s.RateLimit != nil {
		within(dec, root.member("rate_limit").member("per_second"), s.RateLimit.PerSecond, 1, 100_000)
		within(dec, root.member("rate_limit").member("burst"), s.RateLimit.Burst, 0, 1_000_000)
	}
	if s.Batch != nil {
		within(dec, root.member("batch").member("max_events"), s.Batch.MaxEvents, 1, 1000)
		between(dec, root.member("batch").member("max_wait"), time.Duration(s.Batch.MaxWait), 0, time.Minute)
	}
}

func (s *Subscription) validateEvents(dec *decoder, at pointer) {
	switch {
	case len(s.Events) == 0:
		dec.fault(at, "want at least one event type, a family (\"call.*\") or \"*\"")
	case len(s.Events) > maxEvents:
		dec.faultf(at, "more than %d", maxEvents)
		return
	}
	for i, pattern := range s.Events {
		if err := catalog.ValidPattern(pattern); err != nil {
			dec.fault(at.index(i), err.Error())
		} else if slices.Contains(s.Events[:i], pattern) {
			dec.fault(at.index(i), "given twice")
		}
	}
}

func (s *Subscription) validateAgents(dec *decoder, at pointer) {
	if len(s.Agents) > maxAgents {
		dec.faultf(at, "more than %d", maxAgents)
		return
	}
	seen := make(map[string]bool, len(s.Agents))
	for i, agent := range s.Agents {
		text(dec, at.index(i), agent, maxAgent)
		if agent == "" || seen[agent] {
			dec.fault(at.index(i), "empty, or given twice")
		}
		seen[agent] = true
	}
}

func (s *Subscription) validateEnums(dec *decoder) {
	const root = pointer("")
	oneOf(dec, root.member("payload").member("profile"), s.Payload.Profile, ProfileStandard, ProfilePostCall, ProfileCloudEvents,
		ProfileCloudEventsBinary, ProfilePush, ProfileCallback, ProfileDialer, ProfilePlatform, ProfileRaw, ProfileCustom)
	oneOf(dec, root.member("payload").member("transcript"), s.Payload.Transcript, "", "full", "snippet", "none")
	oneOf(dec, root.member("request").member("method"), s.Request.Method, "POST", "GET")
	oneOf(dec, root.member("verification"), string(s.Verification), string(VerifyChallenge), string(VerifyOptions), string(VerifyAck), string(VerifyManual))
	oneOf(dec, root.member("ordering"), s.Ordering, OrderingNone, OrderingPerCall)
}

func (t TTL) validate(dec *decoder, at pointer) {
	check := func(at pointer, d Duration) { between(dec, at, time.Duration(d), minTTL, maxTTL) }
	if len(t.ByType) == 0 {
		if t.Default != 0 {
			check(at, t.Default)
		}
		return
	}
	if len(t.ByType) > maxTTLTypes {
		dec.faultf(at, "more than %d", maxTTLTypes)
		return
	}
	if t.Default != 0 {
		check(at.member("default"), t.Default)
	}
	for pattern, d := range t.ByType {
		if err := catalog.ValidPattern(pattern); err != nil || pattern == "*" {
			dec.fault(at.member(pattern), "want an event type, a family (\"call.*\") or default")
		}
		check(at.member(pattern), d)
	}
}

func text(dec *decoder, at pointer, s string, limit int) {
	switch {
	case utf8.RuneCountInString(s) > limit:
		dec.faultf(at, "longer than %d characters", limit)
	case hasControl(s):
		dec.fault(at, "has control characters")
	}
}

func within(dec *decoder, at pointer, n, low, high int) {
	if n < low || n > high {
		dec.faultf(at, "want %d to %d", low, high)
	}
}

func between(dec *decoder, at pointer, d, low, high time.Duration) {
	if d < low || d > high {
		dec.faultf(at, "want %s to %s", Duration(low), Duration(high))
	}
}

func oneOf(dec *decoder, at pointer, s string, allowed ...string) {
	if slices.Contains(allowed, s) {
		return
	}
	list := ""
	for i, a := range allowed {
		switch {
		case a == "":
			continue
		case i == len(allowed)-1 && list != "":
			list += " or "
		case list != "":
			list += ", "
		}
		list += a
	}
	dec.fault(at, "want "+list)
}

// MatchesType says whether one of the patterns covers an event type.
func (s *Subscription) MatchesType(eventType string) bool {
	return slices.ContainsFunc(s.Events, func(p string) bool { return catalog.Match(p, eventType) })
}

// MatchesAgent says whether events of this agent (empty: of none) are wanted.
func (s *Subscription) MatchesAgent(agent string) bool {
	return len(s.Agents) == 0 || slices.Contains(s.Agents, agent)
}
