package subscription

import (
	"cmp"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/subscription/scope"
)

// Rules are what the installation allows.
type Rules struct {
	// AllowHTTP lets endpoints use plain http.
	AllowHTTP bool
	// SecretsElsewhere lets a new document say {"set": true} of its secrets: it is checked by someone who doesn't have
	// them at hand. What Parse returns then can't be sealed.
	SecretsElsewhere bool
	// Lanes are the delivery lanes that there are; empty where that is not known.
	Lanes []string
}

// Limits of a subscription.
const (
	maxName      = 200
	maxEvents    = 100
	maxAgents    = 1000
	maxAgent     = 256
	maxInFlight  = 1000
	maxSpread    = 64
	maxTimeout   = 30 * time.Second
	minTimeout   = 100 * time.Millisecond
	minTTL       = time.Second
	maxTTL       = 7 * 24 * time.Hour // how long delivery lanes keep their records
	maxTTLTypes  = 100
	maxPosition  = 1_000_000
	maxExtra     = 64 << 10
	minBatchWait = 10 * time.Millisecond
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
	s.validateEndpoints(dec, rules)
	s.validateEvents(dec, root.member("events"))
	s.validateAgents(dec, root.member("agents"))
	if s.Filter != "" {
		if _, err := CompileFilter(s.Filter); err != nil {
			dec.fault(root.member("filter"), err.Error())
		}
	}
	s.Payload.validate(dec, root.member("payload"))
	s.Auth.validate(dec, root.member("auth"), rules)
	s.Signing.validate(dec, root.member("signing"))
	s.Retry.validate(dec, root.member("retry"))
	s.TTL.validate(dec, root.member("ttl"))
	oneOf(dec, root.member("verification"), string(s.Verification), string(VerifyChallenge), string(VerifyOptions), string(VerifyAck), string(VerifyManual))
	oneOf(dec, root.member("ordering"), s.Ordering, OrderingNone, OrderingPerCall)
	within(dec, root.member("max_in_flight"), s.MaxInFlight, 1, maxInFlight)
	within(dec, root.member("position"), s.Position, -maxPosition, maxPosition)
	if detail := laneFault(s.Lane); detail != "" {
		dec.fault(root.member("lane"), detail)
	} else if len(rules.Lanes) > 0 && !slices.Contains(rules.Lanes, s.Lane) {
		dec.fault(root.member("lane"), "there is no such lane: want one of "+strings.Join(rules.Lanes, ", "))
	}
	if s.Frequency != nil {
		at := root.member("frequency")
		oneOf(dec, at.member("per"), s.Frequency.Per, PerCall, PerAgent, PerSubscription)
		within(dec, at.member("max"), s.Frequency.Max, 1, 1_000_000)
		between(dec, at.member("window"), time.Duration(s.Frequency.Window), time.Second, 30*24*time.Hour)
		if s.Spread > 1 {
			dec.fault(root.member("spread"), "frequency needs 1: what it counts has to pass one place")
		}
	}
	within(dec, root.member("spread"), s.Spread, 1, maxSpread)
	if s.RateLimit != nil {
		within(dec, root.member("rate_limit").member("per_second"), s.RateLimit.PerSecond, 1, 100_000)
		within(dec, root.member("rate_limit").member("burst"), s.RateLimit.Burst, 0, 1_000_000)
		if most := cmp.Or(s.RateLimit.Burst, s.RateLimit.PerSecond); most >= 1 && s.Spread <= maxSpread && most < s.Spread {
			dec.fault(root.member("rate_limit").member("burst"), "want at least spread: each of its parts needs a request to give")
		}
	}
	s.validateBatch(dec, root.member("batch"))
}

