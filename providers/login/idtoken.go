package login

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"tokenbroker/broker"
	"tokenbroker/providers/issuer"
)

const (
	// issuedAgo is how old an ID token may be: it was made for the code that was just redeemed.
	issuedAgo = 10 * time.Minute
	// maxSubject bounds the person's id in an ID token, in bytes.
	maxSubject = 256
)

// Claims are what a verified ID token says.
type Claims struct {
	Issuer string
	// Subject is the claim sub: who it is, for ever and unique at that issuer (Core section 2).
	Subject string
	// All are the claims as JSON has them, these two included.
	All issuer.Claims
}

// Text is a claim that is a text, or "".
func (c Claims) Text(name string) string { return c.All.Text(name) }

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
	all, err := c.keys.Open(ctx, raw, meta.JWKSURI, issuer.Rules{Algorithms: meta.SigningAlgs, Types: []string{"JWT"}})
	if bad := issuer.Wrong(""); errors.As(err, &bad) {
		return wrong(bad.Error())
	} else if err != nil {
		return Claims{}, err
	}
	claims := Claims{All: all, Issuer: all.Text("iss"), Subject: all.Text("sub")}
	now := c.now()
	expires, hasExp := all.Moment("exp")
	issued, hasIat := all.Moment("iat")
	begins, hasNbf := all.Moment("nbf")
	audience := all.Audience()
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
	case !hasExp || !now.Before(expires.Add(issuer.ClockSkew)):
		return wrong("it has expired, by our clock")
	case !hasIat || issued.After(now.Add(issuer.ClockSkew)) || issued.Before(now.Add(-issuedAgo)):
		return wrong("it was not issued just now, by our clock")
	case hasNbf && begins.After(now.Add(issuer.ClockSkew)):
		return wrong("it is not good yet, by our clock")
	case !broker.NewSecret(claims.Text("nonce")).Equal(nonce):
		return wrong("it was not made for this sign-in") // nonce
	}
	return claims, nil
}
