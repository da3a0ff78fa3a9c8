package auth_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/stretchr/testify/require"
)

func request(header ...string) *http.Request {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "http://127.0.0.1:8080/", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func TestKeys(t *testing.T) {
	plain, hash, err := auth.NewSecret()
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(plain, auth.KeyPrefix))
	require.Equal(t, hash, auth.Hash(plain))
	require.NotContains(t, hash, plain)
	now := time.Now()
	key := auth.Key{ID: "key_1", Tenant: "acme", Hash: hash, Scopes: []string{auth.ScopeEventsWrite}, ExpiresAt: now.Add(time.Minute)}
	down := false
	g := &auth.Guard{Now: func() time.Time { return now }, Lookup: func(_ context.Context, h string) (auth.Key, bool, error) {
		if down {
			return auth.Key{}, false, errors.New("down")
		}
		return key, h == hash, nil
	}}
	for _, header := range []string{"Bearer " + plain, "bearer " + plain} {
		p, refused := g.Authenticate(request("Authorization", header))
		require.Nil(t, refused)
		require.Equal(t, "acme", p.Tenant)
		require.True(t, p.Has(auth.ScopeEventsWrite))
		require.False(t, p.Has(auth.ScopeAdmin))
		require.Nil(t, auth.Require(p, auth.ScopeEventsWrite))
		require.Equal(t, http.StatusForbidden, auth.Require(p, auth.ScopeReplay).Status)
	}
	for _, header := range []string{"", "Bearer", "Bearer ", "Basic " + plain, plain, "Bearer " + plain + "x", "Bearer cs_"} {
		_, refused := g.Authenticate(request("Authorization", header))
		require.NotNil(t, refused, header)
		require.Equal(t, http.StatusUnauthorized, refused.Status)
		require.NotContains(t, refused.Error(), plain)
	}
	// The tenant header means nothing to a key.
	p, refused := g.Authenticate(request("Authorization", "Bearer "+plain, auth.TenantHeader, "other"))
	require.Nil(t, refused)
	require.Equal(t, "acme", p.Tenant)

	now = now.Add(time.Minute)
	_, refused = g.Authenticate(request("Authorization", "Bearer "+plain))
	require.Equal(t, http.StatusUnauthorized, refused.Status)
	down = true
	_, refused = g.Authenticate(request("Authorization", "Bearer "+plain))
	require.Equal(t, http.StatusServiceUnavailable, refused.Status)
	_, refused = (&auth.Guard{}).Authenticate(request("Authorization", "Bearer "+plain))
	require.Equal(t, http.StatusUnauthorized, refused.Status)
	// A lookup that finds by less than the whole hash does not let anyone in.
	sloppy := &auth.Guard{Lookup: func(context.Context, string) (auth.Key, bool, error) { return key, true, nil }, Now: func() time.Time { return now.Add(-time.Hour) }}
	_, refused = sloppy.Authenticate(request("Authorization", "Bearer cs_other"))
	require.Equal(t, http.StatusUnauthorized, refused.Status)
}

func TestAdminHasEveryScope(t *testing.T) {
	for _, scope := range auth.Scopes() {
		require.True(t, auth.Principal{Scopes: []string{auth.ScopeAdmin}}.Has(scope))
		require.True(t, auth.ValidScope(scope))
	}
	require.False(t, auth.ValidScope("root"))
}

func TestWithoutAuthenticationOnlyThisMachineIsServed(t *testing.T) {
	g := &auth.Guard{Off: true}
	p, refused := g.Authenticate(request())
	require.Nil(t, refused)
	require.Equal(t, auth.DefaultTenant, p.Tenant)
	require.True(t, p.Has(auth.ScopeAdmin))
	p, refused = g.Authenticate(request(auth.TenantHeader, "acme", "Origin", "http://localhost:8080"))
	require.Nil(t, refused)
	require.Equal(t, "acme", p.Tenant)

	for host, ok := range map[string]bool{"localhost": true, "LOCALHOST:80": true, "127.0.0.1:9": true, "[::1]:8080": true, "[::1]": true,
		"evil.example": false, "localhost.evil.example": false, "127.0.0.1.evil.example:80": false, "": false, "0.0.0.0": false, "127.0.0.2": false} {
		r := request()
		r.Host = host
		_, refused := g.Authenticate(r)
		require.Equal(t, ok, refused == nil, host)
	}
	for origin, ok := range map[string]bool{"http://127.0.0.1:8080": true, "https://[::1]": true, "null": false, "https://evil.example": false, "file://": false,
		"http://localhost.evil.example": false, "http://evil.example/localhost": false, "http://localhost@evil.example": false, "": false} {
		_, refused := g.Authenticate(request("Origin", origin))
		require.Equal(t, ok, refused == nil, origin)
		if !ok {
			require.Equal(t, http.StatusForbidden, refused.Status)
		}
	}
	for _, tenant := range []string{"", "a/b", "../x", strings.Repeat("a", 65), "a b", "ä", "\x00"} {
		_, refused := g.Authenticate(request(auth.TenantHeader, tenant))
		require.NotNil(t, refused, tenant)
		require.Equal(t, http.StatusBadRequest, refused.Status)
	}
	_, refused = g.Authenticate(request(auth.TenantHeader, "a", auth.TenantHeader, "b"))
	require.Equal(t, http.StatusBadRequest, refused.Status)
}

func TestLoopbackAddr(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1:8080": true, "localhost:0": true, "[::1]:8080": true, "127.9.9.9:1": true,
		":8080": false, "0.0.0.0:8080": false, "[::]:8080": false, "10.0.0.1:80": false, "example.com:80": false, "": false, "127.0.0.1": false} {
		require.Equal(t, want, auth.LoopbackAddr(addr), addr)
	}
}
