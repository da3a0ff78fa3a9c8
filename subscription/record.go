package subscription

import (
	"encoding/json"
	"fmt"

	"github.com/callstream/callstream/schemas/event"
)

// Record returns what the feed carries of s in an epoch.
func (s *Subscription) Record(epoch int64) (*event.SubscriptionRecord, error) {
	spec, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("write subscription %s as JSON: %w", s.ID, err)
	}
	return &event.SubscriptionRecord{
		ID: s.ID, Tenant: s.Tenant, Version: s.Version, Epoch: epoch, UpdatedAt: s.UpdatedAt,
		Spec: string(spec), Secrets: s.Clone().Sealed,
	}, nil
}

// Deleted returns the record that ends a subscription. It has the version after the last one.
func Deleted(id, tenant string, version, epoch int64) *event.SubscriptionRecord {
	return &event.SubscriptionRecord{ID: id, Tenant: tenant, Version: version, Epoch: epoch, Deleted: true}
}

// FromRecord reads a record of the feed. It is nil, without an error, for a record that says the subscription was
// deleted. Members this build doesn't know are passed over: a newer console may already write them.
func FromRecord(r *event.SubscriptionRecord) (*Subscription, error) {
	if r.Deleted {
		return nil, nil
	}
	s := &Subscription{}
	if err := json.Unmarshal([]byte(r.Spec), s); err != nil {
		return nil, fmt.Errorf("read subscription %s version %d: %w", r.ID, r.Version, err)
	}
	s.ID, s.Tenant, s.Version, s.Sealed = r.ID, r.Tenant, r.Version, r.Secrets
	s.setDefaults()
	return s, nil
}

// Newer says whether a record of (epoch, version) replaces one of (epoch2, version2). The epoch goes first: a database
// that was restored from a backup counts its versions from an older number, in a newer epoch.
func Newer(epoch, version, epoch2, version2 int64) bool {
	if epoch != epoch2 {
		return epoch > epoch2
	}
	return version > version2
}
