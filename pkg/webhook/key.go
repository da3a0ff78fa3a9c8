package webhook

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// What a secret or key begins with where people see it, as Standard Webhooks has it: an HMAC secret, an ed25519 private
// key and its public half, each followed by base64.
const (
	PrefixSecret  = "whsec_"
	PrefixPrivate = "whsk_"
	PrefixPublic  = "whpk_"
)

// The sizes of an HMAC secret, in bytes.
const (
	minSecret = 24
	maxSecret = 64
)

// Key is what a Signer signs with: the secret of an HMAC, or an ed25519 private key. It prints as nothing.
type Key struct {
	secret  []byte
	private ed25519.PrivateKey
}

// HMACKey returns the key that makes "v1" signatures with the bytes of a secret.
func HMACKey(secret []byte) Key { return Key{secret: secret} }

// Ed25519Key returns the key that makes "v1a" signatures.
func Ed25519Key(private ed25519.PrivateKey) Key { return Key{private: private} }

// ParseKey reads a key: "whsec_" and the base64 of 24 to 64 bytes, or "whsk_" and the base64 of the 64 bytes of an
// ed25519 private key, seed and public key. The error never shows what was given.
func ParseKey(text string) (Key, error) {
	if encoded, ok := strings.CutPrefix(text, PrefixPrivate); ok {
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(raw) != ed25519.PrivateKeySize {
			return Key{}, fmt.Errorf("want %s and the base64 of the %d bytes of an ed25519 key: seed and public key", PrefixPrivate, ed25519.PrivateKeySize)
		}
		private := ed25519.PrivateKey(raw)
		if !ed25519.NewKeyFromSeed(private.Seed()).Equal(private) {
			return Key{}, errors.New("its public key does not belong to its seed")
		}
		return Ed25519Key(private), nil
	}
	encoded, ok := strings.CutPrefix(text, PrefixSecret)
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(raw) < minSecret || len(raw) > maxSecret {
		return Key{}, fmt.Errorf("want %s and the base64 of %d to %d bytes", PrefixSecret, minSecret, maxSecret)
	}
	return HMACKey(raw), nil
}

// Public returns the public half of an ed25519 key as receivers are given it, "" for an HMAC's.
func (k Key) Public() string {
	if k.private == nil {
		return ""
	}
	public := k.private[len(k.private)-ed25519.PublicKeySize:]
	return PrefixPublic + base64.StdEncoding.EncodeToString(public)
}

// String never shows the key.
func (Key) String() string { return "[key]" }

// GoString never shows the key.
func (Key) GoString() string { return "[key]" }
