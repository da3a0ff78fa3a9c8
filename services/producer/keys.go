package producer

import (
	"sync"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/schemas/event"
)

// keys holds the API keys as the feed last told them. It is safe for concurrent use.
type keys struct {
	mu     sync.RWMutex
	byHash map[string]auth.Key
	byID   map[string]revision
}

// revision is how new the record of a key is that was applied last, a deletion too: an older one that comes after it
// must not bring the key back.
type revision struct {
	epoch, version int64
	hash           string // empty for a deleted key
}

func newKeys() *keys {
	return &keys{byHash: map[string]auth.Key{}, byID: map[string]revision{}}
}

// lookup finds a key by its hash.
func (k *keys) lookup(hash string) (auth.Key, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	key, ok := k.byHash[hash]
	return key, ok
}

// apply takes a record of the feed. A higher epoch outranks any version: it comes from a restored database.
func (k *keys) apply(r *event.KeyRecord) {
	k.mu.Lock()
	defer k.mu.Unlock()
	last, known := k.byID[r.ID]
	if known && (r.Epoch < last.epoch || r.Epoch == last.epoch && r.Version <= last.version) {
		return
	}
	if last.hash != "" {
		delete(k.byHash, last.hash)
	}
	if r.Deleted {
		k.byID[r.ID] = revision{epoch: r.Epoch, version: r.Version}
		return
	}
	k.byID[r.ID] = revision{epoch: r.Epoch, version: r.Version, hash: r.Hash}
	k.byHash[r.Hash] = auth.Key{ID: r.ID, Tenant: r.Tenant, Name: r.Name, Hash: r.Hash, Scopes: r.Scopes, ExpiresAt: r.ExpiresAt}
}

// forget drops what is known of a deleted key: its tombstone was read, so no older record of it can follow.
func (k *keys) forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if last, ok := k.byID[id]; ok {
		if last.hash != "" {
			delete(k.byHash, last.hash)
		}
		delete(k.byID, id)
	}
}
