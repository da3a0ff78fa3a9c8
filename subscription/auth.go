package subscription

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strconv"
	"strings"
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

// Auth says how a delivery authenticates at the endpoint.
type Auth struct {
	Type     string `json:"type" enum:"none,bearer,basic,api_key,oauth2,mtls" doc:"the way (none); each takes the members named after it"`
	Token    Hidden `json:"token,omitzero" doc:"bearer: the token"`
	Username string `json:"username,omitempty" maxLength:"200" doc:"basic: the user"`
	Password Hidden `json:"password,omitzero" doc:"basic: the password"`
	Header   string `json:"header,omitempty" doc:"api_key: the header's name"`
	Value    Hidden `json:"value,omitzero" doc:"api_key: the header's value"`

	TokenURL     string   `json:"token_url,omitempty" maxLength:"2048" doc:"oauth2: where tokens are fetched, by client credentials"`
	ClientID     string   `json:"client_id,omitempty" doc:"oauth2: the client"`
	ClientSecret Hidden   `json:"client_secret,omitzero" doc:"oauth2: its secret"`
	Scopes       []string `json:"scopes,omitempty" doc:"oauth2: what is asked for"`

	Certificate string `json:"certificate,omitempty" doc:"mtls: the client certificate and its chain, PEM"`
	PrivateKey  Hidden `json:"private_key,omitzero" doc:"mtls: the certificate's key, PEM"`
}

// authMember is a member of Auth that belongs to one type.
type authMember struct {
	typ, name string
	given     bool
}

func (a *Auth) members() []authMember {
	return []authMember{
		{AuthBearer, "token", a.Token.set},
		{AuthBasic, "username", a.Username != ""}, {AuthBasic, "password", a.Password.set},
		{AuthAPIKey, "header", a.Header != ""}, {AuthAPIKey, "value", a.Value.set},
		{AuthOAuth2, "token_url", a.TokenURL != ""}, {AuthOAuth2, "client_id", a.ClientID != ""},
		{AuthOAuth2, "client_secret", a.ClientSecret.set}, {AuthOAuth2, "scopes", len(a.Scopes) > 0},
		{AuthMTLS, "certificate", a.Certificate != ""}, {AuthMTLS, "private_key", a.PrivateKey.set},
	}
}

// Limits of what authenticates.
const (
	maxSecret      = 8 << 10
	maxScopes      = 50
	maxScope       = 256
	maxCertificate = 64 << 10
)

func (a *Auth) validate(dec *decoder, at pointer, rules Rules) {
	if !slices.Contains([]string{AuthNone, AuthBearer, AuthBasic, AuthAPIKey, AuthOAuth2, AuthMTLS}, a.Type) {
		dec.fault(at.member("type"), "want none, bearer, basic, api_key, oauth2 or mtls")
		return
	}
	for _, m := range a.members() {
		switch {
		case m.typ == a.Type && !m.given && m.name != "scopes":
			dec.faultf(at.member(m.name), "%s needs it", a.Type)
		case m.typ != a.Type && m.given:
			dec.faultf(at.member(m.name), "it doesn't belong to the type %s", a.Type)
		}
	}
	if strings.Contains(a.Username, ":") {
		dec.fault(at.member("username"), "a colon can't be sent in a user name (RFC 7617)")
	}
	text(dec, at.member("username"), a.Username, maxName)
	if a.Header != "" {
		if detail := headerNameFault(a.Header); detail != "" && !strings.EqualFold(a.Header, "Authorization") && !strings.EqualFold(a.Header, "Cookie") {
			dec.fault(at.member("header"), detail)
		}
	}
	a.validateSecret(dec, at.member("token"), a.Token.plain)
	a.validateSecret(dec, at.member("value"), a.Value.plain)
	if len(a.Password.plain) > maxSecret || hasControl(a.Password.plain) {
		dec.faultf(at.member("password"), "want up to %d bytes without control characters", maxSecret)
	}
	a.validateOAuth2(dec, at, rules)
	a.validateCertificate(dec, at)
}

// validateSecret checks a secret that stands in a header as it is.
func (a *Auth) validateSecret(dec *decoder, at pointer, plain string) {
	if len(plain) > maxSecret || !validHeaderValue(plain) {
		dec.faultf(at, "want up to %d printable ASCII characters, as a header carries them", maxSecret)
	}
}

func (a *Auth) validateOAuth2(dec *decoder, at pointer, rules Rules) {
	if a.TokenURL != "" {
		if detail := checkURL(a.TokenURL, rules); detail != "" {
			dec.fault(at.member("token_url"), detail)
		}
	}
	text(dec, at.member("client_id"), a.ClientID, maxName)
	if len(a.ClientSecret.plain) > maxSecret || hasControl(a.ClientSecret.plain) {
		dec.faultf(at.member("client_secret"), "want up to %d bytes without control characters", maxSecret)
	}
	if len(a.Scopes) > maxScopes {
		dec.faultf(at.member("scopes"), "more than %d", maxScopes)
		return
	}
	for i, scope := range a.Scopes {
		if scope == "" || len(scope) > maxScope || strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			dec.faultf(at.member("scopes").index(i), "want up to %d printable ASCII characters without spaces, quotes and backslashes (RFC 6749)", maxScope)
		}
	}
}

// validateCertificate checks the chain, and the key where it is at hand: one that is stored was checked when it came.
func (a *Auth) validateCertificate(dec *decoder, at pointer) {
	if a.Certificate != "" {
		if detail := certificateFault(a.Certificate); detail != "" {
			dec.fault(at.member("certificate"), detail)
			return
		}
	}
	if key := a.PrivateKey.plain; key != "" && a.Certificate != "" {
		if len(key) > maxCertificate {
			dec.faultf(at.member("private_key"), "longer than %d bytes", maxCertificate)
		} else if _, err := tls.X509KeyPair([]byte(a.Certificate), []byte(key)); err != nil {
			// What crypto/tls says tells what kind of block it found or misses, and no bytes of it.
			dec.fault(at.member("private_key"), "want the certificate's private key as unencrypted PEM: "+strings.TrimPrefix(err.Error(), "tls: "))
		}
	}
}

// certificateFault returns why text is no chain of certificates, or "".
func certificateFault(chain string) string {
	if len(chain) > maxCertificate {
		return "longer than " + strconv.Itoa(maxCertificate) + " bytes"
	}
	rest := []byte(chain)
	for n := 1; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 1 || len(bytes.TrimSpace(rest)) > 0 {
				return "want PEM: the client's certificate, then those that lead to its authority"
			}
			return ""
		}
		if block.Type != "CERTIFICATE" {
			return "it has a " + shorten(block.Type) + " in it: only certificates belong here, the key goes into private_key"
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "its certificate " + strconv.Itoa(n) + " does not parse: " + shorten(err.Error())
		}
	}
}
