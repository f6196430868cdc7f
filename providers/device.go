package providers

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"tokenbroker/broker"
)

// DeviceAuthorization is how the provider begins consents on another device (RFC 8628).
type DeviceAuthorization struct {
	// Auth is client (as at the token endpoint, section 3.1) or none (the client's id alone). Default client.
	Auth string `yaml:"auth"`
}

// longestDevice bounds what a provider says of a device code's life and of the pause between polls.
const longestDevice = time.Hour

// BeginDevice implements broker.Upstream.
func (r *Registry) BeginDevice(ctx context.Context, connector string, scopes broker.ScopeSet) (_ broker.DeviceAuthorization, err error) {
	s, err := r.server(connector)
	if err != nil {
		return broker.DeviceAuthorization{}, err
	}
	ctx, done := r.telemetry.start(ctx, s, "device_authorization")
	defer func() { done(err) }()
	if !s.view.Device {
		return broker.DeviceAuthorization{}, &broker.UpstreamError{Class: broker.ClassRefused, What: "the connector takes no consents on another device"}
	}
	e, err := r.resolve(ctx, s, forDevice, nil)
	if err != nil {
		return broker.DeviceAuthorization{}, err
	}
	params := url.Values{}
	if asked := scopes.Union(s.view.Implied); !asked.Empty() && s.def.ScopeParameter != "none" {
		params.Set("scope", s.request(asked))
	}
	method := e.method
	if s.def.DeviceAuthorization.Auth == authNone {
		method = authNone
	}
	out := outgoing{what: "device authorization endpoint", method: http.MethodPost, url: e.device, header: http.Header{}}
	s.authenticate(method, out.header, params)
	out.setBody("form", params)
	a, err := r.do(ctx, s, out)
	if err != nil {
		return broker.DeviceAuthorization{}, err
	}
	return s.readDevice(a)
}

// readDevice reads the answer of RFC 8628 section 3.2. Users are sent to the address in it, so it must be one that a browser
// may be sent to (threats.md 21).
func (s *server) readDevice(a answer) (broker.DeviceAuthorization, error) {
	const who = "device authorization endpoint"
	tree := readTree(a)
	code := tree.secret("device_code")
	if a.status < 200 || a.status > 299 || code == "" {
		return broker.DeviceAuthorization{}, s.failure(who, a, tree)
	}
	begun := broker.DeviceAuthorization{
		DeviceCode: broker.NewSecret(code), UserCode: broker.NewSecret(tree.text("user_code")),
		VerificationURI: tree.text("verification_uri|verification_url"), // Google's name for it is of the draft
	}
	address, err := parseEndpoint(begun.VerificationURI)
	if err != nil || begun.UserCode.IsZero() {
		return broker.DeviceAuthorization{}, &broker.UpstreamError{Class: broker.ClassRefused, Status: a.status, What: who + " gave no code, or no address that users can be sent to"}
	}
	if full := tree.text("verification_uri_complete|verification_url_complete"); full != "" {
		if u, err := parseEndpoint(full); err == nil && sameOrigin(u, address) {
			begun.VerificationURIComplete = broker.NewSecret(full)
		}
	}
	begun.ExpiresIn = longestDevice
	if life, _ := lifetime(tree.at("expires_in")); life > 0 {
		begun.ExpiresIn = min(life, longestDevice)
	}
	if interval, _ := lifetime(tree.at("interval")); interval > 0 {
		begun.Interval = min(interval, longestDevice)
	}
	return begun, nil
}

// PollDevice implements broker.Upstream.
func (r *Registry) PollDevice(ctx context.Context, connector string, req broker.DevicePoll) (_ broker.Grant, err error) {
	s, err := r.server(connector)
	if err != nil {
		return broker.Grant{}, err
	}
	ctx, done := r.telemetry.start(ctx, s, "device_poll")
	defer func() { done(err) }()
	e, err := r.resolve(ctx, s, forToken, nil)
	if err != nil {
		return broker.Grant{}, err
	}
	params := url.Values{}
	for name, value := range s.def.TokenRequest.ExchangeParams {
		params.Set(name, fill(value, s.vars))
	}
	params.Set("grant_type", typeDeviceCode)
	params.Set("device_code", req.DeviceCode.Reveal())
	a, err := r.askToken(ctx, s, e.token, e.method, params, broker.Secret{})
	if err != nil {
		return broker.Grant{}, err
	}
	grant, err := s.readGrant(a, s.def.TokenResponse, broker.Secret{})
	var u *broker.UpstreamError
	if errors.As(err, &u) {
		if waiting := deviceAnswer(s, a); waiting != nil {
			return broker.Grant{}, waiting
		}
	}
	return grant, err
}

// deviceAnswer is what the codes of RFC 8628 section 3.5 mean in answers to polls; nil: it is another one.
func deviceAnswer(s *server, a answer) error {
	for _, place := range strings.Split(s.def.Errors.Code, "|") {
		code, _ := scalar(readTree(a).at(place))
		switch code {
		case "authorization_pending":
			return broker.ErrDevicePending
		case "slow_down":
			return broker.ErrDeviceTooFast
		case "access_denied":
			return broker.ErrDeviceDenied
		case "expired_token":
			return broker.ErrDeviceExpired
		}
	}
	return nil
}
