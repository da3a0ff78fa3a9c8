package subscription

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/callstream/callstream/schemas/catalog"
)

// S2-14, S2-18: each event type may have an endpoint of its own.
func TestRoutes(t *testing.T) {
	s := parse(t, `{"url":"https://h.example/hooks/?k=v","events":["*"],"request":{"routes":{
		"call.started":"/started","call.*":"https://calls.example/all?a=b","*":"/rest"}}}`)
	for typ, want := range map[string]string{
		"call.started": "https://h.example/hooks/started?k=v", // the most specific wins
		"call.ended":   "https://calls.example/all?a=b",
		"sms.sent":     "https://h.example/hooks/rest?k=v",
	} {
		assert.Equal(t, want, s.RouteFor(typ), typ)
	}
	delete(s.Request.Routes, "*")
	assert.Equal(t, s.URL, s.RouteFor("sms.sent"))
	s.URL = "https://h.example"
	assert.Equal(t, "https://h.example/started", s.RouteFor("call.started"))
	s.Request.Routes = nil
	assert.Equal(t, "https://h.example", s.RouteFor("call.started"))
	assert.Zero(t, testing.AllocsPerRun(10, func() { s.RouteFor("call.started") }))

	for routes, place := range map[string]string{
		`{"call.*":""}`:                           "#/request/routes/call.*",
		`{"call.*":"started"}`:                    "#/request/routes/call.*",
		`{"call.*":"//evil.example/x"}`:           "#/request/routes/call.*",
		`{"call.*":"/a?b=c"}`:                     "#/request/routes/call.*",
		`{"call.*":"/a#b"}`:                       "#/request/routes/call.*",
		`{"call.*":"/a/../b"}`:                    "#/request/routes/call.*",
		`{"call.*":"/a b"}`:                       "#/request/routes/call.*",
		`{"call.*":"/%zz"}`:                       "#/request/routes/call.*",
		`{"call.*":"/\\a"}`:                       "#/request/routes/call.*",
		`{"call.*":"http://x.example"}`:           "#/request/routes/call.*",
		`{"call.*":"https://u:p@x.example"}`:      "#/request/routes/call.*",
		`{"nope.*":"/a"}`:                         "#/request/routes/nope.*",
		`{"call.*":5}`:                            "#/request/routes/call.*",
		`{"call/x":"/a"}`:                         "#/request/routes/call~1x",
		`["/a"]`:                                  "#/request/routes",
		`{"call.*":"/` + long(maxURL, "a") + `"}`: "#/request/routes/call.*",
	} {
		_, err := Parse([]byte(with(`"request":{"routes":`+routes+`}`)), Rules{})
		var faults Faults
		require.ErrorAs(t, err, &faults, routes)
		require.Len(t, faults, 1, "%s: %v", routes, faults)
		require.Equal(t, place, faults[0].Pointer)
	}
}

func long(n int, s string) string { return strings.Repeat(s, n) }

