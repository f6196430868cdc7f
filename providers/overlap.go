package providers

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"time"

	"tokenbroker/broker"
)

// While a client secret is being replaced, the provider may know the new one or, on some of its servers, still the old one.
// The new one is tried first. Only where the provider says that it does not know this client, and so has not looked at what was
// asked (RFC 6749 section 5.2, invalid_client), the same request is sent once more with the one before. Never where it may
// have done it: a refresh token or a code must not be sent twice then.

// withPrevious is the server with the client secret before this one; nil: there is none.
func (s *server) withPrevious() *server {
	if s.config.Previous.IsZero() {
		return nil
	}
	p := *s
	p.config.ClientSecret, p.config.Previous = s.config.Previous, broker.Secret{}
	p.config.Generation = max(0, s.config.Generation-1)
	return &p
}

// predecessor is the server with the earlier client secret, while that may still be used; else nil.
func (r *Registry) predecessor(s *server) *server {
	if until := s.config.PreviousUntil; s.previous == nil || !until.IsZero() && !r.now().Before(until) {
		return nil
	}
	return s.previous
}

// askToken sends a request to the token endpoint: once, and a second time with the earlier client secret where the newer one was
// refused as such.
func (r *Registry) askToken(ctx context.Context, s *server, endpoint, method string, params url.Values, bearer broker.Secret) (answer, error) {
	a, err := r.askTokenAs(ctx, s, endpoint, method, maps.Clone(params), bearer)
	a.client = s.config.Generation
	p := r.predecessor(s)
	if err != nil || p == nil || !s.refuses(a) {
		return a, err
	}
	// With less time than a request may take, its answer could come too late, and a refresh token be spent for nothing.
	if end, ok := ctx.Deadline(); ok && time.Until(end) < r.limit(s) {
		r.log.WarnContext(ctx, "the provider refused the connector's new client secret, and was too slow for a try with the one before", "connector", s.id)
		return a, nil
	}
	b, err := r.askTokenAs(ctx, p, endpoint, method, maps.Clone(params), bearer)
	b.client = p.config.Generation
	if err != nil && broker.ClassOf(err) != broker.ClassUnsent {
		return b, err // what became of it is not known, and that must be said
	}
	if err != nil || p.refuses(b) {
		return a, nil
	}
	r.log.WarnContext(ctx, "the provider does not know the connector's new client secret yet; the one before was accepted", "connector", s.id, "generation", s.config.Generation)
	return b, nil
}

// refuses tells whether an answer of the token endpoint says, beyond doubt, that the provider does not know the client by this
// secret. One with a token in it, or that was cut off, does not.
func (s *server) refuses(a answer) bool {
	t := readTree(a)
	for _, paths := range []*TokenResponse{s.def.TokenResponse, s.def.RefreshResponse} {
		if t.secret(paths.AccessToken) != "" || t.secret(paths.RefreshToken) != "" {
			return false
		}
	}
	return refusesSecret(s.failure("token endpoint", a, t))
}

// refusesSecret tells whether the failure is about who the client is, and not about what it may do. One with a cause comes from
// an answer that was cut off.
func refusesSecret(err error) bool {
	var u *broker.UpstreamError
	return errors.As(err, &u) && u.Class == broker.ClassClientRefused && u.Cause == nil &&
		!slices.Contains([]string{"unauthorized_client", "unsupported_grant_type", "redirect_uri_mismatch"}, u.Code)
}
