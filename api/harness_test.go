package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

const (
	acmeKey  = "tbk_acme_CANARYKEY1_0123456789abcdef"
	acmeNew  = "tbk_acme_CANARYKEY2_0123456789abcdef"
	otherKey = "tbk_other_CANARYKEY3_0123456789abcde"
	pageBody = "a page of the other package"
)

var testTime = time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.FixedZone("", 3600))

// fakeService answers what a test tells it to and keeps what it was asked. A call that a test does not expect fails it.
type fakeService struct {
	t *testing.T

	admit             func(broker.Caller) error
	admitRequest      func(broker.Caller) error
	admitCompletion   func(broker.Caller) error
	admitSubject      func(subject string) error
	admitWrongKey     func(address string) error
	issueToken        func(broker.TokenRequest) (broker.Token, error)
	createConsent     func(broker.ConsentRequest) (broker.ConsentView, broker.ConsentLink, error)
	consentStatus     func(id string) (broker.ConsentView, error)
	awaitConsent      func(ctx context.Context, id string, known broker.ConsentStatus, wait time.Duration) (broker.ConsentView, error)
	followConsent     func(ctx context.Context, id string, f broker.Following) error
	completeConsent   func(id string, c broker.Completion) (broker.Connection, error)
	createPortal      func(broker.PortalRequest) (broker.PortalView, broker.PortalLink, error)
	portalStatus      func(id string) (broker.PortalView, error)
	completePortal    func(id string, c broker.Completion) (broker.PortalEntrance, error)
	listConnections   func(broker.ConnectionQuery) ([]broker.Connection, string, error)
	getConnection     func(id string) (broker.Connection, error)
	disconnect        func(id string) (broker.RevokedUpstream, error)
	eraseSubject      func(subject string) (broker.Erased, error)
	subjectConnectors func(subject string) ([]broker.SubjectConnector, error)
	listConnectors    func() []broker.Connector
	listEvents        func(broker.EventQuery) ([]broker.Event, string, error)
	createConnector   func(broker.NewConnector) (broker.ConnectorView, error)
	ownConnectors     func() ([]broker.ConnectorView, error)
	ownConnector      func(id string) (broker.ConnectorView, error)
	updateConnector   func(id string, change broker.ConnectorChange) (broker.ConnectorView, error)
	deleteConnector   func(id string, revoke bool) (broker.Erased, error)
	byAssertion       func(named string, assertion broker.Secret) (string, error)
	mu                sync.Mutex
	callers           []broker.Caller
	ctx               context.Context
}

func (f *fakeService) called(ctx context.Context, c broker.Caller, expected bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.callers, f.ctx = append(f.callers, c), ctx
	if !expected {
		f.t.Error("the service was called and should not have been")
		panic(http.ErrAbortHandler)
	}
}

func (f *fakeService) calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.callers)
}

func (f *fakeService) lastCaller() broker.Caller {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.callers[len(f.callers)-1]
}

func (f *fakeService) IssueToken(ctx context.Context, c broker.Caller, r broker.TokenRequest) (broker.Token, error) {
	f.called(ctx, c, f.issueToken != nil)
	return f.issueToken(r)
}
func (f *fakeService) AdmitClient(_ context.Context, c broker.Caller) error {
	if f.admit != nil {
		return f.admit(c)
	}
	return nil
}
func (f *fakeService) AdmitRequest(c broker.Caller) error {
	if f.admitRequest != nil {
		return f.admitRequest(c)
	}
	return nil
}
func (f *fakeService) AdmitCompletion(c broker.Caller) error {
	if f.admitCompletion != nil {
		return f.admitCompletion(c)
	}
	return nil
}
func (f *fakeService) AdmitSubject(_ broker.Caller, subject string) error {
	if f.admitSubject != nil {
		return f.admitSubject(subject)
	}
	return nil
}
func (f *fakeService) AdmitWrongKey(address string) error {
	if f.admitWrongKey != nil {
		return f.admitWrongKey(address)
	}
	return nil
}

func (f *fakeService) NeedsSubject(_ broker.Caller, connector string) bool {
	return connector != "robot"
}

