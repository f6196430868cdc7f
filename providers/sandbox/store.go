package sandbox

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// The reasons for which a token is refused; the library makes them invalid_grant.
var (
	errUnknownToken = errors.New("the token is not known or expired")
	errRevoked      = errors.New("the grant was revoked")
	errReused       = errors.New("the refresh token was used before: the grant is revoked")
)

const (
	maxRequests       = 10_000 // authorization requests in progress
	maxTokensPerGrant = 4_096  // remembered; the oldest go first
)

// policy is what can be changed while the server runs.
type policy struct {
	rotation Rotation
	lifetime time.Duration
}

// grant is what a user allowed a client: all tokens of a grant are one family.
type grant struct {
	id, client, sub string
	scopes          []string
	revoked         string // why; empty: it is alive
	refreshes       int    // that gave a token
	failures        int    // refused
	authTime        time.Time
	accessTokens    []string // oldest first
	refreshTokens   []string // oldest first
}

type accessToken struct {
	grant   *grant
	scopes  []string
	expires time.Time
}

type refreshToken struct {
	grant *grant
	used  time.Time // zero: not yet
}

// store keeps grants and tokens in memory, bounded. Its methods are the provider's rules, each under one lock.
type store struct {
	now    func() time.Time
	random io.Reader
	grace  time.Duration
	max    int
	codes  time.Duration
	shared bool // Config.SharedGrants
	// endsAll is Config.RevocationEndsAll.
	endsAll bool

	mu       sync.Mutex
	policy   policy
	requests map[string]*authRequest // by id
	order    []string                // ids of requests, oldest first
	byCode   map[string]*authRequest
	grants   []*grant // oldest first
	access   map[string]*accessToken
	refresh  map[string]*refreshToken
	devices  map[string]*deviceRequest // by device code

	reuses, graceReuses, codeReuses, revocations int
}

func newStore(cfg Config) *store {
	return &store{
		now: cfg.Now, random: cfg.Random, grace: cfg.GraceWindow, max: cfg.MaxGrants, codes: cfg.CodeLifetime, shared: cfg.SharedGrants, endsAll: cfg.RevocationEndsAll,
		policy:   policy{rotation: cfg.Rotation, lifetime: cfg.AccessTokenLifetime},
		requests: map[string]*authRequest{}, byCode: map[string]*authRequest{},
		access: map[string]*accessToken{}, refresh: map[string]*refreshToken{}, devices: map[string]*deviceRequest{},
	}
}

func (s *store) set(change func(*policy)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.policy)
}

