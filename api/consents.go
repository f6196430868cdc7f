package api

import (
	"context"
	"net/http"

	"tokenbroker/broker"
)

// consentBody is the body of POST /v1/consents.
type consentBody struct {
	Connector  string    `json:"connector"`
	Subject    string    `json:"subject"`
	Scopes     scopeList `json:"scopes"`
	Connection string    `json:"connection"`
	ReturnTo   string    `json:"return_to"`
	State      string    `json:"state"`
	Actor      actorBody `json:"actor"`
}

// createdConsent answers with the link: the only answer beside consent_required that holds one.
type createdConsent struct {
	ID        string               `json:"id"`
	URL       string               `json:"url"`
	Status    broker.ConsentStatus `json:"status"`
	Binding   broker.Binding       `json:"binding"`
	ExpiresAt string               `json:"expires_at"`
}

func (a *API) createConsent(ctx context.Context, in *request) (answer, error) {
	body, err := readBody[consentBody](in)
	if err != nil {
		return answer{}, err
	}
	var f fields
	req := broker.ConsentRequest{
		Connector: body.Connector, Subject: body.Subject, Connection: body.Connection,
		ReturnTo: body.ReturnTo, State: body.State, Actor: broker.Actor(body.Actor),
	}
	f.target(body.Connector, body.Subject, body.Connection)
	req.Scopes = f.scopes(body.Scopes.names)
	f.actor(req.Actor)
	f.back(body.ReturnTo, body.State)
	if f.err != nil {
		return answer{}, f.err
	}
	view, link, err := a.cfg.Service.CreateConsent(ctx, in.caller, req)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: createdConsent{
		ID: link.ID, URL: link.URL.Reveal(), Status: view.Status, Binding: link.Binding, ExpiresAt: stamp(link.ExpiresAt),
	}}, nil
}

// consentAnswer has no link: whoever reads a consent later has no use for it.
type consentAnswer struct {
	ID         string               `json:"id"`
	Status     broker.ConsentStatus `json:"status"`
	Connector  string               `json:"connector"`
	Subject    string               `json:"subject"`
	Scopes     []string             `json:"scopes"`
	Binding    broker.Binding       `json:"binding"`
	Connection string               `json:"connection,omitzero"`
	Account    *account             `json:"account,omitzero"`
	Error      string               `json:"error,omitzero"`
	ExpiresAt  *string              `json:"expires_at,omitzero"`
}

func (a *API) consentStatus(ctx context.Context, in *request) (answer, error) {
	id, err := in.pathID("consent")
	if err != nil {
		return answer{}, err
	}
	view, err := a.cfg.Service.ConsentStatus(ctx, in.caller, id)
	if err != nil {
		return answer{}, err
	}
	return ok(consentAnswer{
		ID: view.ID, Status: view.Status, Connector: view.Connector, Subject: view.Subject, Scopes: scopeArray(view.Scopes),
		Binding: view.Binding, Connection: view.Connection, Account: (*account)(view.Account), Error: view.Error,
		ExpiresAt: stampOrNull(view.ExpiresAt),
	})
}

// completeBody is the body of POST /v1/consents/ID/complete.
type completeBody struct {
	Subject string `json:"subject"`
	Code    string `json:"code"`
	Replace bool   `json:"replace"`
}

func (a *API) completeConsent(ctx context.Context, in *request) (answer, error) {
	id, err := in.pathID("consent")
	if err != nil {
		return answer{}, err
	}
	body, err := readBody[completeBody](in)
	if err != nil {
		return answer{}, err
	}
	var f fields
	f.subject(body.Subject)
	f.required("code", body.Code)
	// Not f.text: a code is what a person typed, line breaks and all; the service decides what it is.
	if len(body.Code) > maxCode {
		f.refuse("code must be at most %d bytes", maxCode)
	}
	if f.err != nil {
		return answer{}, f.err
	}
	conn, err := a.cfg.Service.CompleteConsent(ctx, in.caller, id,
		broker.Completion{Subject: body.Subject, Code: broker.NewSecret(body.Code), Replace: body.Replace})
	if err != nil {
		return answer{}, err
	}
	return ok(showConnection(conn))
}
