package issuer

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
)

// ClockSkew is how far an issuer's clock may be from ours.
const ClockSkew = 2 * time.Minute

// maxToken bounds a token, in bytes.
const maxToken = 64 << 10

// Wrong is what is wrong with a token, as a continuation of "the token is not accepted: ". It holds nothing of the token.
type Wrong string

func (w Wrong) Error() string { return string(w) }

// Claims are those of a token whose signature is good, as JSON has them. Nothing in them was looked at yet.
type Claims map[string]any

// Rules say which signatures count.
type Rules struct {
	Algorithms []string // names; none: all of Algorithms
	// Types are what the header typ may say (RFC 8725 section 3.11), without regard to case; it may be left out where JWT is among them.
	Types []string
}

// Open verifies the signature of a signed token (RFC 7515) by a key that the issuer publishes at that address. The error is a Wrong, or one
// of asking for keys.
func (k *Keys) Open(ctx context.Context, raw, address string, rules Rules) (Claims, error) {
	if len(raw) > maxToken {
		return nil, Wrong("it is too long")
	}
	allowed := slices.DeleteFunc(slices.Clone(Algorithms), func(a jose.SignatureAlgorithm) bool {
		return len(rules.Algorithms) > 0 && !slices.Contains(rules.Algorithms, string(a))
	})
	token, err := jose.ParseSignedCompact(raw, allowed)
	if err != nil || len(token.Signatures) != 1 {
		return nil, Wrong("it is no signed token, or signed by an algorithm that is not allowed")
	}
	head := token.Signatures[0].Header
	kind := "JWT"
	if said, there := head.ExtraHeaders[jose.HeaderType]; there {
		kind, _ = said.(string)
	}
	if !slices.ContainsFunc(rules.Types, func(t string) bool { return strings.EqualFold(t, kind) }) {
		return nil, Wrong("it is a token of another kind")
	}
	keys, err := k.find(ctx, address, head.KeyID, head.Algorithm)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		payload, err := token.Verify(key)
		if err != nil {
			continue
		}
		// Names are compared exactly and must not be repeated, so that no claim that a user may choose passes for another.
		var all map[string]any
		if err := json.Unmarshal(payload, &all); err != nil || all == nil {
			return nil, Wrong("its claims can't be read")
		}
		return all, nil
	}
	return nil, Wrong("its signature is by none of the issuer's keys")
}

// Text is a claim that is a text, or "".
func (c Claims) Text(name string) string {
	text, _ := c[name].(string)
	return text
}

// Moment reads a NumericDate (RFC 7519 section 2).
func (c Claims) Moment(name string) (time.Time, bool) {
	seconds, ok := c[name].(float64)
	if !ok || math.IsNaN(seconds) || math.Abs(seconds) > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}

// Audience is the claim aud: a text or a list of them (RFC 7519 section 4.1.3).
func (c Claims) Audience() []string {
	switch v := c["aud"].(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, one := range v {
			text, ok := one.(string)
			if !ok {
				return nil
			}
			out = append(out, text)
		}
		return out
	}
	return nil
}
