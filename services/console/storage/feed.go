package storage

import (
	"encoding/json"
	"fmt"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/schemas/event"
)

// SubscriptionEntry turns a record of the feed into the entry that it was.
func SubscriptionEntry(r event.SubscriptionRecord) (Entry, error) {
	secrets, err := json.Marshal(r.Secrets)
	if err != nil {
		return Entry{}, fmt.Errorf("write the secrets of %s as JSON: %w", r.ID, err)
	}
	if len(r.Secrets) == 0 {
		secrets = []byte("{}")
	}
	e := subscriptionEntry(r.ID, r.Tenant, r.Version, r.Deleted, r.Spec, string(secrets))
	e.At = r.UpdatedAt
	return e, nil
}

// KeyEntry turns a record of the feed into the entry that it was.
func KeyEntry(r event.KeyRecord) (Entry, error) {
	k := Key{
		Key:     auth.Key{ID: r.ID, Tenant: r.Tenant, Name: r.Name, Hash: r.Hash, Scopes: r.Scopes, ExpiresAt: r.ExpiresAt},
		Version: r.Version, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
	e, err := keyEntry(k, r.Deleted)
	e.At = r.UpdatedAt
	return e, err
}

// SealedSecrets are the sealed secrets of a subscription's entry, by field.
func (e Entry) SealedSecrets() (map[string]string, error) {
	secrets := map[string]string{}
	if len(e.Secrets) > 0 {
		if err := json.Unmarshal(e.Secrets, &secrets); err != nil {
			return nil, fmt.Errorf("read the sealed secrets of %s: %w", e.ID, err)
		}
	}
	return secrets, nil
}
