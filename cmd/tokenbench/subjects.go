package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
)

// Who is in the play: the same users, tokens and requests for the broker and for the reference.
const (
	benchTenant    = "acme"
	benchClient    = "acme-chat"
	benchConnector = "files"
	benchKey       = "tb_bench-1f0e5cf2a04b4f6c9d27" // API key of benchClient
	dashboardToken = "bench-dashboard-token-0b9f2c81d4"

	// accessTokenBytes is that of a JWT with few claims, refreshTokenBytes that of a long opaque token: together with the rest
	// they make the reference's record one of 1.4 KB.
	accessTokenBytes  = 680
	refreshTokenBytes = 240
)

// benchScopes are what each connection has and each request asks for: three events.
func benchScopes() []string { return []string{"files.list", "files.read", "files.write"} }

// subjectWidth is how many digits number a subject. All requests have the same length.
const subjectWidth = 8

// subject is the user of that number.
func subject(i int) string { return fmt.Sprintf("user-%0*d@example.com", subjectWidth, i) }

// accessToken is what the user of that number has, so that an answer can be checked without a list of all.
func accessToken(i int) string { return expand("access", i, accessTokenBytes) }

func refreshToken(i int) string { return expand("refresh", i, refreshTokenBytes) }

// expand makes n characters that look random to whoever compresses.
func expand(purpose string, i, n int) string {
	seed := binary.BigEndian.AppendUint64([]byte(purpose), uint64(i))
	var b strings.Builder
	for block := uint32(0); b.Len() < n; block++ {
		sum := sha256.Sum256(binary.BigEndian.AppendUint32(seed, block))
		b.WriteString(base64.RawURLEncoding.EncodeToString(sum[:]))
	}
	return b.String()[:n]
}
