package web

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// Overviews are what the first page of the dashboard asks, and that of the broker's health.
type Overviews interface {
	// Overview looks at a tenant, or at all together, and is recorded.
	Overview(ctx context.Context, op broker.Operator, tenant string, span broker.Span) (broker.Overview, error)
	// OverviewAgain is a further look of a page that is open.
	OverviewAgain(ctx context.Context, op broker.Operator, tenant string, span broker.Span) (broker.Overview, error)
	// Health looks at the broker itself, and is recorded.
	Health(ctx context.Context, op broker.Operator) (broker.Vitals, error)
}

// overviewPage is the first page.
type overviewPage struct {
	*board
	Tenant  string
	Tabs    []tab // tenants
	Many    bool  // they are chosen from a list
	Spans   []tab
	Span    string
	Refresh string // the address of this page
	Live    string // of its stream
	View    overviewView
}

// tab leads to the same page of something else.
type tab struct {
	Name, Value, Address string
	Current              bool
}

// overviewView is what is drawn anew while the page is open.
type overviewView struct {
	At          moment
	Tenant      string // everywhere: ""
	Attention   []attentionRow
	Missing     []string
	Issued      chart
	Refused     chart
	Refreshes   chart
	Figures     figures
	Refusals    []codeRow
	Providers   []providerRow
	Consents    []consentRow
	Connectors  []connectorRow
	More        int // connectors that are not listed
	Newest      []accountRow
	Accounts    string // address of all accounts
	Numbers     []numberRow
	MayAccounts bool
}

type figures struct{ Connections, Active, NeedsConsent, Issued, Refused, Refreshed, Failed string }

type attentionRow struct {
	Severity, What, Do string
	Since              moment
	Link, LinkText     string
}

type codeRow struct{ Code, Count string }

type providerRow struct {
	Name                     string
	Refreshed, Failed, Share string
	Ended                    string
	P50, P95                 string
	Codes                    []codeRow
	Bar                      bar
}

type consentRow struct {
	Name, Count string
	Bar         bar
}

type connectorRow struct {
	Name, Link                         string
	All, Active, NeedsConsent, Revoked string
	Bar                                bar
}

// numberRow is a bucket of the charts in numbers.
type numberRow struct {
	At                                 moment
	Issued, Refused, Refreshed, Failed string
}

const (
	// manyTenants are too many for a tab each.
	manyTenants = 6
	// connectorsShown bounds the list of connectors.
	connectorsShown = 25
)

var spanNames = map[broker.Span]string{broker.SpanHour: "1 hour", broker.SpanDay: "24 hours", broker.SpanWeek: "7 days", broker.SpanMonth: "30 days"}

// overview is GET /dashboard.
func (w *Web) overview(c echo.Context, b *board) error {
	page, err := w.overviewPage(c, b)
	if err != nil {
		return err
	}
	o, err := w.cfg.Service.Overview(b.ctx, b.Op, page.Tenant, broker.Span(page.Span))
	if err != nil {
		return err
	}
	page.View = w.overviewView(b.Op, o)
	c.Response().Header().Set("Content-Security-Policy", w.policy(areaLive)) // it asks for its stream
	return w.render(c, http.StatusOK, "board-overview", page)
}

// overviewPage reads what the page is asked for. Without a tenant it is all that the operator may see as one, or the first.
func (w *Web) overviewPage(c echo.Context, b *board) (overviewPage, error) {
	p := overviewPage{board: b, Tenant: c.QueryParam("tenant"), Span: cmp.Or(c.QueryParam("span"), string(broker.SpanHour))}
	p.Title = "Overview"
	if !slices.Contains(broker.Spans(), broker.Span(p.Span)) {
		return p, broker.Errorf(broker.CodeInvalidRequest, "no such span")
	}
	everywhere := b.Op.May(broker.PermitOverview, broker.Everywhere)
	if p.Tenant == "" && !everywhere && len(b.Tenants) > 0 {
		p.Tenant = b.Tenants[0]
	}
	if p.Tenant != "" && !slices.Contains(b.Tenants, p.Tenant) {
		return p, broker.Errorf(broker.CodeNotFound, "no such tenant")
	}
	if everywhere {
		p.Tabs = append(p.Tabs, tab{Name: "All", Address: overviewAddress("/dashboard", "", p.Span), Current: p.Tenant == ""})
	}
	for _, t := range b.Tenants {
		p.Tabs = append(p.Tabs, tab{Name: t, Value: t, Address: overviewAddress("/dashboard", t, p.Span), Current: t == p.Tenant})
	}
	p.Many = len(p.Tabs) > manyTenants
	for _, s := range broker.Spans() {
		p.Spans = append(p.Spans, tab{Name: spanNames[s], Address: overviewAddress("/dashboard", p.Tenant, string(s)), Current: string(s) == p.Span})
	}
	p.Refresh = overviewAddress("/dashboard", p.Tenant, p.Span)
	p.Live = overviewAddress("/dashboard/live", p.Tenant, p.Span)
	return p, nil
}

