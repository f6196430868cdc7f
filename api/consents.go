package api

import (
	"cmp"
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
	Flow       string    `json:"flow"` // link or device; default link
	// As in tokenBody.
	SubjectToken string `json:"subject_token"`
	ActorToken   string `json:"actor_token"`
}

// The flows of a consent.
const (
	flowLink   = "link"
	flowDevice = "device"
)

// deviceAnswer is what the user is shown of a consent on another device (RFC 8628 section 3.3).
type deviceAnswer struct {
	UserCode                string `json:"user_code"`
	VerificationURI         string `json:"verification_uri"`
	VerificationURIComplete string `json:"verification_uri_complete,omitzero"`
	Interval                int64  `json:"interval"` // seconds between two looks at the status that make sense
}

func showDevice(d *broker.DeviceView) *deviceAnswer {
	if d == nil {
		return nil
	}
	return &deviceAnswer{
		UserCode: d.UserCode.Reveal(), VerificationURI: d.VerificationURI, VerificationURIComplete: d.VerificationURIComplete.Reveal(), Interval: wholeSeconds(d.Interval),
	}
}

// createdConsent answers with the link: the only answer beside consent_required that holds one.
type createdConsent struct {
	ID        string               `json:"id"`
	URL       string               `json:"url"`
	Status    broker.ConsentStatus `json:"status"`
	Binding   broker.Binding       `json:"binding"`
	ExpiresAt string               `json:"expires_at"`
	Device    *deviceAnswer        `json:"device,omitzero"`
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
	req.Proofs = f.proofs(body.SubjectToken, body.ActorToken)
	f.target(in.caller, req.Proofs, body.Connector, body.Subject, body.Connection)
	req.Scopes = f.scopes(body.Scopes.names)
	f.actor(req.Actor)
	f.back(body.ReturnTo, body.State)
	if req.Device = body.Flow == flowDevice; body.Flow != "" && body.Flow != flowLink && !req.Device {
		f.refuse("flow must be %s or %s", flowLink, flowDevice)
	}
	if f.err != nil {
		return answer{}, f.err
	}
	if err := a.admitStated(in.caller, req.Subject, req.Proofs); err != nil {
		return answer{}, err
	}
	view, link, err := a.cfg.Service.CreateConsent(ctx, in.caller, req)
	if err != nil {
		return answer{}, err
	}
	created := createdConsent{ID: link.ID, URL: link.URL.Reveal(), Status: view.Status, Binding: link.Binding, ExpiresAt: stamp(link.ExpiresAt), Device: showDevice(view.Device)}
	if d := created.Device; d != nil {
		// Where the user goes is the provider's own page, with the code in it where the provider has such an address.
		created.URL, created.ExpiresAt = cmp.Or(d.VerificationURIComplete, d.VerificationURI), stamp(view.ExpiresAt)
	}
	return answer{status: http.StatusCreated, body: created}, nil
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
	Device     *deviceAnswer        `json:"device,omitzero"`
}

func showConsent(view broker.ConsentView) consentAnswer {
	return consentAnswer{
		ID: view.ID, Status: view.Status, Connector: view.Connector, Subject: view.Subject, Scopes: scopeArray(view.Scopes),
		Binding: view.Binding, Connection: view.Connection, Account: (*account)(view.Account), Error: view.Error,
		ExpiresAt: stampOrNull(view.ExpiresAt), Device: showDevice(view.Device),
	}
}

func (a *API) consentStatus(ctx context.Context, in *request) (answer, error) {
	id, err := in.pathID("consent")
	if err != nil {
		return answer{}, err
	}
	var f fields
	known, wait := in.waitFor(&f)
	if f.err != nil {
		return answer{}, f.err
	}
	if wait == 0 {
		view, err := a.cfg.Service.ConsentStatus(ctx, in.caller, id)
		if err != nil {
			return answer{}, err
		}
		return ok(showConsent(view))
	}
	ctx, cancel := context.WithTimeout(in.http.Context(), wait+a.cfg.Timeout)
	defer cancel()
	in.writeUntil(wait + a.cfg.Timeout)
	view, err := a.cfg.Service.AwaitConsent(ctx, in.caller, id, known, wait)
	if err != nil {
		return answer{}, err
	}
	return ok(showConsent(view))
}

// completeBody is the body of POST /v1/consents/ID/complete.
type completeBody struct {
	Subject string `json:"subject"`
	Code    string `json:"code"`
	Replace bool   `json:"replace"`

	SubjectToken string `json:"subject_token"`
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
	proofs := f.proofs(body.SubjectToken, "")
	f.who(in.caller, body.Subject, proofs)
	f.code(body.Code)
	if f.err != nil {
		return answer{}, f.err
	}
	conn, err := a.cfg.Service.CompleteConsent(ctx, in.caller, id,
		broker.Completion{Subject: body.Subject, Proofs: proofs, Code: broker.NewSecret(body.Code), Replace: body.Replace})
	if err != nil {
		return answer{}, err
	}
	return ok(showConnection(conn))
}
