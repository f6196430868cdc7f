package api

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"tokenbroker/broker"
)

// request is one call on its way through.
type request struct {
	http    *http.Request
	writer  http.ResponseWriter // for the body's limit and deadline
	id      string
	traceID string
	caller  broker.Caller
	match   match
	query   map[string]string
	from    func(*http.Request) string // api.Config.ClientIP
	began   int                        // the status of an answer that a handler has begun to write itself
	oauth   bool                       // it is of a call whose errors are those of RFC 6749
}

// param returns a path parameter, decoded. A value that cannot be decoded does not occur: net/http refused it.
func (in *request) param(name string) string { return unescape(in.match.param(name)) }

// Address is part of broker.Origin.
func (in *request) Address() string {
	if in.from == nil {
		return ""
	}
	return in.from(in.http)
}

// ServeHTTP answers one request of the API.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := a.cfg.Now()
	ctx := broker.Bound(r.Context(), a.cfg.Timeout)
	defer ctx.End()
	in := &request{http: r, writer: w, traceID: traceID(ctx), from: a.cfg.ClientIP}
	in.bodyDeadline(a.cfg.BodyTimeout)
	ans, err := a.run(ctx, in)
	status := a.write(ctx, in, ans, err)
	a.record(ctx, in, status, err, a.cfg.Now().Sub(began))
}

// run takes the request through all steps. A panic anywhere in them ends this request and no other.
func (a *API) run(ctx context.Context, in *request) (ans answer, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			ans, err = answer{}, &panicked{what: describePanic(cause), stack: debug.Stack()}
		}
	}()
	if in.id, err = a.requestID(); err != nil {
		in.id = "unavailable"
		return answer{}, err
	}
	if route := a.oauth[in.http.URL.EscapedPath()]; route != nil {
		return a.runOAuth(ctx, in, route)
	}
	client, err := a.authenticate(in.http.Header)
	if err != nil {
		return answer{}, a.slowed(in, err)
	}
	in.caller = broker.Caller{Client: client, RequestID: in.id, TraceID: in.traceID, Origin: in}
	in.match = a.routes.find(in.http.Method, in.http.URL.EscapedPath())
	admit := a.cfg.Service.AdmitRequest
	if in.match.route != nil && in.match.route.completes {
		admit = a.cfg.Service.AdmitCompletion
	}
	if err := admit(in.caller); err != nil {
		return answer{}, err
	}
	if a.cfg.Erased != nil && a.cfg.Erased(client.Tenant) {
		return answer{}, broker.Errorf(broker.CodeNotFound, "the tenant of this client was erased: nothing of it is left here")
	}
	if err := in.match.check(); err != nil {
		return answer{}, err
	}
	if in.query, err = readQuery(in.http.URL, in.match.route.query); err != nil {
		return answer{}, err
	}
	if !takesBody(in.http.Method) {
		if err := in.noBody(); err != nil {
			return answer{}, err
		}
	}
	if !in.match.route.stays {
		if err := a.cfg.Service.AdmitClient(ctx, in.caller); err != nil {
			return answer{}, err
		}
	}
	return in.match.route.handle(ctx, in)
}

// slowed is the answer to a wrong key, or that there were too many of them.
func (a *API) slowed(in *request, err error) error {
	// Who sends no key guesses none, and is told so however often.
	if in.http.Header.Get("Authorization") != "" {
		if slow := a.cfg.Service.AdmitWrongKey(in.Address()); slow != nil {
			return slow
		}
	}
	return err
}

// authenticate tells which client asks: by its API key, or by an access token of ours.
func (a *API) authenticate(header http.Header) (broker.Client, error) {
	client, err := a.keys.authenticate(header)
	if err == nil {
		return client, nil
	}
	scheme, token := credentials(header)
	if !strings.EqualFold(scheme, "Bearer") || strings.Count(token, ".") != 2 {
		return broker.Client{}, err
	}
	id, good := a.tokens.verify(token)
	client, known := a.keys.clients[id]
	if !good || !known {
		return broker.Client{}, &refusal{
			status: http.StatusUnauthorized,
			header: http.Header{"Www-Authenticate": {bearerChallenge + `, error="invalid_token"`}}, // RFC 6750 section 3.1
			err:    broker.Errorf(broker.CodeInvalidClient, "this access token has expired, or is not one of ours; ask for another one at POST /oauth2/token"),
		}
	}
	return client, nil
}

