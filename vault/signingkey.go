package vault

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// The file with the keys that sign the audit trail's checkpoints (checkpoint.go). It is not the keyset: who opens records need not be able
// to sign, and what verifies, the public half, is for everybody. The private half is wrapped by the KEK, bound to the public one.

// PublicKey is what checkpoints are verified with.
type PublicKey struct {
	ID  string // the first bytes of the SHA-256 of the key, in hexadecimal digits
	key ed25519.PublicKey
}

// publicPrefix is before a public key in text.
const publicPrefix = "ed25519:"

// String is the key as ParsePublicKey reads it.
func (k PublicKey) String() string {
	return publicPrefix + base64.RawURLEncoding.EncodeToString(k.key)
}

func publicKey(key ed25519.PublicKey) PublicKey {
	sum := sha256.Sum256(key)
	return PublicKey{ID: hex.EncodeToString(sum[:8]), key: key}
}

// ParsePublicKey reads a public key as String writes it.
func ParsePublicKey(text string) (PublicKey, error) {
	rest, found := strings.CutPrefix(strings.TrimSpace(text), publicPrefix)
	raw, err := base64.RawURLEncoding.DecodeString(rest)
	if !found || err != nil || len(raw) != ed25519.PublicKeySize {
		return PublicKey{}, errors.New("this is no public key of an audit trail: those begin with " + publicPrefix + ", as `tokenbroker audit key` prints them")
	}
	return publicKey(raw), nil
}

// SigningKeys are the keys of such a file. What signs can't be printed: it is a function.
type SigningKeys struct {
	sign   func(message []byte) []byte
	id     string
	public []PublicKey
}

// Public are the keys that checkpoints may be signed with, oldest first; the last one signs.
func (k *SigningKeys) Public() []PublicKey { return slices.Clone(k.public) }

type signingFile struct {
	Keys []signingFileKey `json:"audit_signing_keys"`
	KEKs []wrappedKey     `json:"keks,omitempty"` // while two KEKs open it (signingkek.go)
}

type signingFileKey struct {
	ID      string    `json:"id"`
	Public  string    `json:"public"`
	Created time.Time `json:"created"`
	Sealed  []byte    `json:"sealed"` // the seed, wrapped by the KEK, or by the key that two KEKs open
}

func signingAD(public ed25519.PublicKey) []byte {
	return joined("tokenbroker/audit/signing-key/v1", string(public))
}

// AddSigningKey makes the content of a file of signing keys, with a new key behind those of the file before (nil: there was none). The new
// one signs from then on, and the others go on verifying.
func AddSigningKey(before []byte, kek KEK, random io.Reader, now time.Time) ([]byte, error) {
	doc := &signingDoc{with: kek}
	if before != nil {
		if _, err := OpenSigningKeys(before, kek); err != nil {
			return nil, err // what can't be opened must not get a key of another KEK
		}
		var err error
		if doc, err = openSigningDoc(before, kek); err != nil {
			return nil, err
		}
	}
	public, private, err := ed25519.GenerateKey(random)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	sealed, err := doc.with.Encrypt(private.Seed(), signingAD(public))
	if err != nil {
		return nil, fmt.Errorf("wrap signing key: %w", err)
	}
	key := publicKey(public)
	doc.Keys = append(doc.Keys, signingFileKey{ID: key.ID, Public: key.String(), Created: now.UTC().Truncate(time.Second), Sealed: sealed})
	return doc.content()
}

// ReadPublicKeys lists the public keys of such a file, oldest first; no KEK is asked.
func ReadPublicKeys(content []byte) ([]PublicKey, error) {
	file, public, err := parseSigningFile(content)
	if err != nil || len(file.Keys) == 0 {
		return nil, err
	}
	return public, nil
}

func parseSigningFile(content []byte) (file signingFile, public []PublicKey, err error) {
	if err := json.Unmarshal(content, &file); err != nil || len(file.Keys) == 0 {
		return file, nil, errors.New("this is no file of audit signing keys: make one with `tokenbroker audit key --create`")
	}
	for i, k := range file.Keys {
		key, err := ParsePublicKey(k.Public)
		if err != nil || key.ID != k.ID {
			return file, nil, fmt.Errorf("audit signing key %d of the file is damaged: put a copy of the file back", i+1)
		}
		public = append(public, key)
	}
	return file, public, nil
}

// OpenSigningKeys opens such a file with the KEK that it was made with.
func OpenSigningKeys(content []byte, kek KEK) (*SigningKeys, error) {
	doc, err := openSigningDoc(content, kek)
	if err != nil {
		return nil, err
	}
	last := len(doc.Keys) - 1
	key := doc.public[last]
	seed, err := doc.seed(last)
	if err != nil {
		return nil, err
	}
	if len(seed) != ed25519.SeedSize {
		return nil, errors.New("the audit signing key can't be opened: the file is damaged")
	}
	private := ed25519.NewKeyFromSeed(seed)
	clear(seed)
	if !private.Public().(ed25519.PublicKey).Equal(key.key) {
		return nil, errors.New("the audit signing key can't be opened: its halves do not belong together")
	}
	return &SigningKeys{
		sign: func(message []byte) []byte { return ed25519.Sign(private, message) },
		id:   key.ID, public: doc.public,
	}, nil
}
