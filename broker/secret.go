package broker

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
)

// redacted is what every printing of a Secret shows.
const redacted = "[redacted]"

// Secret is a token, code, link, key or anything else whose text must never reach a log, a trace, an error or Redis in
// clear. It prints as [redacted] under every fmt verb and every encoder; only Reveal gives the text, so that a grep for
// "Reveal(" finds every place where a secret leaves its wrapping.
//
// It holds a pointer, not a string: fmt prints a plain string field of an unexported struct field without asking its
// methods, and a pointer prints as an address there.
type Secret struct{ text *string }

// NewSecret wraps s. The empty text makes the zero Secret, so that IsZero means "there is none".
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{text: &s}
}

// Reveal returns the text. Call it only where the text must be: a request to the provider, a seal, the answer that
// carries it.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero tells that there is no secret.
func (s Secret) IsZero() bool { return s.text == nil }

// Equal compares in constant time. Two absent secrets are not equal: absence must never pass for a match.
func (s Secret) Equal(other Secret) bool {
	if s.text == nil || other.text == nil {
		return false
	}
	a, b := sha256.Sum256([]byte(*s.text)), sha256.Sum256([]byte(*other.text))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// Digest is the SHA-256 of the text in base64url: what is stored where only a comparison is needed later. The secret
// must be random (128 bits or more); a guessable one must be sealed instead.
func (s Secret) Digest() string {
	if s.text == nil {
		return ""
	}
	sum := sha256.Sum256([]byte(*s.text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// MatchesDigest compares s with what Digest returned earlier, in constant time. An absent secret or an empty digest
// never matches.
func (s Secret) MatchesDigest(digest string) bool {
	if s.text == nil || digest == "" {
		return false
	}
	return subtle.ConstantTimeCompare([]byte(s.Digest()), []byte(digest)) == 1
}

func (s Secret) String() string { return redacted }

// GoString covers %#v.
func (s Secret) GoString() string { return redacted }

// Format covers every verb, those that would print fields among them.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText covers encoders of text, JSON keys, YAML and XML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON covers encoding/json and its successors.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue covers slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