func (s *Subscription) validateEndpoints(dec *decoder, rules Rules) {
	const root = pointer("")
	if detail := checkURL(s.URL, rules); detail != "" {
		dec.fault(root.member("url"), detail)
	}
	if s.FallbackURL != "" {
		if detail := checkURL(s.FallbackURL, rules); detail != "" {
			dec.fault(root.member("fallback_url"), detail)
		} else if s.FallbackURL == s.URL {
			dec.fault(root.member("fallback_url"), "it is the same as url")
		}
	}
	at := root.member("request")
	oneOf(dec, at.member("method"), s.Request.Method, "POST", "GET")
	if s.Request.Method == "GET" && (s.Payload.Profile == ProfileCloudEvents || s.Payload.Profile == ProfileCloudEventsBinary) {
		dec.faultf(at.member("method"), "the profile %s needs POST: CloudEvents has no form for a query", s.Payload.Profile)
	}
	validateRoutes(dec, at.member("routes"), s.Request.Routes, rules)
	s.validateCertified(dec)
	validateHeaders(dec, at.member("headers"), s.Request.Headers)
	if s.Auth.Type == AuthAPIKey {
		for name := range s.Request.Headers {
			if strings.EqualFold(name, s.Auth.Header) {
				dec.fault(at.member("headers").member(name), "auth sets this header")
			}
		}
	}
	between(dec, at.member("timeout"), time.Duration(s.Request.Timeout), minTimeout, maxTimeout)
}

func (p *Payload) validate(dec *decoder, at pointer) {
	oneOf(dec, at.member("profile"), p.Profile, ProfileStandard, ProfilePostCall, ProfileCloudEvents, ProfileCloudEventsBinary,
		ProfilePush, ProfileCallback, ProfileDialer, ProfilePlatform, ProfileRaw, ProfileCustom)
	_, faults := scope.Compile(scope.Rules{Include: p.Include, Exclude: p.Exclude, Transcript: p.Transcript, Redact: p.Redact})
	for _, f := range faults {
		if place := at.member(f.Member); f.Index >= 0 {
			dec.fault(place.index(f.Index), f.Detail)
		} else {
			dec.fault(place, f.Detail)
		}
	}
	switch {
	case p.Profile == ProfileCustom && p.Template == "":
		dec.fault(at.member("template"), "the profile custom needs it: a CEL expression over event that yields the body")
	case p.Profile != ProfileCustom && p.Template != "":
		dec.faultf(at.member("template"), "it belongs to the profile custom, not to %s", p.Profile)
	case p.Template != "":
		if _, err := CompileTemplate(p.Template); err != nil {
			dec.fault(at.member("template"), err.Error())
		}
	}
	if raw, err := json.Marshal(p.Extra); err != nil || len(raw) > maxExtra {
		dec.faultf(at.member("extra"), "longer than %d bytes", maxExtra)
	}
}

// validateBatch names everything that a batch can't go with at the batch: each is fine by itself.
func (s *Subscription) validateBatch(dec *decoder, at pointer) {
	if s.Batch == nil {
		return
	}
	var not []string
	switch s.Payload.Profile {
	case ProfileCloudEventsBinary:
		not = append(not, "the profile cloudevents-binary (one event a request)")
	case ProfilePostCall, ProfileRaw, ProfileCustom:
		not = append(not, "the profile "+s.Payload.Profile+" (its items carry no id)")
	}
	if s.Request.Method == "GET" {
		not = append(not, "request.method GET")
	}
	if s.CaptureResponse {
		not = append(not, "capture_response")
	}
	if s.Ordering == OrderingPerCall {
		not = append(not, "ordering per_call")
	}
	if len(not) > 0 {
		dec.fault(at, "it doesn't go with "+strings.Join(not, ", "))
	}
	within(dec, at.member("max_events"), s.Batch.MaxEvents, 1, 1000)
	between(dec, at.member("max_wait"), time.Duration(s.Batch.MaxWait), minBatchWait, time.Minute)
}

// laneFault returns why name can't be a lane of deliveries, or "". The pipeline has topics of its own beside the lanes.
func laneFault(name string) string {
	switch {
	case !laneName.MatchString(name):
		return "want the name of a lane: up to 32 lowercase letters, digits and '-'"
	case slices.Contains([]string{"slow", "ordered", "dlq", "decisions", "attempts"}, name), strings.HasPrefix(name, "retry"):
		return "the pipeline uses that name itself: choose another"
	}
	return ""
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
