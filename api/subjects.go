package api

import (
	"context"

	"tokenbroker/broker"
)

// subjectConnector is a connector as a chat shows it in its settings.
type subjectConnector struct {
	ID          string             `json:"id"`
	Name        string             `json:"name"`
	Category    string             `json:"category"`
	Status      string             `json:"status"`
	Connections []connectionAnswer `json:"connections"`
}

type subjectConnectorsAnswer struct {
	Connectors []subjectConnector `json:"connectors"`
}

func (a *API) subjectConnectors(ctx context.Context, in *request) (answer, error) {
	subject, err := in.pathSubject()
	if err != nil {
		return answer{}, err
	}
	if err := a.cfg.Service.AdmitSubject(in.caller, subject); err != nil {
		return answer{}, err
	}
	list, err := a.cfg.Service.SubjectConnectors(ctx, in.caller, subject)
	if err != nil {
		return answer{}, err
	}
	shown := make([]subjectConnector, 0, len(list))
	for _, c := range list {
		shown = append(shown, subjectConnector{
			ID: c.Connector.ID, Name: c.Connector.Name, Category: c.Connector.Category,
			Status: connectedness(c.Connections), Connections: showConnections(c.Connections),
		})
	}
	return ok(subjectConnectorsAnswer{Connectors: shown})
}

// connectedness sums up a subject's connections to one connector: one that works is enough to be connected.
func connectedness(list []broker.Connection) string {
	status := "not_connected"
	for _, c := range list {
		switch c.Status {
		case broker.ConnectionActive:
			return "connected"
		case broker.ConnectionNeedsConsent:
			status = "needs_consent"
		}
	}
	return status
}

// erasedAnswer counts what was erased; all three outcomes are always there.
type erasedAnswer struct {
	Connections     int           `json:"connections"`
	RevokedUpstream revokedCounts `json:"revoked_upstream"`
}

type revokedCounts struct {
	Done        int `json:"done"`
	Unsupported int `json:"unsupported"`
	Failed      int `json:"failed"`
}

func (a *API) eraseSubject(ctx context.Context, in *request) (answer, error) {
	subject, err := in.pathSubject()
	if err != nil {
		return answer{}, err
	}
	erased, err := a.cfg.Service.EraseSubject(ctx, in.caller, subject)
	if err != nil {
		return answer{}, err
	}
	return ok(showErased(erased))
}

func showErased(erased broker.Erased) erasedAnswer {
	counts := erased.RevokedUpstream
	return erasedAnswer{Connections: erased.Connections, RevokedUpstream: revokedCounts{
		Done: counts[broker.RevokedDone], Unsupported: counts[broker.RevokedUnsupported], Failed: counts[broker.RevokedFailed],
	}}
}
