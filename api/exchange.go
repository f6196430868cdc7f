package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"tokenbroker/broker"
)

// exchangeAnswer is RFC 8693 section 2.2.1, and behind it what POST /v1/tokens answers besides.
type exchangeAnswer struct {
	AccessToken string            `json:"access_token"`
	IssuedType  string            `json:"issued_token_type"`
	TokenType   string            `json:"token_type"`
	ExpiresIn   int64             `json:"expires_in"`
	Scope       string            `json:"scope"`
	ExpiresAt   string            `json:"expires_at"`
	Connector   string            `json:"connector"`
	Connection  string            `json:"connection"`
	Account     account           `json:"account"`
	Extra       map[string]string `json:"extra"`
	Degraded    bool              `json:"degraded,omitzero"`
}

// exchange changes a token that says who the user is into one of the user's at a connector (RFC 8693 section 2).
func (a *API) exchange(ctx context.Context, in *request, form form) (answer, error) {
	var f fields
	req := broker.TokenRequest{
		Connection: form.one("connection"), Reason: form.one("reason"), ReturnTo: form.one("return_to"), State: form.one("state"),
	}
	connector, err := a.target(form)
	if err != nil {
		return answer{}, err
	}
	req.Connector = connector
	f.id("connector", connector)
	f.id("connection", req.Connection)
	f.tokenType("subject_token", form)
	f.tokenType("actor_token", form)
	f.required("subject_token", form.one("subject_token"))
	if kind := form.one("requested_token_type"); kind != "" && kind != typeAccessToken {
		f.refuse("requested_token_type must be %s: a refresh token never leaves this broker", typeAccessToken)
	}
	req.Proofs = f.proofs(form.one("subject_token"), form.one("actor_token"))
	req.Scopes = f.scopes(splitScopes(form.one("scope")))
	req.MinTTL = f.minTTL(form.seconds(&f, "min_ttl"))
	f.text("reason", req.Reason, maxReason)
	f.back(req.ReturnTo, req.State)
	if f.err != nil {
		return answer{}, f.err
	}
	token, err := a.cfg.Service.IssueToken(ctx, in.caller, req)
	if err != nil {
		return answer{}, err
	}
	plain := tokenAnswerOf(revealed(token), token)
	return ok(exchangeAnswer{
		AccessToken: plain.AccessToken, IssuedType: typeAccessToken, TokenType: plain.TokenType, ExpiresIn: plain.ExpiresIn, Scope: plain.Scope,
		ExpiresAt: plain.ExpiresAt, Connector: plain.Connector, Connection: plain.Connection, Account: plain.Account, Extra: plain.Extra, Degraded: plain.Degraded,
	})
}

// target is the connector that audience and resource name: its id, or its address below the public URL.
func (a *API) target(form form) (string, error) {
	targets := slices.Clone(form.values["audience"])
	for _, resource := range form.values["resource"] {
		id, ours := strings.CutPrefix(resource, a.cfg.PublicURL+"/connectors/")
		if !ours {
			return "", oauthError("invalid_target", "resource must be %s/connectors/ID; GET /v1/connectors lists the ids", a.cfg.PublicURL)
		}
		targets = append(targets, id)
	}
	slices.Sort(targets)
	switch targets = slices.Compact(targets); {
	case len(targets) == 0:
		return "", invalid("audience is missing: name the connector; GET /v1/connectors lists them")
	case len(targets) > 1:
		return "", oauthError("invalid_target", "name one connector: a token is of one provider")
	}
	return targets[0], nil
}

// tokenType checks what kind of token a parameter holds: whatever it is called, it must be a signed one (RFC 8693 section 3).
func (f *fields) tokenType(name string, form form) {
	kind, there := form.one(name+"_type"), form.one(name) != ""
	switch {
	case there && kind == "":
		f.refuse("%s_type is missing", name)
	case !there && kind != "":
		f.refuse("%s_type is there without a %s", name, name)
	case there && !slices.Contains([]string{typeJWT, typeIDToken, typeAccessToken}, kind):
		f.refuse("%s_type must be %s, %s or %s, and the token a signed one", name, typeJWT, typeIDToken, typeAccessToken)
	}
}

// seconds reads a number of seconds; nil: there is none.
func (form form) seconds(f *fields, name string) *int64 {
	text := form.one(name)
	if text == "" {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		f.refuse("%s must be an integer (seconds)", name)
		return nil
	}
	return &n
}

// rfcError is an error whose name is one of OAuth's and none of ours.
type rfcError struct {
	name string
	err  *broker.Error
}

func (e *rfcError) Error() string { return e.name + ": " + e.err.Description }
func (e *rfcError) Unwrap() error { return e.err }

func oauthError(name, format string, args ...any) error {
	return &rfcError{name: name, err: broker.Errorf(broker.CodeInvalidRequest, format, args...)}
}

// explain is explain by the rules of the call.
func (in *request) explain(err error) failure {
	f := explain(err, in.id)
	if !in.oauth {
		return f
	}
	var named *rfcError
	switch code := f.body.Error; {
	case errors.As(err, &named):
		f.body.Error = broker.Code(named.name)
	case code == broker.CodeInvalidSubjectToken, code == broker.CodeSubjectMismatch: // RFC 8693 section 2.2.2
		f.header.Del("Www-Authenticate")
		f.body.Error, f.status = broker.CodeInvalidRequest, http.StatusBadRequest
	case code == broker.CodeConsentRequired: // OpenID Connect Core section 3.1.2.6, with what leads on beside it
		f.body.Error, f.status = "interaction_required", http.StatusBadRequest
	case code == broker.CodeNotFound && f.status == http.StatusNotFound: // of the connector
		f.body.Error, f.status = "invalid_target", http.StatusBadRequest
	case code == broker.CodeInvalidClient && f.status == http.StatusUnauthorized && f.header.Get("Www-Authenticate") == "":
		f.header.Set("Www-Authenticate", basicChallenge)
	case f.status == http.StatusConflict, f.status == http.StatusGone: // RFC 6749 section 5.2
		f.status = http.StatusBadRequest
	}
	return f
}
