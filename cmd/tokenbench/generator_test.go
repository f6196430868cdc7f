package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// tokenServer answers as the servers under test do.
func tokenServer(t *testing.T, handle func(w http.ResponseWriter, r *http.Request, user string)) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Subject string
			Scopes  []string
		}
		text, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(text, &body)
		}
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/tokens" || r.Header.Get("Authorization") != "Bearer k" || len(body.Scopes) != 3 {
			t.Errorf("%s %s %v: %v %q", r.Method, r.URL.Path, r.Header, err, text)
		}
		handle(w, r, body.Subject)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// numberOf is the user's number.
func numberOf(user string) int {
	for i := range 1000 {
		if subject(i) == user {
			return i
		}
	}
	return -1
}

func generate(t *testing.T, plan loadPlan) loadResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	result, err := newGenerator(plan).run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestClosedLoop(t *testing.T) {
	var served atomic.Int64
	address := tokenServer(t, func(w http.ResponseWriter, _ *http.Request, user string) {
		served.Add(1)
		i := numberOf(user)
		if i < 500 || i >= 510 {
			t.Errorf("asked for %s", user)
		}
		_, _ = io.WriteString(w, `{"access_token":"`+accessToken(i)+`"}`)
	})
	r := generate(t, loadPlan{Address: address, Connections: 4, Warm: 100 * time.Millisecond, Span: 300 * time.Millisecond, Key: "k", Tokens: &tokenRequests{First: 500, Count: 10, Check: true}})
	if err := r.trouble(); err != nil {
		t.Error(err)
	}
	if r.Requests >= served.Load() || r.Asked != served.Load() {
		t.Errorf("%d counted, %d asked, %d served: the warm-up is asked and not counted", r.Requests, r.Asked, served.Load())
	}
	if r.Checked == 0 || r.Checked < r.Asked/checkEvery {
		t.Errorf("%d of %d answers were looked at", r.Checked, r.Asked)
	}
	if r.Latency.P50 <= 0 || r.Latency.P99 < r.Latency.P50 || r.Latency.Max < r.Latency.P99 {
		t.Errorf("%+v", r.Latency)
	}
	if r.Span != 300*time.Millisecond {
		t.Errorf("the span was %v", r.Span)
	}
}

func TestAnotherUsersTokenIsNoticed(t *testing.T) {
	address := tokenServer(t, func(w http.ResponseWriter, _ *http.Request, user string) {
		_, _ = io.WriteString(w, `{"access_token":"`+accessToken(numberOf(user)+1)+`"}`)
	})
	r := generate(t, loadPlan{Address: address, Connections: 1, Each: 1, Span: time.Minute, Key: "k", Tokens: &tokenRequests{Count: 10, Check: true}})
	if r.Errors["another token than the user's"] != 1 || r.Checked != 0 {
		t.Errorf("%+v", r)
	}
}

func TestRefusedRequestsAreTold(t *testing.T) {
	address := tokenServer(t, func(w http.ResponseWriter, _ *http.Request, _ string) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"error":"temporarily_unavailable","error_description":"x"}`)
	})
	r := generate(t, loadPlan{Address: address, Connections: 2, Each: 3, Span: time.Minute, Key: "k", Tokens: &tokenRequests{Count: 10}})
	if r.Errors["status 503 temporarily_unavailable"] != 6 || r.Requests != 0 || r.trouble() == nil {
		t.Errorf("%+v", r)
	}
}

// TestOpenLoopCountsFromWhenItWasDue: a server that stands still for a while makes all those late that were due meanwhile, not
// only the one request that a closed loop would have sent.
func TestOpenLoopCountsFromWhenItWasDue(t *testing.T) {
	const pause, rate = 400 * time.Millisecond, 200.0
	var stands atomic.Bool
	began := time.Now()
	gate := func() {
		if at := time.Since(began); at > 300*time.Millisecond && stands.CompareAndSwap(false, true) {
			time.Sleep(pause) // the one connection stands with it
		}
	}
	address := tokenServer(t, func(w http.ResponseWriter, _ *http.Request, _ string) { gate(); _, _ = io.WriteString(w, "{}") })
	r := generate(t, loadPlan{Address: address, Connections: 1, Rate: rate, Span: time.Second, Key: "k", Tokens: &tokenRequests{Count: 10}})
	if err := r.trouble(); err != nil {
		t.Fatal(err)
	}
	if r.Requests < 190 || r.Requests > 201 {
		t.Errorf("%d requests in a second at %v a second: all that were due are asked", r.Requests, rate)
	}
	// Of 200 requests 80 were due during the pause, so more than a third is late by 40 ms or more.
	if r.Latency.Mean < pause/10 || r.Latency.P90 < pause/4 {
		t.Errorf("%+v: those that were due meanwhile do not count as late", r.Latency)
	}
	if r.Latency.Max < pause {
		t.Errorf("the longest is %v", r.Latency.Max)
	}
}

func TestPaceIsEven(t *testing.T) {
	tickets := make(chan time.Time, 1000)
	begin := time.Now()
	pace(context.Background(), 1000, begin, begin.Add(100*time.Millisecond), tickets)
	n := 0
	for due := range tickets {
		if want := begin.Add(time.Duration(n) * time.Millisecond); due.Sub(want).Abs() > time.Microsecond {
			t.Fatalf("ticket %d is due %v after the begin", n, due.Sub(begin))
		}
		n++
	}
	if n != 100 {
		t.Errorf("%d tickets", n)
	}
	if late := time.Since(begin); late < 99*time.Millisecond {
		t.Errorf("it gave them out within %v", late)
	}
}

// TestHistogramKeepsWhatItPromises: three digits, over the whole range.
func TestHistogramKeepsWhatItPromises(t *testing.T) {
	for _, d := range []time.Duration{3 * time.Microsecond, 271 * time.Microsecond, 3141 * time.Microsecond, 59 * time.Second, time.Duration(longest)} {
		h := newHistogram()
		if err := h.RecordValue(int64(d)); err != nil {
			t.Fatalf("%v: %v", d, err)
		}
		got := time.Duration(h.ValueAtQuantile(50))
		if off := (got - d).Abs(); float64(off) > float64(d)/500+float64(time.Microsecond) {
			t.Errorf("%v reads %v", d, got)
		}
	}
	g := newGenerator(loadPlan{})
	g.record(time.Hour, true)
	if g.times.TotalCount() != 1 {
		t.Error("what takes longer than the histogram reaches is not counted")
	}
}

func TestPathsInTurn(t *testing.T) {
	var first, second atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.RequestURI() {
		case "/v1/connections?limit=50":
			first.Add(1)
		case "/v1/events":
			second.Add(1)
		}
		if r.Header.Get("Authorization") != "Bearer k" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = w.Write(make([]byte, 100_000)) // longer than net/http sends without chunks
	}))
	defer s.Close()
	r := generate(t, loadPlan{Address: strings.TrimPrefix(s.URL, "http://"), Connections: 1, Each: 10, Span: time.Minute, Key: "k", Paths: []string{"/v1/connections?limit=50", "/v1/events"}})
	if r.Requests != 10 || first.Load() != 5 || second.Load() != 5 {
		t.Errorf("%+v, %d and %d", r, first.Load(), second.Load())
	}
}
