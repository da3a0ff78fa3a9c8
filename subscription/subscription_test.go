package subscription

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func parse(t *testing.T, doc string) *Subscription {
	t.Helper()
	s, err := Parse([]byte(doc), Rules{})
	require.NoError(t, err)
	return s
}

var now = time.Date(2026, 1, 20, 10, 0, 0, 0, time.UTC)

const minimal = `{"url":"https://crm.example.com/hooks","events":["call.*"]}`

func TestDefaults(t *testing.T) {
	s := parse(t, minimal)
	require.Equal(t, StatePending, s.State)
	raw, err := json.Marshal(s)
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"","tenant":"","url":"https://crm.example.com/hooks","state":"pending","events":["call.*"],"agents":[],
		"payload":{"profile":"standard"},"request":{"method":"POST","timeout":"10s"},"auth":{"type":"none"},"signing":{"scheme":"hmac"},
		"verification":"challenge","max_in_flight":32,"spread":1,"retry":{},"ordering":"none","lane":"standard","version":0}`, string(raw))
}

// S0-17, S0-18, S0-19, S1-06, S2-09, S2-12, S2-13, S2-15, S2-17, S3-14, S3-15: every member is taken, comes back as it was given, and travels on the feed.
func TestEveryMemberIsKept(t *testing.T) {
	const doc = `{"name":"CRM","url":"https://crm.example.com:8443/hooks?tenant=1","activate":false,
		"events":["call.ended","transcript.*"],"agents":["a-1"],"filter":"event.data.disposition == 'qualified'",
		"frequency":{"per":"call","max":1,"window":"10m"},
		"payload":{"profile":"standard","include":["data.disposition"],"exclude":["data.transcript_text"],"transcript":"snippet",
			"redact":["phone","email","/\\b\\d{16}\\b/"],"extra":{"env":"prod","n":85.50,"big":12345678901234567890,"deep":{"list":[1,null,true]}}},
		"request":{"method":"GET","routes":{"call.started":"/started","*":"https://other.example/x"},"headers":{"X-Team":"crm"},"timeout":"2.5s"},
		"auth":{"type":"api_key","header":"X-Key","value":"k"},"signing":{"scheme":"ed25519"},"verification":"options",
		"rate_limit":{"per_second":50,"burst":100},"max_in_flight":4,"spread":1,
		"retry":{"schedule":["5s","1m","24h"],"max_attempts":8,"retry_on":["timeout","429","5xx"]},
		"ttl":{"default":"24h","call.ended":"1m"},"fallback_url":"https://spare.example/hooks","ordering":"per_call","capture_response":true,
		"position":10,"lane":"bulk"}`
	s, _ := sealed(t, doc)
	require.Equal(t, 2500*time.Millisecond, time.Duration(s.Request.Timeout))
	require.Equal(t, time.Minute, s.TTL.For("call.ended"))
	require.Equal(t, 24*time.Hour, s.TTL.For("call.started"))
	d, ok := s.Retry.Delay(7, nil)
	require.True(t, ok)
	require.Equal(t, 24*time.Hour, d)
	_, ok = s.Retry.Delay(8, nil)
	require.False(t, ok)
	require.False(t, *s.Activate)

	record, err := s.Record(1)
	require.NoError(t, err)
	back, err := FromRecord(record)
	require.NoError(t, err)
	for _, s := range []*Subscription{s, back} {
		raw, err := json.Marshal(s)
		require.NoError(t, err)
		var want, got map[string]any
		require.NoError(t, json.Unmarshal([]byte(doc), &want))
		require.NoError(t, json.Unmarshal(raw, &got))
		want["auth"].(map[string]any)["value"] = map[string]any{"set": true}
		want["signing"] = map[string]any{"scheme": "ed25519", "secret": map[string]any{"set": true}, "public_key": s.Signing.PublicKey}
		for name, v := range want {
			require.Equal(t, v, got[name], name)
		}
		// Numbers as they are spelled, not as a float has them.
		require.Contains(t, string(raw), `"extra":{"big":12345678901234567890,"deep":{"list":[1,null,true]},"env":"prod","n":85.50}`)
		require.Empty(t, s.Validate(Rules{}))
	}

	// A batch goes with what the above can't.
	batched := parse(t, with(`"batch":{"max_events":100,"max_wait":"2s"},"payload":{"profile":"cloudevents"},"spread":64`))
	require.Equal(t, &Batch{MaxEvents: 100, MaxWait: Duration(2 * time.Second)}, batched.Batch)
	// One time to live for all.
	require.Equal(t, time.Hour, parse(t, with(`"ttl":"1h"`)).TTL.For("call.ended"))
	require.Zero(t, parse(t, with(`"ttl":{"call.ringing":"1m"}`)).TTL.For("call.ended"))
	// null is the same as leaving a member out.
	require.Equal(t, parse(t, with(`"name":""`)), parse(t, with(`"ttl":null,"batch":null,"max_in_flight":null,"payload":{"extra":null},"retry":null,"lane":null`)))
}

// What does not go together is refused where it is asked for, and the reason names the other side.
func TestMembersThatDoNotGoTogether(t *testing.T) {
	const batch = `"batch":{"max_events":10,"max_wait":"1s"}`
	for members, want := range map[string]problem.Fault{
		batch + `,"request":{"method":"GET"}`:                                                        {Pointer: "#/batch", Detail: "it doesn't go with request.method GET"},
		batch + `,"capture_response":true,"ordering":"per_call"`:                                     {Pointer: "#/batch", Detail: "it doesn't go with capture_response, ordering per_call"},
		batch + `,"payload":{"profile":"post-call"}`:                                                 {Pointer: "#/batch", Detail: "it doesn't go with the profile post-call (its items carry no id)"},
		batch + `,"payload":{"profile":"raw"}`:                                                       {Pointer: "#/batch", Detail: "it doesn't go with the profile raw (its items carry no id)"},
		batch + `,"payload":{"profile":"custom","template":"event"}`:                                 {Pointer: "#/batch", Detail: "it doesn't go with the profile custom (its items carry no id)"},
		batch + `,"payload":{"profile":"cloudevents-binary"}`:                                        {Pointer: "#/batch", Detail: "it doesn't go with the profile cloudevents-binary (one event a request)"},
		`"rate_limit":{"per_second":100,"burst":3},"spread":4`:                                       {Pointer: "#/rate_limit/burst", Detail: "want at least spread: each of its parts needs a request to give"},
		`"rate_limit":{"per_second":3},"spread":4`:                                                   {Pointer: "#/rate_limit/burst", Detail: "want at least spread: each of its parts needs a request to give"},
		`"frequency":{"per":"agent","max":1,"window":"1m"},"spread":2`:                               {Pointer: "#/spread", Detail: "frequency needs 1: what it counts has to pass one place"},
		`"payload":{"profile":"custom"}`:                                                             {Pointer: "#/payload/template", Detail: "the profile custom needs it: a CEL expression over event that yields the body"},
		`"payload":{"template":"event.data"}`:                                                        {Pointer: "#/payload/template", Detail: "it belongs to the profile custom, not to standard"},
		`"payload":{"profile":"custom","template":"event.data +"}`:                                   {Pointer: "#/payload/template"},
		`"request":{"method":"GET"},"payload":{"profile":"cloudevents"}`:                             {Pointer: "#/request/method", Detail: "the profile cloudevents needs POST: CloudEvents has no form for a query"},
		`"fallback_url":"https://x.example"`:                                                         {Pointer: "#/fallback_url", Detail: "it is the same as url"},
		`"auth":{"type":"api_key","header":"X-Key","value":"v"},"request":{"headers":{"x-key":"w"}}`: {Pointer: "#/request/headers/x-key", Detail: "auth sets this header"},
	} {
		_, err := Parse([]byte(with(members)), Rules{})
		var faults Faults
		require.ErrorAs(t, err, &faults, members)
		require.Len(t, faults, 1, "%s: %v", members, faults)
		require.Equal(t, want.Pointer, faults[0].Pointer, members)
		if want.Detail != "" {
			require.Equal(t, want.Detail, faults[0].Detail)
		}
	}
}

// Every fault is reported, each with its place.
func TestEveryFaultHasItsPlace(t *testing.T) {
	for doc, want := range map[string][]string{
		`{}`: {"#/events", "#/url"},
		`[]`: {"#"},
		`{"url":5,"events":"x","nam":"y","payload":{"profil":"z"}}`:                                                                        {"#/events", "#/nam", "#/payload/profil", "#/url"},
		`{"url":"https://x.example","events":["call.*",7,null,"nope.*","call.*","cal l"]}`:                                                 {"#/events/1", "#/events/2", "#/events/3", "#/events/4", "#/events/5"},
		`{"url":"https://x.example","events":["nope.*","call.*","call.*","cal l",""]}`:                                                     {"#/events/0", "#/events/2", "#/events/3", "#/events/4"},
		`{"url":"https://x.example","events":["*"],"filter":"event.data.x =="}`:                                                            {"#/filter"},
		`{"url":"https://x.example","events":["*"],"id":"sub_1","state":"active","version":3,"tenant":"t","created_at":"x"}`:               {"#/created_at", "#/id", "#/state", "#/tenant", "#/version"},
		`{"url":"https://x.example","events":["*"],"max_in_flight":0.5,"spread":1000,"position":"1","lane":"UP"}`:                          {"#/lane", "#/max_in_flight", "#/position", "#/spread"},
		`{"url":"https://x.example","events":["*"],"request":{"timeout":"31s","headers":{"Host":"x","A b":"c","X":"a\r\nb"}}}`:             {"#/request/headers/A%20b", "#/request/headers/Host", "#/request/headers/X", "#/request/timeout"},
		`{"url":"https://x.example","events":["*"],"request":{"headers":{"Authorization":"Bearer x","webhook-id":"1","x-a":"","X-A":""}}}`: {"#/request/headers/Authorization", "#/request/headers/webhook-id", "#/request/headers/x-a"},
		`{"url":"https://x.example","events":["*"],"retry":{"schedule":["5","0s"],"max_attempts":-1,"retry_on":["6xx","200",""]}}`:         {"#/retry/max_attempts", "#/retry/retry_on/0", "#/retry/retry_on/1", "#/retry/retry_on/2", "#/retry/schedule/0", "#/retry/schedule/1"},
		`{"url":"https://x.example","events":["*"],"ttl":{"default":"1ms","nope":"1h","call.ended":5}}`:                                    {"#/ttl/call.ended", "#/ttl/default", "#/ttl/nope"},
		`{"url":"https://x.example","events":["*"],"auth":{"type":"bearer"}}`:                                                              {"#/auth/token"},
		`{"url":"https://x.example","events":["*"],"auth":{"type":"basic","username":"a:b","password":"p","token":"t"}}`:                   {"#/auth/token", "#/auth/username"},
		`{"url":"https://x.example","events":["*"],"auth":{"type":"bearer","token":{"set":true}}}`:                                         {"#/auth/token"},
		`{"url":"https://x.example","events":["*"],"auth":{"type":"bearer","token":"a\nb"}}`:                                               {"#/auth/token"},
		`{"url":"https://x.example","events":["*"],"auth":{"type":"magic"}}`:                                                               {"#/auth/type"},
		`{"url":"https://x.example","events":["*"],"signing":{"secret":"whsec_short","public_key":"x"}}`:                                   {"#/signing/public_key", "#/signing/secret"},
		`{"url":"https://x.example","events":["*"],"name":"` + strings.Repeat("n", 201) + `"}`:                                             {"#/name"},
		`{"url":"https://x.example","events":["*"],"name":"a\u0000b","agents":["","a","a"]}`:                                               {"#/agents/0", "#/agents/2", "#/name"},
		with(`"retry":{"retry_on":[]}`): {"#/retry/retry_on"},
		with(`"max_in_flight":0,"spread":0,"retry":{"max_attempts":0},"rate_limit":{"per_second":1,"burst":0},"ttl":"0s","request":{"timeout":"0s"}`): {
			"#/max_in_flight", "#/rate_limit/burst", "#/request/timeout", "#/retry/max_attempts", "#/spread", "#/ttl",
		},
		with(`"lane":"","ordering":"","verification":"","payload":{"profile":""},"request":{"method":""},"auth":{"type":""},"signing":{"scheme":""}`): {
			"#/auth/type", "#/lane", "#/ordering", "#/payload/profile", "#/request/method", "#/signing/scheme", "#/verification",
		},
		with(`"frequency":{},"rate_limit":{},"batch":{}`): {
			"#/batch/max_events", "#/batch/max_wait", "#/frequency/max", "#/frequency/per", "#/frequency/window", "#/rate_limit/per_second",
		},
		with(`"frequency":{"per":"tenant","max":1,"window":"31d"},"batch":{"max_events":1001,"max_wait":"2m"},"rate_limit":{"per_second":-1}`): {
			"#/batch/max_events", "#/batch/max_wait", "#/frequency/per", "#/frequency/window", "#/rate_limit/per_second",
		},
		with(`"payload":{"extra":["a"],"include":"x","redact":{"a":1}}`):          {"#/payload/extra", "#/payload/include", "#/payload/redact"},
		with(`"payload":{"extra":{"x":"` + strings.Repeat("x", maxExtra) + `"}}`): {"#/payload/extra"},
		with(`"payload":{"include":["data.duration_ms","data..x"],"exclude":["transcript_text"],"redact":["nope","/(/"],"transcript":"half"}`): {
			"#/payload/exclude/0", "#/payload/include/1", "#/payload/redact/0", "#/payload/redact/1", "#/payload/transcript",
		},
		with(`"pending_url":"https://x.example","pending_routes":{},"pending_fallback_url":"x"`): {"#/pending_fallback_url", "#/pending_routes", "#/pending_url"},
		with(`"ttl":{"call.ended":"0s","default":"8d"},"fallback_url":"ftp://x"`):                {"#/fallback_url", "#/ttl/call.ended", "#/ttl/default"},
		with(`"request":{"headers":{"Webhook-Id":"","ce-id":"","Cookie":"","Proxy-Authorization":"","X-Event-Id":"","Transfer-Encoding":""}}`): {
			"#/request/headers/Cookie", "#/request/headers/Proxy-Authorization", "#/request/headers/Transfer-Encoding", "#/request/headers/Webhook-Id",
			"#/request/headers/X-Event-Id", "#/request/headers/ce-id",
		},
		`{"url":"https://x.example","events":["*"],"activate":"no"}`: {"#/activate"},
	} {
		_, err := Parse([]byte(doc), Rules{})
		var faults Faults
		require.True(t, errors.As(err, &faults), "%s: %v", doc, err)
		got := []string{}
		for _, f := range faults {
			require.NotEmpty(t, f.Detail)
			if f.Pointer == "#/request/headers/X-A" { // which of the two comes first is the map's choice
				f.Pointer = "#/request/headers/x-a"
			}
			got = append(got, f.Pointer)
		}
		slices.Sort(got)
		for _, w := range want {
			require.Contains(t, got, w, doc)
		}
		require.Len(t, got, len(want), "%s: %v", doc, faults)
	}
}

// The pipeline's own topics stand beside the lanes.
func TestLanes(t *testing.T) {
	for lane, ok := range map[string]bool{
		"standard": true, "bulk-2": true, "slow": false, "ordered": false, "dlq": false, "decisions": false, "attempts": false,
		"retry": false, "retry-5s": false, "UP": false, "a.b": false, "-a": false, strings.Repeat("a", 33): false,
	} {
		require.Equal(t, ok, laneFault(lane) == "", lane)
	}
	doc := []byte(`{"url":"https://x.example","events":["*"],"lane":"bulk"}`)
	for _, rules := range []Rules{{}, {Lanes: []string{"standard", "bulk"}}} {
		_, err := Parse(doc, rules)
		require.NoError(t, err)
	}
	// A lane that the installation lacks would be the standard one in silence.
	_, err := Parse(doc, Rules{Lanes: []string{"standard", "quick"}})
	require.EqualError(t, err, "/lane: there is no such lane: want one of standard, quick")
}

func TestWhatIsNotJSON(t *testing.T) {
	for _, doc := range []string{"", " ", "{", `{"url":}`, `{"url":"a"} x`, `{"url":"a"}{"url":"b"}`, "{\"url\":\"\xff\"}", `{"a":1,"a":2}`, "nul",
		strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 100_000)} {
		_, err := Parse([]byte(doc), Rules{})
		var syntax *SyntaxError
		require.True(t, errors.As(err, &syntax), "%.40q: %v", doc, err)
	}
}

// S0-20, S2-12, S3-12, S4-03: https, and http where the operator allows it; nothing that means another place to another reader.
func TestURLs(t *testing.T) {
	for _, bad := range []string{"", "x", "/hook", "//host/x", "ftp://x.example", "http://x.example", "https://", "https:///x", "https://u:p@x.example", "https://u@x.example",
		"https://x.example/#f", "https://x.example#", "https://x.example:0", "https://x.example:70000", "https://x.example:", "https://x.example:http", "https://x y.example",
		"https://x.example/\n", "https://x..example", "https://" + strings.Repeat("a", 64) + ".example", "https://[::1", "https://[fe80::1%25eth0]/", "javascript:alert(1)",
		"https:x.example", "https://x.example\\@y.example", "https://müller.example", "https://" + strings.Repeat("a", 2100)} {
		require.NotEmpty(t, checkURL(bad, Rules{}), bad)
	}
	for _, good := range []string{"https://x.example", "https://X.example:8443/a/b?c=d&e=%20", "https://[2001:db8::1]/x", "https://203.0.113.5/", "https://a_b.example./x"} {
		require.Empty(t, checkURL(good, Rules{}), good)
	}
	require.Empty(t, checkURL("http://localhost:9000/", Rules{AllowHTTP: true}))
	require.Contains(t, checkURL("http://x.example", Rules{}), "CALLSTREAM_ALLOW_HTTP_ENDPOINTS")
	require.Equal(t, Origin("https://X.example/a"), Origin("https://x.example:443/b"))
	require.NotEqual(t, Origin("https://x.example/a"), Origin("http://x.example/a"))
}

func sealed(t *testing.T, doc string) (*Subscription, *secret.Box) {
	t.Helper()
	box, err := secret.NewBox([]byte(strings.Repeat("k", 32)))
	require.NoError(t, err)
	s := parse(t, doc)
	s.ID, s.Tenant = "sub_1", "acme"
	_, err = s.MakeSigningKey(box, now, 0)
	require.NoError(t, err)
	require.NoError(t, s.Seal(box))
	return s, box
}

func patch(t *testing.T, s *Subscription, doc string) *Subscription {
	t.Helper()
	next, err := s.Patch([]byte(doc), Rules{})
	require.NoError(t, err)
	return next
}

// S2-10: a change says what changes; the rest stays, and so do the secrets.
func TestMergePatch(t *testing.T) {
	s, box := sealed(t, `{"url":"https://x.example","events":["call.ended"],"name":"CRM","agents":["a"],"auth":{"type":"bearer","token":"t1"},
		"request":{"headers":{"X-A":"1","X-B":"2"},"timeout":"5s"},"ttl":"1h"}`)
	next := patch(t, s, `{"name":null,"agents":["b","c"],"request":{"headers":{"X-A":null,"X-C":"3"}},"ttl":{"default":"2h","call.ended":"1m"}}`)
	require.Empty(t, next.Name)
	require.Equal(t, []string{"b", "c"}, next.Agents)
	require.Equal(t, map[string]string{"X-B": "2", "X-C": "3"}, next.Request.Headers)
	require.Equal(t, 5*time.Second, time.Duration(next.Request.Timeout))
	require.Equal(t, "CRM", s.Name, "the original is left alone")
	require.NoError(t, next.Seal(box))
	require.Equal(t, s.Sealed, next.Sealed)

	// An object that was read can be sent back whole.
	raw, err := json.Marshal(next)
	require.NoError(t, err)
	same := patch(t, next, string(raw))
	require.NoError(t, same.Seal(box))
	require.Equal(t, next, same)

	basic := patch(t, next, `{"auth":{"type":"basic","username":"u","password":"p"}}`)
	require.NoError(t, basic.Seal(box))
	require.NotContains(t, basic.Sealed, FieldToken)
	require.Contains(t, basic.Sealed, FieldPassword)
	require.Contains(t, basic.Sealed, FieldSigning)
	none := patch(t, basic, `{"auth":null}`)
	require.NoError(t, none.Seal(box))
	require.Equal(t, AuthNone, none.Auth.Type)
	require.Len(t, none.Sealed, 1)

	for doc, place := range map[string]string{
		`{"state":"active"}`: "#/state", `{"version":9}`: "#/version", `{"url":null}`: "#/url", `{"events":[]}`: "#/events", `{"nope":1}`: "#/nope",
		`{"signing":{"secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}`: "#/signing/secret", `{"auth":{"token":null}}`: "#/auth/token",
		`{"auth":{"type":"basic","username":"u","password":{"set":true}}}`: "#/auth/password", `{"rate_limit":{"per_second":0}}`: "#/rate_limit/per_second",
	} {
		_, err := s.Patch([]byte(doc), Rules{})
		var faults Faults
		require.True(t, errors.As(err, &faults), "%s: %v", doc, err)
		require.Equal(t, place, faults[0].Pointer, doc)
	}
}

