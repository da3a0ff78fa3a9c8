package console

import (
	"encoding/json"
	"time"

	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/webhook"
	"github.com/callstream/callstream/subscription"
)

// exampleID is the subscription of the document's examples.
const exampleID = "sub_01JH3XW8E1Z5C9V7K2M4N6P8QR"

// exampleDocument is what the document shows of creating a subscription.
func exampleDocument() map[string]any {
	return map[string]any{
		"name": "CRM", "url": "https://crm.example.com/hooks", "events": []string{"call.*", "transcript.ready"},
		"filter":  "event.data.disposition == 'qualified'",
		"payload": map[string]any{"profile": "standard", "redact": []string{"payment"}},
		"auth":    map[string]any{"type": "bearer", "token": "the endpoint's token"},
		"ttl":     map[string]any{"default": "24h", "call.ringing": "1m"},
	}
}

// exampleSubscription is what becomes of exampleDocument; nil where it can't be made.
func exampleSubscription(log *zap.Logger) *shownSubscription {
	raw, err := json.Marshal(exampleDocument())
	if err != nil {
		log.Error("the example of the OpenAPI document can't be written", zap.Error(err))
		return nil
	}
	sub, err := subscription.Parse(raw, subscription.Rules{})
	if err != nil {
		log.Error("the example of the OpenAPI document is not valid", zap.Error(err))
		return nil
	}
	sub.ID, sub.Tenant, sub.State, sub.Version = exampleID, "acme", subscription.StateActive, 2
	sub.Signing.Secret = subscription.NewHidden("shown as set alone")
	sub.CreatedAt = time.Date(2026, 1, 20, 10, 0, 0, 0, time.UTC)
	sub.UpdatedAt = sub.CreatedAt.Add(time.Minute)
	return &shownSubscription{Subscription: sub}
}

// withSecret is the example of an answer that shows a secret.
func withSecret(s *shownSubscription) *shownSubscription {
	if s == nil {
		return nil
	}
	return &shownSubscription{Subscription: s.Subscription, Secret: webhook.PrefixSecret + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwmI3zH1Xj0hk="}
}
