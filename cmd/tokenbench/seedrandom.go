package main

import (
	"encoding/base64"
	"encoding/hex"
	mathrand "math/rand/v2"
)

// seedRandom makes what looks like what providers give. Not for concurrent use.
type seedRandom struct {
	*mathrand.Rand
	source *mathrand.ChaCha8
}

func newSeedRandom(n uint64) *seedRandom {
	source := mathrand.NewChaCha8([32]byte{byte(n), byte(n >> 8), 's', 'e', 'e', 'd'})
	return &seedRandom{Rand: mathrand.New(source), source: source}
}

// text is n characters of base64url, as ids are.
func (r *seedRandom) text(n int) string {
	raw := make([]byte, (n*6+7)/8)
	_, _ = r.source.Read(raw) // never fails
	return base64.RawURLEncoding.EncodeToString(raw)[:n]
}

// hex is n bytes in hexadecimal: a trace id.
func (r *seedRandom) hex(n int) string {
	raw := make([]byte, n)
	_, _ = r.source.Read(raw)
	return hex.EncodeToString(raw)
}