// P-13: an endpoint fails until it takes a delivery, and whoever has it begin anew ends that.
func TestFailing(t *testing.T) {
	s := parse(t, `{"url":"https://x.example","events":["*"],"request":{"routes":{"call.*":"/calls"}}}`)
	since := time.Date(2026, 1, 20, 10, 0, 0, 0, time.UTC)
	require.False(t, s.Fail(since), "nothing was sent yet")
	require.True(t, s.Verified([]string{s.URL}))
	require.True(t, s.Fail(since))
	require.False(t, s.Fail(since.Add(time.Minute)), "it has failed for no less")
	require.False(t, s.Recover(since.Add(-time.Second)), "what succeeded before")
	require.True(t, s.Recover(since.Add(time.Second)))
	require.False(t, s.Recover(since.Add(time.Second)))

	failing := func() *Subscription {
		c := s.Clone()
		require.True(t, c.Fail(since))
		return c
	}
	disabled := failing()
	require.True(t, disabled.Disable(ReasonFailing))
	require.Equal(t, since, disabled.FailingSince, "it shows for how long")
	late := disabled.Clone()
	require.True(t, late.Recover(since.Add(time.Second)))
	require.True(t, late.Live())
	require.Empty(t, late.StateReason)
	require.NoError(t, disabled.Resume())
	require.Zero(t, disabled.FailingSince)

	verified := failing()
	require.True(t, verified.Verified(nil))
	require.Zero(t, verified.FailingSince)
	for patch, anew := range map[string]bool{
		`{"name":"y"}`: false, `{"url":"https://x.example/other"}`: true, `{"request":{"routes":{"call.*":"/else"}}}`: true,
		`{"fallback_url":"https://x.example/spare"}`: false, `{"url":"https://y.example"}`: false, // it is not verified
		`{"failing_since":"2026-01-20T10:00:00Z"}`: false,
	} {
		next, err := failing().Patch([]byte(patch), Rules{})
		require.NoError(t, err, patch)
		require.Equal(t, anew, next.FailingSince.IsZero(), patch)
	}
	_, err := failing().Patch([]byte(`{"failing_since":null}`), Rules{})
	require.ErrorContains(t, err, "read-only")
}

