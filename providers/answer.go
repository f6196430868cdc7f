package providers

import (
	"crypto/subtle"
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
)

const (
	shortLife = 5 * time.Minute      // assumed where nothing says how long a token lives
	longLife  = 366 * 24 * time.Hour // what says more than that is not believed
	maxExtra  = 2048                 // bytes in one of a grant's facts
)

// readGrant reads a token response. The refresh token comes first and nothing after it can fail: with a provider that
// rotates it is the only one left (faults.md, step 5). used is the refresh token that was sent; zero: it was a code.
func (s *server) readGrant(a answer, paths *TokenResponse, used broker.Secret) (broker.Grant, error) {
	tree, renewal := readTree(a), !used.IsZero()
	g := broker.Grant{ClientGeneration: a.client}
	g.RefreshToken = broker.NewSecret(tree.secret(paths.RefreshToken))
	if token := tree.secret(paths.AccessToken); visible(token) {
		g.AccessToken = broker.NewSecret(token)
	}
	if !s.brings(g, a, tree, used) {
		return broker.Grant{}, s.failure("token endpoint", a, tree)
	}
	if kind := tree.text(paths.TokenType); !g.AccessToken.IsZero() && !s.def.bearer(kind) {
		why := &broker.UpstreamError{Class: broker.ClassRefused, Status: a.status,
			What: "token endpoint gave an access token that is no bearer token (token_type), nor of a type that the provider's token_types lists"}
		if !renewal || g.RefreshToken.IsZero() {
			return broker.Grant{}, why
		}
		g.AccessToken, g.Withheld = broker.Secret{}, why
	}
	s.readLife(&g, a, tree, paths, renewal)
	g.Scopes, g.ScopesReported = s.reported(tree.at(paths.Scope), paths.ScopeSeparator)
	g.Extra = tree.extras(nil, paths.Extra)
	for name, decl := range s.def.Vars {
		if path, ok := strings.CutPrefix(decl.From, "token_response."); ok {
			if value, ok := decl.learned(tree.text(path)); ok {
				g.Vars = set(g.Vars, name, value)
			}
		}
	}
	g.Account = tree.account(paths.Account)
	claims := s.claims(tree.text(paths.IDToken))
	g.Account = complete(g.Account, claims.account(*s.def.IDToken))
	return g, nil
}

// brings tells whether the answer holds what is worth keeping. Tokens beside an error are tokens, whatever the HTTP status:
// the error says what it is only where there are none. But an answer that failed may repeat what was sent, which is no news,
// and an access token alone is none against an error: nothing is lost with it. An exchange without an access token is no
// grant, but a refresh that brought just a new refresh token must keep it.
func (s *server) brings(g broker.Grant, a answer, t tree, used broker.Secret) bool {
	fresh := !g.RefreshToken.IsZero() && subtle.ConstantTimeCompare([]byte(g.RefreshToken.Reveal()), []byte(used.Reveal())) != 1
	if g.AccessToken.IsZero() {
		return !used.IsZero() && fresh
	}
	if fresh || a.status >= 200 && a.status < 300 {
		return true
	}
	code, _, _ := s.code(t)
	return code == "" && !t.saysNotOK(s.def.Errors)
}

// bearer tells whether an access token of that type can be presented as a bearer token. A client must not use one of a type
// that it does not understand (RFC 6749 section 7.1), such as mac or DPoP, whose proof of possession callers could not give.
func (d *Definition) bearer(kind string) bool {
	return kind == "" || strings.EqualFold(kind, "bearer") || slices.ContainsFunc(d.TokenTypes, func(t string) bool { return strings.EqualFold(t, kind) })
}