// write sends the answer and returns its status.
func (a *API) write(ctx context.Context, in *request, ans answer, err error) int {
	status, body := ans.status, any(ans.body)
	if in.began != 0 {
		return in.began // of a stream: what went wrong meanwhile is for the log, and the caller comes again
	}
	header := in.header("application/json")
	if err != nil {
		f := in.explain(err)
		for name, values := range f.header {
			header[name] = values
		}
		status, body = f.status, f.body
	}
	if status == http.StatusNoContent {
		header.Del("Content-Type")
		in.writer.WriteHeader(status)
		return status
	}
	text, encodeErr := ans.text, error(nil)
	if text == nil || err != nil {
		text, encodeErr = encode(body)
	}
	if encodeErr != nil {
		// Not the encoder's own text: it may quote what it could not encode.
		a.cfg.Log.LogAttrs(ctx, slog.LevelError, "answer could not be encoded", slog.String("request_id", in.id))
		f := explain(errors.New("encode"), in.id)
		status = f.status
		text, _ = encode(f.body)
	}
	in.writer.WriteHeader(status)
	_, _ = in.writer.Write(text) // the caller went away: nobody is left to tell
	return status
}

// header sets what every answer has.
func (in *request) header(contentType string) http.Header {
	header := in.writer.Header()
	// A token or a link can be in any answer, errors included, so none is ever kept (RFC 6749 section 5.1, threat 45).
	// Set as header.Set does, with one allocation for all.
	values := []string{"no-store", "no-cache", "nosniff", contentType, in.id}
	for i, name := range [...]string{"Cache-Control", "Pragma", "X-Content-Type-Options", "Content-Type", "Request-Id"} {
		header[name] = values[i : i+1 : i+1]
	}
	return header
}

// record writes the access log and names the span. No value from the path or the query goes into either (threats 23, 27).
func (a *API) record(ctx context.Context, in *request, status int, err error, took time.Duration) {
	route, method := in.match.template(), methodName(in.http.Method)
	// the telemetry around us reads the pattern after the call for its span and its metrics.
	if in.match.route != nil {
		in.http.Pattern = in.match.route.pattern
	} else {
		in.http.Pattern = method + " " + route
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetName(in.http.Pattern)
		if route != unmatched {
			span.SetAttributes(attribute.String("http.route", route))
		}
	}
	if !a.cfg.Log.Enabled(ctx, slog.LevelInfo) {
		a.recordFailure(ctx, in, status, err)
		return
	}
	line := slog.NewRecord(a.cfg.Now(), slog.LevelInfo, "request", 0) // no line says where in the program it was written
	line.AddAttrs(
		slog.String("method", method),
		slog.String("route", route),
		slog.Int("status", status),
		slog.Int64("duration_us", took.Microseconds()),
		slog.String("client", in.caller.Client.ID),
		slog.String("request_id", in.id),
		slog.String("trace_id", in.traceID),
	)
	if err != nil {
		line.AddAttrs(slog.String("error", string(explain(err, "").body.Error)))
	}
	if (status == http.StatusUnauthorized || in.caller.Client.ID == "") && a.cfg.ClientIP != nil {
		line.AddAttrs(slog.String("client_ip", a.cfg.ClientIP(in.http)))
	}
	_ = a.cfg.Log.Handler().Handle(ctx, line)
	a.recordFailure(ctx, in, status, err)
}

// recordFailure logs what the caller does not see. Causes hold no secrets, by the rules of who makes them.
func (a *API) recordFailure(ctx context.Context, in *request, status int, err error) {
	if err == nil || status < http.StatusInternalServerError {
		return
	}
	attrs := []slog.Attr{
		slog.String("cause", err.Error()),
		slog.String("request_id", in.id),
		slog.String("trace_id", in.traceID),
	}
	var p *panicked
	if errors.As(err, &p) {
		attrs = append(attrs, slog.String("stack", string(p.stack)))
	}
	a.cfg.Log.LogAttrs(ctx, slog.LevelError, "request failed", attrs...)
}

// requestID makes a new id. What a caller sends as Request-Id is ignored: ids lead operators to log lines, so nobody
// else may choose them.
func (a *API) requestID() (string, error) {
	var text [22 + 16]byte // the id, and behind it what it is made of: one allocation for both
	raw := text[22:]
	if _, err := io.ReadFull(a.cfg.Random, raw); err != nil {
		return "", fmt.Errorf("make request id: %w", err)
	}
	base64.RawURLEncoding.Encode(text[:22], raw)
	return string(text[:22]), nil
}

func traceID(ctx context.Context) string {
	if id := trace.SpanContextFromContext(ctx).TraceID(); id.IsValid() {
		return id.String()
	}
	return ""
}

// methodName keeps the number of names in logs and metrics bounded: a method can be any token (RFC 9110 section 9.1).
func methodName(method string) string {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodHead, http.MethodPut, http.MethodPatch,
		http.MethodOptions, http.MethodTrace, http.MethodConnect:
		return method
	default:
		return "_OTHER"
	}
}

// panicked is a recovered panic.
type panicked struct {
	what  string
	stack []byte
}

func (p *panicked) Error() string { return "panic: " + p.what }

// describePanic tells a panic without printing a value that may hold a secret. The runtime's own errors hold none.
func describePanic(cause any) string {
	if err, isRuntime := cause.(runtime.Error); isRuntime {
		return err.Error()
	}
	return fmt.Sprintf("value of type %T", cause)
}
