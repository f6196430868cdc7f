package web

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// OperatorSwitches is what the pages about kill switches ask. Each change is recorded before it is made.
type OperatorSwitches interface {
	// ListSwitches returns what is disabled and concerns the operator, newest first, and MayEnable whether they may enable it.
	ListSwitches(ctx context.Context, op broker.Operator) ([]broker.Switch, error)
	MayEnable(op broker.Operator, off broker.Switch) bool
	// SwitchableConnectors are those that the operator may disable somewhere.
	SwitchableConnectors(op broker.Operator) []broker.Connector
	// Disable and Enable turn a switch, on every replica with the next request.
	Disable(ctx context.Context, op broker.Operator, what broker.Switch, reason string) error
	Enable(ctx context.Context, op broker.Operator, what broker.Switch, reason string) error
}

// switchesPage is what is disabled, and what can be.
type switchesPage struct {
	*board
	Rows       []switchRow
	Connectors []choice
	Clients    []choice
	// Wheres are the tenants that the operator may disable something in, and everywhere where that is allowed. Alone: there is but one.
	Wheres  []choice
	Alone   string
	Tenants []choice // that the operator may stop whole
	Revoke  bool     // may end all connections of a tenant
}

// where is the choice of a tenant in one of the forms.
type where struct {
	ID     string
	Wheres []choice
	Alone  string
}

// At makes the choice for the form whose element has that id.
func (p switchesPage) At(id string) where { return where{id, p.Wheres, p.Alone} }

// switchRow is a thing that is disabled, or is to be.
type switchRow struct {
	Kind, Name, Where string
	Since             moment
	By, Reason        string
	Enable            string // address; "": this operator can't
}

// kindWords are the kinds as the pages name them.
var kindWords = map[broker.SwitchKind]string{
	broker.SwitchTenant: "Tenant", broker.SwitchClient: "Client", broker.SwitchConnector: "Connector", broker.SwitchActor: "Agent",
}

func rowOfSwitch(off broker.Switch) switchRow {
	row := switchRow{Kind: kindWords[off.Kind], Name: plain(off.Name), Where: "everywhere", Since: momentOf(off.Since), By: plain(off.By), Reason: plain(off.Reason)}
	if off.Tenant != broker.Everywhere {
		row.Where = "tenant " + plain(off.Tenant)
	}
	if off.Kind == broker.SwitchTenant {
		row.Name, row.Where = plain(off.Tenant), "all of it"
	}
	return row
}

func switchAddress(action string, s broker.Switch) string {
	return "/dashboard/switches/" + action + "?" + url.Values{"kind": {string(s.Kind)}, "tenant": {s.Tenant}, "name": {s.Name}}.Encode()
}

// switches is GET /dashboard/switches.
func (w *Web) switches(c echo.Context, b *board) error {
	off, err := w.cfg.Service.ListSwitches(b.ctx, b.Op)
	if err != nil {
		return err
	}
	if err := w.cfg.Service.RecordLook(b.ctx, b.Op, broker.Everywhere, "kill switches"); err != nil {
		return err
	}
	page := switchesPage{board: b, Revoke: b.MaySomewhere(broker.PermitStopAll)}
	page.Title = "Kill switches"
	for _, one := range off {
		row := rowOfSwitch(one)
		if w.cfg.Service.MayEnable(b.Op, one) {
			row.Enable = switchAddress("enable", one)
		}
		page.Rows = append(page.Rows, row)
	}
	page.Connectors, page.Clients, page.Wheres = w.connectorChoices(b), w.clientChoices(b), w.whereChoices(b, broker.PermitSwitch)
	if len(page.Wheres) == 1 {
		page.Alone = page.Wheres[0].Value
	}
	if b.May(broker.PermitStopAll, broker.Everywhere) {
		for _, tenant := range w.cfg.Tenants {
			page.Tenants = append(page.Tenants, choice{Value: tenant, Label: plain(tenant)})
		}
	}
	return w.render(c, http.StatusOK, "board-switches", page)
}

func (w *Web) connectorChoices(b *board) (all []choice) {
	for _, connector := range w.cfg.Service.SwitchableConnectors(b.Op) {
		all = append(all, choice{Value: connector.ID, Label: plain(connector.ID) + " (" + plain(connector.Name) + ")"})
	}
	return all
}

func (w *Web) clientChoices(b *board) (all []choice) {
	for _, client := range w.cfg.Clients {
		if b.May(broker.PermitSwitch, client.Tenant) {
			all = append(all, choice{Value: client.Tenant + "/" + client.ID, Label: plain(client.ID) + " of " + plain(client.Tenant)})
		}
	}
	return all
}

// whereChoices are the tenants in which the operator has the permission; first of all everywhere, if so.
func (w *Web) whereChoices(b *board, p broker.Permission) (all []choice) {
	if b.May(p, broker.Everywhere) {
		all = append(all, choice{Value: "", Label: "everywhere"})
	}
	for _, tenant := range b.Op.Tenants(p, w.cfg.Tenants) {
		all = append(all, choice{Value: tenant, Label: "tenant " + plain(tenant)})
	}
	return all
}

// switchAsk asks whether it shall be done, and why.
type switchAsk struct {
	*board
	switchRow
	Heading, Button, Lead string
	Danger                bool
	Happens               []string
	Action, Problem       string
	Given                 string // the reason of a first try
}

