package console

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"github.com/oklog/ulid/v2"
)

// keyDocument is an API key as people see it.
type keyDocument struct {
	ID        string     `json:"id" readOnly:"true"`
	Tenant    string     `json:"tenant" readOnly:"true"`
	Name      string     `json:"name"`
	Scopes    []string   `json:"scopes"`
	CreatedAt time.Time  `json:"created_at" readOnly:"true"`
	UpdatedAt time.Time  `json:"updated_at" readOnly:"true"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	// Key is the key itself, shown when it is made and never again.
	Key string `json:"key,omitempty" readOnly:"true"`
}

func documentOf(k storage.Key) keyDocument {
	d := keyDocument{ID: k.ID, Tenant: k.Tenant, Name: k.Name, Scopes: k.Scopes, CreatedAt: k.CreatedAt, UpdatedAt: k.UpdatedAt}
	if !k.ExpiresAt.IsZero() {
		d.ExpiresAt = &k.ExpiresAt
	}
	return d
}

// keyRequest is the body of a request for a key.
type keyRequest struct {
	Name      string     `json:"name"`
	Scopes    []string   `json:"scopes"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"when the key ends; without it never"`
}

type createKey struct{ Document }

// KeyID is the id in a path. It is exported for huma, which sets embedded parameters by reflection.
type KeyID struct {
	ID string `path:"id" maxLength:"64"`
}

type actOnKey struct {
	KeyID
	Document
}

type oneKey struct {
	Status       int
	CacheControl string `header:"Cache-Control"`
	Body         keyDocument
}

type manyKeys struct{ Body list[keyDocument] }

func (a *apiSet) registerKeys() {
	const path = "/v1/keys"
	register(a, operation{id: "create-key", method: http.MethodPost, path: path, scope: auth.ScopeAdmin, status: http.StatusCreated, accepted: true,
		summary: "Create an API key; it is shown once", body: schemaOf[keyRequest](a),
		errors: []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}}, a.createKey)
	register(a, operation{id: "list-keys", method: http.MethodGet, path: path, scope: auth.ScopeAdmin,
		summary: "List API keys, newest first", errors: []int{http.StatusUnprocessableEntity}}, a.listKeys)
	register(a, operation{id: "delete-key", method: http.MethodDelete, path: path + "/{id}", scope: auth.ScopeAdmin, status: http.StatusNoContent, accepted: true,
		summary: "Revoke an API key", errors: []int{http.StatusNotFound}}, a.deleteKey)
	register(a, operation{id: "rotate-key", method: http.MethodPost, path: path + "/{id}/rotate", scope: auth.ScopeAdmin, accepted: true,
		summary: "Replace an API key; the one before is refused at once", body: schemaOf[nothing](a), bodyOptional: true, errors: []int{http.StatusNotFound, http.StatusUnprocessableEntity}}, a.rotateKey)
}

func (a *apiSet) createKey(ctx context.Context, store *storage.Store, p auth.Principal, in *createKey) (*oneKey, error) {
	request, err := parseKey(in.RawBody, a.deps.Now())
	if err != nil {
		return nil, err
	}
	request.Tenant = p.Tenant
	plain, key, receipt, err := addKey(ctx, store, request, p.Actor())
	if err != nil {
		return nil, err
	}
	out := documentOf(key)
	out.Key = plain
	return &oneKey{Status: statusOf(http.StatusCreated, a.inForce(ctx, store, storage.KindKey, receipt)), CacheControl: "no-store", Body: out}, nil
}

func (a *apiSet) listKeys(ctx context.Context, store *storage.Store, p auth.Principal, in *ListInput) (*manyKeys, error) {
	before, err := in.before()
	if err != nil {
		return nil, err
	}
	keys, err := store.Keys(ctx, p.Tenant, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	docs := make([]keyDocument, len(keys))
	for i, k := range keys {
		docs[i] = documentOf(k)
	}
	return &manyKeys{page(docs, in.Limit, func(d keyDocument) string { return d.ID })}, nil
}

func (a *apiSet) deleteKey(ctx context.Context, store *storage.Store, p auth.Principal, in *KeyID) (*noContent, error) {
	receipt, err := store.DeleteKey(ctx, p.Tenant, in.ID, storage.Change{Actor: p.Actor(), Action: actionDeleted})
	if err != nil {
		return nil, err
	}
	return &noContent{statusOf(http.StatusNoContent, a.inForce(ctx, store, storage.KindKey, receipt))}, nil
}

func (a *apiSet) rotateKey(ctx context.Context, store *storage.Store, p auth.Principal, in *actOnKey) (*oneKey, error) {
	if err := onlyMembers(in.RawBody); err != nil {
		return nil, err
	}
	plain, hash, err := auth.NewSecret()
	if err != nil {
		return nil, err
	}
	key, receipt, err := store.RotateKey(ctx, p.Tenant, in.ID, hash, storage.Change{Actor: p.Actor(), Action: actionRotated})
	if err != nil {
		return nil, err
	}
	out := documentOf(key)
	out.Key = plain
	return &oneKey{Status: statusOf(http.StatusOK, a.inForce(ctx, store, storage.KindKey, receipt)), CacheControl: "no-store", Body: out}, nil
}

// NewKey is a request for an API key.
type NewKey struct {
	Tenant string
	Name   string
	Scopes []string
	// ExpiresAt is when the key ends; zero means never.
	ExpiresAt time.Time
}

// CreatedKey is an API key with the plain key, which is shown to its owner and kept nowhere.
type CreatedKey struct {
	auth.Key
	CreatedAt time.Time
	Plain     string
}

// CreateKey makes an API key in the database itself: it works with the console running or not, and is how the first key
// comes to be. A running console publishes it within a second; else the next one does. An error of what was asked for is
// a subscription.Faults.
func CreateKey(ctx context.Context, cfg Config, request NewKey) (CreatedKey, error) {
	if faults := request.validate(time.Now()); len(faults) > 0 {
		return CreatedKey{}, faults
	}
	if !auth.ValidTenant(request.Tenant) {
		return CreatedKey{}, subscription.Faults{{Pointer: "#/tenant", Detail: "want up to 64 letters, digits, '.', '_' and '-'"}}
	}
	store, err := storage.Open(ctx, cfg.storage(nil))
	if err != nil {
		return CreatedKey{}, err
	}
	defer store.Close()
	plain, key, _, err := addKey(ctx, store, request, "cli")
	if err != nil {
		return CreatedKey{}, err
	}
	return CreatedKey{Key: key.Key, CreatedAt: key.CreatedAt, Plain: plain}, nil
}

func addKey(ctx context.Context, store *storage.Store, request NewKey, actor string) (string, storage.Key, storage.Receipt, error) {
	plain, hash, err := auth.NewSecret()
	if err != nil {
		return "", storage.Key{}, 0, err
	}
	key := storage.Key{Key: auth.Key{ID: "key_" + ulid.Make().String(), Tenant: request.Tenant, Name: request.Name, Hash: hash,
		Scopes: request.Scopes, ExpiresAt: request.ExpiresAt}}
	receipt, err := store.CreateKey(ctx, &key, storage.Change{Actor: actor, Action: actionCreated,
		Detail: map[string]any{"name": request.Name, "scopes": request.Scopes}})
	return plain, key, receipt, err
}

// maxKeyName is the length of a key's longest name, in characters.
const maxKeyName = 200

func (k *NewKey) validate(now time.Time) subscription.Faults {
	var faults subscription.Faults
	fault := func(pointer, detail string) {
		faults = append(faults, problem.Fault{Pointer: problem.Pointer(pointer), Detail: detail})
	}
	if k.Name == "" || utf8.RuneCountInString(k.Name) > maxKeyName || strings.ContainsFunc(k.Name, unicode.IsControl) {
		fault("/name", fmt.Sprintf("want a name of 1 to %d characters", maxKeyName))
	}
	if len(k.Scopes) == 0 {
		fault("/scopes", "want at least one of "+strings.Join(auth.Scopes(), ", "))
	}
	for i, s := range k.Scopes {
		if !auth.ValidScope(s) {
			fault(fmt.Sprintf("/scopes/%d", i), "want one of "+strings.Join(auth.Scopes(), ", "))
		} else if slices.Contains(k.Scopes[:i], s) {
			fault(fmt.Sprintf("/scopes/%d", i), "given twice")
		}
	}
	if !k.ExpiresAt.IsZero() && (!k.ExpiresAt.After(now) || k.ExpiresAt.Year() > 9999) {
		fault("/expires_at", "want a time to come")
	}
	return faults
}

// parseKey reads the body of a request for a key.
func parseKey(raw []byte, now time.Time) (NewKey, error) {
	object, err := subscription.ParseObject(raw)
	if err != nil {
		return NewKey{}, err
	}
	var k NewKey
	var faults subscription.Faults
	fault := func(pointer, detail string) {
		faults = append(faults, problem.Fault{Pointer: problem.Pointer(pointer), Detail: detail})
	}
	for name, v := range object {
		bad := false
		switch {
		case v == nil:
		case name == "name":
			k.Name, bad = asString(v)
		case name == "scopes":
			list, ok := v.([]any)
			bad = !ok
			for _, item := range list {
				s, _ := asString(item)
				k.Scopes = append(k.Scopes, s)
			}
		case name == "expires_at":
			s, _ := asString(v)
			k.ExpiresAt, err = time.Parse(time.RFC3339, s)
			bad = err != nil
		default:
			fault("/"+escapePointer(name), "there is no such member")
		}
		if bad {
			fault("/"+name, map[string]string{"name": "want a string", "scopes": "want an array", "expires_at": "want a time as RFC 3339 has it"}[name])
		}
	}
	for _, f := range k.validate(now) {
		if !slices.ContainsFunc(faults, func(have problem.Fault) bool { return have.Pointer == f.Pointer }) {
			faults = append(faults, f)
		}
	}
	if len(faults) > 0 {
		return NewKey{}, faults
	}
	return k, nil
}

func asString(v any) (s string, bad bool) {
	s, ok := v.(string)
	return s, !ok
}
