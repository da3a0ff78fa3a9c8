package subscription

import (
	"bytes"
	"encoding/json"
	"maps"
	"time"
)

// Subscription is one endpoint and what is sent to it. Its JSON is the object of the API. Fields that are read and
// written by people are validated by Validate; those that ReadOnly names are set by callstream alone. docs/subscriptions.md
// is their reference.
type Subscription struct {
	ID     string `json:"id" doc:"sub_…"`
	Tenant string `json:"tenant" doc:"whose it is"`
	Name   string `json:"name,omitempty" maxLength:"200" doc:"for people, and for files that declare subscriptions"`
	URL    string `json:"url" maxLength:"2048" doc:"the endpoint that is sent to; its origin is verified unless the state is pending"`
	// PendingURL, PendingRoutes and PendingFallbackURL were asked for after the subscription had been verified and have an
	// origin that has not been. They take the place of URL, Request.Routes and FallbackURL when they pass; until then
	// those serve as they are.
	PendingURL         string            `json:"pending_url,omitempty" doc:"takes the place of url when it passes verification"`
	PendingRoutes      map[string]string `json:"pending_routes,omitempty" doc:"take the place of request.routes when they pass verification"`
	PendingFallbackURL string            `json:"pending_fallback_url,omitempty" doc:"takes the place of fallback_url when it passes verification"`
	// PendingAuth was given with PendingURL or PendingRoutes, or while they waited, and takes the place of Auth with them:
	// what serves is not to see it. Nil: Auth is for them as well.
	PendingAuth *Auth  `json:"pending_auth,omitempty" doc:"takes the place of auth when what waits passes verification"`
	State       State  `json:"state" enum:"pending,active,paused,disabled" doc:"deliveries go out while it is active"`
	StateReason string `json:"state_reason,omitempty" doc:"why the system disabled it"`
	// FailingSince is when the first of its attempts failed since when none has succeeded; zero where that isn't so, or not
	// for long enough to be told of.
	FailingSince    time.Time    `json:"failing_since,omitzero" doc:"since when nothing but failures has come of its attempts; absent while they succeed"`
	Activate        *bool        `json:"activate,omitempty" doc:"false leaves it paused when it has been verified"`
	Events          []string     `json:"events" maxItems:"100" doc:"exact types, families (call.*) or *"`
	Agents          []string     `json:"agents" maxItems:"1000" doc:"only events of these agents; empty for all events"`
	Filter          string       `json:"filter,omitempty" doc:"CEL over event: event.data.disposition == 'qualified'; empty matches everything"`
	Frequency       *Frequency   `json:"frequency,omitempty" doc:"at most so many events in a time"`
	Payload         Payload      `json:"payload" doc:"what a body is made of"`
	Request         Request      `json:"request" doc:"how a delivery is sent"`
	Auth            Auth         `json:"auth" doc:"how callstream authenticates at the endpoint"`
	Signing         Signing      `json:"signing" doc:"how deliveries are signed"`
	Verification    Verification `json:"verification" enum:"challenge,options,ack,manual" doc:"how the endpoint shows that it wants the events (challenge); ack and manual are for admins"`
	RateLimit       *RateLimit   `json:"rate_limit,omitempty" doc:"requests a second"`
	MaxInFlight     int          `json:"max_in_flight" minimum:"1" maximum:"1000" doc:"requests at the same time (32)"`
	Spread          int          `json:"spread" minimum:"1" maximum:"64" doc:"partitions that its deliveries are spread over (1)"`
	Batch           *Batch       `json:"batch,omitempty" doc:"several events in one request"`
	Retry           Retry        `json:"retry" doc:"when and how often a delivery is attempted again"`
	TTL             TTL          `json:"ttl,omitzero" doc:"how long after its acceptance an event is worth sending"`
	FallbackURL     string       `json:"fallback_url,omitempty" maxLength:"2048" doc:"gets what the endpoint could not be given"`
	Ordering        string       `json:"ordering" enum:"none,per_call" doc:"per_call sends the events of a call one after the other (none)"`
	CaptureResponse bool         `json:"capture_response,omitempty" doc:"keeps the endpoint's answers for who asks for the call's"`
	Position        int          `json:"position,omitempty" minimum:"-1000000" maximum:"1000000" doc:"its place in the list that people see"`
	Lane            string       `json:"lane" pattern:"^[a-z0-9][a-z0-9-]{0,31}$" doc:"the delivery lane (standard)"`
	Version         int64        `json:"version" doc:"grows by one with every change, whoever makes it"`
	CreatedAt       time.Time    `json:"created_at,omitzero" doc:"when it was created"`
	UpdatedAt       time.Time    `json:"updated_at,omitzero" doc:"when it was changed last"`

	// Sealed are the secrets, by field name (FieldSigning, …), as secret.Box sealed them. They travel beside the
	// object, never in it.
	Sealed map[string]string `json:"-"`
}

// What a frequency counts for itself.
const (
	PerCall         = "call"
	PerAgent        = "agent"
	PerSubscription = "subscription"
)

