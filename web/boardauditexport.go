package web

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

const (
	// exportsAtOnce bounds how many exports a process runs, and exportsEach those of one operator, who may read slowly.
	exportsAtOnce, exportsEach = 4, 2
	// exportStall is how long a browser may take to read some hundred events.
	exportStall = 30 * time.Second
)

// exportTrail is POST /dashboard/audit/export: all events that the page's question selects, oldest first, as a file. A POST, so that
// nothing prefetches it, and it can't be linked to.
func (w *Web) exportTrail(c echo.Context, b *board, form func(string) string) error {
	values := map[string][]string{}
	for _, name := range append([]string{"tenant", "who", "by"}, trailTexts...) {
		if v := form(name); v != "" || name == "tenant" {
			values[name] = []string{v}
		}
	}
	q, err := w.question(b, values)
	if err != nil {
		return err
	}
	if err := b.Op.Check(broker.PermitExport, q.Tenant); err != nil {
		return err
	}
	f, err := q.filter()
	if err != nil {
		return err
	}
	format, known := exportFormats[form("format")]
	if !known {
		return broker.Errorf(broker.CodeInvalidRequest, "there is no such format")
	}
	leave, ok := w.exports.take(b.Op.ID)
	if !ok {
		return broker.Errorf(broker.CodeSlowDown, "other exports are running; try again when they are done")
	}
	defer leave()
	// Longer than a page takes.
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.ExportTimeout)
	defer cancel()
	ctx, unbind := w.streams.whileServing(ctx)
	defer unbind()
	if w.streams.serving.Err() != nil {
		return &broker.Error{Code: broker.CodeTemporarilyUnavailable, Description: "this replica is shutting down; try again", RetryAfter: time.Second}
	}
	control := http.NewResponseController(c.Response())
	_ = control.SetReadDeadline(time.Time{}) // where there is no such thing to set, nothing ends it early either
	since, err := w.cfg.Service.TrailKeptSince(ctx, b.Op, q.Tenant)
	if err != nil {
		return err
	}
	name := "audit-" + w.cfg.Now().UTC().Format("20060102-150405")
	if day := keptFrom(since); day != "" && f.Since.Before(since) {
		name += "-kept-since-" + day // it is not all that was asked for
	}
	var out exporter
	buffer := bufio.NewWriterSize(c.Response(), 1<<16)
	begin := func() error {
		if out != nil {
			return nil
		}
		h := c.Response().Header()
		h.Set("Content-Type", format.contentType)
		h.Set("Content-Disposition", `attachment; filename="`+name+format.ending+`"`)
		c.Response().WriteHeader(http.StatusOK)
		out = format.exporter(buffer)
		return out.begin()
	}
	n, err := w.cfg.Service.ExportTrail(ctx, b.Op, q.Tenant, f, func(events []broker.Event) error {
		if err := w.mayStill(ctx, c, broker.PermitExport, q.Tenant); err != nil {
			return err
		}
		_ = control.SetWriteDeadline(time.Now().Add(exportStall)) // the network's time, whatever clock the pages have
		if err := begin(); err != nil {
			return err
		}
		for _, e := range events {
			if err := out.write(e); err != nil {
				return err
			}
		}
		if err := buffer.Flush(); err != nil {
			return err
		}
		_ = control.Flush() // what is read is on its way
		return nil
	})
	if err == nil {
		_ = control.SetWriteDeadline(time.Now().Add(exportStall)) // looking for what there is none of takes time too
		if err = begin(); err == nil {
			err = buffer.Flush()
		}
	}
	switch {
	case err == nil:
		return nil
	case out == nil:
		return err
	}
	// What is there looks whole: only the end of the connection says that it is not.
	w.cfg.Log.WarnContext(ctx, "an export of audit events broke off", "events", n, "error", err)
	panic(http.ErrAbortHandler)
}