// visible tells whether a token is made of VSCHAR alone (RFC 6749 appendix A.12). Callers put access tokens into headers: a
// line break in one would be theirs to suffer.
func visible(token string) bool {
	return !strings.ContainsFunc(token, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

func (s *server) readLife(g *broker.Grant, a answer, tree tree, paths *TokenResponse, renewal bool) {
	if g.AccessToken.IsZero() {
		g.ExpiresAt = a.sent // there is nothing that lives
	} else {
		life, absent := lifetime(tree.at(paths.ExpiresIn))
		if zero, _ := scalar(tree.at(paths.ExpiresIn)); paths.ZeroNeverExpires && zero == "0" {
			absent = true // stated, where others leave it out
		}
		if life == 0 {
			if at := tree.moment(paths.ExpiresAt); at.After(a.sent) {
				life, absent = min(at.Sub(a.sent), longLife), false
			}
		}
		renewable := renewal || !g.RefreshToken.IsZero()
		switch assumed := time.Duration(s.def.AccessTokenTTL) * time.Second; {
		case life > 0:
		case assumed > 0:
			life = assumed
		case renewable:
			life = shortLife
		case absent || life < 0:
			g.Never = true // no end that we know of: never handed out
		default:
			life = shortLife
		}
		if !g.Never {
			g.Lifetime, g.ExpiresAt = life, a.sent.Add(life)
		}
	}
	limit := time.Duration(s.def.RefreshTokenLifetime) * time.Second
	if life, _ := lifetime(tree.at(paths.RefreshExpiresIn)); life > 0 {
		g.RefreshExpiry = a.sent.Add(life)
	} else if limit > 0 && !renewal && !g.RefreshToken.IsZero() {
		g.RefreshExpiry = a.sent.Add(limit) // counted from the consent, so a refresh does not move it
	}
}

// moment reads the time at the path, or the claim behind an @ of the JWT at the path. The JWT came from the token endpoint
// itself and is read for this one number alone.
func (t tree) moment(path string) time.Time {
	path, claim, isClaim := strings.Cut(path, "@")
	if !isClaim {
		return moment(t.at(path))
	}
	token, _ := scalar(t.at(path))
	return moment(jwtPayload(token).at(claim))
}

// jwtPayload is the unverified payload of a JWT, empty if it is none.
func jwtPayload(token string) tree {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return tree{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return tree{}
	}
	return jsonTree(payload)
}

// lifetime reads expires_in: a number or a numeric string, in seconds, fractions cut off. 0: unusable (or absent), -1: so
// long that it is no end at all.
func lifetime(value any) (life time.Duration, absent bool) {
	text, ok := scalar(value)
	if !ok || strings.TrimSpace(text) == "" {
		return 0, true
	}
	seconds, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	switch {
	case math.IsInf(seconds, 1) || err == nil && seconds > longLife.Seconds():
		return -1, false
	case err != nil || math.IsNaN(seconds) || seconds < 1:
		return 0, false
	}
	return time.Duration(math.Floor(seconds)) * time.Second, false
}

// moment reads a time: seconds or milliseconds since 1970, or RFC 3339.
func moment(value any) time.Time {
	text, _ := scalar(value)
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n < 1 || n > 1e14 {
		return time.Time{}
	}
	if n > 1e11 {
		return time.UnixMilli(int64(n))
	}
	return time.Unix(int64(n), 0)
}

// claims reads the payload of an id_token that came straight from the token endpoint over TLS, where the signature need
// not be checked (OpenID Connect Core section 3.1.3.7 item 6). One that is not for this client, or not from this issuer,
// counts as absent.
func (s *server) claims(idToken string) tree {
	t := jwtPayload(idToken)
	if t.root == nil {
		return tree{}
	}
	var audience []string
	switch aud := t.at("aud").(type) {
	case string:
		audience = []string{aud}
	case []any:
		for _, a := range aud {
			if text, ok := a.(string); ok {
				audience = append(audience, text)
			}
		}
	}
	if t.cut || !slices.Contains(audience, s.config.ClientID) {
		return tree{}
	}
	if issuer := fill(s.def.Issuer, s.vars); issuer != "" && t.text("iss") != issuer {
		return tree{}
	}
	return t
}

// complete fills what a does not say from b. Two different ids are two accounts: then b counts for nothing (OpenID
// Connect Core section 5.3.2).
func complete(a, b broker.Account) broker.Account {
	if a.ID != "" && b.ID != "" && a.ID != b.ID {
		return a
	}
	def(&a.ID, b.ID)
	def(&a.Name, b.Name)
	def(&a.Email, b.Email)
	return a
}
