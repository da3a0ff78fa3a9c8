// Package webhook signs webhooks and verifies their signatures, as the Standard Webhooks specification has it.
package webhook

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
)

// Signer makes the value of webhook-signature: for each of the keys, newest first, a Standard Webhooks signature over
// "id.timestamp.body", separated by spaces: "v1" is an HMAC-SHA256, "v1a" is ed25519. One Signer serves one request at a
// time; its hashes are used again and again, which is most of what signing would cost otherwise.
type Signer struct {
	keys []signingKey
	sum  []byte
	out  []byte
	text []byte // what ed25519 signs, in one piece as it needs it
}

// largestKept bounds the room that a Signer keeps for the next message, in bytes: a rare large one must not stay with each.
const largestKept = 64 << 10

// signingKey has one of the two.
type signingKey struct {
	mac     hash.Hash
	private ed25519.PrivateKey
}

// NewSigner returns a Signer for the keys.
func NewSigner(keys ...Key) *Signer {
	s := &Signer{keys: make([]signingKey, len(keys)), sum: make([]byte, 0, sha256.Size)}
	for i, key := range keys {
		if key.private != nil {
			s.keys[i].private = key.private
		} else {
			s.keys[i].mac = hmac.New(sha256.New, key.secret)
		}
	}
	return s
}

// Sign returns the signatures, or "" without a key.
func (s *Signer) Sign(id, timestamp string, body []byte) string {
	s.out = s.out[:0]
	for i, key := range s.keys {
		if i > 0 {
			s.out = append(s.out, ' ')
		}
		if key.private != nil {
			s.text = append(appendPrefix(s.text[:0], id, timestamp), body...)
			s.out = base64.StdEncoding.AppendEncode(append(s.out, "v1a,"...), ed25519.Sign(key.private, s.text))
			if cap(s.text) > largestKept {
				s.text = nil
			}
			continue
		}
		key.mac.Reset()
		// The prefix goes through out's spare room, so that the strings need no copies of their own.
		start := len(s.out)
		s.out = appendPrefix(s.out, id, timestamp)
		key.mac.Write(s.out[start:])
		s.out = s.out[:start]
		key.mac.Write(body)
		s.sum = key.mac.Sum(s.sum[:0])
		s.out = base64.StdEncoding.AppendEncode(append(s.out, "v1,"...), s.sum)
	}
	return string(s.out)
}

func appendPrefix(dst []byte, id, timestamp string) []byte {
	return append(append(append(append(dst, id...), '.'), timestamp...), '.')
}
