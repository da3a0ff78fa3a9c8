package webhook_test

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/webhook"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"pgregory.net/rapid"
)

// The standard-webhooks library and our own verifier both accept what we sign, with each of
// the keys.
func TestSignatureIsStandard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 24, 64), 1, 3).Draw(t, "keys")
		signing := make([]webhook.Key, len(keys))
		for i, key := range keys {
			signing[i] = webhook.HMACKey(key)
		}
		s := webhook.NewSigner(signing...)
		for range 2 { // the second time with used hashes
			id := rapid.StringMatching(`msg_[a-z2-7]{1,26}`).Draw(t, "id")
			body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
			now := time.Now()
			header := http.Header{}
			header.Set("webhook-id", id)
			header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
			header.Set("webhook-signature", s.Sign(id, header.Get("webhook-timestamp"), body))
			for _, key := range keys {
				secret := "whsec_" + base64.StdEncoding.EncodeToString(key)
				library, err := standardwebhooks.NewWebhook(secret)
				if err != nil {
					t.Fatal(err)
				}
				if err := library.Verify(body, header); err != nil {
					t.Fatalf("the library: %v", err)
				}
				verifier, err := webhook.NewVerifier(secret)
				if err != nil {
					t.Fatal(err)
				}
				if err := verifier.Verify(header, body, now); err != nil {
					t.Fatalf("our own verifier: %v", err)
				}
				if err := library.Verify(append(body, 'x'), header); err == nil {
					t.Fatal("the library takes another body")
				}
			}
			if n := len(strings.Fields(header.Get("webhook-signature"))); n != len(keys) {
				t.Fatalf("%d signatures for %d keys", n, len(keys))
			}
		}
	})
	if got := webhook.NewSigner().Sign("id", "1", nil); got != "" {
		t.Errorf("without a key: %q", got)
	}
}
