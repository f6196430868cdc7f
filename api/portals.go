package api

import (
	"context"
	"net/http"

	"tokenbroker/broker"
)

// portalBody is the body of POST /v1/portal-sessions.
type portalBody struct {
	Subject  string `json:"subject"`
	ReturnTo string `json:"return_to"`
	State    string `json:"state"`

	SubjectToken string `json:"subject_token"`
}

// createdPortal answers with the link.
type createdPortal struct {
	ID        string              `json:"id"`
	URL       string              `json:"url"`
	Status    broker.PortalStatus `json:"status"`
	Binding   broker.Binding      `json:"binding"`
	ExpiresAt string              `json:"expires_at"`
}

func (a *API) createPortal(ctx context.Context, in *request) (answer, error) {
	body, err := readBody[portalBody](in)
	if err != nil {
		return answer{}, err
	}
	var f fields
	proofs := f.proofs(body.SubjectToken, "")
	f.who(in.caller, body.Subject, proofs)
	f.back(body.ReturnTo, body.State)
	if f.err != nil {
		return answer{}, f.err
	}
	if err := a.admitStated(in.caller, body.Subject, proofs); err != nil {
		return answer{}, err
	}
	view, link, err := a.cfg.Service.CreatePortal(ctx, in.caller, broker.PortalRequest{Subject: body.Subject, Proofs: proofs, ReturnTo: body.ReturnTo, State: body.State})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: createdPortal{
		ID: link.ID, URL: link.URL.Reveal(), Status: view.Status, Binding: link.Binding, ExpiresAt: stamp(link.ExpiresAt),
	}}, nil
}

// portalAnswer has no link: whoever reads a visit later has no use for it.
type portalAnswer struct {
	ID        string              `json:"id"`
	Status    broker.PortalStatus `json:"status"`
	Subject   string              `json:"subject"`
	Binding   broker.Binding      `json:"binding"`
	ExpiresAt string              `json:"expires_at"`
	URL       string              `json:"url,omitzero"` // only of the completing call
}

func showPortal(v broker.PortalView) portalAnswer {
	return portalAnswer{ID: v.ID, Status: v.Status, Subject: v.Subject, Binding: v.Binding, ExpiresAt: stamp(v.ExpiresAt)}
}

func (a *API) portalStatus(ctx context.Context, in *request) (answer, error) {
	id, err := in.pathID("visit")
	if err != nil {
		return answer{}, err
	}
	view, err := a.cfg.Service.PortalStatus(ctx, in.caller, id)
	if err != nil {
		return answer{}, err
	}
	return ok(showPortal(view))
}

// portalCompletion is the body of POST /v1/portal-sessions/ID/complete.
type portalCompletion struct {
	Subject string `json:"subject"`
	Code    string `json:"code"`

	SubjectToken string `json:"subject_token"`
}

func (a *API) completePortal(ctx context.Context, in *request) (answer, error) {
	id, err := in.pathID("visit")
	if err != nil {
		return answer{}, err
	}
	body, err := readBody[portalCompletion](in)
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
	entrance, err := a.cfg.Service.CompletePortal(ctx, in.caller, id, broker.Completion{Subject: body.Subject, Proofs: proofs, Code: broker.NewSecret(body.Code)})
	if err != nil {
		return answer{}, err
	}
	shown := showPortal(entrance.View)
	shown.URL = entrance.URL.Reveal()
	return ok(shown)
}
