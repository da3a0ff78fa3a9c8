// Package secret seals small secrets for rest: AES-256-GCM with the place a secret belongs to as associated data, so
// that a sealed value copied to another tenant, subscription or field does not open there.
package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// KeySize is the length in bytes of the key that seals.
const KeySize = 32

// prefix marks the format, so that another cipher can follow without guessing.
const prefix = "v1."

// ErrSealed is returned when a sealed value does not open: another key, another place, or bytes that were changed.
// Which of them it was cannot be told.
var ErrSealed = errors.New("the sealed secret does not open with this encryption key in this place")

// Box seals and opens secrets with one key. It is safe for concurrent use.
type Box struct{ aead cipher.AEAD }

// NewBox returns a Box for a key of KeySize bytes.
func NewBox(key []byte) (*Box, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("an encryption key has %d bytes, not %d", KeySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make the cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("make the cipher: %w", err)
	}
	return &Box{aead: aead}, nil
}

// Seal encrypts plain for one field of one subscription of one tenant.
func (b *Box) Seal(plain []byte, tenant, subscription, field string) (string, error) {
	nonce := make([]byte, b.aead.NonceSize(), b.aead.NonceSize()+len(plain)+b.aead.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		return "", fmt.Errorf("make a nonce: %w", err)
	}
	return prefix + base64.RawStdEncoding.EncodeToString(b.aead.Seal(nonce, nonce, plain, place(tenant, subscription, field))), nil
}

// Open decrypts what Seal made for the same place. A value that does not open is ErrSealed.
func (b *Box) Open(sealed, tenant, subscription, field string) ([]byte, error) {
	body, ok := strings.CutPrefix(sealed, prefix)
	if !ok {
		return nil, ErrSealed
	}
	raw, err := base64.RawStdEncoding.DecodeString(body)
	if err != nil || len(raw) < b.aead.NonceSize() {
		return nil, ErrSealed
	}
	plain, err := b.aead.Open(nil, raw[:b.aead.NonceSize()], raw[b.aead.NonceSize():], place(tenant, subscription, field))
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}

// place is the associated data. Lengths go first, so that no two places share their bytes.
func place(parts ...string) []byte {
	var out []byte
	for _, p := range parts {
		out = binary.AppendUvarint(out, uint64(len(p)))
		out = append(out, p...)
	}
	return out
}
