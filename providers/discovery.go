package providers

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"tokenbroker/broker"
)

const (
	metadataKept   = time.Hour        // a document is believed that long, and longer while it can't be renewed
	absenceKept    = 10 * time.Minute // that there is none
	failureHeld    = 5 * time.Second  // an outage: no new attempt for so long
	maxMetadata    = 256 << 10
	maxMethodNames = 32
)

// metadata is the part of an authorization server's metadata that is used (RFC 8414 section 2, OpenID Connect Discovery
// section 3, RFC 9207 section 3).
type metadata struct {
	Issuer                string `json:"issuer"`
	AuthorizationEndpoint string `json:"authorization_endpoint"`
	TokenEndpoint         string `json:"token_endpoint"`
	RevocationEndpoint    string `json:"revocation_endpoint"`
	UserinfoEndpoint      string `json:"userinfo_endpoint"`
	// DeviceAuthorizationEndpoint is of RFC 8628 section 4.
	DeviceAuthorizationEndpoint string    `json:"device_authorization_endpoint"`
	AuthMethods                 *[]string `json:"token_endpoint_auth_methods_supported"`
	IssParameter                bool      `json:"authorization_response_iss_parameter_supported"`
}

// metadataCache holds the metadata of one connector's issuer. It is filled when first needed, so that the program starts
// while a provider is down. One caller at a time looks it up; others wait no longer than their context.
type metadataCache struct {
	turn    chan struct{} // capacity 1: holds a value while somebody looks it up
	limit   time.Duration
	now     func() time.Time
	have    *metadata
	err     error
	expires time.Time
}

func newMetadataCache(cfg Config) *metadataCache {
	return &metadataCache{turn: make(chan struct{}, 1), limit: cfg.DiscoveryTimeout, now: cfg.Now}
}

// get returns the metadata of the issuer; an empty one where there is none. Errors: ClassUnsent when it can't be had at
// the moment (no secret was sent anywhere), ClassClientRefused when what is there must not be believed.
func (m *metadataCache) get(ctx context.Context, c *client, d *Definition, issuer string) (metadata, error) {
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return metadata{}, unavailable(ctx.Err())
	}
	defer func() { <-m.turn }()
	if m.now().Before(m.expires) {
		if m.have != nil {
			return *m.have, nil
		}
		return metadata{}, m.err
	}
	limited, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	fresh, found, err := lookUp(limited, c, d, issuer)
	switch {
	case err == nil:
		m.have, m.err, m.expires = &fresh, nil, m.now().Add(metadataKept)
		if !found {
			m.expires = m.now().Add(absenceKept)
		}
	case ctx.Err() != nil:
		return metadata{}, err // the caller left; that says nothing about the provider
	case broker.ClassOf(err) == broker.ClassClientRefused:
		m.have, m.err, m.expires = nil, err, m.now().Add(failureHeld)
	default:
		m.err, m.expires = err, m.now().Add(failureHeld)
	}
	if m.have != nil {
		return *m.have, nil
	}
	return metadata{}, m.err
}

func unavailable(cause error) error {
	return &broker.UpstreamError{Class: broker.ClassUnsent, What: "metadata is not available", Cause: cause}
}

func forged(what string) error {
	return &broker.UpstreamError{Class: broker.ClassClientRefused, What: what}
}

// lookUp asks at both places (RFC 8414 section 3.1 and 5): the second fills what the first leaves out, userinfo_endpoint
// most often. found tells whether there was a document at all.
func lookUp(ctx context.Context, c *client, d *Definition, issuer string) (merged metadata, found bool, err error) {
	var failed error
	for _, place := range metadataURLs(issuer) {
		doc, ok, err := fetchMetadata(ctx, c, d, place)
		if err != nil {
			failed = err
			continue
		}
		if !ok {
			continue
		}
		if err := doc.check(d, issuer); err != nil {
			return metadata{}, true, err
		}
		found = true
		merged.fill(doc)
		if merged.UserinfoEndpoint != "" && merged.RevocationEndpoint != "" {
			break
		}
	}
	if !found && failed != nil {
		return metadata{}, false, failed
	}
	return merged, found, nil
}