// mayStill is the error for whoever was signed in when something began that takes long, and is not any more, or may not do it any more:
// what is going out to them ends with their session.
func (w *Web) mayStill(ctx context.Context, c echo.Context, p broker.Permission, tenant string) error {
	session, err := w.sessions.peek(c.Request().WithContext(ctx))
	if err != nil {
		return err
	}
	op, ok := w.operator(c, session)
	if !ok || w.stale(session) {
		return broker.Errorf(broker.CodeAccessDenied, "the session is over")
	}
	return op.Check(p, tenant)
}

// exporter writes events in some format.
type exporter interface {
	begin() error
	write(broker.Event) error
}

var exportFormats = map[string]struct {
	contentType, ending string
	exporter            func(io.Writer) exporter
}{
	"jsonl": {contentType: "application/jsonl; charset=utf-8", ending: ".jsonl", exporter: func(w io.Writer) exporter { return jsonLines{json.NewEncoder(w)} }},
	"csv":   {contentType: "text/csv; charset=utf-8; header=present", ending: ".csv", exporter: func(w io.Writer) exporter { return csvLines{csv.NewWriter(w)} }},
}

// exportedEvent is an event as GET /v1/events has it.
type exportedEvent struct {
	ID         string           `json:"id"`
	Time       string           `json:"time"`
	Type       broker.EventType `json:"type"`
	Tenant     string           `json:"tenant"`
	Client     string           `json:"client"`
	Subject    string           `json:"subject"`
	Actor      exportedActor    `json:"actor"`
	Connector  string           `json:"connector"`
	Connection string           `json:"connection"`
	Scope      string           `json:"scope"`
	Requested  bool             `json:"requested"`
	Outcome    string           `json:"outcome"`
	Reason     string           `json:"reason"`
	RequestID  string           `json:"request_id"`
	TraceID    string           `json:"trace_id"`
	Portal     string           `json:"portal,omitzero"`
}

type exportedActor struct {
	Agent string `json:"agent,omitzero"`
	Run   string `json:"run,omitzero"`
	Tool  string `json:"tool,omitzero"`
}

// exportTime writes a time as the API does: to the millisecond, zeros included.
func exportTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

type jsonLines struct{ to *json.Encoder }

func (j jsonLines) begin() error { j.to.SetEscapeHTML(false); return nil }

func (j jsonLines) write(e broker.Event) error {
	return j.to.Encode(exportedEvent{
		ID: e.ID, Time: exportTime(e.Time), Type: e.Type, Tenant: e.Tenant, Client: e.Client, Subject: e.Subject, Actor: exportedActor(e.Actor), Connector: e.Connector,
		Connection: e.Connection, Scope: e.Scope, Requested: e.Requested, Outcome: e.Outcome, Reason: e.Reason, RequestID: e.RequestID, TraceID: e.TraceID, Portal: e.Portal,
	})
}

type csvLines struct{ to *csv.Writer }

func (l csvLines) begin() error {
	return l.line("id", "time", "type", "tenant", "client", "subject", "actor_agent", "actor_run", "actor_tool", "connector", "connection", "scope", "requested", "outcome", "reason",
		"request_id", "trace_id", "portal")
}

func (l csvLines) write(e broker.Event) error {
	return l.line(e.ID, exportTime(e.Time), string(e.Type), e.Tenant, e.Client, e.Subject, e.Actor.Agent, e.Actor.Run, e.Actor.Tool, e.Connector, e.Connection, e.Scope,
		strconv.FormatBool(e.Requested), e.Outcome, e.Reason, e.RequestID, e.TraceID, e.Portal)
}

func (l csvLines) line(cells ...string) error {
	for i, cell := range cells {
		cells[i] = harmless(cell)
	}
	if err := l.to.Write(cells); err != nil {
		return err
	}
	l.to.Flush()
	return l.to.Error()
}

// harmless keeps a spreadsheet from taking a cell for a formula (OWASP, CSV injection). It costs an apostrophe in a cell that begins
// like one; the JSON Lines have every value as it is.
func harmless(cell string) string {
	if cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r\n") || strings.HasPrefix(cell, "＝") || strings.HasPrefix(cell, "＋") || strings.HasPrefix(cell, "－") || strings.HasPrefix(cell, "＠") {
		return "'" + cell
	}
	return cell
}
