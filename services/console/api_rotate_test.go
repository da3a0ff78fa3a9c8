package console

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/webhook"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"github.com/stretchr/testify/require"
)

// P-10: a new signing secret is shown once; the one before signs beside it until the overlap ends, and is then forgotten
// by the database and the feed.
func TestRotatingASecret(t *testing.T) {
	var offset atomic.Int64
	h := start(t, func(_ *Config, d *Deps) {
		d.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	})
	receiver := hooktest.Start(t, hooktest.Options{})
	path, first := h.verified(receiver.URL(), "")
	signed := func() http.Header {
		h.do("POST", path+"/test", "").is(200)
		requests := receiver.Requests()
		return requests[len(requests)-1].Header
	}
	valid := func(secret string, header http.Header) bool {
		verifier, err := webhook.NewVerifier(secret)
		require.NoError(t, err)
		requests := receiver.Requests()
		return verifier.Verify(header, requests[len(requests)-1].Body, h.svc.deps.Now()) == nil
	}

	rotated := h.do("POST", path+"/rotate-secret", `{"overlap":"2h"}`).is(200)
	second := rotated.str("secret")
	require.Equal(t, "no-store", rotated.header.Get("Cache-Control"))
	require.NotEqual(t, first, second)
	require.NotEmpty(t, rotated.header.Get("ETag"))
	require.Empty(t, h.do("GET", path, "").str("secret"), "shown this once")
	header := signed()
	require.True(t, valid(first, header))
	require.True(t, valid(second, header))

	offset.Store(int64(2*time.Hour - time.Minute))
	header = signed()
	require.True(t, valid(first, header))
	offset.Store(int64(2*time.Hour + time.Second))
	header = signed()
	require.False(t, valid(first, header), "the overlap is over")
	require.True(t, valid(second, header))

	// What is sealed is dropped within a minute, and no longer shown.
	store, err := h.svc.database()
	require.NoError(t, err)
	sealed := func() map[string]string {
		list, err := store.Subscriptions(t.Context(), "default", storage.SubscriptionQuery{Limit: 1})
		require.NoError(t, err)
		return list[0].Sealed
	}
	offset.Store(int64(2*time.Hour + time.Minute + time.Second))
	require.Eventually(t, func() bool { return sealed()[subscription.FieldPrevious] == "" }, 20*time.Second, 5*time.Millisecond)
	require.NotEmpty(t, sealed()[subscription.FieldSigning])
	require.Eventually(t, func() bool {
		feed := h.subscriptions()
		return feed[len(feed)-1].Secrets[subscription.FieldPrevious] == ""
	}, 20*time.Second, 5*time.Millisecond)
	require.NotContains(t, h.do("GET", path, "").object()["signing"], "previous_expires_at")
	require.True(t, valid(second, signed()))
	lines, err := store.Audit(t.Context(), "default", storage.AuditQuery{Limit: 1})
	require.NoError(t, err)
	require.Equal(t, "expired", lines[0].Action)
	require.Equal(t, "system", lines[0].Actor)
}

func TestRotationsOverlap(t *testing.T) {
	h := start(t)
	url := endpoint(t, obliging)
	path, _ := h.verified(url, "")
	expires := func(a answer) time.Time {
		signing, _ := a.is(200).object()["signing"].(map[string]any)
		text, _ := signing["previous_expires_at"].(string)
		if text == "" {
			return time.Time{}
		}
		at, err := time.Parse(time.RFC3339, text)
		require.NoError(t, err)
		return at
	}
	require.WithinDuration(t, time.Now().Add(24*time.Hour), expires(h.do("POST", path+"/rotate-secret", "")), time.Minute, "by default")
	require.WithinDuration(t, time.Now().Add(7*24*time.Hour), expires(h.do("POST", path+"/rotate-secret", `{"overlap":"7d"}`)), time.Minute)
	require.Zero(t, expires(h.do("POST", path+"/rotate-secret", `{"overlap":"0s"}`)), "at once")
	for _, bad := range []string{`"8d"`, `"-1s"`, `"soon"`, `5`, `true`} {
		require.Equal(t, "#/overlap", h.do("POST", path+"/rotate-secret", `{"overlap":`+bad+`}`).problem(422).Errors[0].Pointer, bad)
	}
	h.do("POST", path+"/rotate-secret", "", "If-Match", `"1"`).problem(http.StatusPreconditionFailed)

	// ed25519 shows its public half, and nothing secret at all.
	public := func(a answer, name string) string {
		signing, _ := a.object()["signing"].(map[string]any)
		return fmt.Sprint(signing[name])
	}
	made := h.create(`{"url":"` + url + `","events":["*"],"signing":{"scheme":"ed25519"}}`)
	require.Empty(t, made.str("secret"))
	before := public(made, "public_key")
	require.Contains(t, before, webhook.PrefixPublic)
	rotated := h.do("POST", "/v1/subscriptions/"+made.str("id")+"/rotate-secret", "").is(200)
	require.Empty(t, rotated.str("secret"))
	require.Equal(t, "no-store", rotated.header.Get("Cache-Control"))
	require.Equal(t, before, public(rotated, "previous_public_key"))
	require.NotEqual(t, before, public(rotated, "public_key"))

	// A scheme that is changed by a patch makes its key, and shows it as a creation does.
	patched := h.do("PATCH", "/v1/subscriptions/"+made.str("id"), `{"signing":{"scheme":"hmac"}}`).is(200)
	require.Contains(t, patched.str("secret"), webhook.PrefixSecret)
	require.Equal(t, "no-store", patched.header.Get("Cache-Control"))
	none := h.create(`{"url":"` + url + `","events":["*"],"signing":{"scheme":"none"}}`)
	require.Empty(t, none.str("secret"))
	require.Equal(t, "#/signing/scheme", h.do("POST", "/v1/subscriptions/"+none.str("id")+"/rotate-secret", "").problem(422).Errors[0].Pointer)
}