// metadataURLs puts the well-known part between host and path (RFC 8414 section 3), and after the path (OpenID Connect
// Discovery section 4).
func metadataURLs(issuer string) []string {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	root := u.Scheme + "://" + u.Host
	return []string{root + "/.well-known/oauth-authorization-server" + path, root + path + "/.well-known/openid-configuration"}
}

// fetchMetadata gets one document. ok is false where there is none: any 4xx, or a page instead of JSON.
func fetchMetadata(ctx context.Context, c *client, d *Definition, place string) (doc metadata, ok bool, err error) {
	a, err := c.send(ctx, outgoing{what: "metadata", method: "GET", url: place, reach: d.reach(place)})
	switch {
	case err != nil:
		var u *broker.UpstreamError
		if errors.As(err, &u) {
			err = u.Cause
		}
		return metadata{}, false, unavailable(err)
	case a.status >= 500 && a.status != 501, a.status == 429, a.status == 408:
		return metadata{}, false, unavailable(nil)
	case a.status != 200:
		return metadata{}, false, nil // RFC 8414 section 3.2: 200 only; a redirect is not followed
	case a.broken != nil:
		return metadata{}, false, unavailable(a.broken)
	}
	if len(a.body) > maxMetadata || json.Unmarshal(a.body, &doc) != nil {
		return metadata{}, false, nil
	}
	return doc, true, nil
}

// check refuses a document that is not this issuer's, or that would send secrets to another host (RFC 8414 section 3.3;
// threats.md 58).
func (m metadata) check(d *Definition, issuer string) error {
	if m.Issuer != issuer {
		return forged("metadata names another issuer than the configured one (they must be equal, a slash at the end included)")
	}
	base, err := parseIssuer(issuer)
	if err != nil {
		return forged("issuer has an unusable address")
	}
	for _, e := range []struct{ name, value, stated string }{
		{"authorization_endpoint", m.AuthorizationEndpoint, d.AuthorizationEndpoint},
		{"token_endpoint", m.TokenEndpoint, d.TokenEndpoint},
		{"revocation_endpoint", m.RevocationEndpoint, d.RevocationEndpoint},
		{"userinfo_endpoint", m.UserinfoEndpoint, d.UserinfoEndpoint},
		{"device_authorization_endpoint", m.DeviceAuthorizationEndpoint, d.DeviceAuthorizationEndpoint},
	} {
		if e.value == "" || e.stated != "" {
			continue // what the operator states holds, whatever the document says
		}
		u, err := parseEndpoint(e.value)
		if err != nil {
			return forged("metadata has an unusable " + e.name)
		}
		if !sameOrigin(u, base) && !slices.Contains(d.EndpointHosts, u.Host) {
			return forged("metadata has a " + e.name + " on another host than the issuer: state " + e.name + " or list the host under endpoint_hosts")
		}
	}
	return nil
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// fill takes from other what m lacks.
func (m *metadata) fill(other metadata) {
	def(&m.Issuer, other.Issuer)
	def(&m.AuthorizationEndpoint, other.AuthorizationEndpoint)
	def(&m.TokenEndpoint, other.TokenEndpoint)
	def(&m.RevocationEndpoint, other.RevocationEndpoint)
	def(&m.UserinfoEndpoint, other.UserinfoEndpoint)
	def(&m.DeviceAuthorizationEndpoint, other.DeviceAuthorizationEndpoint)
	if m.AuthMethods == nil {
		m.AuthMethods = other.AuthMethods
	}
	m.IssParameter = m.IssParameter || other.IssParameter
}

// authMethod is the one way to authenticate that the metadata leaves, given whether there is a client secret. Metadata
// without a list means client_secret_basic (RFC 8414 section 2).
func (m metadata) authMethod(secret bool) (string, error) {
	methods := []string{authBasic}
	if m.AuthMethods != nil {
		methods = (*m.AuthMethods)[:min(len(*m.AuthMethods), maxMethodNames)]
	}
	var usable []string
	for _, method := range []string{authBasic, authPost, authNone} {
		if slices.Contains(methods, method) && (method == authNone) != secret {
			usable = append(usable, method)
		}
	}
	switch len(usable) {
	case 1:
		return usable[0], nil
	case 0:
		return "", forged("metadata has no client authentication that can be used: set token_endpoint_auth_method, and client_secret unless it is none")
	}
	return "", forged("metadata allows both client_secret_basic and client_secret_post: set token_endpoint_auth_method")
}
