package subscription

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/callstream/callstream/pkg/secret"
)

// The ways to authenticate at an endpoint.
const (
	AuthNone   = "none"
	AuthBearer = "bearer"
	AuthBasic  = "basic"
	AuthAPIKey = "api_key"
	AuthOAuth2 = "oauth2"
	AuthMTLS   = "mtls"
)

// The signature schemes.
const (
	SigningHMAC    = "hmac"
	SigningEd25519 = "ed25519"
	SigningNone    = "none"
)

// The names of the sealed fields, which are part of what seals them.
const (
	FieldSigning      = "signing.secret"
	FieldToken        = "auth.token"
	FieldPassword     = "auth.password"
	FieldValue        = "auth.value"
	FieldClientSecret = "auth.client_secret"
	FieldPrivateKey   = "auth.private_key"
)

// Hidden is a secret member of the document. It can be written, never read: as JSON and in logs it only says whether it
// is set. Reading {"set": true} keeps the secret that is stored, so that an object that was read can be sent back.
type Hidden struct {
	plain string
	set   bool
}

// NewHidden returns a Hidden that holds plain.
func NewHidden(plain string) Hidden { return Hidden{plain: plain, set: plain != ""} }

// IsZero says that no secret is set.
func (h Hidden) IsZero() bool { return !h.set }

// String never shows the secret.
func (h Hidden) String() string {
	if h.set {
		return "[set]"
	}
	return "[not set]"
}

// GoString never shows the secret.
func (h Hidden) GoString() string { return h.String() }

