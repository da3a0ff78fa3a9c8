package subscription

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/event"
)

func compiled(t testing.TB, s *Subscription) *Compiled {
	t.Helper()
	s.ID, s.Tenant, s.Version = "sub_1", "acme", 1
	b := NewBook()
	require.True(t, b.Apply(feedRecord(t, s, 1)))
	c, known := b.Get("sub_1")
	require.True(t, known)
	return c
}

func accepted(t testing.TB, raw string, at time.Time) *event.Event {
	t.Helper()
	e, err := event.Parse([]byte(raw))
	require.NoError(t, err)
	e.IngestedAt = at
	return e
}

// P-07, S1-01, S0-19, S3-11: why an event is not sent is told apart, state from time from rule, and says what a person needs.
func TestVerdicts(t *testing.T) {
	const ended = `{"type":"call.ended","call_id":"c","data":{"disposition":"qualified","score":85}}`
	for name, c := range map[string]struct {
		s              Subscription
		event          string
		age            time.Duration
		replay         bool
		reason, detail string
	}{
		"sent":               {s: Subscription{}, event: ended},
		"pending":            {s: Subscription{State: StatePending}, event: ended, reason: ReasonPending, detail: "its endpoint has not passed verification"},
		"paused":             {s: Subscription{State: StatePaused}, event: ended, reason: ReasonPaused},
		"disabled":           {s: Subscription{State: StateDisabled, StateReason: "http_410"}, event: ended, reason: ReasonDisabled, detail: "http_410"},
		"paused on a replay": {s: Subscription{State: StatePaused}, event: ended, replay: true, reason: ReasonPaused},
		"in time":            {s: Subscription{TTL: TTL{Default: Duration(time.Minute)}}, event: ended, age: time.Minute - 1},
		"expired":            {s: Subscription{TTL: TTL{Default: Duration(time.Minute)}}, event: ended, age: time.Minute, reason: ReasonExpired, detail: "older than its time to live of 1m"},
		"expired by type": {
			s:     Subscription{TTL: TTL{Default: Duration(time.Hour), ByType: map[string]Duration{"call.ended": Duration(time.Second)}}},
			event: ended, age: time.Minute, reason: ReasonExpired, detail: "older than its time to live of 1s",
		},
		"expired, replayed":     {s: Subscription{TTL: TTL{Default: Duration(time.Minute)}}, event: ended, age: time.Hour, replay: true},
		"disabled goes first":   {s: Subscription{State: StateDisabled, TTL: TTL{Default: Duration(time.Minute)}, Filter: "false"}, event: ended, age: time.Hour, reason: ReasonDisabled},
		"age before the filter": {s: Subscription{TTL: TTL{Default: Duration(time.Minute)}, Filter: "false"}, event: ended, age: time.Hour, reason: ReasonExpired, detail: "older than its time to live of 1m"},
		"matched":               {s: Subscription{Filter: "event.data.disposition == 'qualified' && event.data.score > 80"}, event: ended},
		"filtered":              {s: Subscription{Filter: "event.data.disposition == 'lost'"}, event: ended, reason: ReasonFiltered, detail: "event.data.disposition == 'lost'"},
		"filtered on a replay":  {s: Subscription{Filter: "event.data.disposition == 'lost'"}, event: ended, replay: true, reason: ReasonFiltered, detail: "event.data.disposition == 'lost'"},
		"missing":               {s: Subscription{Filter: "event.data.campaign == 'x'"}, event: ended, reason: ReasonMissingField, detail: "data.campaign"},
		"error":                 {s: Subscription{Filter: "event.data.disposition > 5"}, event: ended, reason: ReasonFilterError, detail: "no such overload"},
		"no filter any more":    {s: Subscription{Filter: "event.data.("}, event: ended, reason: ReasonFilterError, detail: "1:12: Syntax error: no viable alternative at input '.('"},
	} {
		s := c.s
		s.Events = []string{"*"}
		reason, detail := compiled(t, &s).Verdict(accepted(t, c.event, now.Add(-c.age)), now, c.replay, nil)
		assert.Equal(t, [2]string{c.reason, c.detail}, [2]string{reason, detail}, name)
	}

	// What was not accepted yet, as a preview's event, has no age.
	s := Subscription{Events: []string{"*"}, TTL: TTL{Default: Duration(time.Minute)}}
	reason, _ := compiled(t, &s).Verdict(accepted(t, ended, time.Time{}), now, false, nil)
	assert.Empty(t, reason)
}