func (f *fakeService) CreateConsent(ctx context.Context, c broker.Caller, r broker.ConsentRequest) (broker.ConsentView, broker.ConsentLink, error) {
	f.called(ctx, c, f.createConsent != nil)
	return f.createConsent(r)
}
func (f *fakeService) ConsentStatus(ctx context.Context, c broker.Caller, id string) (broker.ConsentView, error) {
	f.called(ctx, c, f.consentStatus != nil)
	return f.consentStatus(id)
}
func (f *fakeService) AwaitConsent(ctx context.Context, c broker.Caller, id string, known broker.ConsentStatus, wait time.Duration) (broker.ConsentView, error) {
	f.called(ctx, c, f.awaitConsent != nil)
	return f.awaitConsent(ctx, id, known, wait)
}
func (f *fakeService) FollowConsent(ctx context.Context, c broker.Caller, id string, following broker.Following) error {
	f.called(ctx, c, f.followConsent != nil)
	return f.followConsent(ctx, id, following)
}
func (f *fakeService) CompleteConsent(ctx context.Context, c broker.Caller, id string, x broker.Completion) (broker.Connection, error) {
	f.called(ctx, c, f.completeConsent != nil)
	return f.completeConsent(id, x)
}
func (f *fakeService) ListConnections(ctx context.Context, c broker.Caller, q broker.ConnectionQuery) ([]broker.Connection, string, error) {
	f.called(ctx, c, f.listConnections != nil)
	return f.listConnections(q)
}
func (f *fakeService) GetConnection(ctx context.Context, c broker.Caller, id string) (broker.Connection, error) {
	f.called(ctx, c, f.getConnection != nil)
	return f.getConnection(id)
}
func (f *fakeService) Disconnect(ctx context.Context, c broker.Caller, id string) (broker.RevokedUpstream, error) {
	f.called(ctx, c, f.disconnect != nil)
	return f.disconnect(id)
}
func (f *fakeService) EraseSubject(ctx context.Context, c broker.Caller, s string) (broker.Erased, error) {
	f.called(ctx, c, f.eraseSubject != nil)
	return f.eraseSubject(s)
}
func (f *fakeService) SubjectConnectors(ctx context.Context, c broker.Caller, s string) ([]broker.SubjectConnector, error) {
	f.called(ctx, c, f.subjectConnectors != nil)
	return f.subjectConnectors(s)
}
func (f *fakeService) ListConnectors(c broker.Caller) []broker.Connector {
	f.called(context.Background(), c, f.listConnectors != nil)
	return f.listConnectors()
}
func (f *fakeService) ListEvents(ctx context.Context, c broker.Caller, q broker.EventQuery) ([]broker.Event, string, error) {
	f.called(ctx, c, f.listEvents != nil)
	return f.listEvents(q)
}

func (f *fakeService) CreateConnector(ctx context.Context, c broker.Caller, n broker.NewConnector) (broker.ConnectorView, error) {
	f.called(ctx, c, f.createConnector != nil)
	return f.createConnector(n)
}
func (f *fakeService) OwnConnectors(ctx context.Context, c broker.Caller) ([]broker.ConnectorView, error) {
	f.called(ctx, c, f.ownConnectors != nil)
	return f.ownConnectors()
}
func (f *fakeService) OwnConnector(ctx context.Context, c broker.Caller, id string) (broker.ConnectorView, error) {
	f.called(ctx, c, f.ownConnector != nil)
	return f.ownConnector(id)
}
func (f *fakeService) UpdateConnector(ctx context.Context, c broker.Caller, id string, change broker.ConnectorChange) (broker.ConnectorView, error) {
	f.called(ctx, c, f.updateConnector != nil)
	return f.updateConnector(id, change)
}
func (f *fakeService) DeleteConnector(ctx context.Context, c broker.Caller, id string, revoke bool) (broker.Erased, error) {
	f.called(ctx, c, f.deleteConnector != nil)
	return f.deleteConnector(id, revoke)
}

// bench is an API behind a real server, together with routes of "another package" that catch everything.
type bench struct {
	t       *testing.T
	api     *API
	service *fakeService
	server  *httptest.Server
	logs    *logBuffer
}

