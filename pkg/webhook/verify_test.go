package webhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/webhook"
)

func TestVerify(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	secret := "whsec_" + base64.StdEncoding.EncodeToString(key)
	other := "whsec_" + base64.StdEncoding.EncodeToString([]byte("another"))
	now := time.Unix(1_700_000_000, 0)
	sign := func(id, body string, at time.Time) http.Header {
		mac := hmac.New(sha256.New, key)
		stamp := strconv.FormatInt(at.Unix(), 10)
		mac.Write([]byte(id + "." + stamp + "." + body))
		h := http.Header{}
		h.Set("webhook-id", id)
		h.Set("webhook-timestamp", stamp)
		h.Set("webhook-signature", "v1a,xyz v1,AAAA v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
		return h
	}
	verify := func(h http.Header, body []byte, secrets ...string) error {
		v, err := webhook.NewVerifier(secrets...)
		if err != nil {
			t.Fatal(err)
		}
		return v.Verify(h, body, now)
	}
	if err := verify(sign("msg", "{}", now), []byte("{}"), other, secret); err != nil {
		t.Error(err)
	}
	changed := sign("msg", "{}", now)
	changed.Set("webhook-id", "other")
	for name, err := range map[string]error{
		"body":      verify(sign("msg", "{}", now), []byte("{ }"), secret),
		"id":        verify(changed, []byte("{}"), secret),
		"secret":    verify(sign("msg", "{}", now), []byte("{}"), other),
		"no secret": verify(sign("msg", "{}", now), []byte("{}")),
		"old":       verify(sign("msg", "{}", now.Add(-6*time.Minute)), []byte("{}"), secret),
		"early":     verify(sign("msg", "{}", now.Add(6*time.Minute)), []byte("{}"), secret),
		"unsigned":  verify(http.Header{}, []byte("{}"), secret),
	} {
		if err == nil {
			t.Errorf("%s: verified", name)
		}
	}
}

func TestVerifierSaysWhatIsWrongWithASecret(t *testing.T) {
	for _, secret := range []string{"", "sec_AAAA", "whsec_", "whsec_%%%", "whpk_", "whpk_AAAA", "whsk_AAAA"} {
		if _, err := webhook.NewVerifier(secret); err == nil {
			t.Errorf("%q is taken", secret)
		}
	}
}

// What can't be checked is said to be that, not to be wrong.
func TestVerifySaysWhichSchemeIsMissing(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	h := http.Header{}
	h.Set("webhook-id", "msg")
	h.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	secret := "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 32))
	public := "whpk_" + base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, c := range []struct {
		signature, want string
		keys            []string
	}{
		{"v1a,AAAA", "it has no v1 signature (HMAC-SHA256)", []string{secret}},
		{"v1,AAAA", "it has no v1a signature (ed25519)", []string{public}},
		{"v2,AAAA", "it has neither a v1 nor a v1a signature", []string{secret, public}},
		{"v1,%%% v1a,AAAA", "the signature does not fit: another secret, or the body was changed on the way", []string{secret, public}},
	} {
		v, err := webhook.NewVerifier(c.keys...)
		if err != nil {
			t.Fatal(err)
		}
		h.Set("webhook-signature", c.signature)
		if err := v.Verify(h, nil, now); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.signature, err, c.want)
		}
	}
}