// Whoever asks for everything is told of other subscriptions' endpoints, and of its own where it names what tells of it.
func TestNobodyIsToldOfItselfUnasked(t *testing.T) {
	for _, c := range []struct {
		events []string
		about  string
		reason string
	}{
		{[]string{"*"}, "sub_1", ReasonItself},
		{[]string{"*"}, "sub_other", ""},
		{[]string{"*", "endpoint.*"}, "sub_1", ""},
		{[]string{"endpoint.verified"}, "sub_1", ""},
		{[]string{"*", "call.*"}, "sub_1", ReasonItself},
	} {
		s := &Subscription{ID: "sub_1", Events: c.events}
		e := accepted(t, `{"type":"endpoint.verified","data":{"subscription_id":"`+c.about+`"}}`, now)
		reason, _ := compiled(t, s).Verdict(e, now, false, nil)
		assert.Equal(t, c.reason, reason, "%v about %s", c.events, c.about)
	}
}

func TestVerdictsOnWhatIsGone(t *testing.T) {
	b := NewBook()
	b.Apply(Deleted("sub_1", "acme", 2, 1))
	bad := feedRecord(t, &Subscription{ID: "sub_2", Tenant: "acme", Events: []string{"*"}}, 1)
	bad.Spec = "{"
	b.Apply(bad)
	e := accepted(t, `{"type":"call.ended","call_id":"c"}`, now)
	for id, want := range map[string]string{"sub_1": ReasonDeleted, "sub_2": ReasonUnreadable} {
		c, known := b.Get(id)
		require.True(t, known)
		reason, _ := c.Verdict(e, now, false, nil)
		assert.Equal(t, want, reason)
		reason, _ = c.Wants(e)
		assert.Equal(t, want, reason)
	}
}

// S2-16, S2-17, S4-02: the types and the agents of a subscription.
func TestWants(t *testing.T) {
	c := compiled(t, &Subscription{Events: []string{"call.*", "sms.sent"}, Agents: []string{"a-1"}})
	for raw, want := range map[string]string{
		`{"type":"call.ended","call_id":"c","agent_id":"a-1"}`: "",
		`{"type":"sms.sent","agent_id":"a-1"}`:                 "",
		`{"type":"sms.received","agent_id":"a-1"}`:             ReasonType,
		`{"type":"call.ended","call_id":"c","agent_id":"a-2"}`: ReasonAgent,
		`{"type":"call.ended","call_id":"c"}`:                  ReasonAgent,
	} {
		reason, detail := c.Wants(accepted(t, raw, now))
		assert.Equal(t, want, reason, raw)
		assert.Equal(t, want == "", detail == "")
	}
}

// An event costs a subscription without rules no allocation, and one that was derived once none either.
func TestPlainVerdictsAllocateNothing(t *testing.T) {
	c := compiled(t, &Subscription{Events: []string{"call.*"}, TTL: TTL{Default: Duration(time.Hour)}})
	e := accepted(t, `{"type":"call.ended","call_id":"c","agent_id":"a-1"}`, now)
	built := 0
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if reason, _ := c.Wants(e); reason != "" {
			t.Fatal(reason)
		}
		if reason, _ := c.Verdict(e, now, false, nil); reason != "" {
			t.Fatal(reason)
		}
		if c.Derived(func() any { built++; return c }) != c {
			t.Fatal("another thing was derived")
		}
	}))
	assert.Equal(t, 1, built)
}
