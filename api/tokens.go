package api

import (
	"context"
	"net/http"
	"time"

	"tokenbroker/broker"
)

// tokenBody is the body of POST /v1/tokens.
type tokenBody struct {
	Connector  string    `json:"connector"`
	Subject    string    `json:"subject"`
	Scopes     scopeList `json:"scopes"`
	Connection string    `json:"connection"`
	MinTTL     *int64    `json:"min_ttl"` // seconds
	Actor      actorBody `json:"actor"`
	Reason     string    `json:"reason"`
	ReturnTo   string    `json:"return_to"`
	State      string    `json:"state"`
	// SubjectToken and ActorToken prove who the user is, and who acts for them (RFC 8693 section 2.1).
	SubjectToken string `json:"subject_token"`
	ActorToken   string `json:"actor_token"`
}

type actorBody struct {
	Agent string `json:"agent"`
	Run   string `json:"run"`
	Tool  string `json:"tool"`
}

// tokenAnswer is the one answer that holds an access token. Nothing in it can hold a refresh token.
type tokenAnswer struct {
	AccessToken string            `json:"access_token"`
	TokenType   string            `json:"token_type"`
	ExpiresIn   int64             `json:"expires_in"`
	ExpiresAt   string            `json:"expires_at"`
	Scope       string            `json:"scope"`
	Connector   string            `json:"connector"`
	Connection  string            `json:"connection"`
	Account     account           `json:"account"`
	Extra       map[string]string `json:"extra"`
	Degraded    bool              `json:"degraded,omitzero"`
}

func (a *API) issueToken(ctx context.Context, in *request) (answer, error) {
	text, err := in.readAll()
	if err != nil {
		return answer{}, err
	}
	body, err := readTokenBody(text)
	if err != nil {
		return answer{}, err
	}
	var f fields
	req := broker.TokenRequest{
		Connector: body.Connector, Subject: body.Subject, Connection: body.Connection,
		Actor: broker.Actor(body.Actor), Reason: body.Reason, ReturnTo: body.ReturnTo, State: body.State,
	}
	req.Proofs = f.proofs(body.SubjectToken, body.ActorToken)
	if body.Subject == "" && body.Connector != "" && !a.cfg.Service.NeedsSubject(in.caller, body.Connector) {
		f.id("connection", body.Connection) // a token of the tenant's own
	} else {
		f.target(in.caller, req.Proofs, body.Connector, body.Subject, body.Connection)
	}
	req.Scopes = f.scopes(body.Scopes.names)
	req.MinTTL = f.minTTL(body.MinTTL)
	f.actor(req.Actor)
	f.text("reason", body.Reason, maxReason)
	f.back(body.ReturnTo, body.State)
	if f.err != nil {
		return answer{}, f.err
	}
	if err := a.admitStated(in.caller, req.Subject, req.Proofs); err != nil {
		return answer{}, err
	}
	token, err := a.cfg.Service.IssueToken(ctx, in.caller, req)
	if err != nil {
		return answer{}, err
	}
	secret := revealed(token)
	// As much as most answers need, so that no copy of a token is left behind where a buffer grew.
	if text, written := appendToken(make([]byte, 0, 640+len(secret)), secret, token); written {
		return answer{status: http.StatusOK, text: text}, nil
	}
	return ok(tokenAnswerOf(secret, token))
}

// revealed is the one place where an access token leaves for a client.
func revealed(token broker.Token) string { return token.AccessToken.Reveal() }

// tokenAnswerOf is the answer as the encoder takes it.
func tokenAnswerOf(secret string, token broker.Token) tokenAnswer {
	return tokenAnswer{
		AccessToken: secret,
		TokenType:   "Bearer",
		ExpiresIn:   wholeSeconds(token.ExpiresIn),
		ExpiresAt:   stamp(token.ExpiresAt),
		Scope:       token.Scopes.String(),
		Connector:   token.Connector,
		Connection:  token.Connection,
		Account:     account(token.Account),
		Extra:       token.Extra,
		Degraded:    token.Degraded,
	}
}

// target checks what a request is about.
func (f *fields) target(caller broker.Caller, proofs broker.Proofs, connector, subject, connection string) {
	f.required("connector", connector)
	f.id("connector", connector)
	f.who(caller, subject, proofs)
	f.id("connection", connection)
}

// back checks where the user goes after a consent. Whether the client may use it is the service's decision.
func (f *fields) back(returnTo, state string) {
	f.text("return_to", returnTo, maxReturnTo)
	f.text("state", state, maxState)
}

func (f *fields) minTTL(seconds *int64) *time.Duration {
	if seconds == nil {
		return nil
	}
	if *seconds < 0 || *seconds > maxMinTTL {
		f.refuse("min_ttl must be an integer from 0 to %d (seconds)", maxMinTTL)
		return nil
	}
	d := time.Duration(*seconds) * time.Second
	return &d
}

// admitStated counts a request about a subject that the client states. Where a token must say who it is, the service counts it once that is
// known: nobody uses up another one's limit by naming them.
func (a *API) admitStated(caller broker.Caller, subject string, proofs broker.Proofs) error {
	if !proofs.Subject.IsZero() || caller.Client.SubjectTokens {
		return nil
	}
	return a.cfg.Service.AdmitSubject(caller, subject)
}
