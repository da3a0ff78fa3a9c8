// Package auth identifies the caller of an HTTP request by its API key. Keys are random, so a plain SHA-256 is what is
// kept of them: nothing that rests anywhere lets one be used.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The scopes an API key can have. ScopeAdmin includes all others.
const (
	ScopeEventsWrite        = "events:write"
	ScopeSubscriptionsRead  = "subscriptions:read"
	ScopeSubscriptionsWrite = "subscriptions:write"
	ScopeDeliveriesRead     = "deliveries:read"
	ScopeReplay             = "replay"
	ScopeAdmin              = "admin"
)

// Scopes returns every scope there is, in the order people read them.
func Scopes() []string {
	return []string{ScopeEventsWrite, ScopeSubscriptionsRead, ScopeSubscriptionsWrite, ScopeDeliveriesRead, ScopeReplay, ScopeAdmin}
}

// ValidScope says whether s is one of Scopes.
func ValidScope(s string) bool { return slices.Contains(Scopes(), s) }

// KeyPrefix starts every API key, so that a leaked one is recognised by scanners.
const KeyPrefix = "cs_"

// Key is an API key as it rests: its hash, never itself.
type Key struct {
	ID     string
	Tenant string
	Name   string
	Hash   string // lowercase hex SHA-256 of the plain key
	Scopes []string
	// ExpiresAt is when the key ends; zero means never.
	ExpiresAt time.Time
}

// NewSecret makes an API key of 256 random bits and its hash. The plain key is shown to its owner once and kept nowhere.
func NewSecret() (plain, hash string, err error) {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", "", fmt.Errorf("make an API key: %w", err)
	}
	plain = KeyPrefix + base64.RawURLEncoding.EncodeToString(raw)
	return plain, Hash(plain), nil
}

// Hash returns what is kept of a plain key.
func Hash(plain string) string {
	sum := sha256.Sum256([]byte(strings.TrimSpace(plain)))
	return hex.EncodeToString(sum[:])
}

// Principal is who sent a request.
type Principal struct {
	Tenant string
	// KeyID is the key that was used; empty when authentication is off.
	KeyID  string
	Scopes []string
}

// Has says whether the principal may do what scope allows.
func (p Principal) Has(scope string) bool {
	return slices.Contains(p.Scopes, scope) || slices.Contains(p.Scopes, ScopeAdmin)
}

// Actor names the principal in an audit log.
func (p Principal) Actor() string {
	if p.KeyID == "" {
		return "anonymous"
	}
	return p.KeyID
}
