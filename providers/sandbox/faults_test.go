package sandbox_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"tokenbroker/providers/sandbox"
)

func TestLatencyComesAfterTheEffect(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice")
	r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindLatency, Delay: time.Minute, Times: 1})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "POST", r.http.URL+"/token",
		strings.NewReader(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.RefreshToken}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("files", url.QueryEscape(secret))
	done := make(chan struct{})
	go func() { defer close(done); _, _ = r.send(req) }()
	eventually(t, "the refresh took effect", func() bool { return r.server.Stats().Refreshes == 1 })
	cancel() // the caller goes away, the rotation stands
	<-done
	equal(t, "the old token", r.refresh(token.RefreshToken).text("error"), "invalid_grant")
	equal(t, "reuses", r.server.Stats().Reuses, 1)
}

func TestLatencyLasts(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice")
	r.inject(sandbox.Fault{On: sandbox.TargetToken, Kind: sandbox.KindLatency, Delay: 150 * time.Millisecond, Times: 1})
	start := time.Now()
	equal(t, "status", r.refresh(token.RefreshToken).status, 200)
	if took := time.Since(start); took < 150*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

func TestStatusBeforeAndAfter(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice").RefreshToken
	r.inject(
		sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindStatus, Status: 500, Times: 2},
		sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindStatus, RetryAfter: 7, Times: 1},
		sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindStatus, Status: 429, RetryAfter: 1, Times: 1},
	)
	for _, want := range []struct {
		status int
		after  string
	}{{500, ""}, {500, ""}, {503, "7"}, {429, "1"}} {
		a := r.refresh(token)
		equal(t, "status", a.status, want.status)
		equal(t, "Retry-After", a.header.Get("Retry-After"), want.after)
	}
	a := r.refresh(token)
	equal(t, "the token is unharmed", a.status, 200)
	equal(t, "failed", r.server.Stats().RefreshesFailed, 4)

	r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindStatus, Status: 502, When: sandbox.After, Times: 1})
	equal(t, "status", r.refresh(a.text("refresh_token")).status, 502)
	equal(t, "the token was used up", r.refresh(a.text("refresh_token")).text("error"), "invalid_grant")
}

func TestLimitCountsWhatIsWorkedOn(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice").RefreshToken
	r.inject(
		sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindLimit, Value: "1", RetryAfter: 3},
		sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindHang, When: sandbox.After, Times: 1},
	)
	got := make(chan answer, 1)
	go func() {
		a, _ := r.post("/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
		got <- a
	}()
	eventually(t, "held", func() bool { return r.server.Stats().Held == 1 })
	a := r.refresh(token)
	equal(t, "beside another", a.status, 429)
	equal(t, "Retry-After", a.header.Get("Retry-After"), "3")
	r.server.ClearFaults()
	first := <-got
	equal(t, "the first", first.status, 200)
	r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindLimit, Value: "1"})
	equal(t, "alone", r.refresh(first.text("refresh_token")).status, 200)
	equal(t, "most at once", r.server.Stats().MostAtOnce, 2)
	if err := r.server.Inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindLimit}); err == nil {
		t.Error("a limit without a number is accepted")
	}
}

func TestResetIsInDoubt(t *testing.T) {
	for when, want := range map[string]int{sandbox.After: 400, sandbox.Before: 200} {
		r := newRig(t, nil)
		token := r.connect("alice").RefreshToken
		r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindReset, When: when, Times: 1})
		if _, err := r.post("/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}); err == nil {
			t.Error("an answer came")
		}
		equal(t, "requests", r.server.Stats().TokenRequests["refresh_token"], 1)
		equal(t, when, r.refresh(token).status, want)
	}
}

func TestHangIsReleased(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice").RefreshToken
	r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindHang, When: sandbox.After})
	got := make(chan answer, 1)
	go func() {
		a, _ := r.post("/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
		got <- a
	}()
	eventually(t, "held", func() bool { return r.server.Stats().Held == 1 })
	select {
	case <-got:
		t.Fatal("the request did not hang")
	default:
	}
	r.server.ClearFaults()
	equal(t, "status", (<-got).status, 200)
	equal(t, "held", r.server.Stats().Held, 0)
}

func TestCloseReleasesWithoutAnswer(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice").RefreshToken
	r.inject(
		sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindHang, Times: 1},
		sandbox.Fault{On: sandbox.TargetUserinfo, Kind: sandbox.KindLatency, Delay: time.Hour},
	)
	failed := make(chan error, 1)
	go func() {
		_, err := r.post("/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
		failed <- err
	}()
	eventually(t, "held", func() bool { return r.server.Stats().Held == 1 })
	if err := r.server.Close(); err != nil {
		t.Fatal(err)
	}
	if <-failed == nil {
		t.Error("an answer came")
	}
}