// MarshalJSON says whether the secret is set.
func (h Hidden) MarshalJSON() ([]byte, error) {
	if h.set {
		return []byte(`{"set":true}`), nil
	}
	return []byte(`{"set":false}`), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (h *Hidden) UnmarshalJSON(raw []byte) error {
	var v struct {
		Set bool `json:"set"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	*h = Hidden{set: v.Set}
	return nil
}

func (h *Hidden) decode(dec *decoder, at pointer, v any) {
	switch v := v.(type) {
	case string:
		if v == "" {
			dec.fault(at, "the secret is empty")
		}
		*h = NewHidden(v)
		return
	case map[string]any:
		if set, ok := v["set"].(bool); ok && len(v) == 1 {
			h.set = set
			return
		}
	}
	dec.fault(at, `want the secret as a string, or {"set": true} to keep it`)
}

// Auth says how a delivery authenticates at the endpoint.
type Auth struct {
	Type     string `json:"type"`
	Token    Hidden `json:"token,omitzero"`
	Username string `json:"username,omitempty"`
	Password Hidden `json:"password,omitzero"`
	Header   string `json:"header,omitempty"`
	Value    Hidden `json:"value,omitzero"`

	TokenURL     string   `json:"token_url,omitempty"`
	ClientID     string   `json:"client_id,omitempty"`
	ClientSecret Hidden   `json:"client_secret,omitzero"`
	Scopes       []string `json:"scopes,omitempty"`

	Certificate string `json:"certificate,omitempty"`
	PrivateKey  Hidden `json:"private_key,omitzero"`
}

// member of Auth, and what it means for each type.
type authMember struct {
	name  string
	given bool
}

func (a *Auth) members() map[string][]authMember {
	return map[string][]authMember{
		AuthBearer: {{"token", a.Token.set}},
		AuthBasic:  {{"username", a.Username != ""}, {"password", a.Password.set}},
		AuthAPIKey: {{"header", a.Header != ""}, {"value", a.Value.set}},
		AuthOAuth2: {{"token_url", a.TokenURL != ""}, {"client_id", a.ClientID != ""}, {"client_secret", a.ClientSecret.set}, {"scopes", len(a.Scopes) > 0}},
		AuthMTLS:   {{"certificate", a.Certificate != ""}, {"private_key", a.PrivateKey.set}},
	}
}

func (a *Auth) validate(dec *decoder, at pointer) {
	if !slices.Contains([]string{AuthNone, AuthBearer, AuthBasic, AuthAPIKey, AuthOAuth2, AuthMTLS}, a.Type) {
		dec.fault(at.member("type"), "want none, bearer, basic, api_key, oauth2 or mtls")
		return
	}
	for typ, members := range a.members() {
		for _, m := range members {
			switch {
			case typ == a.Type && !m.given && m.name != "scopes":
				dec.faultf(at.member(m.name), "%s needs it", typ)
			case typ != a.Type && m.given:
				dec.faultf(at.member(m.name), "it doesn't belong to the type %s", a.Type)
			}
		}
	}
	if a.Type == AuthBasic && strings.Contains(a.Username, ":") {
		dec.fault(at.member("username"), "a colon can't be sent in a user name (RFC 7617)")
	}
	if a.Header != "" {
		if detail := headerNameFault(a.Header); detail != "" && !strings.EqualFold(a.Header, "Authorization") {
			dec.fault(at.member("header"), detail)
		}
	}
	for name, h := range map[string]Hidden{"token": a.Token, "password": a.Password, "value": a.Value} {
		switch {
		case len(h.plain) > maxSecret:
			dec.faultf(at.member(name), "longer than %d bytes", maxSecret)
		case name != "password" && !validHeaderValue(h.plain), hasControl(h.plain):
			dec.fault(at.member(name), "has characters that a header can't carry")
		}
	}
	text(dec, at.member("username"), a.Username, maxName)
}

const maxSecret = 8192

// Signing says how deliveries are signed.
type Signing struct {
	Scheme string `json:"scheme"`
	// Secret may be given when the subscription is created, to keep one that an endpoint already knows; else it is made.
	Secret    Hidden `json:"secret,omitzero"`
	PublicKey string `json:"public_key,omitempty"`
}

// SigningPrefix starts a signing secret, as Standard Webhooks has it.
const SigningPrefix = "whsec_"

func (s *Signing) validate(dec *decoder, at pointer) {
	if !slices.Contains([]string{SigningHMAC, SigningEd25519, SigningNone}, s.Scheme) {
		dec.fault(at.member("scheme"), "want hmac, ed25519 or none")
	}
	if s.Secret.plain != "" {
		if _, err := SigningKey(s.Secret.plain); err != nil {
			dec.fault(at.member("secret"), err.Error())
		}
	}
	if s.PublicKey != "" {
		dec.fault(at.member("public_key"), "it is read-only")
	}
}

// SigningKey returns the key in a signing secret: whsec_ and the base64 of 24 to 64 bytes.
func SigningKey(plain string) ([]byte, error) {
	body, ok := strings.CutPrefix(plain, SigningPrefix)
	if !ok {
		return nil, fmt.Errorf("want %s and the base64 of 24 to 64 bytes", SigningPrefix)
	}
	key, err := base64.StdEncoding.DecodeString(body)
	if err != nil || len(key) < 24 || len(key) > 64 {
		return nil, fmt.Errorf("want %s and the base64 of 24 to 64 bytes", SigningPrefix)
	}
	return key, nil
}

// NewSigningSecret makes a signing secret of 32 random bytes.
func NewSigningSecret() (string, error) {
	key, err := randomBytes(32)
	if err != nil {
		return "", fmt.Errorf("make a signing secret: %w", err)
	}
	return SigningPrefix + base64.StdEncoding.EncodeToString(key), nil
}

// hidden are the secret members by their sealed name.
func (s *Subscription) hidden() map[string]*Hidden {
	return map[string]*Hidden{
		FieldSigning:      &s.Signing.Secret,
		FieldToken:        &s.Auth.Token,
		FieldPassword:     &s.Auth.Password,
		FieldValue:        &s.Auth.Value,
		FieldClientSecret: &s.Auth.ClientSecret,
		FieldPrivateKey:   &s.Auth.PrivateKey,
	}
}

// Seal moves the secrets that were written into Sealed and forgets them. Sealed secrets of members that are no longer
// set are dropped. The subscription must have its ID and Tenant: they are part of the seal.
func (s *Subscription) Seal(box *secret.Box) error {
	sealed := make(map[string]string, len(s.Sealed)+1)
	for field, h := range s.hidden() {
		switch {
		case h.plain != "":
			v, err := box.Seal([]byte(h.plain), s.Tenant, s.ID, field)
			if err != nil {
				return fmt.Errorf("seal %s: %w", field, err)
			}
			sealed[field] = v
			h.plain, h.set = "", true
		case h.set:
			v, ok := s.Sealed[field]
			if !ok {
				return fmt.Errorf("seal %s: it is marked as set, but nothing is stored", field)
			}
			sealed[field] = v
		}
	}
	s.Sealed = sealed
	return nil
}

// Credentials are a subscription's opened secrets. They print as nothing.
type Credentials struct {
	// Signing are the keys to sign with, the newest first; empty when the subscription doesn't sign.
	Signing [][]byte

	authType, username, header, secret string
}

// String never shows a secret.
func (Credentials) String() string { return "[credentials]" }

// GoString never shows a secret.
func (Credentials) GoString() string { return "[credentials]" }

// Open unseals what a delivery needs. An error wraps secret.ErrSealed when the encryption key is not the one that
// sealed.
func (s *Subscription) Open(box *secret.Box) (Credentials, error) {
	c := Credentials{authType: s.Auth.Type, username: s.Auth.Username, header: s.Auth.Header}
	open := func(field string) (string, error) {
		plain, err := box.Open(s.Sealed[field], s.Tenant, s.ID, field)
		if err != nil {
			return "", fmt.Errorf("open %s of %s: %w", field, s.ID, err)
		}
		return string(plain), nil
	}
	if s.Signing.Scheme == SigningHMAC {
		plain, err := open(FieldSigning)
		if err != nil {
			return Credentials{}, err
		}
		key, err := SigningKey(plain)
		if err != nil {
			return Credentials{}, fmt.Errorf("open %s of %s: %w", FieldSigning, s.ID, err)
		}
		c.Signing = [][]byte{key}
	}
	field := map[string]string{AuthBearer: FieldToken, AuthBasic: FieldPassword, AuthAPIKey: FieldValue}[s.Auth.Type]
	if field != "" {
		plain, err := open(field)
		if err != nil {
			return Credentials{}, err
		}
		c.secret = plain
	}
	return c, nil
}

// Authorize sets the header that authenticates at the endpoint, if the subscription has one.
func (c Credentials) Authorize(h http.Header) {
	switch c.authType {
	case AuthBearer:
		h.Set("Authorization", "Bearer "+c.secret)
	case AuthBasic:
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.username+":"+c.secret)))
	case AuthAPIKey:
		h.Set(c.header, c.secret)
	}
}

// SecretHeaders are the request headers whose values must be masked wherever a request is recorded.
func (s *Subscription) SecretHeaders() []string {
	switch s.Auth.Type {
	case AuthBearer, AuthBasic:
		return []string{"Authorization"}
	case AuthAPIKey:
		return []string{http.CanonicalHeaderKey(s.Auth.Header)}
	}
	return nil
}
