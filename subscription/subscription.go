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
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	Name   string `json:"name,omitempty"`
	// URL is the endpoint that is sent to. Its origin has been verified unless State is pending.
	URL string `json:"url"`
	// PendingURL, PendingRoutes and PendingFallbackURL were asked for after the subscription had been verified and have an
	// origin that has not been. They take the place of URL, Request.Routes and FallbackURL when they pass; until then
	// those serve as they are.
	PendingURL         string            `json:"pending_url,omitempty"`
	PendingRoutes      map[string]string `json:"pending_routes,omitempty"`
	PendingFallbackURL string            `json:"pending_fallback_url,omitempty"`
	State              State             `json:"state"`
	// StateReason says why the system disabled the subscription.
	StateReason string `json:"state_reason,omitempty"`
	// Activate is false when verification is to leave the subscription paused.
	Activate *bool `json:"activate,omitempty"`
	// Events are exact types, "family.*" or "*".
	Events []string `json:"events"`
	// Agents limits the subscription to events of these agents; empty means all events.
	Agents []string `json:"agents"`
	// Filter is a CEL expression over event; empty matches everything.
	Filter          string       `json:"filter,omitempty"`
	Frequency       *Frequency   `json:"frequency,omitempty"`
	Payload         Payload      `json:"payload"`
	Request         Request      `json:"request"`
	Auth            Auth         `json:"auth"`
	Signing         Signing      `json:"signing"`
	Verification    Verification `json:"verification"`
	RateLimit       *RateLimit   `json:"rate_limit,omitempty"`
	MaxInFlight     int          `json:"max_in_flight"`
	Spread          int          `json:"spread"`
	Batch           *Batch       `json:"batch,omitempty"`
	Retry           Retry        `json:"retry"`
	TTL             TTL          `json:"ttl,omitzero"`
	FallbackURL     string       `json:"fallback_url,omitempty"`
	Ordering        string       `json:"ordering"`
	CaptureResponse bool         `json:"capture_response,omitempty"`
	// Position orders the list that people see.
	Position int    `json:"position,omitempty"`
	Lane     string `json:"lane"`
	// Version grows by one with every change, whoever makes it.
	Version   int64     `json:"version"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`

	// Sealed are the secrets, by field name (FieldSigning, …), as secret.Box sealed them. They travel beside the
	// object, never in it.
	Sealed map[string]string `json:"-"`
}

// Frequency sends at most Max events per window for each call, agent or the whole subscription.
type Frequency struct {
	Per    string   `json:"per"`
	Max    int      `json:"max"`
	Window Duration `json:"window"`
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
	Profile string `json:"profile"`
	// Include and Exclude are paths of members; Transcript is how much of it is sent: "full", "snippet" or "none".
	Include    []string `json:"include,omitempty"`
	Exclude    []string `json:"exclude,omitempty"`
	Transcript string   `json:"transcript,omitempty"`
	// Redact are classes of personal data and "/regular expressions/".
	Redact []string `json:"redact,omitempty"`
	// Extra is merged into the body.
	Extra Extra `json:"extra,omitempty"`
	// Template is the CEL expression of the profile custom.
	Template string `json:"template,omitempty"`
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
	Method string `json:"method"`
	// Routes are the URLs, or paths below the subscription's, for exact types, "family.*" or "*": see RouteFor.
	Routes  map[string]string `json:"routes,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	// Timeout bounds one attempt, from the dial to the last byte of the response. At most 30 s.
	Timeout Duration `json:"timeout"`
}

// RateLimit bounds requests per second.
type RateLimit struct {
	PerSecond int `json:"per_second"`
	// Burst is how many may go at once after a pause; 0 means PerSecond.
	Burst int `json:"burst,omitempty"`
}

// Batch sends several events in one request.
type Batch struct {
	MaxEvents int      `json:"max_events"`
	MaxWait   Duration `json:"max_wait"`
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
	c.Sealed = make(map[string]string, len(s.Sealed))
	maps.Copy(c.Sealed, s.Sealed)
	return &c
}
