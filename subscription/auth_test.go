package subscription

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/secret"
)

// certificate makes a self-signed certificate and its private key, as PEM.
func certificate(t *testing.T) (chain, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "callstream"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

func quote(s string) string {
	raw, _ := json.Marshal(s)
	return string(raw)
}

func with(members string) string {
	return `{"url":"https://x.example","events":["*"],` + members + `}`
}

// S1-08, S3-14: every way to authenticate is kept, opened where it is used, and read by nobody.
func TestSecretsAreWriteOnly(t *testing.T) {
	const planted = "planted-secret-0f3a"
	chain, key := certificate(t)
	for _, c := range []struct{ auth, sent, header string }{
		{`{"type":"bearer","token":"` + planted + `"}`, planted, "Authorization"},
		{`{"type":"basic","username":"u","password":"` + planted + `"}`, planted, "Authorization"},
		{`{"type":"api_key","header":"X-Api-Key","value":"` + planted + `"}`, planted, "X-Api-Key"},
		{`{"type":"oauth2","token_url":"https://id.example/token","client_id":"c","client_secret":"` + planted + `","scopes":["a","b"]}`, planted, "Authorization"},
		{`{"type":"mtls","certificate":` + quote(chain) + `,"private_key":` + quote(key) + `}`, key[40:80], ""},
	} {
		s, box := sealed(t, with(`"auth":`+c.auth))
		raw, err := json.Marshal(s)
		require.NoError(t, err)
		require.Contains(t, string(raw), `{"set":true}`)
		record, err := s.Record(1)
		require.NoError(t, err)
		opened, err := s.Open(box, now)
		require.NoError(t, err)
		oauth2, _ := opened.OAuth2()
		for _, shown := range []string{
			string(raw), fmt.Sprint(record), fmt.Sprintf("%v %+v %#v", s, s, s), fmt.Sprintf("%v %+v %#v", opened, opened, opened),
			fmt.Sprintf("%#v", s.Auth), fmt.Sprintf("%v %+v %#v", oauth2, oauth2, oauth2),
		} {
			require.NotContains(t, shown, c.sent)
		}
		if c.header != "" {
			require.Equal(t, []string{c.header}, s.SecretHeaders())
		} else {
			require.Empty(t, s.SecretHeaders())
		}
		h := http.Header{}
		opened.Authorize(h)
		if s.Auth.Type != AuthOAuth2 && s.Auth.Type != AuthMTLS {
			require.Len(t, h, 1)
			require.NotEmpty(t, h.Get(c.header))
		} else {
			require.Empty(t, h)
		}
		back, err := FromRecord(record)
		require.NoError(t, err)
		again, err := back.Open(box, now)
		require.NoError(t, err)
		require.Equal(t, opened.Signing, again.Signing)
		// Sealed for this subscription alone.
		back.ID = "sub_2"
		_, err = back.Open(box, now)
		require.ErrorIs(t, err, secret.ErrSealed)
	}
}

func TestWhatAuthOpensTo(t *testing.T) {
	chain, key := certificate(t)
	s, box := sealed(t, with(`"auth":{"type":"oauth2","token_url":"https://id.example/token","client_id":"c","client_secret":"s","scopes":["a","b"]}`))
	c, err := s.Open(box, now)
	require.NoError(t, err)
	grant, ok := c.OAuth2()
	require.True(t, ok)
	require.Equal(t, OAuth2{TokenURL: "https://id.example/token", ClientID: "c", ClientSecret: "s", Scopes: []string{"a", "b"}}, grant)
	_, ok = c.Certificate()
	require.False(t, ok)

	s, box = sealed(t, with(`"auth":{"type":"mtls","certificate":`+quote(chain)+`,"private_key":`+quote(key)+`}`))
	c, err = s.Open(box, now)
	require.NoError(t, err)
	pair, ok := c.Certificate()
	require.True(t, ok)
	require.Equal(t, "callstream", pair.Leaf.Subject.CommonName)
	_, ok = c.OAuth2()
	require.False(t, ok)
}

// A cookie is a secret, so auth is where it goes.
func TestACookieIsAuth(t *testing.T) {
	s := parse(t, with(`"auth":{"type":"api_key","header":"Cookie","value":"session=1; a=b"}`))
	require.Equal(t, "Cookie", s.Auth.Header)
	_, err := Parse([]byte(with(`"request":{"headers":{"Cookie":"session=1"}}`)), Rules{})
	require.ErrorContains(t, err, "use auth")
}

// S2-12: without TLS there is nobody to show a certificate to.
func TestCertificatesNeedTLS(t *testing.T) {
	chain, key := certificate(t)
	auth := `"auth":{"type":"mtls","certificate":` + quote(chain) + `,"private_key":` + quote(key) + `}`
	document := func(url, route string) []byte {
		return []byte(`{"url":"` + url + `","events":["*"],"request":{"routes":{"call.*":"` + route + `"}},` + auth + `}`)
	}
	for _, c := range []struct{ url, route, place string }{
		{"http://x.example", "/calls", "#/url"}, {"https://x.example", "http://y.example/calls", "#/request/routes/call.*"},
	} {
		_, err := Parse(document(c.url, c.route), Rules{AllowHTTP: true})
		var faults Faults
		require.ErrorAs(t, err, &faults)
		require.Equal(t, Faults{{Pointer: c.place, Detail: "auth.type mtls needs https"}}, faults)
	}
	_, err := Parse(document("https://x.example", "/calls"), Rules{AllowHTTP: true})
	require.NoError(t, err)
}

func TestFaultyAuthIsNamed(t *testing.T) {
	chain, key := certificate(t)
	_, other := certificate(t)
	for auth, want := range map[string]Faults{
		`{"type":"oauth2"}`: {
			{Pointer: "#/auth/client_id", Detail: "oauth2 needs it"}, {Pointer: "#/auth/client_secret", Detail: "oauth2 needs it"},
			{Pointer: "#/auth/token_url", Detail: "oauth2 needs it"},
		},
		`{"type":"oauth2","token_url":"http://id.example","client_id":"c","client_secret":"s","scopes":["a b",""]}`: {
			{Pointer: "#/auth/scopes/0"}, {Pointer: "#/auth/scopes/1"}, {Pointer: "#/auth/token_url"},
		},
		`{"type":"bearer","token":"t","scopes":["a"],"certificate":"x"}`: {{Pointer: "#/auth/certificate"}, {Pointer: "#/auth/scopes"}},
		`{"type":"none","token":"t"}`:                                    {{Pointer: "#/auth/token", Detail: "it doesn't belong to the type none"}},
		`{"type":"basic","username":"u","password":"a\u0000"}`:           {{Pointer: "#/auth/password"}},
		`{"type":"api_key","header":"Content-Type","value":"v"}`:         {{Pointer: "#/auth/header"}},
		`{"type":"api_key","header":"X-Key","value":" v"}`:               {{Pointer: "#/auth/value"}},
		`{"type":"mtls","certificate":"nonsense","private_key":"x"}`:     {{Pointer: "#/auth/certificate"}},
		`{"type":"mtls","certificate":` + quote(chain+key) + `,"private_key":` + quote(key) + `}`: {
			{Pointer: "#/auth/certificate", Detail: "it has a PRIVATE KEY in it: only certificates belong here, the key goes into private_key"},
		},
		`{"type":"mtls","certificate":` + quote(chain+"trailing") + `,"private_key":` + quote(key) + `}`: {{Pointer: "#/auth/certificate"}},
		`{"type":"mtls","certificate":` + quote(chain) + `,"private_key":` + quote(other) + `}`: {
			{Pointer: "#/auth/private_key", Detail: "want the certificate's private key as unencrypted PEM: private key does not match public key"},
		},
		`{"type":"mtls","certificate":` + quote(chain) + `,"private_key":"` + "planted" + `"}`: {{Pointer: "#/auth/private_key"}},
		`{"type":"api_key","header":"Host","value":"v"}`:                                       {{Pointer: "#/auth/header"}},
	} {
		_, err := Parse([]byte(with(`"auth":`+auth)), Rules{})
		var faults Faults
		require.ErrorAs(t, err, &faults, auth)
		require.Len(t, faults, len(want), "%s: %v", auth, faults)
		for i := range want {
			assert.Equal(t, want[i].Pointer, faults[i].Pointer, auth)
			assert.NotContains(t, faults[i].Detail, "planted")
			if want[i].Detail != "" {
				assert.Equal(t, want[i].Detail, faults[i].Detail, auth)
			}
		}
	}
}

// Secrets are write-only, so a patch can't have those that are stored sent to someone else.
func TestAStoredSecretGoesNowhereElse(t *testing.T) {
	chain, key := certificate(t)
	newChain, newKey := certificate(t)
	const (
		bearer = `"auth":{"type":"bearer","token":"t"}`
		oauth2 = `"auth":{"type":"oauth2","token_url":"https://id.example/token","client_id":"c","client_secret":"s"}`
	)
	mtls := `"auth":{"type":"mtls","certificate":` + quote(chain) + `,"private_key":` + quote(key) + `}`
	for _, c := range []struct{ auth, patch, fault string }{
		{bearer, `{"url":"https://evil.example"}`, "#/auth/token"},
		{bearer, `{"url":"https://evil.example","auth":{"token":{"set":true}}}`, "#/auth/token"},
		{bearer, `{"url":"https://evil.example","auth":{"token":"t2"}}`, ""},
		{bearer, `{"url":"https://x.example/elsewhere"}`, ""},
		{bearer, `{"request":{"routes":{"call.*":"https://evil.example"}}}`, "#/auth/token"},
		{bearer, `{"request":{"routes":{"call.*":"/path","sms.*":"https://x.example/sms"}}}`, ""},
		{bearer, `{"fallback_url":"https://b.example"}`, ""},
		{bearer, `{"url":"https://evil.example","auth":{"type":"none"}}`, ""},
		{oauth2, `{"auth":{"token_url":"https://evil.example"}}`, "#/auth/client_secret"},
		{oauth2, `{"auth":{"token_url":"https://evil.example","client_secret":"s2"}}`, ""},
		{oauth2, `{"auth":{"token_url":"https://id.example/v2/token"}}`, ""},
		{oauth2, `{"url":"https://evil.example"}`, "#/auth/client_secret"},
		{mtls, `{"url":"https://evil.example"}`, ""},
		{mtls, `{"auth":{"certificate":` + quote(newChain) + `}}`, "#/auth/private_key"},
		{mtls, `{"auth":{"certificate":` + quote(newChain) + `,"private_key":` + quote(newKey) + `}}`, ""},
	} {
		for _, state := range []State{StatePending, StateActive} {
			s, _ := sealed(t, with(c.auth))
			s.State = state
			_, err := s.Patch([]byte(c.patch), Rules{})
			if c.fault == "" {
				require.NoError(t, err, "%s %s", state, c.patch)
				continue
			}
			var faults Faults
			require.ErrorAs(t, err, &faults, "%s %s", state, c.patch)
			require.Len(t, faults, 1)
			require.Equal(t, c.fault, faults[0].Pointer)
		}
	}
}

// What serves goes on with the auth that it has: that of an endpoint which waits for its verification is not its business.
func TestAuthWaitsWithItsEndpoint(t *testing.T) {
	s, box := sealed(t, `{"url":"https://a.example","events":["*"],"auth":{"type":"bearer","token":"a"}}`)
	require.True(t, s.Verified(s.Unverified()))
	sends := func(s *Subscription) string {
		t.Helper()
		c, err := s.Open(box, now)
		require.NoError(t, err)
		h := http.Header{}
		c.Authorize(h)
		return h.Get("Authorization")
	}
	change := func(doc string) {
		t.Helper()
		s = patch(t, s, doc)
		require.NoError(t, s.Seal(box))
		record, err := s.Record(1)
		require.NoError(t, err)
		s, err = FromRecord(record)
		require.NoError(t, err)
	}
	refused := func(doc, place string) {
		t.Helper()
		_, err := s.Patch([]byte(doc), Rules{})
		var faults Faults
		require.ErrorAs(t, err, &faults, doc)
		require.Equal(t, place, faults[0].Pointer)
	}

	change(`{"url":"https://b.example","auth":{"token":"b"}}`)
	require.Equal(t, "Bearer a", sends(s))
	require.Equal(t, "Bearer b", sends(s.Proposed()))
	raw, err := json.Marshal(s)
	require.NoError(t, err)
	require.Contains(t, string(raw), `"pending_auth":{"type":"bearer","token":{"set":true}}`)
	change(string(raw))
	change(`{"name":"x","url":"https://b.example/elsewhere"}`)
	require.Equal(t, "https://b.example/elsewhere", s.PendingURL)
	require.Equal(t, "Bearer a", sends(s))
	require.Equal(t, "Bearer b", sends(s.Proposed()))

	// A change of auth is one of what waits, until that is in force or taken back.
	change(`{"auth":{"token":"b2"}}`)
	require.Equal(t, "Bearer a", sends(s))
	require.Equal(t, "Bearer b2", sends(s.Proposed()))
	refused(`{"url":"https://a.example","auth":{"token":{"set":true}}}`, "#/auth/token")
	refused(`{"url":"https://c.example"}`, "#/auth/token")
	refused(`{"request":{"routes":{"*":"https://c.example"}}}`, "#/auth/token")
	refused(`{"pending_auth":null}`, "#/pending_auth")
	back := s.Clone()
	change(`{"url":"https://a.example"}`)
	require.Nil(t, s.PendingAuth)
	require.Equal(t, "Bearer a", sends(s))
	require.Len(t, s.Sealed, 2)
	s = back
	change(`{"url":"https://a.example","auth":{"token":"a2"}}`)
	require.Nil(t, s.PendingAuth)
	require.Equal(t, "Bearer a2", sends(s))

	change(`{"request":{"routes":{"call.*":"https://c.example"}},"auth":{"type":"basic","username":"u","password":"p"}}`)
	require.Equal(t, "Bearer a2", sends(s))
	require.Equal(t, "Basic dTpw", sends(s.Proposed()))
	require.True(t, s.Verified(s.Unverified()))
	require.Equal(t, "Basic dTpw", sends(s))
	require.Nil(t, s.PendingAuth)
	require.NoError(t, s.Seal(box))
	require.Len(t, s.Sealed, 2, "the key, and the one secret")

	// The fallback is sent none, so nothing waits with it.
	change(`{"fallback_url":"https://d.example","auth":{"password":"p2"}}`)
	require.Nil(t, s.PendingAuth)
	require.Equal(t, "Basic dTpwMg==", sends(s))
	// A verified fallback was never sent auth, so it is as new as any when it becomes the endpoint.
	require.True(t, s.Verified(s.Unverified()))
	refused(`{"url":"https://d.example/main"}`, "#/auth/password")
}
