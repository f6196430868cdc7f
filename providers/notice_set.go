package providers

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"tokenbroker/broker"
)

const (
	// jwksKept is how long a provider's keys are believed; an unknown key id is looked up sooner, but not more often than that.
	jwksKept, jwksAgain = time.Hour, time.Minute
	// setAge is how old a Security Event Token may be: providers deliver them again for days.
	setAge = 7 * 24 * time.Hour
)

// setAlgorithms are those that a Security Event Token may be signed with: none, and no secret shared with others.
var setAlgorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.ES256, jose.ES384, jose.EdDSA}

// jwksCache holds the keys that a provider signs its notices with.
type jwksCache struct {
	mu     sync.Mutex
	keys   jose.JSONWebKeySet
	asked  time.Time
	failed error // the last time
}

// find returns the key of that id, from the provider if need be.
func (j *jwksCache) find(ctx context.Context, r *Registry, s *server, id string) (jose.JSONWebKey, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := r.now()
	known := j.keys.Key(id)
	if age := now.Sub(j.asked); j.asked.IsZero() || age > jwksKept || len(known) == 0 && age > jwksAgain {
		j.asked = now // also where it fails: whoever sends nonsense must not make us ask again and again
		a, err := r.client.send(ctx, outgoing{what: "key set", method: http.MethodGet, url: s.def.Notices.Signature.JWKS, reach: s.def.reach(s.def.Notices.Signature.JWKS), timeout: 10 * time.Second})
		if err == nil && a.broken == nil && a.status == http.StatusOK {
			var fresh jose.JSONWebKeySet
			if err = json.Unmarshal(a.body, &fresh); err == nil {
				j.keys = fresh
				known = fresh.Key(id)
			}
		} else if err == nil {
			err = fmt.Errorf("HTTP %d", a.status)
		}
		j.failed = err
	}
	switch {
	case len(known) > 0:
	case j.failed != nil:
		// It may be signed by a key that we could not see: the provider must send it again.
		return jose.JSONWebKey{}, &broker.UpstreamError{Class: broker.ClassUnsent, What: "the provider's key set is not available", Cause: j.failed}
	default:
		return jose.JSONWebKey{}, broker.ErrNoticeRefused
	}
	return known[0], nil
}

// setClaims are the claims of a Security Event Token (RFC 8417 section 2.2).
type setClaims struct {
	Issuer   string                     `json:"iss"`
	Audience audiences                  `json:"aud"`
	IssuedAt float64                    `json:"iat"`
	Events   map[string]json.RawMessage `json:"events"`
}

// audiences is a string or a list of them (RFC 7519 section 4.1.3).
type audiences []string

func (a *audiences) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audiences{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(data, &many); err != nil {
		return fmt.Errorf("aud: %w", err)
	}
	*a = many
	return nil
}

// verifySET checks a Security Event Token. Each of its events comes back as {"event": its URI, "payload": what it says}.
func (r *Registry) verifySET(ctx context.Context, s *server, body []byte) ([]tree, error) {
	refused := func(why string) ([]tree, error) { return nil, fmt.Errorf("%w: %s", broker.ErrNoticeRefused, why) }
	token, err := jose.ParseSignedCompact(strings.TrimSpace(string(body)), setAlgorithms)
	if err != nil || len(token.Signatures) != 1 {
		return refused("it is no signed token")
	}
	key, err := s.jwks.find(ctx, r, s, token.Signatures[0].Header.KeyID)
	if err != nil {
		return nil, err
	}
	plain, err := token.Verify(key)
	if err != nil {
		return refused("its signature does not verify")
	}
	var claims setClaims
	if err := json.Unmarshal(plain, &claims); err != nil {
		return refused("its claims can't be read")
	}
	age := r.now().Sub(time.Unix(int64(claims.IssuedAt), 0))
	switch {
	case strings.TrimSuffix(claims.Issuer, "/") != strings.TrimSuffix(s.def.Notices.Signature.Issuer, "/"):
		return refused("it is of another issuer")
	case !slices.Contains(claims.Audience, s.config.ClientID):
		return refused("it is for another client")
	case age > setAge || age < -defaultNoticeAge:
		return refused("it is too old, or of a clock that is wrong")
	}
	var out []tree
	for uri, payload := range claims.Events {
		t := tree{root: map[string]any{"event": uri}}
		if inner := jsonTree(payload); inner.root != nil {
			t.root["payload"] = inner.root
		}
		out = append(out, t)
	}
	return out, nil
}
