package brokertest

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"time"

	"tokenbroker/broker"
)

// Rotation is what a provider does with a refresh token that was used.
type Rotation int

// The rotations.
const (
	Strict Rotation = iota // the used one is dead; using it again ends the grant
	Grace                  // the used one still works for a while
	None                   // there is one refresh token, for ever
)

// Provider is an authorization server in memory: every code and refresh token that it gave is accounted for.
type Provider struct {
	Now      func() time.Time
	Rotation Rotation
	// Lifetime of access tokens.
	Lifetime time.Duration
	// Before and After are called around what the provider does with a refresh: an error before means that it never
	// heard of it, an error after that it did it and the answer got lost. nil: nothing.
	Before func(ctx context.Context, token string) error
	After  func(ctx context.Context, token string) error
	// BeforeFor is Before, told which connector asks.
	BeforeFor func(ctx context.Context, connector string) error
	// Idle, if set, is how long a refresh token lives unless it is used; ReportRefreshExpiry: answers say so.
	Idle                time.Duration
	ReportRefreshExpiry bool
	// Report, if set, are the scopes that answers name.
	Report *broker.ScopeSet
	// OneChain: every consent goes on with one chain of refresh tokens, as if it were a refresh of it.
	OneChain bool
	// RevokesAll: a revocation ends every grant of its account.
	RevokesAll bool
	// NoRefreshToken leaves it out of the next exchanges.
	NoRefreshToken bool
	// ExchangeTakes is how long an exchange takes.
	ExchangeTakes time.Duration
	// ExchangeErr and IdentifyErr are what those calls return.
	ExchangeErr, IdentifyErr error
	// Extra is what answers tell beside the tokens.
	Extra map[string]string
	// BeforeRevoke is called before a revocation: an error is what comes of it. nil: nothing.
	BeforeRevoke func(ctx context.Context, connector string) error
	// Noticed is what a notice says; nil: it is refused.
	Noticed *broker.Notice
	// IssuerRequired: callbacks must name the issuer (RFC 9207).
	IssuerRequired bool
	// Signs: callbacks must have the parameter signature=signed.
	Signs bool
	// Account that consents.
	Account broker.Account

	mu        sync.Mutex
	revokeErr error
	n         int
	grants    map[string]*grant // by refresh token
	chain     *grant            // the newest
	codes     map[string]bool   // sent once
	Refreshes int               // that succeeded
	Calls     int               // that arrived
	Reuses    int
	Exchanges int
	Revoked   []string
	Obtained  []Obtained // by direct grants
	Device    Device
}

type grant struct {
	account string
	dead    bool
	current string
	usedAt  map[string]time.Time
	since   time.Time // of current
}

// AuthorizationURL is part of broker.Upstream.
func (p *Provider) AuthorizationURL(_ context.Context, connector string, req broker.AuthorizationRequest) (broker.Authorization, error) {
	q := url.Values{"state": {req.State.Reveal()}, "scope": {req.Scopes.String()}, "redirect_uri": {req.RedirectURI}}
	return broker.Authorization{URL: broker.NewSecret("https://provider.example/auth?" + q.Encode()), Fingerprint: "fp", Issuer: "https://provider.example", IssuerRequired: p.IssuerRequired}, nil
}

// VerifyCallback is part of broker.Upstream.
func (p *Provider) VerifyCallback(_ string, params map[string]broker.Secret) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.Signs && params["signature"].Reveal() != "signed" {
		return &broker.UpstreamError{Class: broker.ClassRefused, What: "no signature"}
	}
	return nil
}

// Exchange is part of broker.Upstream.
func (p *Provider) Exchange(_ context.Context, _ string, req broker.ExchangeRequest) (broker.Grant, error) {
	time.Sleep(p.ExchangeTakes)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Exchanges++
	if p.ExchangeErr != nil {
		return broker.Grant{}, p.ExchangeErr
	}
	if p.codes == nil {
		p.codes = map[string]bool{}
	}
	if p.codes[req.Code.Reveal()] {
		return broker.Grant{}, &broker.UpstreamError{Class: broker.ClassGrantDead, Status: 400, Code: "invalid_grant", What: "code was used"}
	}
	p.codes[req.Code.Reveal()] = true
	g := p.answer(p.Now())
	if p.NoRefreshToken {
		return g, nil
	}
	token := p.newGrant()
	g.RefreshToken = broker.NewSecret(token)
	return g, nil
}

// NewGrant makes a grant that a test can put into a store.
func (p *Provider) NewGrant() broker.Grant {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.answer(p.Now())
	g.RefreshToken = broker.NewSecret(p.newGrant())
	return g
}