// token makes a random opaque token of 256 bits; the prefix tells people what they look at.
func (s *store) token(prefix string) (string, error) {
	var b [32]byte
	if _, err := io.ReadFull(s.random, b[:]); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	return prefix + base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// addRequest remembers an authorization request and gives it its id.
func (s *store) addRequest(r *authRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := s.token("sbq_")
	if err != nil {
		return err
	}
	r.id = id
	s.requests[id] = r
	s.order = append(s.order, id)
	for len(s.order) > maxRequests {
		s.forgetRequest(s.order[0])
		s.order = s.order[1:]
	}
	return nil
}

func (s *store) forgetRequest(id string) {
	if r, ok := s.requests[id]; ok {
		delete(s.requests, id)
		delete(s.byCode, r.code)
	}
}

// request returns a copy of an authorization request in progress.
func (s *store) request(id string) (authRequest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.requests[id]
	if !ok {
		return authRequest{}, false
	}
	return *r, true
}

// decide writes down what the user decided; only the first decision counts.
func (s *store) decide(id, sub string, granted []string, allowed bool) (*authRequest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.requests[id]
	if !ok || r.decided {
		return nil, false
	}
	r.decided, r.allowed, r.sub, r.scopes, r.authTime = true, allowed, sub, granted, s.now()
	copied := *r
	return &copied, true
}

// saveCode binds the code to its request, once.
func (s *store) saveCode(id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.requests[id]
	if !ok || !r.allowed || r.code != "" {
		return errUnknownToken
	}
	r.code, r.codeExpires = code, s.now().Add(s.codes)
	s.byCode[code] = r
	return nil
}

// redeemable finds the request of a code. A code that was redeemed before revokes what it gave (RFC 6749 section 4.1.2).
func (s *store) redeemable(code string) (*authRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.byCode[code]
	if !ok || s.now().After(r.codeExpires) {
		return nil, errUnknownToken
	}
	if r.grant != nil {
		s.codeReuses++
		s.revoke(r.grant, "code reuse")
		return nil, errUnknownToken
	}
	copied := *r
	return &copied, nil
}

// issued is one answer of the token endpoint.
type issued struct {
	access, refresh string
	lifetime        time.Duration
}

// redeem makes a grant of a code, atomically with the code's single use.
func (s *store) redeem(requestID string, offline bool) (issued, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.requests[requestID]
	if !ok || r.grant != nil || r.code == "" {
		return issued{}, errUnknownToken
	}
	g, err := s.grantOf(r)
	if err != nil {
		return issued{}, err
	}
	out, err := s.issueAccess(g, g.scopes)
	if err != nil {
		return issued{}, err
	}
	if offline {
		if out.refresh, err = s.issueRefresh(g); err != nil {
			return issued{}, err
		}
	}
	r.grant = g
	s.keep(g)
	return out, nil
}

// direct makes a grant that no user gave: an access token alone.
func (s *store) direct(client, sub string, scopes []string) (issued, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := s.token("sbg_")
	if err != nil {
		return issued{}, err
	}
	g := &grant{id: id, client: client, sub: sub, scopes: scopes, authTime: s.now()}
	out, err := s.issueAccess(g, scopes)
	if err != nil {
		return issued{}, err
	}
	s.keep(g)
	return out, nil
}

// keep remembers the grant, and forgets the oldest if there are too many.
func (s *store) keep(g *grant) {
	if !slices.Contains(s.grants, g) {
		s.grants = append(s.grants, g)
	}
	for len(s.grants) > s.max {
		s.forgetGrant(s.grants[0])
		s.grants = s.grants[1:]
	}
}

// grantOf is what the consent gives: a grant of its own, or with shared ones the one that the user's account has with this
// client, whose refresh tokens until now are spent.
func (s *store) grantOf(r *authRequest) (*grant, error) {
	for _, g := range s.grants {
		if s.shared && g.client == r.clientID && g.sub == r.sub && g.revoked == "" {
			for _, token := range g.refreshTokens {
				if t := s.refresh[token]; t != nil && t.used.IsZero() {
					t.used = s.now()
				}
			}
			return g, nil
		}
	}
	id, err := s.token("sbg_")
	if err != nil {
		return nil, err
	}
	return &grant{id: id, client: r.clientID, sub: r.sub, scopes: r.scopes, authTime: r.authTime}, nil
}

// peek tells whose a refresh token is, whether it still works or not: use decides that, atomically.
func (s *store) peek(token string) (*grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.refresh[token]
	if !ok {
		return nil, errUnknownToken
	}
	copied := *t.grant
	copied.scopes = slices.Clone(copied.scopes)
	return &copied, nil
}

// use is the refresh grant: it checks the refresh token, rotates it as the mode says and issues an access token. With keep
// the token is not rotated and none comes back (RFC 6749 section 6 allows both).
func (s *store) use(token string, scopes []string, keep bool) (issued, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.refresh[token]
	if !ok {
		return issued{}, errUnknownToken
	}
	g := t.grant
	if g.revoked != "" {
		g.failures++
		return issued{}, errRevoked
	}
	again := !t.used.IsZero()
	if again && s.policy.rotation == RotationGrace && !s.now().After(t.used.Add(s.grace)) {
		s.graceReuses++
	} else if again && s.policy.rotation != RotationNone {
		s.reuses++
		g.failures++
		s.revoke(g, "refresh token reuse")
		return issued{}, errReused
	}
	out, err := s.issueAccess(g, scopes)
	if err != nil {
		return issued{}, err
	}
	switch {
	case keep:
	case s.policy.rotation == RotationNone:
		out.refresh = token
	default:
		if out.refresh, err = s.issueRefresh(g); err != nil {
			return issued{}, err
		}
		if !again {
			t.used = s.now()
		}
	}
	g.refreshes++
	return out, nil
}

func (s *store) issueAccess(g *grant, scopes []string) (issued, error) {
	token, err := s.token("sba_")
	if err != nil {
		return issued{}, err
	}
	s.access[token] = &accessToken{grant: g, scopes: scopes, expires: s.now().Add(s.policy.lifetime)}
	g.accessTokens = append(g.accessTokens, token)
	if len(g.accessTokens) > maxTokensPerGrant {
		delete(s.access, g.accessTokens[0])
		g.accessTokens = g.accessTokens[1:]
	}
	return issued{access: token, lifetime: s.policy.lifetime}, nil
}

func (s *store) issueRefresh(g *grant) (string, error) {
	token, err := s.token("sbr_")
	if err != nil {
		return "", err
	}
	s.refresh[token] = &refreshToken{grant: g}
	g.refreshTokens = append(g.refreshTokens, token)
	if len(g.refreshTokens) > maxTokensPerGrant {
		delete(s.refresh, g.refreshTokens[0])
		g.refreshTokens = g.refreshTokens[1:]
	}
	return token, nil
}

// check tells whose access token it is, if it is good.
func (s *store) check(token string) (sub string, scopes []string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, found := s.access[token]
	if !found || t.grant.revoked != "" || !s.now().Before(t.expires) {
		return "", nil, false
	}
	return t.grant.sub, t.scopes, true
}

// revokeToken is RFC 7009: a refresh token takes its whole grant along, an access token only itself. foreign: it belongs to
// another client.
func (s *store) revokeToken(token, client string) (foreign bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.refresh[token]; ok {
		if t.grant.client != client {
			return true
		}
		s.revocations++
		s.revoke(t.grant, "revoked by the client")
		s.revokeRest(t.grant)
		return false
	}
	if t, ok := s.access[token]; ok {
		if t.grant.client != client {
			return true
		}
		s.revocations++
		delete(s.access, token)
		s.revokeRest(t.grant)
	}
	return false
}

// revokeRest ends what else the account gave the client, where a revocation does that.
func (s *store) revokeRest(of *grant) {
	for _, g := range s.grants {
		if s.endsAll && g.client == of.client && g.sub == of.sub {
			s.revoke(g, "revoked with another grant of the account")
		}
	}
}

func (s *store) revokeUser(sub string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, g := range s.grants {
		if g.sub == sub && g.revoked == "" {
			s.revoke(g, "revoked by the user")
			n++
		}
	}
	return n
}

// revoke ends a grant. Its refresh tokens stay known, so that a later use is told apart from a token that never was.
func (s *store) revoke(g *grant, why string) {
	if g.revoked != "" {
		return
	}
	g.revoked = why
	for _, t := range g.accessTokens {
		delete(s.access, t)
	}
	g.accessTokens = nil
}

func (s *store) forgetGrant(g *grant) {
	s.revoke(g, "forgotten")
	for _, t := range g.refreshTokens {
		delete(s.refresh, t)
	}
}
