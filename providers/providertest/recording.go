package providertest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"tokenbroker/broker"
	"tokenbroker/providers"
)

// Recording is a provider's side of all calls.
type Recording struct {
	Connector struct {
		ID           string            `yaml:"id"`
		Provider     string            `yaml:"provider"`
		ClientID     string            `yaml:"client_id"`
		ClientSecret string            `yaml:"client_secret"`
		Scopes       []string          `yaml:"scopes"`
		Vars         map[string]string `yaml:"vars"`
		// Grant and Device are as in the configuration; a key for assertions is made.
		Grant       string   `yaml:"grant"`
		Device      bool     `yaml:"device"`
		Impersonate []string `yaml:"impersonate"`
	} `yaml:"connector"`
	// Name, Category and Implied are what the domain must see of the connector.
	Name     string   `yaml:"name"`
	Category string   `yaml:"category"`
	Implied  []string `yaml:"implied"`
	Strict   bool     `yaml:"strict"`
	// Habits are what else the domain must know; left out: nothing of it.
	Habits Habits `yaml:"habits"`
	// Authorize is the whole authorization request for all scopes of the connector: address and query.
	Authorize struct {
		URL      string            `yaml:"url"`
		Query    map[string]string `yaml:"query"`
		Issuer   string            `yaml:"issuer"`
		Required bool              `yaml:"iss_required"`
	} `yaml:"authorize"`
	Steps []Step `yaml:"steps"`
}

// Habits are facts about a provider that no single request shows.
type Habits struct {
	// SharedGrants and RevokesAll: whoever connects the same account with the same OAuth client holds the same tokens, or loses
	// theirs with anybody's revocation.
	SharedGrants bool `yaml:"shared_grants"`
	RevokesAll   bool `yaml:"revokes_all"`
	// RefreshIdle is in seconds.
	RefreshIdle       int64    `yaml:"refresh_idle"`
	RefreshEndsAccess bool     `yaml:"refresh_ends_access"`
	Narrows           bool     `yaml:"narrows"`
	Denied            []string `yaml:"denied"`
	// Notices: it tells when grants end, given the secret that it signs with.
	Notices bool `yaml:"notices"`
}

// habitsOf are a connector's, as the domain sees them.
func habitsOf(c broker.Connector) Habits {
	return Habits{
		SharedGrants: c.SharedGrants != "", RevokesAll: c.RevokesAll != "", RefreshIdle: int64(c.RefreshIdle.Seconds()),
		RefreshEndsAccess: c.RefreshEndsAccess, Narrows: c.Narrows, Denied: c.DeniedCodes, Notices: c.Notices,
	}
}

// Step is one call.
type Step struct {
	Name string `yaml:"name"`
	Call string `yaml:"call"` // exchange, refresh, identify, revoke, obtain, begin_device or poll_device

	// Of the call: what it is given beside the fixed values below.
	AccessToken string         `yaml:"access_token"` // identify, revoke
	Account     broker.Account `yaml:"account"`      // identify
	Scopes      []string       `yaml:"scopes"`       // refresh, obtain, begin_device
	Subject     string         `yaml:"subject"`      // obtain
	Narrow      []string       `yaml:"narrow"`       // refresh

	// Callback are the parameters that came with the code: exchange.
	Callback map[string]string `yaml:"callback"`
	// Vars are what the grant has learned: refresh, identify, revoke.
	Vars map[string]string `yaml:"vars"`

	// Request that must arrive; left out: none may.
	Request *Request `yaml:"request"`
	Answer  Answer   `yaml:"answer"`
	// More requests that must follow, in this order.
	More []struct {
		Request *Request `yaml:"request"`
		Answer  Answer   `yaml:"answer"`
	} `yaml:"more"`
	Want Want `yaml:"want"`
}

// Answer is what the provider says.
type Answer struct {
	Status int               `yaml:"status"` // default 200
	Header map[string]string `yaml:"header"`
	Body   string            `yaml:"body"`
	// Claims of the JWT that stands for ID_TOKEN or JWT in the body.
	Claims map[string]any `yaml:"claims"`
}

