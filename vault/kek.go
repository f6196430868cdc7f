package vault

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
)

// KEK is the key encryption key: it wraps the keyset, never a record, so it is asked when a keyset is opened and not on
// the way of a request. Key management services implement it as they are (it is the shape of Tink's AEAD).
type KEK interface {
	Encrypt(plaintext, associatedData []byte) ([]byte, error)
	Decrypt(ciphertext, associatedData []byte) ([]byte, error)
}

// ParseKEK makes the KEK that a URI names. "env:NAME" takes 32 random bytes in base64 from that variable, through getenv.
// The key management services have packages of their own, below kek, which whoever reads the configuration chooses from.
func ParseKEK(uri string, getenv func(string) string) (KEK, error) {
	scheme, rest, found := strings.Cut(uri, ":")
	if !found || rest == "" {
		return nil, errors.New("the KEK must be given as env:NAME, where the variable NAME holds 32 random bytes in base64")
	}
	switch scheme {
	case "env":
		return parseEnvKEK(rest, getenv)
	default:
		return nil, fmt.Errorf("unknown kind of KEK %q: use env:NAME, hcvault://, aws-kms:// or gcp-kms://", scheme)
	}
}

func parseEnvKEK(name string, getenv func(string) string) (KEK, error) {
	text := strings.TrimSpace(getenv(name))
	if text == "" {
		return nil, fmt.Errorf("the variable %s for the KEK is not set: set it to 32 random bytes in base64 (openssl rand -base64 32)", name)
	}
	// Standard or URL alphabet, padded or not: operators' tools differ.
	text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "=")
	key, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("the variable %s for the KEK is not base64: set it to 32 random bytes in base64 (openssl rand -base64 32)", name)
	}
	return NewKEK(key, "the variable "+name)
}

// NewKEK makes a KEK of 32 bytes (AES-256-GCM); origin says where they are from, for the error.
func NewKEK(key []byte, origin string) (KEK, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("%s holds %d bytes, the KEK must have exactly 32 (openssl rand -base64 32)", origin, len(key))
	}
	kek, err := subtle.NewAESGCM(key)
	if err != nil {
		return nil, fmt.Errorf("make KEK: %w", err)
	}
	return kek, nil
}