func (p *Provider) newGrant() string {
	if p.grants == nil {
		p.grants = map[string]*grant{}
	}
	token := p.next("rt")
	if p.OneChain && p.chain != nil && !p.chain.dead {
		p.chain.usedAt[p.chain.current] = p.Now()
		p.chain.current, p.chain.since = token, p.Now()
		p.grants[token] = p.chain
		return token
	}
	p.grants[token] = &grant{account: p.Account.ID, current: token, usedAt: map[string]time.Time{}, since: p.Now()}
	p.chain = p.grants[token]
	return token
}

func (p *Provider) next(kind string) string {
	p.n++
	return fmt.Sprintf("%s-%d", kind, p.n)
}

// answer is one to a request that was sent at that time.
func (p *Provider) answer(sent time.Time) broker.Grant {
	g := broker.Grant{AccessToken: broker.NewSecret(p.next("at")), Lifetime: p.Lifetime, ExpiresAt: sent.Add(p.Lifetime), Account: p.Account, Extra: p.Extra}
	if p.ReportRefreshExpiry {
		g.RefreshExpiry = p.Now().Add(p.Idle)
	}
	if p.Report != nil {
		g.Scopes, g.ScopesReported = *p.Report, true
	}
	return g
}

// Identify is part of broker.Upstream.
func (p *Provider) Identify(_ context.Context, _ string, g broker.Grant) (broker.Grant, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.IdentifyErr != nil {
		return broker.Grant{}, p.IdentifyErr
	}
	g.Account = p.Account
	return g, nil
}

// Refresh is part of broker.Upstream.
func (p *Provider) Refresh(ctx context.Context, connector string, req broker.RefreshRequest) (broker.Grant, error) {
	token, sent := req.RefreshToken.Reveal(), p.Now()
	if p.BeforeFor != nil {
		if err := p.BeforeFor(ctx, connector); err != nil {
			return broker.Grant{}, err
		}
	}
	if p.Before != nil {
		if err := p.Before(ctx, token); err != nil {
			return broker.Grant{}, err
		}
	}
	g, err := p.refresh(token, sent)
	if err == nil && p.After != nil {
		if err := p.After(ctx, token); err != nil {
			return broker.Grant{}, err
		}
	}
	return g, err
}

func (p *Provider) refresh(token string, sent time.Time) (broker.Grant, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Calls++
	dead := &broker.UpstreamError{Class: broker.ClassGrantDead, Status: 400, Code: "invalid_grant", What: "refresh token is not good"}
	g := p.grants[token]
	if g == nil || g.dead || p.Idle > 0 && p.Now().Sub(g.since) > p.Idle {
		return broker.Grant{}, dead
	}
	if used, ok := g.usedAt[token]; ok {
		if p.Rotation == Strict || p.Now().Sub(used) > time.Minute {
			p.Reuses++
			g.dead = true
			return broker.Grant{}, dead
		}
	}
	p.Refreshes++
	answer := p.answer(sent)
	if p.Rotation != None {
		if _, ok := g.usedAt[token]; !ok {
			g.usedAt[token] = p.Now()
		}
		g.current, g.since = p.next("rt"), p.Now()
		p.grants[g.current] = g
		answer.RefreshToken = broker.NewSecret(g.current)
	}
	return answer, nil
}

// Kill ends the grant of that refresh token, as a user can at the provider.
func (p *Provider) Kill(token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grants[token].dead = true
}

// KillToken makes that one refresh token unknown; others of its grant still work.
func (p *Provider) KillToken(token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.grants, token)
}

// Usable tells whether the provider would still take that refresh token.
func (p *Provider) Usable(token string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.grants[token]
	if g == nil || g.dead {
		return false
	}
	used, ok := g.usedAt[token]
	return !ok || (p.Rotation == Grace && p.Now().Sub(used) <= time.Minute)
}

// FailRevocations sets what Revoke returns, also while refreshes run.
func (p *Provider) FailRevocations(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revokeErr = err
}

// Revoke is part of broker.Upstream.
func (p *Provider) Revoke(ctx context.Context, connector string, req broker.RevokeRequest) error {
	if p.BeforeRevoke != nil {
		if err := p.BeforeRevoke(ctx, connector); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.revokeErr != nil {
		return p.revokeErr
	}
	p.Revoked = append(p.Revoked, req.RefreshToken.Reveal())
	if g := p.grants[req.RefreshToken.Reveal()]; g != nil {
		g.dead = true
		for _, other := range p.grants {
			other.dead = other.dead || p.RevokesAll && other.account == g.account
		}
	}
	return nil
}

// ReadNotice is part of broker.Upstream.
func (p *Provider) ReadNotice(context.Context, string, broker.NoticeRequest) (broker.Notice, error) {
	if p.Noticed == nil {
		return broker.Notice{}, broker.ErrNoticeRefused
	}
	return *p.Noticed, nil
}
