package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// event is one that a stream brought.
type event struct {
	status string
	at     time.Time
}

// stream follows a consent by server-sent events; the channel is closed with the stream.
func (c *api) stream(ctx context.Context, id string) <-chan event {
	c.t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", c.base+"/v1/consents/"+id+"/events", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	resp, err := (&http.Client{}).Do(req) // no limit: it goes on for as long as the consent
	if err != nil {
		c.t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		c.t.Fatalf("a stream is answered with %d %v", resp.StatusCode, resp.Header)
	}
	events := make(chan event, 100)
	go func() {
		defer close(events)
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			if !ok {
				continue
			}
			var body struct{ Status string }
			if err := json.Unmarshal([]byte(data), &body); err != nil {
				c.t.Errorf("an event is %q", data)
			}
			events <- event{body.Status, time.Now()}
		}
	}()
	return events
}

// A chat's backend follows a consent at one replica; what happens, happens at the other. It hears of it within a second: by
// the stream, by waiting, and so does a page with the link.
func TestConsentIsFollowedAcrossReplicas(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, other := r.start("SPOOL=spool-a"), r.start("SPOOL=spool-b")
	here, there := p.api(r.key), other.api(r.key)
	consent := here.consent("u1")
	id, link := consent.str("id"), consent.str("url")
	status := other.url + strings.TrimPrefix(link, r.public) + "/status"
	events := there.stream(t.Context(), id)
	hear := func(want string) time.Time {
		t.Helper()
		select {
		case e := <-events:
			if e.status != want {
				t.Fatalf("heard %q, want %s", e.status, want)
			}
			return e.at
		case <-time.After(20 * time.Second):
			t.Fatalf("never heard of %s", want)
			return time.Time{}
		}
	}
	hear("pending")
	// The steps, each with the status that it makes; how soon that is heard is measured three ways.
	b := newBrowser(t)
	var callback, code string
	var lates []time.Duration
	known := "pending"
	for _, step := range []struct {
		status string
		do     func()
	}{
		{"started", func() { callback = b.atProvider(b.start(link).location) }},
		{"awaiting_completion", func() { code = b.follow(b.get(callback)).code(t) }},
		{"completed", func() { here.want(200, "POST", "/v1/consents/"+id+"/complete", object{"subject": "u1", "code": code}) }},
	} {
		var wait sync.WaitGroup
		var waited, asked time.Time
		from := known
		wait.Go(func() {
			if a, err := there.try("GET", "/v1/consents/"+id+"?wait=30&status="+from, nil); err != nil || a.str("status") != step.status {
				t.Errorf("waiting brought %v %s", err, a.raw)
			}
			waited = time.Now()
		})
		wait.Go(func() {
			if a, err := (&api{t: t, http: &http.Client{Timeout: time.Minute}}).try("GET", status+"?wait=30&status="+from, nil); err != nil || a.str("status") != step.status || a.str("consent") != id || len(a.body) != 2 {
				t.Errorf("the link brought %v %s", err, a.raw)
			}
			asked = time.Now()
		})
		step.do()
		// The status was written at some time before the step was over: later than a second behind that is late in any case.
		done := time.Now()
		at := hear(step.status)
		wait.Wait()
		for name, when := range map[string]time.Time{"stream": at, "wait": waited, "link": asked} {
			lates = append(lates, when.Sub(done))
			if late := when.Sub(done); late > 5*time.Second {
				t.Errorf("%s: heard by %s after %v", step.status, name, late)
			}
		}
		known = step.status
	}
	// A busy machine may hold single ones up.
	slices.Sort(lates)
	if lates[len(lates)/2] > time.Second {
		t.Errorf("heard after %v", lates)
	}
	t.Logf("heard after %v", lates)
	if e, more := <-events; more {
		t.Errorf("behind the end came %q", e.status)
	}
	there.key = r.other
	there.want(404, "GET", "/v1/consents/"+id+"/events", nil)
}

// Streams and waiting calls don't hold up the end of a replica: they are let go of at once, and can be taken up at another.
func TestFollowersDoNotHoldUpShutdown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, other := r.start("SPOOL=spool-a"), r.start("SPOOL=spool-b")
	c := other.api(r.key)
	id := c.consent("u1").str("id")
	events := c.stream(t.Context(), id)
	<-events
	waited, written := make(chan answer, 1), make(chan struct{})
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { close(written) },
	}), "GET", other.url+"/v1/consents/"+id+"?wait=60&status=pending", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.key)
	go func() {
		a := answer{}
		if resp, err := http.DefaultClient.Do(req); err != nil {
			t.Error(err)
		} else {
			defer resp.Body.Close()
			a.status = resp.StatusCode
			if err := json.NewDecoder(resp.Body).Decode(&a.body); err != nil {
				t.Error(err)
			}
		}
		waited <- a
	}()
	<-written
	began := time.Now()
	other.signal(syscall.SIGTERM)
	select {
	case <-other.done:
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	// The delay is 100 ms; the rest is a busy machine's.
	if took := time.Since(began); took > 8*time.Second || other.state.ExitCode() != 0 {
		t.Errorf("it ended after %v with %d", took, other.state.ExitCode())
	}
	if a := <-waited; a.status != 200 || a.str("status") != "pending" {
		t.Errorf("the waiting call was answered %d %v", a.status, a.body)
	}
	for e := range events {
		t.Errorf("behind the beginning came %q", e.status)
	}
	if e := <-p.api(r.key).stream(t.Context(), id); e.status != "pending" {
		t.Errorf("at the other replica: %q", e.status)
	}
}