// Request is compared whole: method, URL, Authorization and every parameter.
type Request struct {
	Method        string            `yaml:"method"` // default POST
	URL           string            `yaml:"url"`
	Authorization string            `yaml:"authorization"` // "basic ID:SECRET" before encoding, "Bearer TOKEN", or empty
	Form          map[string]string `yaml:"form"`
	// Assertion are the claims of the JWT that stands for ASSERTION in the form, beside iat, exp (lifetime) and jti.
	Assertion map[string]any `yaml:"assertion"`
	// Headers that must be there, beside those above.
	Headers map[string]string `yaml:"headers"`
}

// Want is what comes back.
type Want struct {
	AccessToken  string            `yaml:"access_token"`
	RefreshToken string            `yaml:"refresh_token"`
	Scopes       []string          `yaml:"scopes"` // left out: not reported
	Lifetime     int               `yaml:"lifetime"`
	Never        bool              `yaml:"never"`
	Account      broker.Account    `yaml:"account"`
	Extra        map[string]string `yaml:"extra"`
	Class        string            `yaml:"class"` // of the error; empty: none
	Code         string            `yaml:"code"`
	RetryAfter   int               `yaml:"retry_after"`
	Unsupported  bool              `yaml:"unsupported"`
	// Waiting is pending, too_fast, denied or expired: an answer to a poll without a grant.
	Waiting string `yaml:"waiting"`
	// Device is what begin_device gives: the device code, the user code, where the user goes, and with the code in it.
	Device []string `yaml:"device"`
	// RefreshLifetime is how many seconds the refresh token lives, by the answer or by the definition.
	RefreshLifetime int               `yaml:"refresh_lifetime"`
	Vars            map[string]string `yaml:"vars"`
}

// The fixed values of every call. Code and tokens in a step's Request are these.
const (
	RedirectURI  = "https://broker.example/oauth2/callback/test"
	State        = "state-of-the-flow"
	Verifier     = "verifier-verifier-verifier-verifier-verifier"
	Challenge    = "fD3GLJ_KzCDB0w6uDOSFNNdflrHwtv8Cizh6P5pJkfQ"
	Code         = "code-from-the-callback"
	RefreshToken = "refresh-token-in-hand"
	AccessToken  = "access-token-in-hand"
	NoticeSecret = "notice-secret-of-the-connector"
)

// Now is the clock of every run.
func Now() time.Time { return time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC) }

// Load reads a recording.
func Load(t testing.TB, file string) Recording {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("every definition needs a recording: %v", err)
	}
	var r Recording
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&r); err != nil {
		t.Fatalf("read %s: %v", file, err)
	}
	return r
}

