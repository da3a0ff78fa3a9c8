package webhook_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/webhook"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"pgregory.net/rapid"
)

// P-10, S0-22: the standard-webhooks library and our own verifier both accept what we sign, with each of the keys.
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

// P-10: what is signed during a rotation from a shared secret to an ed25519 key, receivers of either accept: Go's own
// ed25519 over "id.timestamp.body" as the specification says, and the library for the old one.
func TestBothSchemesSignDuringARotation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), ed25519.SeedSize, ed25519.SeedSize).Draw(t, "seed")
		shared := rapid.SliceOfN(rapid.Byte(), 24, 64).Draw(t, "secret")
		private := ed25519.NewKeyFromSeed(seed)
		signer := webhook.NewSigner(webhook.Ed25519Key(private), webhook.HMACKey(shared))
		verify := func(key string, h http.Header, body []byte, now time.Time) error {
			v, err := webhook.NewVerifier(key)
			if err != nil {
				t.Fatal(err)
			}
			return v.Verify(h, body, now)
		}
		for range 2 {
			body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
			now := time.Now()
			stamp := strconv.FormatInt(now.Unix(), 10)
			header := http.Header{}
			header.Set("webhook-id", "msg_1")
			header.Set("webhook-timestamp", stamp)
			header.Set("webhook-signature", signer.Sign("msg_1", stamp, body))

			first, second, _ := strings.Cut(header.Get("webhook-signature"), " ")
			raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(first, "v1a,"))
			if err != nil || !ed25519.Verify(private.Public().(ed25519.PublicKey), []byte("msg_1."+stamp+"."+string(body)), raw) {
				t.Fatalf("%s is no ed25519 signature: %v", first, err)
			}
			if !strings.HasPrefix(second, "v1,") {
				t.Fatalf("the previous key signs second: %s", second)
			}
			for _, key := range []string{webhook.Ed25519Key(private).Public(), "whsec_" + base64.StdEncoding.EncodeToString(shared)} {
				if err := verify(key, header, body, now); err != nil {
					t.Fatalf("%.6s: %v", key, err)
				}
				if verify(key, header, append(body, 'x'), now) == nil {
					t.Fatalf("%.6s: another body is taken", key)
				}
			}
			other := ed25519.NewKeyFromSeed(append(seed[1:], seed[0]+1))
			if verify(webhook.Ed25519Key(other).Public(), header, body, now) == nil {
				t.Fatal("another key is taken")
			}
		}
	})
}

func TestKeys(t *testing.T) {
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	text := "whsk_" + base64.StdEncoding.EncodeToString(private)
	key, err := webhook.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	if want := "whpk_" + base64.StdEncoding.EncodeToString(private[32:]); key.Public() != want {
		t.Errorf("public half %s, want %s", key.Public(), want)
	}
	if shown := fmt.Sprintf("%v %+v %#v", key, key, key); shown != "[key] [key] [key]" {
		t.Errorf("a key shows as %s", shown)
	}
	shared, err := webhook.ParseKey("whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 32)))
	if err != nil || shared.Public() != "" {
		t.Errorf("a shared secret has the public half %q: %v", shared.Public(), err)
	}
	mismatched := append(make([]byte, 32), make([]byte, 32)...)
	for _, bad := range []string{
		"", "x", "whsec_", "whsec_AAAA", "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65)), "whsk_AAAA",
		"whsk_" + base64.StdEncoding.EncodeToString(mismatched), "whpk_" + base64.StdEncoding.EncodeToString(make([]byte, 32)),
	} {
		if _, err := webhook.ParseKey(bad); err == nil {
			t.Errorf("%q is a key", bad)
		} else if len(bad) > 10 && strings.Contains(err.Error(), bad) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	body := make([]byte, 2048)
	for name, key := range map[string]webhook.Key{
		"hmac": webhook.HMACKey(make([]byte, 32)), "ed25519": webhook.Ed25519Key(ed25519.NewKeyFromSeed(make([]byte, 32))),
	} {
		b.Run(name, func(b *testing.B) {
			s := webhook.NewSigner(key)
			b.ReportAllocs()
			for b.Loop() {
				s.Sign("msg_0123456789abcdefghijklmnop", "1700000000", body)
			}
		})
	}
}