// Frequency sends at most Max events per window for each call, agent or the whole subscription.
type Frequency struct {
	Per    string   `json:"per" enum:"call,agent,subscription" doc:"what is counted for itself"`
	Max    int      `json:"max" minimum:"1" maximum:"1000000" doc:"events in a window"`
	Window Duration `json:"window" doc:"1s to 30d"`
}

// The payload profiles.
const (
	ProfileStandard          = "standard"
	ProfilePostCall          = "post-call"
	ProfileCloudEvents       = "cloudevents"
	ProfileCloudEventsBinary = "cloudevents-binary"
	ProfilePush              = "push"
	ProfileCallback          = "callback"
	ProfileDialer            = "dialer"
	ProfilePlatform          = "platform"
	ProfileRaw               = "raw"
	ProfileCustom            = "custom"
)

// Payload says what a delivery's body is made of.
type Payload struct {
	Profile    string   `json:"profile" enum:"standard,cloudevents,cloudevents-binary,push,callback,dialer,platform,post-call,raw,custom" doc:"the shape of the body (standard)"`
	Include    []string `json:"include,omitempty" doc:"only these members of the event: data.summary"`
	Exclude    []string `json:"exclude,omitempty" doc:"not these members"`
	Transcript string   `json:"transcript,omitempty" enum:"full,snippet,none" doc:"how much of the transcript is sent (full)"`
	Redact     []string `json:"redact,omitempty" doc:"classes of personal data (phone, email), patterns, and /regular expressions/"`
	Extra      Extra    `json:"extra,omitempty" doc:"merged into the body"`
	Template   string   `json:"template,omitempty" doc:"CEL over event that yields the body, for the profile custom"`
}

// Extra are members to merge into bodies. Numbers are json.Number, so that they are sent as they were written.
type Extra map[string]any

// UnmarshalJSON keeps numbers as they are spelled.
func (x *Extra) UnmarshalJSON(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return err
	}
	*x = m
	return nil
}

// Request says how a delivery is sent.
type Request struct {
	Method  string            `json:"method" enum:"POST,GET" doc:"GET puts the fields in the query (POST)"`
	Routes  map[string]string `json:"routes,omitempty" doc:"URLs, or paths below url, by exact type, family or *: the most specific one wins"`
	Headers map[string]string `json:"headers,omitempty" doc:"further request headers; not secret at rest, see auth"`
	Timeout Duration          `json:"timeout" doc:"for one attempt, from the dial to the last byte of the response: 100ms to 30s (10s)"`
}

// RateLimit bounds requests per second.
type RateLimit struct {
	PerSecond int `json:"per_second" minimum:"1" maximum:"100000" doc:"requests a second"`
	Burst     int `json:"burst,omitempty" minimum:"0" maximum:"1000000" doc:"how many may go at once after a pause; 0 for per_second"`
}

// Batch sends several events in one request.
type Batch struct {
	MaxEvents int      `json:"max_events" minimum:"1" maximum:"1000" doc:"events in a request"`
	MaxWait   Duration `json:"max_wait" doc:"how long the first one waits for more: 10ms to 1m"`
}

// The orders of delivery.
const (
	OrderingNone    = "none"
	OrderingPerCall = "per_call"
)

// Defaults of the fields that are not given.
const (
	DefaultTimeout     = 10 * time.Second
	DefaultMaxInFlight = 32
	DefaultSpread      = 1
	DefaultLane        = "standard"
)

// setDefaults fills what was not given. The retry schedule stays empty: its default is the service's.
func (s *Subscription) setDefaults() {
	if s.Events == nil {
		s.Events = []string{}
	}
	if s.Agents == nil {
		s.Agents = []string{}
	}
	def(&s.Payload.Profile, ProfileStandard)
	def(&s.Request.Method, "POST")
	def(&s.Request.Timeout, Duration(DefaultTimeout))
	def(&s.Auth.Type, AuthNone)
	def(&s.Signing.Scheme, SigningHMAC)
	def(&s.Verification, VerifyChallenge)
	def(&s.MaxInFlight, DefaultMaxInFlight)
	def(&s.Spread, DefaultSpread)
	def(&s.Ordering, OrderingNone)
	def(&s.Lane, DefaultLane)
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Live says whether deliveries go out: the state is active.
func (s *Subscription) Live() bool { return s.State == StateActive }

// Clone returns a copy that shares nothing that a change would touch.
func (s *Subscription) Clone() *Subscription {
	c := *s
	c.Events = append([]string{}, s.Events...)
	c.Agents = append([]string{}, s.Agents...)
	c.Request.Routes, c.PendingRoutes = maps.Clone(s.Request.Routes), maps.Clone(s.PendingRoutes)
	if s.PendingAuth != nil {
		auth := *s.PendingAuth
		c.PendingAuth = &auth
	}
	c.Sealed = make(map[string]string, len(s.Sealed))
	maps.Copy(c.Sealed, s.Sealed)
	return &c
}
