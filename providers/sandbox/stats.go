package sandbox

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"github.com/zitadel/oidc/v3/pkg/oidc"
)

// Stats counts what reached the server since it started. Nothing in it is secret.
type Stats struct {
	AuthorizeRequests int `json:"authorize_requests"`
	Allowed           int `json:"allowed"` // authorization responses with a code
	Denied            int `json:"denied"`
	SignOuts          int `json:"sign_outs"` // at /end_session
	// TokenRequests by grant_type, counted as they arrive, refused and faulty ones too; unknown grant types as "other".
	TokenRequests   map[string]int `json:"token_requests"`
	CodesRedeemed   int            `json:"codes_redeemed"`
	CodesRefused    int            `json:"codes_refused"`
	CodeReuses      int            `json:"code_reuses"`
	Refreshes       int            `json:"refreshes"`        // that gave a token, whether or not the answer arrived
	RefreshesFailed int            `json:"refreshes_failed"` // refused, or stopped by a fault before they did anything
	// Reuses of a used refresh token that killed a grant; GraceReuses were let pass.
	Reuses         int `json:"reuses"`
	GraceReuses    int `json:"grace_reuses"`
	ClientsRefused int `json:"clients_refused"`
	RevokeRequests int `json:"revoke_requests"`
	Revocations    int `json:"revocations"` // of a token that was known
	UserinfoCalls  int `json:"userinfo_calls"`
	FilesCalls     int `json:"files_calls"`
	// MostAtOnce is how many token requests were worked on at the same time at most, those that were refused for it included.
	MostAtOnce int `json:"most_at_once"`
	// Held requests hang in a fault at this moment.
	Held   int          `json:"held"`
	Grants []GrantStats `json:"grants"` // oldest first
}

// GrantStats is one user's consent to one client.
type GrantStats struct {
	ID        string   `json:"id"`
	Client    string   `json:"client"`
	User      string   `json:"user"` // login
	Scopes    []string `json:"scopes"`
	Refreshes int      `json:"refreshes"`
	Failures  int      `json:"failures"`
	Revoked   string   `json:"revoked,omitempty"` // why; empty: alive
}

// Request is a recorded request to the token or revocation endpoint, secrets and all: it stays in memory.
type Request struct {
	Path   string
	Header http.Header
	Form   url.Values
}

const maxRecorded = 2_000

// counters keeps Stats.
type counters struct {
	mu  sync.Mutex
	c   Stats
	now int // token requests that are worked on
}

// begun counts a token request that begins, until the returned function is called.
func (c *counters) begun() (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now++
	c.c.MostAtOnce = max(c.c.MostAtOnce, c.now)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.now--
	}
}

func (c *counters) busy() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func newCounters() *counters { return &counters{c: Stats{TokenRequests: map[string]int{}}} }

func (c *counters) add(change func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.c)
}

func (c *counters) token(grantType string) {
	switch oidc.GrantType(grantType) {
	case oidc.GrantTypeCode, oidc.GrantTypeRefreshToken, oidc.GrantTypeClientCredentials, oidc.GrantTypeBearer, oidc.GrantTypeDeviceCode:
	default:
		grantType = "other" // what callers invent must not fill the memory
	}
	c.add(func(s *Stats) { s.TokenRequests[grantType]++ })
}

func (c *counters) answered(grantType string, good bool) {
	c.add(func(s *Stats) {
		switch {
		case grantType == string(oidc.GrantTypeCode) && good:
			s.CodesRedeemed++
		case grantType == string(oidc.GrantTypeCode):
			s.CodesRefused++
		case grantType == string(oidc.GrantTypeRefreshToken) && good:
			s.Refreshes++
		case grantType == string(oidc.GrantTypeRefreshToken):
			s.RefreshesFailed++
		}
	})
}

// Stats returns the counters of this moment.
func (s *Server) Stats() Stats {
	s.stats.mu.Lock()
	out := s.stats.c
	out.TokenRequests = maps.Clone(out.TokenRequests)
	s.stats.mu.Unlock()
	out.Held = s.faults.heldNow()
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	out.CodeReuses, out.Reuses, out.GraceReuses, out.Revocations = s.store.codeReuses, s.store.reuses, s.store.graceReuses, s.store.revocations
	out.Grants = make([]GrantStats, 0, len(s.store.grants))
	for _, g := range s.store.grants {
		u, _ := s.userBySub(g.sub)
		out.Grants = append(out.Grants, GrantStats{
			ID: g.id, Client: g.client, User: u.Login, Scopes: slices.Clone(g.scopes),
			Refreshes: g.refreshes, Failures: g.failures, Revoked: g.revoked,
		})
	}
	return out
}

// Requests returns the last recorded requests, oldest first; at most 2,000, none without Config.Record.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *Server) record(r *http.Request) {
	if !s.cfg.Record {
		return
	}
	form := url.Values{}
	for name, values := range r.PostForm {
		form[name] = slices.Clone(values)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, Request{Path: r.URL.Path, Header: r.Header.Clone(), Form: form})
	if len(s.requests) > maxRecorded {
		s.requests = slices.Delete(s.requests, 0, len(s.requests)-maxRecorded)
	}
}