// S0-21, S2-11, S3-11: nothing before verification, a switch of one's own, and activation as a step of its own.
func TestStates(t *testing.T) {
	s := parse(t, `{"url":"https://x.example","events":["*"],"activate":false}`)
	var wrong *StateError
	require.ErrorAs(t, s.Resume(), &wrong)
	require.ErrorAs(t, s.Pause(), &wrong)
	require.False(t, s.Disable("gone"))
	require.True(t, s.Verified([]string{s.URL}))
	require.Equal(t, StatePaused, s.State)
	require.NoError(t, s.Resume())
	require.True(t, s.Live())
	require.True(t, s.Disable("http_410"))
	require.False(t, s.Disable("again"))
	require.Equal(t, "http_410", s.StateReason)
	require.ErrorAs(t, s.Pause(), &wrong)
	require.False(t, s.Recover(time.Now()), "who is gone is asked by people")
	require.NoError(t, s.Resume())
	require.Empty(t, s.StateReason)
	require.NoError(t, s.Pause())
	require.True(t, s.Verified([]string{s.URL}))
	require.Equal(t, StatePaused, s.State, "who paused it decides")
}

// S3-15, S1-10: what is tried again.
func TestRetryOn(t *testing.T) {
	var r Retry
	for status, want := range map[int]bool{408: true, 425: true, 429: true, 500: true, 503: true, 599: true, 400: false, 404: false, 410: false, 301: false} {
		require.Equal(t, want, r.RetryableStatus(status), status)
	}
	require.True(t, r.RetryableError(true))
	r = Retry{RetryOn: []string{"404", "5xx", "connection"}}
	require.True(t, r.RetryableStatus(404))
	require.True(t, r.RetryableStatus(500))
	require.False(t, r.RetryableStatus(429))
	require.False(t, r.RetryableError(true))
	require.True(t, r.RetryableError(false))
	_, ok := Retry{MaxAttempts: 1}.Delay(1, []time.Duration{time.Second})
	require.False(t, ok)
}