func overviewAddress(path, tenant, span string) string {
	q := url.Values{"span": {span}}
	if tenant != "" {
		q.Set("tenant", tenant)
	}
	return path + "?" + q.Encode()
}

// accountsAddress is the list of accounts with those filters.
func accountsAddress(filters map[string]string) string {
	q := url.Values{}
	for name, value := range filters {
		if value != "" {
			q.Set(name, value)
		}
	}
	if len(q) == 0 {
		return "/dashboard/accounts"
	}
	return "/dashboard/accounts?" + q.Encode()
}

// overviewView puts an overview into words and pictures.
func (w *Web) overviewView(op broker.Operator, o broker.Overview) overviewView {
	v := overviewView{
		At: clockOf(o.At), Tenant: o.Tenant, Missing: o.Missing, Accounts: accountsAddress(map[string]string{"tenant": o.Tenant}),
		MayAccounts: op.May(broker.PermitAccounts, o.Tenant),
	}
	for _, a := range o.Attention {
		v.Attention = append(v.Attention, w.attentionRow(op, o.Tenant, a))
	}
	v.charts(o)
	for _, r := range o.Refusals[:min(5, len(o.Refusals))] {
		v.Refusals = append(v.Refusals, codeRow{r.Code, count(r.Count)})
	}
	for _, p := range o.Providers {
		all := p.Refreshed + p.Failed
		row := providerRow{
			Name: providerName(p.Name), Refreshed: count(p.Refreshed), Failed: count(p.Failed), Share: share(p.Refreshed, all), Ended: count(p.Ended),
			P50: took(p.P50, false), P95: took(p.P95, p.Beyond),
			Bar: newBar(share(p.Refreshed, all)+" of the refreshes gave a token", all, series{class: "chart-good", values: []int64{p.Refreshed}}, series{class: "chart-bad", values: []int64{p.Failed}}),
		}
		for _, code := range p.Codes[:min(3, len(p.Codes))] {
			row.Codes = append(row.Codes, codeRow{code.Code, count(code.Count)})
		}
		v.Providers = append(v.Providers, row)
	}
	f := o.Consents
	widest := max(f.Created, f.Started, f.Completed, f.Denied, f.Failed, f.Abandoned)
	for _, step := range []struct {
		name, class string
		n           int64
	}{
		{"Created", "chart-1", f.Created}, {"Started", "chart-1", f.Started}, {"Completed", "chart-good", f.Completed},
		{"Denied by the user", "chart-2", f.Denied}, {"Failed", "chart-bad", f.Failed}, {"Abandoned", "chart-2", f.Abandoned},
	} {
		v.Consents = append(v.Consents, consentRow{step.name, count(step.n), newBar(step.name+": "+count(step.n), widest, series{class: step.class, values: []int64{step.n}})})
	}
	v.connectors(o)
	for _, conn := range o.Newest {
		v.Newest = append(v.Newest, rowOf(conn))
	}
	return v
}

// charts draws what happened over time.
func (v *overviewView) charts(o broker.Overview) {
	layout := map[broker.Grain]string{broker.GrainMinute: "15:04", broker.GrainHour: "02 Jan 15:04", broker.GrainDay: "02 Jan"}[o.Grain]
	times := make([]time.Time, len(o.Buckets))
	for i, b := range o.Buckets {
		times[i] = b.Start
	}
	issued := series{"handed out", "chart-1", o.Series(broker.MeasureIssued)}
	refused := series{"refused", "chart-2", o.Series(broker.MeasureRefused)}
	good := series{"refreshed", "chart-good", o.Series(broker.MeasureRefreshed)}
	bad := series{"failed", "chart-bad", o.Series(broker.MeasureRefreshFailed)}
	v.Issued, v.Refused, v.Refreshes = newChart("Tokens", times, layout, issued), newChart("Requests", times, layout, refused), newChart("Refreshes", times, layout, good, bad)
	v.Figures.Issued, v.Figures.Refused, v.Figures.Refreshed, v.Figures.Failed = count(issued.total()), count(refused.total()), count(good.total()), count(bad.total())
	for i, at := range slices.Backward(times) {
		v.Numbers = append(v.Numbers, numberRow{
			At:     moment{Shown: at.Format(layout), Machine: at.Format(time.RFC3339)},
			Issued: count(issued.values[i]), Refused: count(refused.values[i]), Refreshed: count(good.values[i]), Failed: count(bad.values[i]),
		})
	}
}

