package awskms

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"tokenbroker/broker"
)

// keys are credentials of AWS.
type keys struct {
	id      string
	secret  broker.Secret
	session broker.Secret // zero: they are for good
}

// signed is what a signature covers, beside the headers.
type signed struct {
	method, host, path string
	body               []byte
	region, service    string
	at                 time.Time
}

// sign adds a signature of version 4 ("Create a signed AWS API request", IAM User Guide) over all headers and the body. There
// is no query, and the path needs no escaping.
func sign(header http.Header, s signed, k keys) {
	stamp := s.at.UTC().Format("20060102T150405Z")
	header.Set("X-Amz-Date", stamp)
	if !k.session.IsZero() {
		header.Set("X-Amz-Security-Token", k.session.Reveal())
	}
	values := map[string]string{"host": s.host}
	for name := range header {
		values[strings.ToLower(name)] = strings.TrimSpace(header.Get(name))
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	var lines strings.Builder
	for _, name := range names {
		lines.WriteString(name + ":" + values[name] + "\n")
	}
	list := strings.Join(names, ";")
	canonical := strings.Join([]string{s.method, s.path, "", lines.String(), list, digest(s.body)}, "\n")
	scope := strings.Join([]string{stamp[:8], s.region, s.service, "aws4_request"}, "/")
	key := []byte("AWS4" + k.secret.Reveal())
	for _, part := range []string{stamp[:8], s.region, s.service, "aws4_request"} {
		key = mac(key, part)
	}
	signature := hex.EncodeToString(mac(key, strings.Join([]string{"AWS4-HMAC-SHA256", stamp, scope, digest([]byte(canonical))}, "\n")))
	header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+k.id+"/"+scope+", SignedHeaders="+list+", Signature="+signature)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func encode(body any) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("%s: write the request: %w", service, err)
	}
	return text, nil
}
