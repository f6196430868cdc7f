package broker

import "context"

// Client is a program that calls the REST API, as the operator configured it. It belongs to one tenant.
type Client struct {
	ID     string
	Name   string // what users read on the consent page
	Tenant string
	// Connectors that it may use; nil: all.
	Connectors []string
	// Scopes is a ceiling: no token that carries more reaches this client. nil: no ceiling.
	Scopes *ScopeSet
	// ReturnTo are the URLs that a consent may return to, compared exactly (RFC 9700 section 4.11.1).
	ReturnTo []string
	// Origins are the web origins that hear the consent page's postMessage (RFC 9700 section 4.17).
	Origins []string
	// Login: its users prove who they are at their tenant's own OpenID Provider (Logins), so its consents have binding "login".
	Login bool
	// SubjectTokens: it must prove who the user is, by a token of an issuer that the operator named; its word alone does not count.
	SubjectTokens bool
	// ActorTokens: which agent acts counts by a token of it alone (decisions/0038). ActorsRequired: and there must be one.
	ActorTokens, ActorsRequired bool
	// ManageConnectors: it may make, change and delete connectors of its tenant.
	ManageConnectors bool
	// OwnConnectors: it may use those beside Connectors. Without a list of connectors it may in any case.
	OwnConnectors bool
}

// Actor is the agent that will use a token: ids that the client states, kept for audit and policy.
type Actor struct {
	Agent string `json:"agent,omitempty"`
	Run   string `json:"run,omitempty"`
	Tool  string `json:"tool,omitempty"`
}

// Caller is who asks. It is made only at the edges, after authentication; every use case takes it first.
type Caller struct {
	Client    Client
	RequestID string
	TraceID   string // W3C trace id in hex; empty when there is none
	// Portal is set where a user asks, on the page "My connections": the visit (portal.go). Client is the visit's then.
	Portal string
	// Origin is where the request came from; nil: not known. It is asked only where a limit counts by it.
	Origin Origin
}

// Origin tells where a request came from.
type Origin interface {
	// Address is that of whoever called, as the operator's trusted proxies report it; "": not known.
	Address() string
}

// from is the caller's address as limits count it.
func (c Caller) from() string {
	if c.Origin == nil {
		return ""
	}
	return Network(c.Origin.Address())
}

type requestIDKey struct{}

// WithRequestID carries the id of the request that is being served to the events that it leaves. Edges without a Caller
// (the browser's half of a consent) set it; a Caller's own id needs it not.
func WithRequestID(ctx context.Context, id string) context.Context {
	if id == "" {
		return ctx
	}
	return context.WithValue(ctx, requestIDKey{}, id)
}

// requestIDOf returns the id that WithRequestID carries, or "".
func requestIDOf(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}