// connectors lists those with the most connections.
func (v *overviewView) connectors(o broker.Overview) {
	var all, active, waiting int64
	most := int64(0)
	for _, c := range o.Connectors {
		all, active, waiting = all+int64(c.All()), active+int64(c.Active), waiting+int64(c.NeedsConsent)
		most = max(most, int64(c.All()))
	}
	v.Figures.Connections, v.Figures.Active, v.Figures.NeedsConsent = count(all), count(active), count(waiting)
	v.More = max(0, len(o.Connectors)-connectorsShown)
	for _, c := range o.Connectors[:min(connectorsShown, len(o.Connectors))] {
		v.Connectors = append(v.Connectors, connectorRow{
			Name: plain(c.Connector), Link: accountsAddress(map[string]string{"tenant": o.Tenant, "connector": c.Connector}),
			All: count(int64(c.All())), Active: count(int64(c.Active)), NeedsConsent: count(int64(c.NeedsConsent)), Revoked: count(int64(c.Revoked)),
			Bar: newBar(count(int64(c.Active))+" active, "+count(int64(c.NeedsConsent))+" need consent, "+count(int64(c.Revoked))+" revoked", most,
				series{class: "chart-good", values: []int64{int64(c.Active)}}, series{class: "chart-care", values: []int64{int64(c.NeedsConsent)}}, series{class: "chart-2", values: []int64{int64(c.Revoked)}}),
		})
	}
}

// attentionRow leads to the page that has more, where the operator may see it.
func (w *Web) attentionRow(op broker.Operator, tenant string, a broker.Attention) attentionRow {
	row := attentionRow{Severity: string(a.Severity), What: plainWhole(a.What), Do: plainWhole(a.Do), Since: momentOf(a.Since)}
	if at := a.Since; !at.IsZero() && w.cfg.Now().Sub(at) < 20*time.Hour {
		row.Since = moment{Shown: at.UTC().Format("15:04"), Machine: at.UTC().Format(time.RFC3339)}
	}
	tenant = cmp.Or(a.Tenant, tenant)
	switch a.Kind {
	case broker.AttentionProvider:
		if op.MaySomewhere(broker.PermitAccounts) && a.Connector != "" {
			row.Link, row.LinkText = accountsAddress(map[string]string{"tenant": tenant, "connector": a.Connector}), "Accounts of "+a.Connector
		}
	case broker.AttentionConsents:
		if op.MaySomewhere(broker.PermitAccounts) {
			row.Link, row.LinkText = accountsAddress(map[string]string{"tenant": tenant, "connector": a.Connector, "status": string(broker.ConnectionNeedsConsent)}), "Those that need consent"
		}
	case broker.AttentionEnding:
		if op.MaySomewhere(broker.PermitAccounts) {
			row.Link, row.LinkText = accountsAddress(map[string]string{"tenant": tenant, "status": string(broker.ConnectionActive)}), "Active accounts"
		}
	case broker.AttentionHealth:
		if op.May(broker.PermitHealth, broker.Everywhere) {
			row.Link, row.LinkText = "/dashboard/health", "Health of the broker"
		}
	case broker.AttentionAudit:
		if op.May(broker.PermitExport, a.Tenant) {
			row.Link, row.LinkText = "/dashboard/jobs/"+url.PathEscape(a.Job), "The verification"
		}
	case broker.AttentionSwitch:
		if op.MaySomewhere(broker.PermitSwitch) {
			row.Link, row.LinkText = "/dashboard/switches", "Switches"
		}
	case broker.AttentionJob:
		row.Link, row.LinkText = "/dashboard/jobs/"+url.PathEscape(a.Job), "The job"
	}
	row.LinkText = plain(row.LinkText)
	return row
}

// providerName is the provider, or what is counted together.
func providerName(name string) string {
	switch name {
	case broker.TalliedTenants:
		return "Made by tenants"
	case broker.TalliedOthers:
		return "Others of the tenant's own"
	case broker.TalliedUnknown:
		return "No longer configured"
	}
	return plain(name)
}

// clockOf is a time to the second, for what is from now.
func clockOf(t time.Time) moment {
	return moment{Shown: t.UTC().Format("15:04:05"), Machine: t.UTC().Format(time.RFC3339)}
}
