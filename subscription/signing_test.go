package subscription

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/webhook"
)

// signed is what an endpoint gets of s at a time.
func signed(t *testing.T, s *Subscription, box *secret.Box, at time.Time) http.Header {
	t.Helper()
	c, err := s.Open(box, at)
	require.NoError(t, err)
	h := http.Header{}
	stamp := strconv.FormatInt(at.Unix(), 10)
	h.Set("webhook-id", "msg_1")
	h.Set("webhook-timestamp", stamp)
	h.Set("webhook-signature", webhook.NewSigner(c.Signing...).Sign("msg_1", stamp, []byte("{}")))
	return h
}

func accepts(t *testing.T, key string, h http.Header, at time.Time) bool {
	t.Helper()
	v, err := webhook.NewVerifier(key)
	require.NoError(t, err)
	return v.Verify(h, []byte("{}"), at) == nil
}

func unsealed(t *testing.T, doc string) (*Subscription, *secret.Box) {
	t.Helper()
	box, err := secret.NewBox([]byte(strings.Repeat("k", 32)))
	require.NoError(t, err)
	s := parse(t, doc)
	s.ID, s.Tenant = "sub_1", "acme"
	return s, box
}

// P-10: for the overlap both keys sign, so that a receiver may change over at any time in it; then only the new one.
func TestARotatedKeyOverlapsWithTheOneBefore(t *testing.T) {
	for _, scheme := range []string{SigningHMAC, SigningEd25519} {
		s, box := unsealed(t, with(`"signing":{"scheme":"`+scheme+`"}`))
		shown, err := s.MakeSigningKey(box, now, time.Hour)
		require.NoError(t, err)
		require.NoError(t, s.Seal(box))
		known := func(shown string) string {
			if scheme == SigningHMAC {
				require.True(t, strings.HasPrefix(shown, "whsec_"))
				require.Empty(t, s.Signing.PublicKey)
				return shown
			}
			require.Empty(t, shown, "nobody needs the private key")
			require.True(t, strings.HasPrefix(s.Signing.PublicKey, "whpk_"))
			return s.Signing.PublicKey
		}
		first := known(shown)
		require.Zero(t, s.Signing.PreviousExpiresAt)
		c, err := s.Open(box, now)
		require.NoError(t, err)
		require.Zero(t, c.Expires())
		require.True(t, accepts(t, first, signed(t, s, box, now), now))

		shown, err = s.Rotate(box, now, 24*time.Hour)
		require.NoError(t, err)
		second, expires := known(shown), now.Add(24*time.Hour)
		require.NotEqual(t, first, second)
		require.Equal(t, expires, s.Signing.PreviousExpiresAt)
		if scheme == SigningEd25519 {
			require.Equal(t, first, s.Signing.PreviousPublicKey)
		}

		// As the dispatcher has it, off the feed.
		record, err := s.Record(1)
		require.NoError(t, err)
		s, err = FromRecord(record)
		require.NoError(t, err)
		c, err = s.Open(box, now)
		require.NoError(t, err)
		require.Equal(t, expires, c.Expires())
		for at, both := range map[time.Time]bool{now: true, expires.Add(-time.Second): true, expires: false} {
			h := signed(t, s, box, at)
			require.True(t, accepts(t, second, h, at))
			require.Equal(t, both, accepts(t, first, h, at), at)
		}

		// Changes of other members keep both keys; the second rotation keeps the two newest.
		s = patch(t, s, `{"name":"renamed"}`)
		require.NoError(t, s.Seal(box))
		require.True(t, accepts(t, first, signed(t, s, box, now), now))
		shown, err = s.Rotate(box, now, time.Hour)
		require.NoError(t, err)
		third := known(shown)
		h := signed(t, s, box, now)
		require.True(t, accepts(t, third, h, now))
		require.True(t, accepts(t, second, h, now))
		require.False(t, accepts(t, first, h, now))

		// Without an overlap the one before ends at once, and is gone from what is stored.
		_, err = s.Rotate(box, now, 0)
		require.NoError(t, err)
		require.NotContains(t, s.Sealed, FieldPrevious)
		require.False(t, accepts(t, third, signed(t, s, box, now), now))
	}
}

