// Package providers speaks to authorization servers. It implements three ports of broker: Connectors (what may be asked),
// ConnectorRegistry (what changes of that while the program runs) and Upstream (everything that is asked of a provider, and the
// notices that it sends).
//
// A provider is data: a Definition, one YAML file in catalogue/ or an entry under providers: in the operator's
// configuration, in the same schema (README.md). There is one client for all of them. What a provider does differently
// is a key of its definition; no file here names a provider.
//
// Reading order:
//
//	definition.go   the schema: every key, its default and where it comes from
//	strict.go       YAML into definitions: unknown and repeated keys are errors with their line
//	validate.go     what a definition must fulfil; all problems at once; defaults.go: what is left out
//	url.go          which addresses are acceptable, and how {placeholders} are filled
//	catalogue.go    the built-in definitions; offers.go: what an operator can name of them
//	connector.go    a connector as it is configured
//	registry.go     New: definitions and connectors become servers, the Connectors port
//	tenants.go      connectors that tenants made come and go; reach.go: where their requests may go
//	authorize.go    the authorization request, the fingerprint of a flow
//	callback.go     what a callback must bring beside state
//	token.go        Exchange and Refresh; overlap.go: two client secrets for a while
//	grants.go       the other grants that a connector may have; obtain.go asks by them, device.go for consents on other devices
//	answer.go       reading a token response so that a refresh token in it is never lost; body.go and tree.go: whatever it looks like
//	errors.go       what a failed answer means
//	identify.go     whose account it is        revoke.go    ending a grant
//	resolve.go      which endpoints a request goes to: stated ones first, then discovery.go (RFC 8414, OpenID Connect)
//	notices.go      what a provider sends by itself; notice_verify.go and notice_set.go: whether it is the provider
//	client.go       one request, no redirects, no repeats, bounded (deadline.go); transport.go decides which addresses may be dialled
//	fetch.go        the same for packages beside this one (login/, which signs people in at OpenID Providers)
//	telemetry.go    spans and durations
//
// The package never logs, returns in errors or records in spans what a provider sends: it may echo secrets. It reads no
// environment, starts no goroutine that outlives a call, and takes the clock from outside, but for the deadlines of sockets.
package providers