func newBench(t *testing.T, adjust ...func(*Config)) *bench {
	t.Helper()
	b := &bench{t: t, service: &fakeService{t: t}, logs: &logBuffer{}}
	cfg := Config{
		Service: b.service,
		Clients: []ClientKey{
			{Client: broker.Client{ID: "acme-chat", Tenant: "acme"}, KeySHA256: digests(acmeKey, acmeNew)},
			{Client: broker.Client{ID: "other-chat", Tenant: "other"}, KeySHA256: digests(otherKey)},
		},
		PublicURL: "https://broker.example.com", TokenSeed: func(period int64) [32]byte { return sha256.Sum256([]byte(strconv.FormatInt(period, 10))) },
		Now: time.Now, Random: rand.Reader,
		Log:      slog.New(slog.NewJSONHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		ClientIP: func(*http.Request) string { return "192.0.2.7" },
	}
	for _, f := range adjust {
		f(&cfg)
	}
	var err error
	if b.api, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	e := echo.New()
	page := func(c echo.Context) error { return c.HTML(http.StatusOK, pageBody) }
	e.Any("/*", page)
	e.RouteNotFound("/*", page)
	b.api.Register(e)
	b.server = httptest.NewServer(e)
	t.Cleanup(b.server.Close)
	t.Cleanup(func() { b.logs.check(t) })
	return b
}

func digests(keys ...string) (list [][32]byte) {
	for _, k := range keys {
		list = append(list, sha256.Sum256([]byte(k)))
	}
	return list
}

// reply is an answer, read.
type reply struct {
	status int
	header http.Header
	text   string
	closed bool // the server ends the connection behind it
	object map[string]any
}

// call sends a request with acme's key and holds the answer against openapi.yaml.
func (b *bench) call(method, target, body string, header ...string) reply {
	b.t.Helper()
	h := http.Header{"Authorization": {"Bearer " + acmeKey}}
	if body != "" {
		h.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return b.send(method, target, body, h)
}

func (b *bench) send(method, target, body string, header http.Header) reply {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, b.server.URL+target, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header = header
	res, err := b.server.Client().Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	r := reply{status: res.StatusCode, header: res.Header, text: string(text)}
	b.holds(req, body, &r)
	return r
}

// holds checks what is true of every answer of the API, and that openapi.yaml describes this one.
func (b *bench) holds(req *http.Request, body string, r *reply) {
	b.t.Helper()
	what := req.Method + " " + req.URL.RequestURI()
	if err := json.Unmarshal([]byte(r.text), &r.object); err != nil {
		b.t.Errorf("%s: answer %d is no JSON object: %q", what, r.status, r.text)
		return
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache",
		"X-Content-Type-Options": "nosniff", "ETag": "",
	} {
		if got := r.header.Get(name); got != want {
			b.t.Errorf("%s: %s is %q, want %q", what, name, got, want)
		}
	}
	if id := r.header.Get("Request-Id"); !regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`).MatchString(id) {
		b.t.Errorf("%s: Request-Id is %q", what, id)
	} else if r.status >= 400 && r.object["request_id"] != id {
		b.t.Errorf("%s: request_id in the body differs from the header", what)
	}
	m := b.api.routes.find(req.Method, req.URL.EscapedPath())
	if m.route == nil {
		return
	}
	if err := conforms(document(b.t), m, req, body, r); err != nil {
		b.t.Errorf("%s: answer %d is not as openapi.yaml says: %v\n%s", what, r.status, err, r.text)
	}
}

var paramNotation = regexp.MustCompile(`:([a-z]+)`)

func conforms(doc *openapi3.T, m match, req *http.Request, body string, r *reply) error {
	path := paramNotation.ReplaceAllString(m.path, "{$1}")
	item := doc.Paths.Value(path)
	if item == nil || item.GetOperation(req.Method) == nil {
		return fmt.Errorf("no operation %s %s", req.Method, path)
	}
	params := map[string]string{}
	for i, name := range m.names {
		params[name] = unescape(m.vals[i])
	}
	in := &openapi3filter.RequestValidationInput{
		Request: req, PathParams: params, QueryParams: req.URL.Query(),
		Route: &routers.Route{Spec: doc, Path: path, PathItem: item, Method: req.Method, Operation: item.GetOperation(req.Method)},
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, MultiError: true,
		},
	}
	if r.status < 300 { // what was accepted must be what the document allows
		req.Body = io.NopCloser(strings.NewReader(body))
		if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil {
			return fmt.Errorf("request: %w", err)
		}
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: r.status, Header: r.header, Options: in.Options}
	return openapi3filter.ValidateResponse(context.Background(), out.SetBodyBytes([]byte(r.text)))
}

// raw sends the bytes as they are and reads one answer.
func (b *bench) raw(request string) reply {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.server.Listener.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		b.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		b.t.Fatalf("%q: %v", request, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	r := reply{status: res.StatusCode, header: res.Header, text: string(text), closed: res.Close}
	_ = json.Unmarshal(text, &r.object)
	return r
}

// refused checks status and code, and that the description says something.
func (r reply) refused(t *testing.T, status int, code broker.Code) {
	t.Helper()
	if r.status != status || r.object["error"] != string(code) {
		t.Errorf("answer is %d %v, want %d %s: %s", r.status, r.object["error"], status, code, r.text)
	}
	if text, _ := r.object["error_description"].(string); len(text) < 10 {
		t.Errorf("error_description %q tells nothing", text)
	}
}

// logBuffer keeps log lines.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lines returns the entries with that message.
func (l *logBuffer) lines(t *testing.T, message string) (found []map[string]any) {
	t.Helper()
	for line := range strings.Lines(l.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("log line is no JSON: %q", line)
		}
		if entry["msg"] == message {
			found = append(found, entry)
		}
	}
	return found
}

// check holds for every test: no canary in the logs at debug level (threats 23 and 24).
func (l *logBuffer) check(t *testing.T) {
	t.Helper()
	if strings.Contains(l.String(), "CANARY") {
		t.Errorf("a canary is in the logs:\n%s", l.String())
	}
}

// eventually polls until done, for what happens after an answer was sent.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			t.Fatal("did not happen: " + what)
		case <-tick.C:
		}
	}
}
