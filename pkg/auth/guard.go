package auth

import (
	"context"
	"crypto/subtle"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/callstream/callstream/pkg/problem"
)

// TenantHeader chooses the tenant of a request while authentication is off.
const TenantHeader = "X-Tenant"

// DefaultTenant is the tenant of a request without TenantHeader while authentication is off.
const DefaultTenant = "default"

// Guard decides who sent a request. The zero value refuses everyone.
type Guard struct {
	// Off lets every request from this machine pass as an admin. It is meant for a loopback address alone: the address
	// is checked where it is configured (LoopbackAddr), the names in the request here.
	Off bool
	// Lookup finds a key by its hash. An error means that it cannot be told now, and answers 503.
	Lookup func(ctx context.Context, hash string) (Key, bool, error)
	// Now is the clock, time.Now when nil.
	Now func() time.Time
}

// Authenticate returns who sent r, or the problem to answer with.
func (g *Guard) Authenticate(r *http.Request) (Principal, *problem.Problem) {
	if g.Off {
		return g.local(r)
	}
	token, ok := bearer(r.Header.Get("Authorization"))
	if !ok {
		return Principal{}, refusal(http.StatusUnauthorized, "send an API key as \"Authorization: Bearer cs_…\"")
	}
	if g.Lookup == nil {
		return Principal{}, refusal(http.StatusUnauthorized, "no API keys are known here")
	}
	hash := Hash(token)
	key, found, err := g.Lookup(r.Context(), hash)
	if err != nil {
		return Principal{}, refusal(http.StatusServiceUnavailable, "API keys cannot be checked at the moment; try again")
	}
	// The lookup is by hash, so its timing tells nothing about a key. The comparison guards against a Lookup that finds
	// by less than the whole hash.
	if !found || subtle.ConstantTimeCompare([]byte(key.Hash), []byte(hash)) != 1 {
		return Principal{}, refusal(http.StatusUnauthorized, "the API key is not known, or was revoked")
	}
	now := time.Now
	if g.Now != nil {
		now = g.Now
	}
	if !key.ExpiresAt.IsZero() && !now().Before(key.ExpiresAt) {
		return Principal{}, refusal(http.StatusUnauthorized, "the API key has expired")
	}
	return Principal{Tenant: key.Tenant, KeyID: key.ID, Scopes: key.Scopes}, nil
}

// Require returns the problem to answer with when p lacks scope, else nil.
func Require(p Principal, scope string) *problem.Problem {
	if p.Has(scope) {
		return nil
	}
	return refusal(http.StatusForbidden, "the API key lacks the scope "+scope)
}

// local is the caller while authentication is off. A page of any web site can send requests to a loopback address, by
// its own name rebound to 127.0.0.1 or across origins, so requests that name another host are refused.
func (g *Guard) local(r *http.Request) (Principal, *problem.Problem) {
	if !localHost(r.Host) {
		return Principal{}, refusal(http.StatusForbidden, "authentication is off, so only requests to localhost, 127.0.0.1 or [::1] are answered")
	}
	for _, origin := range r.Header.Values("Origin") {
		u, err := url.Parse(origin)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || !localHost(u.Host) {
			return Principal{}, refusal(http.StatusForbidden, "authentication is off, so only pages of localhost, 127.0.0.1 or [::1] are answered")
		}
	}
	tenant := DefaultTenant
	if values := r.Header.Values(TenantHeader); len(values) > 0 {
		tenant = values[0]
		if len(values) > 1 || !ValidTenant(tenant) {
			return Principal{}, refusal(http.StatusBadRequest, TenantHeader+" must be one tenant: up to 64 letters, digits, '.', '_' and '-'")
		}
	}
	return Principal{Tenant: tenant, Scopes: []string{ScopeAdmin}}, nil
}

var tenantName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// ValidTenant says whether s can name a tenant: 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit.
// The slash is left out because tenant/entity is a record key.
func ValidTenant(s string) bool { return tenantName.MatchString(s) }

// LoopbackAddr says whether a listener at addr ("127.0.0.1:8080") can be reached from this machine alone. An empty host
// means every interface.
func LoopbackAddr(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func localHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	switch strings.ToLower(strings.Trim(host, "[]")) {
	case "localhost", "127.0.0.1", "::1":
		return true
	}
	return false
}

func bearer(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}

func refusal(status int, detail string) *problem.Problem {
	p := problem.New(status, detail)
	if status == http.StatusUnauthorized {
		p.Header = http.Header{"Www-Authenticate": {"Bearer"}} // RFC 9110, section 11.6.1
	}
	return p
}
