package dispatcher

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/webhook"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

const testSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

func testBox(t testing.TB) *secret.Box {
	t.Helper()
	box, err := secret.NewBox(make([]byte, secret.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return box
}

// subscribed is a subscription as the feed has it, with what the test changes of it.
func subscribed(t testing.TB, id, url string, change func(*subscription.Subscription)) *event.SubscriptionRecord {
	t.Helper()
	s := &subscription.Subscription{
		ID: id, Tenant: "acme", URL: url, State: subscription.StateActive, Events: []string{"*"}, Version: 1,
		Signing: subscription.Signing{Scheme: subscription.SigningHMAC, Secret: subscription.NewHidden(testSecret)},
	}
	if change != nil {
		change(s)
	}
	if err := s.Seal(testBox(t)); err != nil {
		t.Fatal(err)
	}
	r, err := s.Record(1)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func testTarget(t *testing.T, change func(*subscription.Subscription)) *target {
	t.Helper()
	book := subscription.NewBook()
	book.Apply(subscribed(t, "sub_1", "https://example.com/hook?key=1", change))
	c, ok := book.Get("sub_1")
	if !ok || c.Fault != nil {
		t.Fatalf("the book has %v", c)
	}
	target, err := newTarget(c, testBox(t), "callstream/1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestRequestCarriesTheContractsHeaders(t *testing.T) {
	target := testTarget(t, func(s *subscription.Subscription) {
		s.Request.Headers = map[string]string{"x-team": "crm"}
		s.Auth = subscription.Auth{Type: subscription.AuthBearer, Token: subscription.NewHidden("token")}
	})
	q := target.requests.Get().(*request)
	now := time.Now()
	first := &event.Delivery{
		ID: "msg_1", EventID: "evt_1", ContentType: "application/cloudevents+json", Body: []byte(`{"a":1}`),
		Query: "x=2", ReplayID: "rpl_1", Headers: map[string]string{"ce-id": "7"},
	}
	q.fill(first, 3, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", now)
	r := q.request(target, first)
	body := r.Body
	verifier, err := webhook.NewVerifier(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Verify(r.Header, body, now); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{
		"content-type": "application/cloudevents+json", "user-agent": "callstream/1.2.3", "webhook-id": "msg_1", "webhook-attempt": "3",
		"x-event-id": "evt_1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "webhook-replay": "rpl_1",
		"x-team": "crm", "authorization": "Bearer token", "ce-id": "7",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if r.Method != http.MethodPost || r.URL.String() != "https://example.com/hook?key=1&x=2" || string(body) != `{"a":1}` {
		t.Errorf("%s %s: %s", r.Method, r.URL, body)
	}
	if target.url.RawQuery != "key=1" {
		t.Errorf("the target's URL changed to %s", target.url)
	}

	// The next delivery through the same parts keeps nothing of the first one's.
	q = newRequest(target.sub.Request.Headers, subscription.Credentials{}, "callstream/1.2.3")
	second := &event.Delivery{ID: "msg_2", EventID: "evt_2", Body: []byte("{}")}
	q.fill(first, 1, "tp", now)
	if q.reusable(first) {
		t.Error("a request with headers of its own may be used again")
	}
	delete(q.header, "Ce-Id")
	q.fill(second, 1, "", now)
	for name, want := range map[string]string{
		"webhook-id": "msg_2", "x-event-id": "evt_2", "content-type": "application/json", "webhook-attempt": "1",
		"traceparent": "", "webhook-replay": "", "webhook-signature": "",
	} {
		if got := q.header.Get(name); got != want {
			t.Errorf("the second request's %s is %q, want %q", name, got, want)
		}
	}
}

func TestRecordedRequestsHideSecrets(t *testing.T) {
	for typ, auth := range map[string]subscription.Auth{
		"Authorization": {Type: subscription.AuthBasic, Username: "user", Password: subscription.NewHidden("hunter2")},
		"X-Api-Key":     {Type: subscription.AuthAPIKey, Header: "x-api-key", Value: subscription.NewHidden("hunter2")},
	} {
		target := testTarget(t, func(s *subscription.Subscription) { s.Auth = auth })
		q := target.requests.Get().(*request)
		if q.header.Get(typ) == "" {
			t.Errorf("%s isn't sent", typ)
		}
		for i := range 4 { // the last ones from what the first ones left
			d := &event.Delivery{ID: fmt.Sprintf("msg_%d", i), EventID: fmt.Sprintf("evt_%d", i), Body: []byte("{}")}
			if i == 2 {
				d.ReplayID = "rpl_1"
			}
			q.fill(d, i+1, fmt.Sprintf("trace-%d", i), time.Now())
			got := q.record(target)
			if got[typ] != "***" || len(got) != len(q.header) {
				t.Errorf("request %d is recorded as %v", i, got)
			}
			for name, values := range q.header {
				if name != typ && got[name] != values[0] {
					t.Errorf("request %d: %s is recorded as %q, sent as %q", i, name, got[name], values[0])
				}
			}
		}
	}
}

func TestTimeoutIsBounded(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{0: 10 * time.Second, time.Second: time.Second, time.Hour: 30 * time.Second} {
		got := testTarget(t, func(s *subscription.Subscription) { s.Request.Timeout = subscription.Duration(given) }).timeout
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
	h["Set-Cookie"] = []string{"a=1", "b=2"}
	got := map[string]string{}
	recorded(got, http.Header{"Set-Cookie": h["Set-Cookie"]})
	if got["Set-Cookie"] != "a=1, b=2" {
		t.Errorf("got %v", got)
	}
	recorded(got, h)
	if len(got) > keptHeaders {
		t.Errorf("%d headers are kept", len(got))
	}
}
