package brokertest

import (
	"context"
	"fmt"
	"time"

	"tokenbroker/broker"
)

// Device is how the provider treats consents on another device.
type Device struct {
	ExpiresIn, Interval time.Duration
	// Answers of the polls, in order; when there are no more, the user has allowed it. Each poll is counted.
	Answers []error
	Polls   int
	Begun   int
	spent   map[string]bool
}

// BeginDevice is part of broker.Upstream.
func (p *Provider) BeginDevice(_ context.Context, _ string, scopes broker.ScopeSet) (broker.DeviceAuthorization, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Device.Begun++
	code := fmt.Sprintf("WXYZ-%04d", p.Device.Begun)
	return broker.DeviceAuthorization{
		DeviceCode: broker.NewSecret("device-" + code), UserCode: broker.NewSecret(code), VerificationURI: "https://provider.example/device",
		VerificationURIComplete: broker.NewSecret("https://provider.example/device?user_code=" + code),
		ExpiresIn:               p.Device.ExpiresIn, Interval: p.Device.Interval,
	}, nil
}

// PollDevice is part of broker.Upstream.
func (p *Provider) PollDevice(ctx context.Context, _ string, req broker.DevicePoll) (broker.Grant, error) {
	if p.Before != nil {
		if err := p.Before(ctx, req.DeviceCode.Reveal()); err != nil {
			return broker.Grant{}, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Device.Polls++
	if n := p.Device.Polls; n <= len(p.Device.Answers) {
		return broker.Grant{}, p.Device.Answers[n-1]
	}
	if p.Device.spent == nil {
		p.Device.spent = map[string]bool{}
	}
	if p.Device.spent[req.DeviceCode.Reveal()] {
		return broker.Grant{}, &broker.UpstreamError{Class: broker.ClassGrantDead, Status: 400, Code: "invalid_grant", What: "device code was used"}
	}
	p.Device.spent[req.DeviceCode.Reveal()] = true
	g := p.answer(p.Now())
	g.RefreshToken = broker.NewSecret(p.newGrant())
	return g, nil
}
