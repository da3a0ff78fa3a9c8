package subscription

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"
	"time"

	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/webhook"
)

// Credentials are a subscription's opened secrets. They print as nothing.
type Credentials struct {
	// Signing are the keys to sign with, the newest first; empty when the subscription doesn't sign.
	Signing []webhook.Key

	expires                    time.Time
	authType, username, header string
	secret                     string
	oauth2                     OAuth2
	certificate                tls.Certificate
}

// String never shows a secret.
func (Credentials) String() string { return "[credentials]" }

// GoString never shows a secret.
func (Credentials) GoString() string { return "[credentials]" }

// OAuth2 is what a token is asked for with: the client credentials grant (RFC 6749, section 4.4). It prints as nothing.
type OAuth2 struct {
	TokenURL, ClientID, ClientSecret string
	Scopes                           []string
}

// String never shows a secret.
func (OAuth2) String() string { return "[oauth2 client]" }

// GoString never shows a secret.
func (OAuth2) GoString() string { return "[oauth2 client]" }

func (s *Subscription) open(box *secret.Box, field string) (string, error) {
	plain, err := box.Open(s.Sealed[field], s.Tenant, s.ID, field)
	if err != nil {
		return "", fmt.Errorf("open %s of %s: %w", field, s.ID, err)
	}
	return string(plain), nil
}

// Open unseals what a delivery needs from now on, until Expires. An error wraps secret.ErrSealed when the encryption key
// is not the one that sealed.
func (s *Subscription) Open(box *secret.Box, now time.Time) (Credentials, error) {
	c := Credentials{authType: s.Auth.Type, username: s.Auth.Username, header: s.Auth.Header}
	if s.Signing.Scheme != SigningNone {
		fields := []string{FieldSigning}
		if now.Before(s.Signing.PreviousExpiresAt) {
			fields, c.expires = append(fields, FieldPrevious), s.Signing.PreviousExpiresAt
		}
		for _, field := range fields {
			plain, err := s.open(box, field)
			if err != nil {
				return Credentials{}, err
			}
			key, err := webhook.ParseKey(plain)
			if err != nil {
				return Credentials{}, fmt.Errorf("read %s of %s: %w", field, s.ID, err)
			}
			c.Signing = append(c.Signing, key)
		}
	}
	field, ok := map[string]string{
		AuthBearer: FieldToken, AuthBasic: FieldPassword, AuthAPIKey: FieldValue, AuthOAuth2: FieldClientSecret, AuthMTLS: FieldPrivateKey,
	}[s.Auth.Type]
	if !ok {
		return c, nil
	}
	plain, err := s.open(box, field)
	if err != nil {
		return Credentials{}, err
	}
	switch s.Auth.Type {
	case AuthOAuth2:
		c.oauth2 = OAuth2{TokenURL: s.Auth.TokenURL, ClientID: s.Auth.ClientID, ClientSecret: plain, Scopes: s.Auth.Scopes}
	case AuthMTLS:
		if c.certificate, err = tls.X509KeyPair([]byte(s.Auth.Certificate), []byte(plain)); err != nil {
			return Credentials{}, fmt.Errorf("read the certificate of %s: %w", s.ID, err)
		}
	default:
		c.secret = plain
	}
	return c, nil
}

// Expires is when the credentials must be opened anew: the previous signing key ends then. The zero time is never.
func (c Credentials) Expires() time.Time { return c.expires }

// Authorize sets the header that authenticates at the endpoint, if the subscription has one whose value is known. That of
// oauth2 is a token that has to be fetched.
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

// OAuth2 returns the client that fetches the tokens which authenticate at the endpoint, false for any other auth.
func (c Credentials) OAuth2() (OAuth2, bool) { return c.oauth2, c.authType == AuthOAuth2 }

// Certificate returns what authenticates at the endpoint by mutual TLS, false for any other auth.
func (c Credentials) Certificate() (tls.Certificate, bool) {
	return c.certificate, c.authType == AuthMTLS
}

// SecretHeaders are the request headers whose values must be masked wherever a request is recorded.
func (s *Subscription) SecretHeaders() []string {
	switch s.Auth.Type {
	case AuthBearer, AuthBasic, AuthOAuth2:
		return []string{"Authorization"}
	case AuthAPIKey:
		return []string{http.CanonicalHeaderKey(s.Auth.Header)}
	}
	return nil
}
