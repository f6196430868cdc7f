package broker

import (
	"encoding/base64"
	"fmt"
	"io"
	"time"
)

const (
	idBytes     = 18 // 24 characters of base64url, with no bits of padding: every character is uniform
	secretBytes = 24 // 192 bits
)

// ids makes identifiers and secrets from the injected randomness.
//
// An id is 17 random bytes behind one that holds the shard of its subject, masked with the last random byte: so an id
// alone tells in which slot of a Redis Cluster its record lies, and yet each of its characters is evenly distributed.
type ids struct {
	random    io.Reader
	placement Placement
}

// record makes the id of a connection or consent of that subject.
func (g ids) record(tenant, subject string) (string, error) {
	raw := make([]byte, idBytes)
	if _, err := io.ReadFull(g.random, raw); err != nil {
		return "", fmt.Errorf("read randomness: %w", err)
	}
	raw[0] = g.placement.Shard(tenant, subject) ^ raw[idBytes-1]
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

// bound makes a secret that begins with a consent's id, so that a link or a state alone finds its consent: nothing has to
// be indexed by a secret. What follows the id are 192 bits that only the holder knows.
func (g ids) bound(consentID string) (Secret, error) {
	tail, err := g.secret(secretBytes)
	if err != nil {
		return Secret{}, err
	}
	return NewSecret(consentID + tail.Reveal()), nil
}

// secret makes n random bytes in base64url.
func (g ids) secret(n int) (Secret, error) {
	raw := make([]byte, n)
	if _, err := io.ReadFull(g.random, raw); err != nil {
		return Secret{}, fmt.Errorf("read randomness: %w", err)
	}
	return NewSecret(base64.RawURLEncoding.EncodeToString(raw)), nil
}

// userCodeAlphabet has no vowels, so that no words come out, and nothing that is mistaken for something else
// (RFC 8628 section 6.1).
const userCodeAlphabet = "BCDFGHJKLMNPQRSTVWXZ"

// userCode makes a code for people to type: 8 of 20 letters, 34 bits, of which five tries can be made.
func (g ids) userCode() (Secret, error) {
	code := make([]byte, 0, 9)
	var b [1]byte
	for len(code) < 9 {
		if len(code) == 4 {
			code = append(code, '-')
		}
		if _, err := io.ReadFull(g.random, b[:]); err != nil {
			return Secret{}, fmt.Errorf("read randomness: %w", err)
		}
		if b[0] < 240 { // 12 x 20: the rest would favour some letters
			code = append(code, userCodeAlphabet[b[0]%20])
		}
	}
	return NewSecret(string(code)), nil
}

// normalUserCode undoes what people do to a code: lower case, spaces, other dashes or none.
func normalUserCode(typed Secret) Secret {
	code := make([]byte, 0, 9)
	for _, r := range typed.Reveal() {
		if r >= 'a' && r <= 'z' {
			r -= 'a' - 'A'
		}
		if r >= 'A' && r <= 'Z' {
			if len(code) == 4 {
				code = append(code, '-')
			}
			code = append(code, byte(r))
		}
		if len(code) > 16 {
			break
		}
	}
	return NewSecret(string(code))
}

// ShardOfID tells the shard that an id of a connection or consent carries; false if it can't be such an id.
func ShardOfID(id string) (byte, bool) {
	if len(id) != base64.RawURLEncoding.EncodedLen(idBytes) {
		return 0, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(id)
	if err != nil {
		return 0, false
	}
	return raw[0] ^ raw[idBytes-1], true
}

// consentIDOf returns the id that a link or state begins with; false if it can't be one.
func consentIDOf(bound Secret) (string, bool) {
	text := bound.Reveal()
	n := base64.RawURLEncoding.EncodedLen(idBytes)
	if len(text) != n+base64.RawURLEncoding.EncodedLen(secretBytes) {
		return "", false
	}
	if _, ok := ShardOfID(text[:n]); !ok {
		return "", false
	}
	return text[:n], true
}

// job makes the id of a job: what sorts first is newest. It tells when the job was made, and nobody can guess it.
func (g ids) job(now time.Time) (string, error) {
	tail, err := g.secret(secretBytes)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%011x", jobEpoch-now.UnixMilli()) + tail.Reveal(), nil
}

// jobEpoch lies in the year 2527; 11 hexadecimal digits reach as far.
const jobEpoch = 1<<44 - 1
