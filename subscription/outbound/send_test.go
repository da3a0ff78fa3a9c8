package outbound

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

// attempted sends a delivery and returns what arrived.
func attempted(t testing.TB, target *Target, hook *hooktest.Receiver, d *event.Delivery) (*hooktest.Request, Answer) {
	t.Helper()
	before := hook.Total()
	a := target.Send(t.Context(), d, Attempt{Number: 1, Traceparent: testTrace})
	if a.Err != nil || hook.Total() != before+1 {
		t.Fatalf("%d requests arrived: %v", hook.Total()-before, a.Err)
	}
	got := hook.Requests()[before]
	if got.Fault != nil {
		t.Errorf("the signature of what arrived: %v", got.Fault)
	}
	return got, a
}

// symmetric and asymmetric are the signatures of Standard Webhooks, straight from its specification.
func symmetric(t testing.TB, secretText, id, timestamp, signed string) string {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secretText, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "." + signed))
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func asymmetric(t testing.TB, public, signature, id, timestamp, signed string) bool {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(public, "whpk_"))
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signature, "v1a,"))
	return err == nil && strings.HasPrefix(signature, "v1a,") && ed25519.Verify(key, []byte(id+"."+timestamp+"."+signed), sig)
}

// P-10, S3-13, S1-08: deliveries are signed by the scheme that was chosen; while a rotation's overlap lasts, with both
// keys, the newest first, and after it with the new one alone.
func TestSignsByBothSchemesAndBothKeys(t *testing.T) {
	for _, scheme := range []string{subscription.SigningHMAC, subscription.SigningEd25519} {
		t.Run(scheme, func(t *testing.T) {
			now := time.Now()
			clock := now
			sender := testSender(t, Options{Now: func() time.Time { return clock }})
			hook := hooktest.Start(t, hooktest.Options{})
			box := testBox(t)
			sub := &subscription.Subscription{
				ID: "sub_1", Tenant: "acme", URL: hook.URL(), State: subscription.StateActive, Signing: subscription.Signing{Scheme: scheme},
			}
			first, err := sub.MakeSigningKey(box, now, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if err := sub.Seal(box); err != nil {
				t.Fatal(err)
			}
			firstPublic := sub.Signing.PublicKey
			second, err := sub.Rotate(box, now, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			target, err := sender.Target(sub, box)
			if err != nil {
				t.Fatal(err)
			}
			check := func(target *Target, secrets, publics []string) {
				t.Helper()
				d := testDelivery()
				got, _ := attempted(t, target, hook, d)
				stamp := got.Header.Get("webhook-timestamp")
				signatures := strings.Split(got.Header.Get("webhook-signature"), " ")
				if len(signatures) != len(secrets) {
					t.Fatalf("signatures %q", signatures)
				}
				for i, signature := range signatures {
					if scheme == subscription.SigningHMAC {
						if want := symmetric(t, secrets[i], d.ID, stamp, string(d.Body)); signature != want {
							t.Errorf("signature %d is %q, want %q", i, signature, want)
						}
					} else if !asymmetric(t, publics[i], signature, d.ID, stamp, string(d.Body)) {
						t.Errorf("signature %d, %q, is not of %s", i, signature, publics[i])
					}
				}
			}
			if target.Expired() {
				t.Error("expired within the overlap")
			}
			check(target, []string{second, first}, []string{sub.Signing.PublicKey, firstPublic})
			clock = now.Add(time.Hour)
			if !target.Expired() {
				t.Error("not expired at the overlap's end")
			}
			if target, err = sender.Target(sub, box); err != nil {
				t.Fatal(err)
			}
			if target.Expired() {
				t.Error("expired without a key that ends")
			}
			check(target, []string{second}, []string{sub.Signing.PublicKey})
		})
	}
}

// S2-15, S0-22: a GET has no body; its fields stand in the query string, which is what is signed, as it is sent.
func TestGETSignsTheQueryString(t *testing.T) {
	hook := hooktest.Start(t, hooktest.Options{Secrets: []string{testSecret}})
	target := testTarget(t, testSender(t, Options{}), hook.URL()+"/cti?key=a%20b&ort=Zürich", func(s *subscription.Subscription) { s.Request.Method = http.MethodGet })
	d := testDelivery()
	d.Method, d.Query, d.ContentType, d.Body = http.MethodGet, "type=callEnded&name=%C3%A4+%26", "", nil
	got, a := attempted(t, target, hook, d)
	const query = "key=a%20b&ort=Z%C3%BCrich&type=callEnded&name=%C3%A4+%26"
	if got.Method != http.MethodGet || got.Path != "/cti" || got.Raw != query || len(got.Body) != 0 {
		t.Errorf("%s %s?%s with %d bytes", got.Method, got.Path, got.Raw, len(got.Body))
	}
	if want := symmetric(t, testSecret, d.ID, got.Header.Get("webhook-timestamp"), query); got.Header.Get("webhook-signature") != want {
		t.Errorf("signed %q, want %q", got.Header.Get("webhook-signature"), want)
	}
	for _, name := range []string{"Content-Type", "Content-Length"} {
		if value, there := got.Header[name]; there {
			t.Errorf("%s: %s", name, value)
		}
	}
	if a.Method != http.MethodGet || a.URL != hook.URL()+"/cti?key=***&ort=***" {
		t.Errorf("recorded as %s %s", a.Method, a.URL)
	}
}

// S2-14: each event goes to the route of its type, under the subscription's URL or anywhere else.
func TestRoutesByType(t *testing.T) {
	hook, other := hooktest.Start(t, hooktest.Options{Secrets: []string{testSecret}}), hooktest.Start(t, hooktest.Options{Secrets: []string{testSecret}})
	target := testTarget(t, testSender(t, Options{}), hook.URL()+"/hooks?key=1", func(s *subscription.Subscription) {
		s.Request.Routes = map[string]string{"call.started": "/started", "transcript.*": other.URL() + "/transcripts"}
	})
	for range 2 {
		for typ, want := range map[string]struct {
			hook  *hooktest.Receiver
			place string
		}{
			"call.started": {hook, "/hooks/started?key=1"}, "call.ended": {hook, "/hooks?key=1"}, "transcript.ready": {other, "/transcripts?"},
		} {
			d := testDelivery()
			d.EventType = typ
			got, _ := attempted(t, target, want.hook, d)
			if got.Path+"?"+got.Raw != want.place {
				t.Errorf("%s went to %s?%s", typ, got.Path, got.Raw)
			}
			if !strings.HasSuffix(want.hook.URL(), target.Host(typ)) {
				t.Errorf("%s is said to go to %s", typ, target.Host(typ))
			}
		}
	}
	elsewhere, err := target.At(other.URL() + "/new")
	if err != nil {
		t.Fatal(err)
	}
	d := testDelivery()
	d.EventType = "call.started"
	if got, _ := attempted(t, elsewhere, other, d); got.Path != "/new" {
		t.Errorf("what is verified is asked at %s", got.Path)
	}
}

// The fallback is signed to, and learns nothing of how one authenticates at the primary.
func TestTheFallbackGetsNoAuthentication(t *testing.T) {
	primary, fallback := hooktest.Start(t, hooktest.Options{Secrets: []string{testSecret}}), hooktest.Start(t, hooktest.Options{Secrets: []string{testSecret}})
	target := testTarget(t, testSender(t, Options{}), primary.URL(), func(s *subscription.Subscription) {
		s.FallbackURL = fallback.URL()
		s.Auth = subscription.Auth{Type: subscription.AuthBearer, Token: subscription.NewHidden("planted-secret")}
	})
	at, err := target.At(fallback.URL())
	if err != nil {
		t.Fatal(err)
	}
	delivers, err := target.sender.Fallback(target.sub, testBox(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []*Target{at, delivers} {
		if got, _ := attempted(t, to, fallback, testDelivery()); got.Header.Get("authorization") != "" || got.Header.Get("webhook-fallback") != "true" {
			t.Errorf("the fallback got %v", got.Header)
		}
	}
	if got, _ := attempted(t, target, primary, testDelivery()); got.Header.Get("authorization") != "Bearer planted-secret" || got.Header.Get("webhook-fallback") != "" {
		t.Errorf("the primary got %v", got.Header)
	}
}

// What is shown is what is sent, but for the secrets in it.
func TestPreparedIsWhatIsSent(t *testing.T) {
	hook := hooktest.Start(t, hooktest.Options{Secrets: []string{testSecret}})
	now := time.Now()
	sender := testSender(t, Options{Now: func() time.Time { return now }})
	for _, auth := range []subscription.Auth{
		{Type: subscription.AuthNone},
		{Type: subscription.AuthBearer, Token: subscription.NewHidden("planted-secret")},
		{Type: subscription.AuthBasic, Username: "user", Password: subscription.NewHidden("planted-secret")},
		{Type: subscription.AuthAPIKey, Header: "x-api-key", Value: subscription.NewHidden("planted-secret")},
	} {
		target := testTarget(t, sender, hook.URL()+"/hooks?key=1", func(s *subscription.Subscription) {
			s.Auth, s.Request.Headers = auth, map[string]string{"x-team": "crm"}
		})
		post, get := testDelivery(), testDelivery()
		post.Headers, post.ReplayID = map[string]string{"ce-id": "7", "ce-type": "call.ended"}, "rpl_1"
		get.Method, get.Query, get.Body = http.MethodGet, "a=b", nil
		for _, d := range []*event.Delivery{post, get} {
			shown, err := target.Prepare(d, Attempt{Number: 1, Traceparent: testTrace})
			if err != nil {
				t.Fatal(err)
			}
			got, a := attempted(t, target, hook, d)
			if shown.Method != got.Method || shown.URL != hook.URL()+got.Path+"?"+got.Raw || !bytes.Equal(shown.Body, got.Body) {
				t.Errorf("%s: shown %s %s, sent %s %s?%s", auth.Type, shown.Method, shown.URL, got.Method, got.Path, got.Raw)
			}
			got.Header.Del("Content-Length")
			recorded := a.RequestHeader()
			for name, values := range got.Header {
				want := values[0]
				if strings.Contains(want, "planted-secret") || name == "Authorization" {
					want = "***"
				}
				if shown.Header.Get(name) != want || recorded[name] != want {
					t.Errorf("%s: %s was sent as %q, shown as %q, recorded as %q", auth.Type, name, values[0], shown.Header.Get(name), recorded[name])
				}
			}
			if len(shown.Header) != len(got.Header) || len(recorded) != len(got.Header) {
				t.Errorf("%s: %d headers are sent, %d shown, %d recorded", auth.Type, len(got.Header), len(shown.Header), len(recorded))
			}
		}
	}
}

// S0-22, S1-08: without a scheme nothing is signed, and the timestamp is there all the same.
func TestUnsignedDeliveriesCarryTheTimestamp(t *testing.T) {
	hook := hooktest.Start(t, hooktest.Options{})
	target := testTarget(t, testSender(t, Options{}), hook.URL(), func(s *subscription.Subscription) {
		s.Signing = subscription.Signing{Scheme: subscription.SigningNone}
	})
	got, _ := attempted(t, target, hook, testDelivery())
	if _, signed := got.Header["Webhook-Signature"]; signed || got.Header.Get("webhook-timestamp") == "" {
		t.Errorf("got %v", got.Header)
	}
}

// Promise 6: an endpoint that answers with what it was sent does not bring a secret into the records.
func TestEchoedSecretsAreMasked(t *testing.T) {
	const planted = "planted-secret"
	echo := func(r *hooktest.Request) hooktest.Answer {
		text := fmt.Sprint(r.Header)
		return hooktest.Answer{Status: 500, Body: strings.Repeat(text, 10), Header: map[string]string{"X-Echo": r.Header.Get("authorization") + r.Header.Get("x-api-key")}}
	}
	hook := hooktest.Start(t, hooktest.Options{Answer: echo})
	tokens := hooktest.StartTokens(t, hooktest.TokensOptions{ClientID: "client", ClientSecret: planted})
	for _, auth := range []subscription.Auth{
		{Type: subscription.AuthBearer, Token: subscription.NewHidden(planted)},
		{Type: subscription.AuthBasic, Username: "user", Password: subscription.NewHidden(planted)},
		{Type: subscription.AuthAPIKey, Header: "x-api-key", Value: subscription.NewHidden(planted)},
		{Type: subscription.AuthAPIKey, Header: "Authorization", Value: subscription.NewHidden("Token " + planted)},
		{Type: subscription.AuthOAuth2, TokenURL: tokens.URL(), ClientID: "client", ClientSecret: subscription.NewHidden(planted)},
	} {
		target := testTarget(t, testSender(t, Options{}), hook.URL(), func(s *subscription.Subscription) { s.Auth = auth })
		a := target.Send(t.Context(), testDelivery(), Attempt{Number: 1})
		header := map[string]string{}
		a.RecordHeader(header)
		if a.Status != 500 || header["X-Echo"] == "" || len(a.Body) == 0 {
			t.Fatalf("answered %d %v", a.Status, header)
		}
		secrets := append(tokens.Issued(), planted, base64.StdEncoding.EncodeToString([]byte("user:"+planted)))
		for _, text := range []string{string(a.Body), fmt.Sprint(header), fmt.Sprint(a.RequestHeader()), a.ErrorText()} {
			for _, s := range secrets {
				if strings.Contains(text, s) {
					t.Errorf("%s: %s is recorded in %s", auth.Type, s, text)
				}
			}
		}
	}
}

// An endpoint may spell what it got in its own way: as JSON, in a URL.
func TestEchoedSecretsAreMaskedHoweverTheyAreSpelled(t *testing.T) {
	const planted = `PLANTED+/"<tok>=1 é`
	for _, spelled := range []string{
		planted, `PLANTED+\/\"<tok>=1 é`, `PLANTED+/\"\u003ctok\u003e=1 é`, `PLANTED+\/\"\u003ctok\u003e=1 é`,
		"PLANTED%2B%2F%22%3Ctok%3E%3D1+%C3%A9", "PLANTED%2b%2f%22%3ctok%3e%3d1%20%c3%a9",
	} {
		body := []byte("got " + spelled + " from you")
		secrets := echoes(nil).and(planted)
		secrets.body(body)
		if strings.Contains(string(body), "PLANTED") || strings.Contains(secrets.text("got "+spelled), "PLANTED") {
			t.Errorf("%s is recorded as %s", spelled, body)
		}
	}
}

// P-12: the addresses of the endpoint and of the token endpoint are checked, both go through the proxy where there is one,
// and no error holds a URL.
func TestEveryConnectionIsGuarded(t *testing.T) {
	hook := hooktest.Start(t, hooktest.Options{})
	tokens := hooktest.StartTokens(t, hooktest.TokensOptions{ClientID: "client", ClientSecret: "planted-secret"})
	certificate, key := hooktest.NewAuthority(t).Client("sub_1")
	for name, test := range map[string]struct {
		config egress.Config
		class  egress.Class
	}{
		"private addresses": {egress.Config{AllowHTTP: true}, egress.ClassBlocked},
		"a proxy":           {egress.Config{AllowHTTP: true, AllowPrivate: true, Proxy: "http://127.0.0.1:1"}, egress.ClassProxy},
	} {
		sender, err := New(Options{Egress: egress.Options{Config: test.config}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(sender.Close)
		for _, auth := range []subscription.Auth{
			{Type: subscription.AuthNone},
			{Type: subscription.AuthMTLS, Certificate: certificate, PrivateKey: subscription.NewHidden(key)},
			{Type: subscription.AuthOAuth2, TokenURL: tokens.URL() + "?key=planted-secret", ClientID: "client", ClientSecret: subscription.NewHidden("planted-secret")},
		} {
			want := test.class
			if auth.Type == subscription.AuthOAuth2 {
				want = ClassOAuth2
			}
			target := testTarget(t, sender, hook.URL()+"/path?key=planted-secret", func(s *subscription.Subscription) { s.Auth = auth })
			a := target.Send(t.Context(), testDelivery(), Attempt{Number: 1})
			if got := egress.ClassOf(a.Err); got != want || a.Status != 0 {
				t.Errorf("%s, %s ended as %q: %v", name, auth.Type, got, a.Err)
			}
			if text := a.ErrorText() + a.Err.Error() + a.URL + fmt.Sprint(a.RequestHeader()); strings.Contains(text, "planted-secret") {
				t.Errorf("a secret is recorded: %s", text)
			}
		}
	}
	if tokens.Asked() != 0 || hook.Total() != 0 {
		t.Errorf("%d token requests, %d deliveries", tokens.Asked(), hook.Total())
	}
}
