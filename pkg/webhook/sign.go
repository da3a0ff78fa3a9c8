// Package webhook signs webhooks and verifies their signatures, as the Standard Webhooks specification has it.
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
)

// Signer makes the value of webhook-signature: Standard Webhooks "v1", an HMAC-SHA256 over "id.timestamp.body" for each
// of the current secrets, newest first, separated by spaces. One Signer serves one request at a time;
// its hashes are used again and again, which is most of what signing would cost otherwise.
type Signer struct {
	macs []hash.Hash
	sum  []byte
	out  []byte
}

// NewSigner returns a Signer for the bytes of the secrets.
func NewSigner(keys [][]byte) *Signer {
	s := &Signer{macs: make([]hash.Hash, len(keys)), sum: make([]byte, 0, sha256.Size)}
	for i, key := range keys {
		s.macs[i] = hmac.New(sha256.New, key)
	}
	return s
}

// Sign returns the signatures, or "" without a secret.
func (s *Signer) Sign(id, timestamp string, body []byte) string {
	s.out = s.out[:0]
	for i, mac := range s.macs {
		mac.Reset()
		// The prefix goes through out's spare room, so that the strings need no copies of their own.
		start := len(s.out)
		s.out = append(append(append(append(s.out, id...), '.'), timestamp...), '.')
		mac.Write(s.out[start:])
		s.out = s.out[:start]
		mac.Write(body)
		s.sum = mac.Sum(s.sum[:0])
		if i > 0 {
			s.out = append(s.out, ' ')
		}
		s.out = append(s.out, "v1,"...)
		s.out = base64.StdEncoding.AppendEncode(s.out, s.sum)
	}
	return string(s.out)
}
