package declare_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/callstream/callstream/services/callstream/declare"
	"github.com/callstream/callstream/subscription"
)

// asStored is what the API shows of a document that it took.
func asStored(t require.TestingT, document map[string]any) (*subscription.Subscription, json.RawMessage) {
	raw, err := json.Marshal(document)
	require.NoError(t, err)
	s, err := subscription.Parse(raw, subscription.Rules{SecretsElsewhere: true})
	require.NoError(t, err, string(raw))
	s.ID, s.Tenant, s.State, s.Version, s.CreatedAt = "sub_1", "acme", subscription.StateActive, 3, time.Now()
	s.Activate = nil
	shown, err := json.Marshal(s)
	require.NoError(t, err)
	return s, shown
}

// documents draws what a file may say of a subscription.
func documents() *rapid.Generator[map[string]any] {
	members := map[string][]any{
		"url":           {"https://a.example.com/", "https://a.example.com/hooks?x=1"},
		"events":        {[]any{"*"}, []any{"call.*", "sms.sent"}, []any{"sms.sent", "call.*"}},
		"agents":        {[]any{"a-1"}, []any{}},
		"filter":        {"event.data.score > 1.0", "true"},
		"frequency":     {map[string]any{"per": "call", "max": 1, "window": "10m"}, map[string]any{"per": "call", "max": 1.0, "window": "600s"}},
		"payload":       {map[string]any{"profile": "dialer"}, map[string]any{"extra": map[string]any{"a": json.Number("85.50"), "b": nil}}, map[string]any{"extra": map[string]any{"a": json.Number("85.5"), "b": map[string]any{"c": nil, "d": 1}}}, map[string]any{"exclude": []any{"data.summary"}, "transcript": "none"}},
		"request":       {map[string]any{"timeout": "5s"}, map[string]any{"timeout": "5000ms", "headers": map[string]any{"X-A": "1"}}, map[string]any{"headers": map[string]any{"X-B": "2"}, "routes": map[string]any{"call.started": "/started"}}},
		"auth":          {map[string]any{"type": "bearer", "token": map[string]any{"env": "T"}}, map[string]any{"type": "basic", "username": "u", "password": map[string]any{"env": "P"}}},
		"signing":       {map[string]any{"scheme": "ed25519"}, map[string]any{"scheme": "none"}},
		"verification":  {"ack", "options"},
		"rate_limit":    {map[string]any{"per_second": 5}},
		"batch":         {nil},
		"retry":         {map[string]any{"schedule": []any{"5s", "60s"}}, map[string]any{"schedule": []any{"5s", "1m"}, "max_attempts": 9}},
		"ttl":           {"24h", "1d", map[string]any{"default": "24h", "call.ringing": "60s"}},
		"position":      {4, 0},
		"max_in_flight": {16, 32}, "activate": {false, true},
	}
	names := slices.Sorted(maps.Keys(members))
	return rapid.Custom(func(t *rapid.T) map[string]any {
		document := map[string]any{"name": "A", "url": "https://a.example.com/", "events": []any{"*"}}
		for _, name := range names {
			if rapid.Bool().Draw(t, name+" is given") {
				document[name] = rapid.SampledFrom(members[name]).Draw(t, name)
			}
		}
		return document
	})
}

func loadOne(t require.TestingT, document map[string]any) *declare.Entry {
	raw, err := json.Marshal(map[string]any{"subscriptions": []any{document}})
	require.NoError(t, err)
	entries, err := declare.Load(declare.Source{Name: "a.json", Raw: raw})
	require.NoError(t, err)
	return entries[0]
}

func planned(t require.TestingT, e *declare.Entry, shown json.RawMessage) *declare.Step {
	plan, err := declare.New([]*declare.Entry{e}, []json.RawMessage{shown}, declare.Options{})
	require.NoError(t, err)
	require.Len(t, plan.Steps, 1)
	return plan.Steps[0]
}

// P-19: whatever is declared and whatever there is, the patch of a plan makes it be as declared, so that the next plan has
// nothing to do; and what was created from the same words never differs.
func TestAPlanLeavesNothingToDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		declared, there := documents().Draw(t, "declared"), documents().Draw(t, "there")
		e := loadOne(t, declared)
		_, same := asStored(t, e.Create(nil))
		require.Equal(t, declare.Keep, planned(t, e, same).Action, "created as declared: %s", same)

		stored, shown := asStored(t, loadOne(t, there).Create(nil))
		stored.Sealed = map[string]string{}
		for _, field := range []string{subscription.FieldToken, subscription.FieldPassword, subscription.FieldSigning} {
			stored.Sealed[field] = "sealed"
		}
		step := planned(t, e, shown)
		if step.Action == declare.Keep {
			return
		}
		secrets := map[string]string{}
		for _, r := range step.Secrets {
			secrets[r.Member] = "s3cret"
		}
		patch, err := json.Marshal(step.Patch(secrets))
		require.NoError(t, err)
		next, err := stored.Patch(patch, subscription.Rules{})
		require.NoError(t, err, "%s", patch)
		shown, err = json.Marshal(next)
		require.NoError(t, err)
		again := planned(t, e, shown)
		require.Equal(t, declare.Keep, again.Action, "patch %s\nmade %s\nleft %+v", patch, shown, again.Changes)
	})
}

func TestWhatCannotBeSeenIsNoDifference(t *testing.T) {
	e := loadOne(t, map[string]any{"name": "A", "url": "https://a.example.com/", "events": []any{"*"}})
	s, _ := asStored(t, e.Create(nil))
	// Keys that rotated, a pause, and members of a newer release.
	s.Signing.Secret, s.Signing.PreviousExpiresAt, s.State = subscription.NewHidden("x"), time.Now(), subscription.StatePaused
	raw, err := json.Marshal(s)
	require.NoError(t, err)
	var object map[string]any
	require.NoError(t, json.Unmarshal(raw, &object))
	object["colour"] = "red"
	raw, err = json.Marshal(object)
	require.NoError(t, err)
	require.Equal(t, declare.Keep, planned(t, e, raw).Action)
}