// switchNamed reads what a page's address names. A client comes as TENANT/ID from the form that offers all of them.
func switchNamed(c echo.Context) broker.Switch {
	s := broker.Switch{Kind: broker.SwitchKind(c.QueryParam("kind")), Tenant: c.QueryParam("tenant"), Name: strings.TrimSpace(c.QueryParam("name"))}
	if s.Kind == broker.SwitchClient && s.Tenant == "" {
		s.Tenant, s.Name, _ = strings.Cut(s.Name, "/")
	}
	return s
}

// askSwitch is GET /dashboard/switches/ACTION.
func (w *Web) askSwitch(c echo.Context, b *board) error {
	return w.showSwitchAsk(c, b, switchNamed(c), http.StatusOK, "", "")
}

func (w *Web) showSwitchAsk(c echo.Context, b *board, s broker.Switch, status int, problem, reason string) error {
	p, in := broker.PermitSwitch, s.Tenant
	if s.Kind == broker.SwitchTenant {
		p, in = broker.PermitStopAll, broker.Everywhere
	}
	if err := b.Op.Check(p, in); err != nil {
		return err
	}
	if kindWords[s.Kind] == "" || s.Name == "" && s.Tenant == "" {
		return w.show(c, areaDashboard, badRequest)
	}
	page := switchAsk{board: b, switchRow: rowOfSwitch(s), Action: switchAddress(c.Param("action"), s), Problem: problem, Given: plain(reason)}
	name := strings.ToLower(page.Kind)
	switch c.Param("action") {
	case "disable":
		page.Title, page.Button, page.Danger, page.Lead = "Disable this "+name, "Disable", true, "Every replica refuses it from the next request on."
		page.Happens = disabledMeans[s.Kind]
	case "enable":
		page.Title, page.Button, page.Lead = "Enable this "+name, "Enable", "It works again from the next request on."
		page.Happens = []string{"Connections are as they were: their grants were kept fresh meanwhile, so no user has to consent again."}
	default:
		return w.show(c, areaDashboard, noSuchPage)
	}
	page.Heading = page.Title
	return w.render(c, status, "board-switch-ask", page)
}

// disabledMeans says what follows.
var disabledMeans = map[broker.SwitchKind][]string{
	broker.SwitchConnector: {
		"No token of it is handed out, and no consent to it begins or ends. Its users read that it is switched off for now.",
		"Users and clients can still disconnect.",
		"Its grants stay, and are refreshed in the background: enabled again, no user has to consent anew. To end them, end all its connections.",
		"Tokens that left before live on at the provider until they end.",
	},
	broker.SwitchClient: {
		"Every call of it is refused, but those that disconnect or erase. Consents that it asked for do not go on.",
		"What its users connected stays, and is refreshed in the background.",
		"Tokens that it was given before live on at the provider until they end. If its API key leaked, take the key out of the configuration too.",
	},
	broker.SwitchActor: {
		"No token is handed out for this agent, and no consent that it asked for goes on. Other agents are served.",
		"The id is what clients state: a client that states another one, or none, is served. To stop a client, disable the client.",
	},
	broker.SwitchTenant: {
		"Every call of its clients is refused, but those that disconnect or erase. No consent of its users goes on.",
		"What its users connected stays, and is refreshed in the background. To end it, end all its connections.",
		"Tokens that left before live on at the provider until they end.",
	},
}

// turnSwitch is POST /dashboard/switches/ACTION.
func (w *Web) turnSwitch(c echo.Context, b *board, form func(string) string) error {
	s, reason := switchNamed(c), strings.TrimSpace(form("reason"))
	turn, notice := w.cfg.Service.Disable, "disabled"
	switch c.Param("action") {
	case "disable":
	case "enable":
		turn, notice = w.cfg.Service.Enable, "enabled"
	default:
		return w.show(c, areaDashboard, noSuchPage)
	}
	err := turn(b.ctx, b.Op, s, reason)
	if err == nil {
		return c.Redirect(http.StatusSeeOther, "/dashboard/switches?notice="+notice)
	}
	problem, status, again := boardProblem(err)
	if !again {
		return err
	}
	w.cfg.Log.InfoContext(b.ctx, "a kill switch was not turned", "code", string(broker.CodeOf(err)), "error", err)
	return w.showSwitchAsk(c, b, s, status, problem, reason)
}

// boardProblem is what a form says of an error that the operator can do something about; false: it is a page of its own.
func boardProblem(err error) (problem string, status int, again bool) {
	var public *broker.Error
	if !errors.As(err, &public) || public.Code == broker.CodeNotFound || public.Code == broker.CodeServerError {
		return "", 0, false
	}
	return asSentence(public.Description), outcomeOf(areaDashboard, err).Status, true
}

// once names a form, so that it does its work once however often it is sent.
func (w *Web) once() (string, error) {
	var raw [12]byte
	if _, err := io.ReadFull(w.cfg.Random, raw[:]); err != nil {
		return "", fmt.Errorf("name a form: %w", err)
	}
	return hex.EncodeToString(raw[:]), nil
}

// chosen marks the choice with that value.
func chosen(all []choice, value string) []choice { return choices(value, slices.Clone(all)...) }
