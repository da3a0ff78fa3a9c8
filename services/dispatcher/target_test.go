package dispatcher

import (
	"testing"

	"github.com/callstream/callstream/pkg/secret"
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
