package brokertest

import (
	"context"

	"tokenbroker/broker"
)

// Obtained is a token that the provider gave to a connector's own credentials.
type Obtained struct {
	Connector, Subject, Scopes, Token string
}

// Obtain is part of broker.Upstream. Before is called with no refresh token.
func (p *Provider) Obtain(ctx context.Context, connector string, req broker.ObtainRequest) (broker.Grant, error) {
	if p.Before != nil {
		if err := p.Before(ctx, ""); err != nil {
			return broker.Grant{}, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Calls++
	g := p.answer(p.Now())
	g.Account = broker.Account{}
	p.Obtained = append(p.Obtained, Obtained{Connector: connector, Subject: req.Subject, Scopes: req.Scopes.String(), Token: g.AccessToken.Reveal()})
	return g, nil
}

// Obtains returns what was obtained so far.
func (p *Provider) Obtains() []Obtained {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Obtained(nil), p.Obtained...)
}