// S0-21: what has been verified serves on until what takes its place has passed too: url, each route, the fallback.
func TestWhatIsNewWaitsBesideWhatServes(t *testing.T) {
	s, _ := sealed(t, `{"url":"https://one.example/a","events":["*"],"fallback_url":"https://spare.example/a",
		"request":{"routes":{"call.started":"/started","call.ended":"https://one.example/ended","sms.*":"https://sms.example"}}}`)
	require.Equal(t, []string{"https://one.example/a", "https://sms.example", "https://spare.example/a"}, s.Unverified(), "one of each origin")
	require.False(t, s.Verified([]string{"https://one.example/a"}), "not all have passed")
	require.Equal(t, StatePending, s.State)
	require.True(t, s.Verified(s.Unverified()))
	require.Equal(t, StateActive, s.State)
	require.Empty(t, s.Unverified())

	served := s.Clone()
	s = patch(t, s, `{"url":"https://two.example/a","fallback_url":"https://spare2.example",
		"request":{"routes":{"call.started":"https://three.example/s","call.ended":"/ended","sms.*":null,"chat.*":"https://two.example/chat"}}}`)
	require.Equal(t, served.URL, s.URL)
	require.Equal(t, served.FallbackURL, s.FallbackURL)
	require.Equal(t, map[string]string{"call.started": "/started", "call.ended": "/ended"}, s.Request.Routes, "what needs no verification is in force")
	require.Equal(t, "https://two.example/a", s.PendingURL)
	require.Equal(t, "https://spare2.example", s.PendingFallbackURL)
	require.Equal(t, map[string]string{"call.started": "https://three.example/s", "chat.*": "https://two.example/chat"}, s.PendingRoutes)
	require.Equal(t, []string{"https://two.example/a", "https://three.example/s", "https://spare2.example"}, s.Unverified())
	require.Equal(t, "https://one.example/a/started", s.RouteFor("call.started"))

	// It waits through other changes, the feed, and sending back what was read.
	record, err := s.Record(1)
	require.NoError(t, err)
	back, err := FromRecord(record)
	require.NoError(t, err)
	require.Equal(t, s.Unverified(), back.Unverified())
	raw, err := json.Marshal(s)
	require.NoError(t, err)
	require.Equal(t, s, patch(t, s, string(raw)))
	s = patch(t, s, `{"name":"x","request":{"routes":{"agent.*":"/agents"}}}`)
	require.Len(t, s.PendingRoutes, 2)
	require.Equal(t, "/agents", s.Request.Routes["agent.*"])

	moved := patch(t, s, `{"fallback_url":"https://spare.example/moved"}`)
	require.Equal(t, "https://spare.example/moved", moved.FallbackURL, "its origin has passed")
	require.Empty(t, moved.PendingFallbackURL)

	// Each can be taken back by itself.
	undone := patch(t, s, `{"url":"https://one.example/a","fallback_url":null,"request":{"routes":{"call.started":"/started","chat.*":null}}}`)
	require.Empty(t, undone.Unverified())
	require.Empty(t, undone.FallbackURL)
	require.Nil(t, undone.PendingRoutes)
	require.Empty(t, patch(t, s, `{"request":null}`).PendingRoutes)
	require.Empty(t, patch(t, s, `{"request":{"routes":null}}`).PendingRoutes)

	asked := s.Unverified()
	changed := patch(t, s, `{"url":"https://four.example"}`)
	require.False(t, changed.Verified(asked), "changed while the endpoints were asked")
	require.Equal(t, "https://one.example/a", changed.URL)

	require.True(t, s.Verified(asked))
	require.Equal(t, "https://two.example/a", s.URL)
	require.Equal(t, "https://spare2.example", s.FallbackURL)
	require.Equal(t, "https://three.example/s", s.RouteFor("call.started"))
	require.Equal(t, "https://two.example/chat", s.RouteFor("chat.ended"))
	require.Equal(t, "https://two.example/a/agents", s.RouteFor("agent.status_changed"))
	require.Empty(t, s.Unverified())
	require.Equal(t, "/started", served.Request.Routes["call.started"], "a clone shares nothing")
}

// While nothing has been verified there is nothing to keep, and a disabled endpoint has to show that it is back.
func TestWhatIsAskedInOtherStates(t *testing.T) {
	s, _ := sealed(t, `{"url":"https://one.example","events":["*"],"request":{"routes":{"sms.*":"https://sms.example"}}}`)
	s = patch(t, s, `{"url":"https://two.example","request":{"routes":{"sms.*":"https://sms2.example"}}}`)
	require.Equal(t, []string{"https://two.example", "https://sms2.example"}, s.Unverified())
	require.True(t, s.Verified(s.Unverified()))
	require.True(t, s.Disable("http_410"))
	require.Equal(t, []string{"https://two.example"}, s.Unverified())
	require.False(t, s.Verified(nil))
	require.Equal(t, StateDisabled, s.State)
	require.True(t, s.Verified([]string{"https://two.example"}))
	require.Equal(t, StateActive, s.State)
}