// Run plays the recording. custom are definitions beside the catalogue.
func Run(t *testing.T, r Recording, custom ...*providers.Definition) {
	p := &player{}
	srv := NewServer(t, p)
	reg, err := providers.New(providers.Config{
		Custom:     custom,
		Connectors: []providers.ConnectorConfig{configured(t, r)},
		Now:        Now, Log: slog.New(slog.DiscardHandler), RootCAs: srv.Roots(), Dial: srv.Dial,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reg.Close)
	run := runner{reg: reg, recording: r, player: p}
	t.Run("connector", run.connector)
	if c, _ := reg.Connector(r.Connector.ID); !c.Direct() {
		t.Run("authorize", run.authorize)
	}
	for _, step := range r.Steps {
		t.Run(strings.ReplaceAll(step.Name, " ", "_"), func(t *testing.T) { run.step(t, step) })
	}
}

type runner struct {
	reg         *providers.Registry
	recording   Recording
	player      *player
	fingerprint string
	device      []string // what begin_device gave
}

func (r *runner) connector(t *testing.T) {
	c, ok := r.reg.Connector(r.recording.Connector.ID)
	if !ok {
		t.Fatal("connector is not there")
	}
	equal(t, "name", c.Name, r.recording.Name)
	equal(t, "category", c.Category, r.recording.Category)
	equal(t, "exclusive", c.Exclusive, r.recording.Strict)
	if got := habitsOf(c); !reflect.DeepEqual(got, r.recording.Habits) {
		t.Errorf("habits: got %+v, want %+v", got, r.recording.Habits)
	}
	equal(t, "implied scopes", c.Implied.String(), broker.NewScopeSet(r.recording.Implied...).String())
	for _, s := range c.Scopes {
		if s.Description == s.Name || s.Description == "" || s.Access == broker.AccessOther {
			t.Errorf("scope %s is not described in plain words", s.Name)
		}
	}
}

func (r *runner) authorize(t *testing.T) {
	c, _ := r.reg.Connector(r.recording.Connector.ID)
	a, err := r.reg.AuthorizationURL(t.Context(), c.ID, broker.AuthorizationRequest{RedirectURI: RedirectURI,
		State: broker.NewSecret(State), Verifier: broker.NewSecret(Verifier), Scopes: c.Default})
	if err != nil {
		t.Fatal(err)
	}
	r.fingerprint = a.Fingerprint
	u, err := url.Parse(a.URL.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	got := flat(u.Query())
	u.RawQuery = ""
	equal(t, "address", u.String(), r.recording.Authorize.URL)
	equalMap(t, "query", got, r.recording.Authorize.Query)
	equal(t, "issuer", a.Issuer, r.recording.Authorize.Issuer)
	equal(t, "issuer required", a.IssuerRequired, r.recording.Authorize.Required)
}

func (r *runner) step(t *testing.T, step Step) {
	r.player.expect(step)
	grant, err := r.call(t.Context(), step)
	for _, problem := range r.player.report() {
		t.Error(problem)
	}
	want := step.Want
	if want.Waiting != "" {
		waiting := map[string]error{"pending": broker.ErrDevicePending, "too_fast": broker.ErrDeviceTooFast, "denied": broker.ErrDeviceDenied, "expired": broker.ErrDeviceExpired}
		if !errors.Is(err, waiting[want.Waiting]) || err == nil {
			t.Fatalf("error is %v, want %s", err, want.Waiting)
		}
		return
	}
	if want.Unsupported != errors.Is(err, broker.ErrRevokeUnsupported) {
		t.Fatalf("error is %v", err)
	}
	if want.Class != "" {
		var u *broker.UpstreamError
		if !errors.As(err, &u) {
			t.Fatalf("error is %v, want an UpstreamError", err)
		}
		equal(t, "class", string(u.Class), want.Class)
		equal(t, "code", u.Code, want.Code)
		equal(t, "retry after", u.RetryAfter, time.Duration(want.RetryAfter)*time.Second)
		return
	}
	if err != nil && !want.Unsupported {
		t.Fatal(err)
	}
	if step.Call == "revoke" {
		return
	}
	if step.Call == "begin_device" {
		equal(t, "device", strings.Join(r.device, " "), strings.Join(want.Device, " "))
		return
	}
	equal(t, "account", grant.Account, want.Account)
	equalMap(t, "extra", grant.Extra, want.Extra)
	equal(t, "scopes", grant.Scopes.String(), broker.NewScopeSet(want.Scopes...).String())
	equal(t, "scopes reported", grant.ScopesReported, want.Scopes != nil)
	if step.Call == "identify" {
		return
	}
	equal(t, "access token", grant.AccessToken.Reveal(), want.AccessToken)
	equal(t, "refresh token", grant.RefreshToken.Reveal(), want.RefreshToken)
	equal(t, "never", grant.Never, want.Never)
	equalMap(t, "vars", grant.Vars, want.Vars)
	refreshLife := 0
	if !grant.RefreshExpiry.IsZero() {
		refreshLife = int(grant.RefreshExpiry.Sub(Now()).Seconds())
	}
	equal(t, "lifetime of the refresh token", refreshLife, want.RefreshLifetime)
	equal(t, "lifetime", grant.Lifetime, time.Duration(want.Lifetime)*time.Second)
	if !want.Never {
		equal(t, "expires at", grant.ExpiresAt, Now().Add(grant.Lifetime))
	}
}

func (r *runner) call(ctx context.Context, step Step) (broker.Grant, error) {
	id := r.recording.Connector.ID
	refresh, access := broker.NewSecret(RefreshToken), broker.NewSecret(def(step.AccessToken, AccessToken))
	switch step.Call {
	case "exchange":
		return r.reg.Exchange(ctx, id, broker.ExchangeRequest{RedirectURI: RedirectURI, Code: broker.NewSecret(Code),
			Verifier: broker.NewSecret(Verifier), Fingerprint: r.fingerprint, CallbackParams: step.Callback})
	case "refresh":
		return r.reg.Refresh(ctx, id, broker.RefreshRequest{RefreshToken: refresh, RedirectURI: RedirectURI,
			Scopes: broker.NewScopeSet(step.Scopes...), Narrow: broker.NewScopeSet(step.Narrow...), Vars: step.Vars})
	case "identify":
		return r.reg.Identify(ctx, id, broker.Grant{AccessToken: access, Account: step.Account, Vars: step.Vars})
	case "revoke":
		return broker.Grant{}, r.reg.Revoke(ctx, id, broker.RevokeRequest{RefreshToken: refresh, AccessToken: access, Vars: step.Vars})
	}
	return r.callBeside(ctx, step)
}

// player is the provider: it compares the request with the step and gives the step's answer.
type player struct {
	mu       sync.Mutex
	step     Step
	requests int
	problems []string
}

func (p *player) expect(step Step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step, p.requests, p.problems = step, 0, nil
}

func (p *player) report() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	want := len(p.step.More)
	if p.step.Request != nil {
		want++
	}
	if p.requests != want {
		p.problems = append(p.problems, fmt.Sprintf("%d requests arrived, want %d", p.requests, want))
	}
	return p.problems
}

func (p *player) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	request, answer := p.step.Request, p.step.Answer
	if n := p.requests - 1; n >= 0 && n < len(p.step.More) && request != nil {
		request, answer = p.step.More[n].Request, p.step.More[n].Answer
	}
	p.requests++
	complain := func(what string, got, want any) {
		if fmt.Sprint(got) != fmt.Sprint(want) {
			p.problems = append(p.problems, fmt.Sprintf("%s: got %v, want %v", what, got, want))
		}
	}
	if request == nil {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	want := *request
	body, _ := io.ReadAll(req.Body)
	complain("method", req.Method, def(want.Method, "POST"))
	complain("URL", "https://"+req.Host+req.URL.RequestURI(), want.URL)
	authorization := want.Authorization
	if pair, ok := strings.CutPrefix(authorization, "basic "); ok {
		authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))
	}
	complain("Authorization", req.Header.Get("Authorization"), authorization)
	for name, value := range want.Headers {
		complain("header "+name, req.Header.Get(name), value)
	}
	complain("Accept-Encoding", req.Header.Get("Accept-Encoding"), "identity")
	var got map[string]string
	if req.Header.Get("Content-Type") == "application/json" {
		_ = json.Unmarshal(body, &got)
	} else {
		form, _ := url.ParseQuery(string(body))
		got = flat(form)
	}
	if assertion := got["assertion"]; assertion != "" && want.Assertion != nil {
		got["assertion"] = "ASSERTION"
		p.problems = append(p.problems, wrongClaims(assertion, want.Assertion)...)
	}
	for _, name := range keys(got, want.Form) {
		complain("parameter "+name, got[name], want.Form[name])
	}
	if w.Header().Set("Content-Type", "application/json"); answer.Header != nil {
		for name, value := range answer.Header {
			w.Header().Set(name, value)
		}
	}
	w.WriteHeader(max(answer.Status, 200))
	claims, _ := json.Marshal(answer.Claims)
	jwt := "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString(claims) + ".c2ln"
	_, _ = io.WriteString(w, strings.NewReplacer("ID_TOKEN", jwt, "JWT", jwt).Replace(answer.Body))
}

func flat(values url.Values) map[string]string {
	m := map[string]string{}
	for name, list := range values {
		m[name] = strings.Join(list, " AND ")
	}
	return m
}

func keys(maps_ ...map[string]string) []string {
	all := map[string]string{}
	for _, m := range maps_ {
		maps.Copy(all, m)
	}
	return slices.Sorted(maps.Keys(all))
}

func def(s, value string) string {
	if s == "" {
		return value
	}
	return s
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func equalMap(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, name := range keys(got, want) {
		equal(t, what+" "+name, got[name], want[name])
	}
}