func TestSpoiledAnswers(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice").RefreshToken
	next := func(f sandbox.Fault) answer {
		t.Helper()
		f.On, f.Times = sandbox.TargetRefresh, 1
		r.inject(f)
		a := r.refresh(token)
		if a.text("refresh_token") != "" {
			token = a.text("refresh_token")
		}
		return a
	}
	for _, value := range []string{"3599.5", `""`, `"3600"`, "-5", "1e30", "null", "99999999999999999999"} {
		a := next(sandbox.Fault{Kind: sandbox.KindExpiresIn, Value: value})
		if a.status != 200 || !strings.Contains(a.body, `"expires_in":`+value) {
			t.Errorf("expires_in %s: %d", value, a.status)
		}
	}
	if _, present := next(sandbox.Fault{Kind: sandbox.KindExpiresIn}).fields["expires_in"]; present {
		t.Error("expires_in is present")
	}
	if _, present := next(sandbox.Fault{Kind: sandbox.KindOmitScope}).fields["scope"]; present {
		t.Error("scope is present")
	}
	a := next(sandbox.Fault{Kind: sandbox.KindExtraError})
	equal(t, "error beside tokens", a.text("error") != "" && a.text("access_token") != "", true)

	a = next(sandbox.Fault{Kind: sandbox.KindOmitRefresh})
	if _, present := a.fields["refresh_token"]; present || a.status != 200 {
		t.Error("a refresh token is present")
	}
	a = next(sandbox.Fault{Kind: sandbox.KindReduceScopes, Scopes: []string{"files.read", "offline_access"}})
	equal(t, "the omitted one left the old one good", a.status, 200)
	equal(t, "reduced scope", a.text("scope"), "files.read offline_access")
	equal(t, "writing", r.call("POST", "/files", a.text("access_token"), `{"name":"n"}`).status, 403)

	a = next(sandbox.Fault{Kind: sandbox.KindHTML})
	equal(t, "html", a.status == 200 && strings.HasPrefix(a.body, "<!doctype html>"), true)
	a = next(sandbox.Fault{Kind: sandbox.KindError, Value: "invalid_client"})
	equal(t, "invalid_client", a.status == 401 && a.text("error") == "invalid_client", true)
	a = next(sandbox.Fault{Kind: sandbox.KindError, Value: "invalid_grant"})
	equal(t, "invalid_grant", a.status == 400 && a.text("error") == "invalid_grant", true)
	a = next(sandbox.Fault{Kind: sandbox.KindRedirect, Value: "http://127.0.0.1:1/steal"})
	equal(t, "redirect", a.status == 307 && a.header.Get("Location") == "http://127.0.0.1:1/steal", true)
	equal(t, "unharmed by all of them", r.refresh(token).status, 200)
}

// Threat 6.
func TestIssuerFaults(t *testing.T) {
	r := newRig(t, nil)
	r.inject(
		sandbox.Fault{On: sandbox.TargetAuthorize, Kind: sandbox.KindNoIss, Times: 1},
		sandbox.Fault{On: sandbox.TargetAuthorize, Kind: sandbox.KindWrongIss, Value: "https://evil.example", Times: 2},
	)
	got := r.authorize(oauth2.GenerateVerifier(), "auto", "allow")
	equal(t, "absent", got.Has("iss"), false)
	equal(t, "wrong", r.authorize(oauth2.GenerateVerifier(), "auto", "allow").Get("iss"), "https://evil.example")
	equal(t, "right", r.authorize(oauth2.GenerateVerifier(), "auto", "allow").Get("iss"), r.http.URL)
}

func TestFaultsElsewhere(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice")
	r.inject(
		sandbox.Fault{On: sandbox.TargetUserinfo, Kind: sandbox.KindStatus, Status: 500, Times: 1},
		sandbox.Fault{On: sandbox.TargetFiles, Kind: sandbox.KindStatus, Status: 429, RetryAfter: 2, Times: 1},
		sandbox.Fault{On: sandbox.TargetRevoke, Kind: sandbox.KindStatus, Times: 1},
	)
	equal(t, "refresh is not concerned", r.refresh(token.RefreshToken).status, 200)
	equal(t, "userinfo", r.call("GET", "/userinfo", token.AccessToken, "").status, 500)
	equal(t, "userinfo again", r.call("GET", "/userinfo", token.AccessToken, "").status, 200)
	equal(t, "files", r.call("GET", "/files", token.AccessToken, "").status, 429)
	a, err := r.post("/revoke", url.Values{"token": {token.RefreshToken}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "revoke", a.status, 503)
	equal(t, "revocations", r.server.Stats().Revocations, 0)
}

func TestImpossibleFaultsAreRefused(t *testing.T) {
	r := newRig(t, nil)
	for _, f := range []sandbox.Fault{
		{On: "token", Kind: "sneeze"},
		{On: "nowhere", Kind: sandbox.KindStatus},
		{On: sandbox.TargetRevoke, Kind: sandbox.KindExpiresIn},
		{On: sandbox.TargetCode, Kind: sandbox.KindOmitRefresh},
		{On: sandbox.TargetToken, Kind: sandbox.KindNoIss},
		{On: sandbox.TargetToken, Kind: sandbox.KindError},
		{On: sandbox.TargetToken, Kind: sandbox.KindStatus, When: "sometimes"},
		{On: sandbox.TargetToken, Kind: sandbox.KindStatus, Status: 7},
		{On: sandbox.TargetToken, Kind: sandbox.KindExpiresIn, Value: "{"},
	} {
		if err := r.server.Inject(f); err == nil {
			t.Errorf("%+v was taken", f)
		}
	}
}
