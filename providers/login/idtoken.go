package login

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"

	"tokenbroker/broker"
)

const (
	// clockSkew is how far a provider's clock may be from ours.
	clockSkew = 2 * time.Minute
	// issuedAgo is how old an ID token may be: it was made for the code that was just redeemed.
	issuedAgo = 10 * time.Minute
	// maxToken bounds an ID token, maxSubject the person's id in it, in bytes.
	maxToken, maxSubject = 64 << 10, 256
)

// Claims are what a verified ID token says.
type Claims struct {
	Issuer string
	// Subject is the claim sub: who it is, for ever and unique at that issuer (Core section 2).
	Subject string
	// All are the claims as JSON has them, these two included.
	All map[string]any
}

// Text is a claim that is a text, or "".
func (c Claims) Text(name string) string {
	text, _ := c.All[name].(string)
	return text
}

// person is the claim that stands for the person. Anything but a text is none: 4711 and "4711" could be two people.
func (c Claims) person(claim string) (string, error) {
	who := c.Text(claim)
	switch {
	case who == "" || len(who) > maxSubject || !utf8.ValidString(who):
		return "", fmt.Errorf("%w: its claim %s is no text of 1 to %d bytes", broker.ErrLoginRefused, claim, maxSubject)
	case claim == "email" && c.All["email_verified"] != true:
		// Anybody can call an address their own until somebody has looked (Core section 5.7).
		return "", fmt.Errorf("%w: email_verified is not true in it", broker.ErrLoginRefused)
	}
	return who, nil
}

// verify is Core section 3.1.3.7, none of whose steps is left out because the token came over TLS (its step 6 would allow that).
func (c *client) verify(ctx context.Context, meta metadata, raw string, nonce broker.Secret) (Claims, error) {
	wrong := func(why string) (Claims, error) { return Claims{}, fmt.Errorf("%w: %s", broker.ErrLoginRefused, why) }
	if len(raw) > maxToken {
		return wrong("it is too long")
	}
	allowed := slices.DeleteFunc(slices.Clone(algorithms), func(a jose.SignatureAlgorithm) bool {
		return len(meta.SigningAlgs) > 0 && !slices.Contains(meta.SigningAlgs, string(a))
	})
	token, err := jose.ParseSignedCompact(raw, allowed)
	if err != nil || len(token.Signatures) != 1 {
		return wrong("it is no signed token, or signed by an algorithm that is not allowed")
	}
	head := token.Signatures[0].Header
	if kind, said := head.ExtraHeaders[jose.HeaderType].(string); said && !strings.EqualFold(kind, "JWT") {
		return wrong("it is a token of another kind") // RFC 8725 section 3.11
	}
	keys, err := c.keys(ctx, meta.JWKSURI, head.KeyID, head.Algorithm)
	if err != nil {
		return Claims{}, err
	}
	var payload []byte
	for _, key := range keys {
		if plain, err := token.Verify(key); err == nil {
			payload = plain
			break
		}
	}
	if payload == nil {
		return wrong("its signature is by none of the provider's keys")
	}
	// Names are compared exactly and must not be repeated, so that no claim that a user may choose passes for another.
	var all map[string]any
	if err := json.Unmarshal(payload, &all); err != nil {
		return wrong("its claims can't be read")
	}
	claims := Claims{All: all}
	claims.Issuer, claims.Subject = claims.Text("iss"), claims.Text("sub")
	now := c.now()
	expires, hasExp := moment(all["exp"])
	issued, hasIat := moment(all["iat"])
	begins, hasNbf := moment(all["nbf"])
	audience := audiences(all["aud"])
	party, hasAzp := all["azp"]
	switch {
	case claims.Issuer != c.cfg.Issuer:
		return wrong("it is of another issuer")
	case claims.Subject == "":
		return wrong("it says nobody's sub")
	case !slices.Contains(audience, c.cfg.ClientID):
		return wrong("it is for another client")
	case (hasAzp || len(audience) > 1) && party != c.cfg.ClientID:
		return wrong("it was given to another client") // azp
	case !hasExp || !now.Before(expires.Add(clockSkew)):
		return wrong("it has expired, by our clock")
	case !hasIat || issued.After(now.Add(clockSkew)) || issued.Before(now.Add(-issuedAgo)):
		return wrong("it was not issued just now, by our clock")
	case hasNbf && begins.After(now.Add(clockSkew)):
		return wrong("it is not good yet, by our clock")
	case !broker.NewSecret(claims.Text("nonce")).Equal(nonce):
		return wrong("it was not made for this sign-in") // nonce
	}
	return claims, nil
}

// moment reads a NumericDate (RFC 7519 section 2).
func moment(v any) (time.Time, bool) {
	seconds, ok := v.(float64)
	if !ok || math.IsNaN(seconds) || math.Abs(seconds) > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}

// audiences is a text or a list of them (RFC 7519 section 4.1.3).
func audiences(v any) []string {
	switch v := v.(type) {
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
