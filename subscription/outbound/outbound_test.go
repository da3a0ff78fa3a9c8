package outbound

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/webhook"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

const (
	testSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	testTrace  = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
)

func testBox(t testing.TB) *secret.Box {
	t.Helper()
	box, err := secret.NewBox(make([]byte, secret.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return box
}

func testSender(t testing.TB, o Options) *Sender {
	t.Helper()
	o.Egress.AllowPrivate, o.Egress.AllowHTTP = true, true
	if o.Version == "" {
		o.Version = "1.2.3"
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// testTarget is a Target of a subscription with the test's secret and what the test changes of it.
func testTarget(t testing.TB, s *Sender, url string, change func(*subscription.Subscription)) *Target {
	t.Helper()
	sub := &subscription.Subscription{
		ID: "sub_1", Tenant: "acme", URL: url, State: subscription.StateActive, Events: []string{"*"}, Version: 1,
		Signing: subscription.Signing{Scheme: subscription.SigningHMAC, Secret: subscription.NewHidden(testSecret)},
	}
	if change != nil {
		change(sub)
	}
	if err := sub.Seal(testBox(t)); err != nil {
		t.Fatal(err)
	}
	target, err := s.Target(sub, testBox(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.Close)
	return target
}

func testDelivery() *event.Delivery {
	return &event.Delivery{ID: "msg_1", EventID: "evt_1", EventType: "call.ended", Method: "POST", ContentType: "application/json", Body: []byte(`{"a":1}`)}
}

// filled is the request for a delivery.
func filled(t testing.TB, target *Target, q *request, d *event.Delivery, o Attempt) *egress.Request {
	t.Helper()
	to, err := target.endpointOf(d.EventType)
	if err != nil {
		t.Fatal(err)
	}
	q.fill(target, to, d, o, "")
	return &q.out
}

func verified(t testing.TB, secretText string, h http.Header, signed []byte) {
	t.Helper()
	verifier, err := webhook.NewVerifier(secretText)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Verify(h, signed, time.Now()); err != nil {
		t.Error(err)
	}
}

func TestRequestCarriesTheContractsHeaders(t *testing.T) {
	target := testTarget(t, testSender(t, Options{}), "https://example.com/hook?key=1", func(s *subscription.Subscription) {
		s.Request.Headers = map[string]string{"x-team": "crm"}
		s.Auth = subscription.Auth{Type: subscription.AuthBearer, Token: subscription.NewHidden("token")}
	})
	q := target.newRequest()
	first := &event.Delivery{
		ID: "msg_1", EventID: "evt_1", ContentType: "application/cloudevents+json", Body: []byte(`{"a":1}`),
		Query: "x=2", ReplayID: "rpl_1", Headers: map[string]string{"ce-id": "7", "x-team": "another"},
	}
	r := filled(t, target, q, first, Attempt{Number: 3, Traceparent: testTrace})
	verified(t, testSecret, r.Header, r.Body)
	for name, want := range map[string]string{
		"content-type": "application/cloudevents+json", "user-agent": "callstream/1.2.3", "webhook-id": "msg_1", "webhook-attempt": "3",
		"x-event-id": "evt_1", "traceparent": testTrace, "webhook-replay": "rpl_1",
		"x-team": "crm", "authorization": "Bearer token", "ce-id": "7",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if r.Method != http.MethodPost || r.URL.String() != "https://example.com/hook?key=1&x=2" || string(r.Body) != `{"a":1}` {
		t.Errorf("%s %s: %s", r.Method, r.URL, r.Body)
	}
	if target.endpoint.url.RawQuery != "key=1" {
		t.Errorf("the target's URL changed to %s", target.endpoint.url)
	}
}

// The parts of a request that serve again keep nothing of the delivery before.
func TestRequestsAreUsedAgain(t *testing.T) {
	target := testTarget(t, testSender(t, Options{}), "https://example.com/hook", func(s *subscription.Subscription) {
		s.Request.Headers = map[string]string{"x-team": "crm"}
	})
	usual := func(n int) *event.Delivery {
		return &event.Delivery{ID: fmt.Sprintf("msg_%d", n), EventID: fmt.Sprintf("evt_%d", n), Body: fmt.Appendf(nil, "%d", n)}
	}
	replayed, binary, get, bare := usual(2), usual(3), usual(4), usual(5)
	replayed.ReplayID = "rpl_1"
	binary.Headers = map[string]string{"ce-id": "7"}
	get.Method, get.Query, get.Body = http.MethodGet, "a=b", nil
	bare.EventID = ""
	q := target.newRequest()
	for i, d := range []*event.Delivery{usual(0), usual(1), replayed, usual(6), binary, usual(7), usual(8), get, usual(9), bare, usual(10), get, binary} {
		o := Attempt{Number: i + 1, Traceparent: testTrace}
		if i%4 == 3 {
			o.Traceparent = ""
		}
		used := filled(t, target, q, d, o)
		fresh := filled(t, target, target.newRequest(), d, o)
		if len(used.Header) != len(fresh.Header) {
			t.Errorf("request %d has the headers %v, a fresh one %v", i, used.Header, fresh.Header)
		}
		recorded := q.record(target)
		for name, values := range fresh.Header {
			// Both may have been signed in different seconds.
			if got := used.Header.Get(name); got != values[0] && name != "Webhook-Timestamp" && name != "Webhook-Signature" {
				t.Errorf("request %d: %s is %q, want %q", i, name, got, values[0])
			}
			if recorded[name] != used.Header.Get(name) || len(recorded) != len(used.Header) {
				t.Errorf("request %d: %s is recorded as %q, sent as %q", i, name, recorded[name], used.Header.Get(name))
			}
		}
	}
}

// S0-20, S1-08, S3-14: what authenticates at an endpoint is sent, and never recorded or shown.
func TestRecordedRequestsHideSecrets(t *testing.T) {
	for typ, auth := range map[string]subscription.Auth{
		"Authorization": {Type: subscription.AuthBasic, Username: "user", Password: subscription.NewHidden("hunter2")},
		"X-Api-Key":     {Type: subscription.AuthAPIKey, Header: "x-api-key", Value: subscription.NewHidden("hunter2")},
	} {
		target := testTarget(t, testSender(t, Options{}), "https://example.com/hook", func(s *subscription.Subscription) { s.Auth = auth })
		q := target.newRequest()
		for i := range 4 { // the last ones from what the first ones left
			d := testDelivery()
			if i == 2 {
				d.ReplayID = "rpl_1"
			}
			if filled(t, target, q, d, Attempt{Number: i + 1, Traceparent: testTrace}).Header.Get(typ) == "" {
				t.Errorf("%s isn't sent", typ)
			}
			if got := q.record(target); got[typ] != "***" || len(got) != len(q.header) {
				t.Errorf("request %d is recorded as %v", i, got)
			}
		}
		prepared, err := target.Prepare(testDelivery(), Attempt{Number: 1})
		if err != nil || prepared.Header.Get(typ) != "***" {
			t.Errorf("it is shown as %v, %v", prepared.Header, err)
		}
	}
}

// S3-12: an endpoint has 10 s to answer, or what the subscription says.
func TestTimeoutIsBounded(t *testing.T) {
	sender := testSender(t, Options{})
	for given, want := range map[time.Duration]time.Duration{0: 10 * time.Second, time.Second: time.Second, time.Hour: 30 * time.Second} {
		got := testTarget(t, sender, "https://example.com", func(s *subscription.Subscription) { s.Request.Timeout = subscription.Duration(given) }).timeout
		if got != want {
			t.Errorf("%v became %v, want %v", given, got, want)
		}
	}
}

func TestRecordedAnswersAreBounded(t *testing.T) {
	h := http.Header{}
	for i := range 1000 {
		h.Set("X-"+string(rune('a'+i%26))+string(rune('a'+i/26)), "value")
	}
	got := map[string]string{}
	(&Answer{Header: http.Header{"Set-Cookie": {"a=1", "b=2"}}}).RecordHeader(got)
	if got["Set-Cookie"] != "a=1, b=2" {
		t.Errorf("got %v", got)
	}
	(&Answer{Header: h}).RecordHeader(got)
	if len(got) > keptHeaders {
		t.Errorf("%d headers are kept", len(got))
	}
}

// What an endpoint can make an error say is bounded, and is text.
func TestAnErrorIsRecordedAsText(t *testing.T) {
	got := (&Answer{Err: errors.New("malformed header: \x00\r\n\xff" + strings.Repeat("ä", 40_000))}).ErrorText()
	if len(got) > 510 || !strings.HasPrefix(got, "malformed header:    \uFFFDää") || !utf8.ValidString(got) {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}
