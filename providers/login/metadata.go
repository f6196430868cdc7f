package login

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"tokenbroker/broker"
	"tokenbroker/providers"
)

const maxMetadata = 256 << 10

// metadata is the part of a provider's metadata that is used (OpenID Connect Discovery section 3, RFC 9207 section 3).
type metadata struct {
	Issuer                string   `json:"issuer"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	TokenEndpoint         string   `json:"token_endpoint"`
	JWKSURI               string   `json:"jwks_uri"`
	SigningAlgs           []string `json:"id_token_signing_alg_values_supported"`
	// UserinfoEndpoint is asked for what an ID token lacks; one on a host that the operator did not name counts as none.
	UserinfoEndpoint string `json:"userinfo_endpoint"`
	// EndSessionEndpoint is where browsers sign out (RP-Initiated Logout section 2.1); one elsewhere counts as none, as it is told who.
	EndSessionEndpoint string `json:"end_session_endpoint"`
	IssParameter       bool   `json:"authorization_response_iss_parameter_supported"`
}

func (c *client) metadata(ctx context.Context) (metadata, error) {
	return c.meta.Get(ctx, func(metadata) bool { return false }, c.fetchMetadata)
}

// fetchMetadata gets the document behind the issuer (section 4) and checks it.
func (c *client) fetchMetadata(ctx context.Context) (metadata, error) {
	address := strings.TrimSuffix(c.cfg.Issuer, "/") + "/.well-known/openid-configuration"
	got, err := c.fetch.Do(ctx, providers.Fetch{What: "metadata", Method: http.MethodGet, URL: address, Timeout: metadataTimeout})
	switch {
	case err != nil:
		return metadata{}, &broker.UpstreamError{Class: broker.ClassUnsent, What: "metadata is not available", Cause: err}
	case got.Status >= 500, got.Status == http.StatusTooManyRequests:
		return metadata{}, &broker.UpstreamError{Class: broker.ClassUnsent, Status: got.Status, What: "metadata is not available"}
	case got.Status != http.StatusOK:
		return metadata{}, refused(got.Status, "issuer has no metadata at /.well-known/openid-configuration")
	}
	var doc metadata
	if len(got.Body) > maxMetadata || json.Unmarshal(got.Body, &doc) != nil {
		return metadata{}, refused(0, "metadata can't be read")
	}
	if !c.near(doc.UserinfoEndpoint) {
		doc.UserinfoEndpoint = ""
	}
	if !c.near(doc.EndSessionEndpoint) {
		doc.EndSessionEndpoint = ""
	}
	return doc, c.check(doc)
}

// near tells whether an endpoint lies where a token may be sent. Unlike the others, these endpoints are not needed to sign in, so
// a userinfo endpoint elsewhere (Entra has it at Microsoft Graph) ends nothing.
func (c *client) near(endpoint string) bool {
	base, err := providers.ParseIssuer(c.cfg.Issuer)
	if err != nil {
		return false
	}
	u, err := providers.ParseEndpoint(endpoint)
	return err == nil && c.allowed(u, base)
}

func (c *client) allowed(u, base *url.URL) bool {
	return providers.SameOrigin(u, base) || (u.Scheme == "https" && slices.Contains(c.cfg.EndpointHosts, u.Host))
}

// check refuses a document that is not this issuer's, or that would send a code, a secret or the question for keys to another host
// than the operator knows of (Discovery section 4.3; threats.md 58).
func (c *client) check(doc metadata) error {
	if doc.Issuer != c.cfg.Issuer {
		return refused(0, "metadata names another issuer than the configured one (they must be equal, a slash at the end included)")
	}
	base, err := providers.ParseIssuer(c.cfg.Issuer)
	if err != nil {
		return refused(0, "issuer "+err.Error())
	}
	for _, e := range []struct{ name, value string }{
		{"authorization_endpoint", doc.AuthorizationEndpoint}, {"token_endpoint", doc.TokenEndpoint}, {"jwks_uri", doc.JWKSURI},
	} {
		u, err := providers.ParseEndpoint(e.value)
		if err != nil {
			return refused(0, "metadata has no usable "+e.name)
		}
		if !c.allowed(u, base) {
			return refused(0, "metadata has a "+e.name+" on another host than the issuer: list the host under endpoint_hosts")
		}
	}
	return nil
}

// refused is an error that only the operator can end.
func refused(status int, what string) error {
	return &broker.UpstreamError{Class: broker.ClassClientRefused, Status: status, What: what}
}