// Delayed, repeated and reordered records never revive a deleted subscription or an older version.
func TestABookShowsTheNewestWhateverTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := Parse([]byte(minimal), Rules{})
		if err != nil {
			t.Fatal(err)
		}
		s.ID, s.Tenant = "sub_1", "acme"
		type stamp struct{ epoch, version int64 }
		var history []stamp
		epoch, version := int64(1), int64(0)
		for range rapid.IntRange(1, 12).Draw(t, "changes") {
			if rapid.IntRange(0, 4).Draw(t, "restore") == 0 {
				epoch++
				version = rapid.Int64Range(0, version).Draw(t, "restored version")
			}
			version++
			history = append(history, stamp{epoch, version})
		}
		deleted := rapid.Bool().Draw(t, "deleted")
		last := history[len(history)-1]
		book := NewBook()
		order := append(slices.Clone(history), history[:rapid.IntRange(0, len(history)).Draw(t, "repeats")]...)
		for _, h := range rapid.Permutation(order).Draw(t, "order") {
			r, err := s.Record(h.epoch)
			if err != nil {
				t.Fatal(err)
			}
			if r.Version = h.version; deleted && h == last {
				r = Deleted(s.ID, s.Tenant, h.version, h.epoch)
			}
			book.Apply(r)
		}
		got, known := book.Get("sub_1")
		if !known || got.Epoch != last.epoch || got.Version != last.version || got.Deleted != deleted {
			t.Fatalf("want %+v deleted=%v, got %+v", last, deleted, got)
		}
		if n := len(book.Candidates("acme", "call.ended", "")); (n == 0) != deleted {
			t.Fatalf("%d candidates of a subscription, deleted=%v", n, deleted)
		}
	})
}

// Whatever JSON a patch holds, the result is refused with places or valid.
func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(`{"url":"https://x.example","events":["*"],"ttl":{"default":"24h"},"auth":{"type":"bearer","token":"t"}}`))
	base, err := Parse([]byte(minimal), Rules{})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, read := range []func([]byte, Rules) (*Subscription, error){Parse, base.Patch} {
			s, err := read(raw, Rules{})
			if err != nil {
				var faults Faults
				if errors.As(err, &faults) && len(faults) == 0 {
					t.Fatal("refused without a fault")
				}
				continue
			}
			if faults := s.Validate(Rules{}); len(faults) > 0 {
				t.Fatalf("accepted with faults: %v", faults)
			}
			out, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			var back Subscription
			if err := json.Unmarshal(out, &back); err != nil {
				t.Fatalf("%s: %v", out, err)
			}
		}
	})
}