// S0-21: whatever is patched, nothing is ever sent to an origin that has not passed verification, and no secret to one that
// it was not given for.
func TestNoPatchReachesAnUnverifiedOrigin(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		s, box := sealed(outer, with(`"auth":{"type":"bearer","token":"t0"}`))
		s.Verified(s.Unverified())
		passed := map[string]bool{Origin(s.URL): true}
		given := map[string]map[string]bool{"t0": {Origin(s.URL): true}} // by secret
		token := func(s *Subscription) string {
			c, err := s.Open(box, now)
			if err != nil {
				t.Fatal(err)
			}
			h := http.Header{}
			c.Authorize(h)
			return strings.TrimPrefix(h.Get("Authorization"), "Bearer ")
		}
		url := rapid.SampledFrom([]string{"https://a.example/x", "https://b.example", "https://c.example", "https://x.example/y"})
		pattern := rapid.SampledFrom([]string{"call.*", "call.ended", "*", "sms.sent"})
		for step := range rapid.IntRange(1, 10).Draw(t, "steps") {
			doc := map[string]any{}
			if rapid.Bool().Draw(t, "url") {
				doc["url"] = url.Draw(t, "new url")
			}
			switch rapid.IntRange(0, 3).Draw(t, "fallback") {
			case 0:
				doc["fallback_url"] = url.Draw(t, "new fallback") + "/fallback"
			case 1:
				doc["fallback_url"] = nil
			}
			routes := map[string]any{}
			for range rapid.IntRange(0, 2).Draw(t, "routes") {
				routes[pattern.Draw(t, "pattern")] = rapid.SampledFrom([]any{nil, "/path", url.Draw(t, "route")}).Draw(t, "to")
			}
			doc["request"] = map[string]any{"routes": routes}
			fresh := ""
			switch rapid.IntRange(0, 2).Draw(t, "auth") {
			case 0:
				fresh = fmt.Sprint("t", step+1)
				doc["auth"] = map[string]any{"token": fresh}
			case 1:
				doc["auth"] = map[string]any{"token": map[string]any{"set": true}}
			}
			raw, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			next, err := s.Patch(raw, Rules{})
			var faults Faults
			if errors.As(err, &faults) && len(faults) == 1 && faults[0].Pointer == "#/auth/token" && fresh == "" {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			s = next
			if err := s.Seal(box); err != nil {
				t.Fatal(err)
			}
			if fresh != "" {
				given[fresh] = origins(s.Proposed().authenticated())
			}
			if rapid.IntRange(0, 2).Draw(t, "verify") == 0 {
				asked := s.Unverified()
				for _, u := range asked {
					passed[Origin(u)] = true
				}
				if !s.Verified(asked) || len(s.Unverified()) > 0 {
					t.Fatalf("%v passed, still to pass: %v", asked, s.Unverified())
				}
			}
			targets := []string{s.URL}
			for _, typ := range catalog.Types() {
				targets = append(targets, s.RouteFor(typ.Name))
			}
			for _, target := range targets {
				if !given[token(s)][Origin(target)] {
					t.Fatalf("%s is sent %s, which was given for %v", target, token(s), given[token(s)])
				}
			}
			for _, target := range s.Proposed().authenticated() {
				if secret := token(s.Proposed()); !given[secret][Origin(target)] {
					t.Fatalf("%s will be sent %s, which was given for %v", target, secret, given[secret])
				}
			}
			if s.FallbackURL != "" {
				targets = append(targets, s.FallbackURL)
			}
			for _, target := range targets {
				if !passed[Origin(target)] {
					t.Fatalf("%s is sent to, only %v have passed", target, passed)
				}
			}
		}
	})
}