func TestTheSchemeIsPatched(t *testing.T) {
	s, box := sealed(t, minimal)
	before := signed(t, s, box, now)
	s = patch(t, s, `{"signing":{"scheme":"ed25519"}}`)
	require.ErrorContains(t, s.Seal(box), "needs a key")
	shown, err := s.MakeSigningKey(box, now, time.Hour)
	require.NoError(t, err)
	require.Empty(t, shown)
	require.NoError(t, s.Seal(box))
	h := signed(t, s, box, now)
	require.True(t, accepts(t, s.Signing.PublicKey, h, now))
	require.Contains(t, h.Get("webhook-signature"), before.Get("webhook-signature"), "the shared secret overlaps with the key")
	shown, err = s.MakeSigningKey(box, now, time.Hour)
	require.NoError(t, err)
	require.Empty(t, shown)
	require.NoError(t, s.Seal(box))
	require.Equal(t, h, signed(t, s, box, now), "what has a key keeps it")

	// null is the default, hmac, whose secret is shown once.
	s = patch(t, s, `{"signing":null}`)
	shown, err = s.MakeSigningKey(box, now, time.Hour)
	require.NoError(t, err)
	require.NoError(t, s.Seal(box))
	require.Empty(t, s.Signing.PublicKey)
	require.True(t, accepts(t, shown, signed(t, s, box, now), now))

	s = patch(t, s, `{"signing":{"scheme":"none"}}`)
	shown, err = s.MakeSigningKey(box, now, time.Hour)
	require.NoError(t, err)
	require.Empty(t, shown)
	require.NoError(t, s.Seal(box))
	require.Empty(t, s.Sealed)
	require.Equal(t, Signing{Scheme: SigningNone}, s.Signing)
	require.Empty(t, signed(t, s, box, now).Get("webhook-signature"))
	_, err = s.Rotate(box, now, time.Hour)
	var faults Faults
	require.ErrorAs(t, err, &faults)
	require.Equal(t, "#/signing/scheme", faults[0].Pointer)

	// A new scheme may bring a secret that the endpoint knows.
	own := "whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	s = patch(t, s, `{"signing":{"scheme":"hmac","secret":"`+own+`"}}`)
	shown, err = s.MakeSigningKey(box, now, time.Hour)
	require.NoError(t, err)
	require.Empty(t, shown, "who brought it knows it")
	require.NoError(t, s.Seal(box))
	require.True(t, accepts(t, own, signed(t, s, box, now), now))
}

// An endpoint may be moved here with the key that it knows.
func TestAGivenKeyIsKept(t *testing.T) {
	private, err := newPrivateKey()
	require.NoError(t, err)
	key, err := webhook.ParseKey(private)
	require.NoError(t, err)
	s, box := unsealed(t, with(`"signing":{"scheme":"ed25519","secret":"`+private+`"}`))
	shown, err := s.MakeSigningKey(box, now, time.Hour)
	require.NoError(t, err)
	require.Empty(t, shown)
	require.NoError(t, s.Seal(box))
	require.Equal(t, key.Public(), s.Signing.PublicKey)
	raw, err := json.Marshal(s)
	require.NoError(t, err)
	require.NotContains(t, string(raw), private[10:30])
	for signing, place := range map[string]string{
		`{"scheme":"hmac","secret":"` + private + `"}`:                                       "#/signing/secret",
		`{"scheme":"ed25519","secret":"whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}`: "#/signing/secret",
		`{"scheme":"none","secret":"whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}`:    "#/signing/secret",
		`{"scheme":"rsa"}`: "#/signing/scheme",
		`{"scheme":"hmac","previous_expires_at":"2030-01-01T00:00:00Z"}`: "#/signing/previous_expires_at",
	} {
		_, err := Parse([]byte(with(`"signing":`+signing)), Rules{})
		var faults Faults
		require.ErrorAs(t, err, &faults, signing)
		require.Len(t, faults, 1)
		require.Equal(t, place, faults[0].Pointer)
		require.NotContains(t, faults[0].Detail, private[10:30])
	}
}
