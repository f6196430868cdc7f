package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Target is the endpoint at which a fault strikes.
type Target string

// The targets. TargetToken is both grants, TargetCode and TargetRefresh one each.
const (
	TargetAuthorize Target = "authorize" // the authorization response: only the iss kinds
	TargetToken     Target = "token"
	TargetCode      Target = "code"
	TargetRefresh   Target = "refresh"
	TargetRevoke    Target = "revoke"
	TargetUserinfo  Target = "userinfo" // and /me
	TargetFiles     Target = "files"
)

// Kind is what goes wrong.
type Kind string

// The kinds. "Before" and "after" are about the request's effect: before, the tokens stay as they were; after, they are
// rotated or revoked already and only the answer suffers. Fault.When changes the default.
const (
	// KindLatency answers late by Delay (default: after; whoever goes away meanwhile does not stop it).
	KindLatency Kind = "latency"
	// KindStatus answers with Status (default 503) and, where RetryAfter is set, the header of that name (default: before).
	KindStatus Kind = "status"
	// KindError answers 400 with the OAuth error in Value, 401 for invalid_client (default: before).
	KindError Kind = "error"
	// KindLimit answers with Status (default 429) and RetryAfter while more requests to the token endpoint than the number in Value are
	// being worked on, this one and those that a latency holds included (default: before).
	KindLimit Kind = "limit"
	// KindHTML answers 200 with a page (default: before).
	KindHTML Kind = "html"
	// KindHang holds the request until ClearFaults, which lets it go on, or Close (default: before).
	KindHang Kind = "hang"
	// KindReset breaks the connection without an answer (default: after).
	KindReset Kind = "reset"
	// KindRedirect answers with Status (default 307) and Value as Location (default: before).
	KindRedirect Kind = "redirect"
	// KindExpiresIn puts the JSON text in Value in the place of expires_in: 3599.5, "", -5, 1e30, null; empty: leaves it out.
	KindExpiresIn Kind = "expires_in"
	// KindOmitRefresh answers a refresh without a refresh token; the old one stays good.
	KindOmitRefresh Kind = "omit_refresh_token"
	// KindReduceScopes leaves a refreshed token only those of Scopes that it had, and says so.
	KindReduceScopes Kind = "reduce_scopes"
	// KindOmitScope answers without scope: unchanged, says RFC 6749 section 5.1.
	KindOmitScope Kind = "omit_scope"
	// KindExtraError puts an error key beside the tokens of a 200.
	KindExtraError Kind = "extra_error"
	// KindDisguise answers with the tokens as Value says: html and text call the JSON that, mislabelled calls it a form, form
	// makes it one and calls that JSON, guarded puts )]}' before it, bom a byte order mark, array makes it the element of
	// one, trailing puts something behind it, repeated has empty tokens as well, long is more than a megabyte, dpop gives
	// the token another type. Status, default 200, goes with it, and from 400 on an error beside the tokens.
	KindDisguise Kind = "disguise"
	// KindNoIss leaves iss out of the authorization response, KindWrongIss puts Value there (RFC 9207).
	KindNoIss    Kind = "no_iss"
	KindWrongIss Kind = "wrong_iss"
)

// When a fault strikes, seen from the request's effect.
const (
	Before = "before"
	After  = "after"
)

// Fault is an order: what, where, how often.
type Fault struct {
	On   Target `json:"on"`
	Kind Kind   `json:"kind"`
	// Times it strikes, then it is gone; 0: until ClearFaults.
	Times int    `json:"times,omitempty"`
	When  string `json:"when,omitempty"`

	Delay      time.Duration `json:"-"`                     // latency
	Status     int           `json:"status,omitempty"`      // status, limit, redirect, disguise
	RetryAfter int           `json:"retry_after,omitempty"` // status, limit: seconds
	Value      string        `json:"value,omitempty"`       // error, limit, expires_in, wrong_iss, redirect, disguise
	Scopes     []string      `json:"scopes,omitempty"`      // reduce_scopes
}

// faultJSON has the delay in milliseconds.
type faultJSON struct {
	plainFault
	DelayMS int64 `json:"delay_ms,omitempty"`
}

type plainFault Fault

// UnmarshalJSON reads the fields as tagged, and delay_ms.
func (f *Fault) UnmarshalJSON(b []byte) error {
	var j faultJSON
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // a misspelt fault would quietly be none
	if err := d.Decode(&j); err != nil {
		return err
	}
	*f = Fault(j.plainFault)
	f.Delay = time.Duration(j.DelayMS) * time.Millisecond
	return nil
}

// MarshalJSON is UnmarshalJSON's inverse.
func (f Fault) MarshalJSON() ([]byte, error) {
	return json.Marshal(faultJSON{plainFault(f), f.Delay.Milliseconds()})
}

func (f *Fault) complete() error {
	tokens := []Target{TargetToken, TargetCode, TargetRefresh}
	all := append([]Target{TargetRevoke, TargetUserinfo, TargetFiles}, tokens...)
	targets, when := all, Before
	switch f.Kind {
	case KindLatency, KindReset:
		when = After
	case KindStatus, KindHTML, KindHang, KindRedirect:
	case KindError:
		if f.Value == "" {
			return errors.New("sandbox: kind error needs the OAuth error in value")
		}
	case KindDisguise:
		targets, when = tokens, After
		if _, ok := disguises[f.Value]; !ok && f.Value != "" {
			return fmt.Errorf("sandbox: disguise %q is not known", f.Value)
		}
	case KindLimit:
		targets = tokens
		if n, err := strconv.Atoi(f.Value); err != nil || n < 0 {
			return errors.New("sandbox: kind limit needs how many at once in value")
		}
	case KindExpiresIn, KindOmitScope, KindExtraError:
		targets, when = tokens, After
	case KindOmitRefresh, KindReduceScopes:
		targets, when = []Target{TargetToken, TargetRefresh}, After
	case KindNoIss, KindWrongIss:
		targets, when = []Target{TargetAuthorize}, After
	default:
		return fmt.Errorf("sandbox: fault kind %q is not known", f.Kind)
	}
	if !slices.Contains(targets, f.On) {
		return fmt.Errorf("sandbox: fault %s can't strike at %q", f.Kind, f.On)
	}
	switch f.When {
	case "":
		f.When = when
	case Before, After:
	default:
		return fmt.Errorf("sandbox: when %q is neither before nor after", f.When)
	}
	if f.Kind == KindExpiresIn && f.Value != "" && !json.Valid([]byte(f.Value)) {
		return errors.New("sandbox: kind expires_in needs JSON in value")
	}
	if f.Kind == KindRedirect && f.Value == "" {
		return errors.New("sandbox: kind redirect needs the address in value")
	}
	if f.Status == 0 {
		f.Status = map[Kind]int{KindStatus: 503, KindLimit: 429, KindRedirect: 307, KindDisguise: 200}[f.Kind]
	} else if f.Status < 200 || f.Status > 599 {
		return fmt.Errorf("sandbox: status %d is out of range", f.Status)
	}
	return nil
}

// Inject orders faults, in addition to those that stand. Several can strike one request: latency first, then the others
// in the order they were given.
func (s *Server) Inject(list ...Fault) error {
	for i := range list {
		if err := list[i].complete(); err != nil {
			return err
		}
	}
	s.faults.add(list)
	return nil
}

// ClearFaults ends all faults; requests that hang go on as if nothing had happened.
func (s *Server) ClearFaults() { s.faults.clear() }

// faults is the list that stands.
type faults struct {
	closed <-chan struct{}

	mu      sync.Mutex
	list    []Fault
	release chan struct{} // closed by clear
	held    int
}

func newFaults(closed <-chan struct{}) *faults {
	return &faults{closed: closed, release: make(chan struct{})}
}

func (f *faults) add(list []Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, list...)
}

func (f *faults) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = nil
	close(f.release)
	f.release = make(chan struct{})
}

func (f *faults) heldNow() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

// strike takes from the list what strikes a request at one of the targets.
func (f *faults) strike(targets ...Target) strikes {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strikes{faults: f, release: f.release}
	var rest []Fault
	exclusive := map[string]bool{}
	for _, fault := range f.list {
		// Of two that both end the request, the later one waits for the next request.
		ends := fault.ends()
		if !slices.Contains(targets, fault.On) || (ends && exclusive[fault.When]) {
			rest = append(rest, fault)
			continue
		}
		exclusive[fault.When] = exclusive[fault.When] || ends
		s.list = append(s.list, fault)
		if fault.Times == 0 {
			rest = append(rest, fault)
		} else if fault.Times > 1 {
			fault.Times--
			rest = append(rest, fault)
		}
	}
	f.list = rest
	return s
}

// ends tells that the fault takes the place of the answer.
func (f Fault) ends() bool {
	switch f.Kind {
	case KindStatus, KindError, KindHTML, KindReset, KindRedirect:
		return true
	}
	return false
}

// strikes are the faults of one request.
type strikes struct {
	faults  *faults
	release chan struct{}
	list    []Fault
}

func (s strikes) of(k Kind) (Fault, bool) {
	for _, f := range s.list {
		if f.Kind == k {
			return f, true
		}
	}
	return Fault{}, false
}

// run carries out the faults of that moment. True: the request was answered (or broken) by a fault.
func (s strikes) run(srv *Server, w http.ResponseWriter, when string) (answered bool) {
	for _, f := range s.list {
		if f.When == when && f.Kind == KindLatency && !srv.wait(f.Delay) {
			breakConnection(w)
			return true
		}
	}
	for _, f := range s.list {
		if f.When != when {
			continue
		}
		switch f.Kind {
		case KindHang:
			if !s.hold() {
				breakConnection(w)
				return true
			}
		case KindReset:
			breakConnection(w)
			return true
		case KindStatus, KindLimit:
			if n, _ := strconv.Atoi(f.Value); f.Kind == KindLimit && srv.stats.busy() <= n {
				continue
			}
			if f.RetryAfter > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
			}
			http.Error(w, http.StatusText(f.Status), f.Status)
			return true
		case KindHTML:
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte("<!doctype html><title>Maintenance</title><h1>We will be back soon</h1>"))
			return true
		case KindRedirect:
			w.Header().Set("Location", f.Value)
			w.WriteHeader(f.Status)
			return true
		case KindError:
			status := http.StatusBadRequest
			if f.Value == "invalid_client" {
				status = http.StatusUnauthorized
			}
			writeJSON(w, status, map[string]string{"error": f.Value, "error_description": "ordered by the test"})
			return true
		}
	}
	return false
}

// hold waits until the faults are cleared (true) or the server is closed (false).
func (s strikes) hold() bool {
	s.faults.mu.Lock()
	s.faults.held++
	s.faults.mu.Unlock()
	defer func() {
		s.faults.mu.Lock()
		s.faults.held--
		s.faults.mu.Unlock()
	}()
	select {
	case <-s.release:
		return true
	case <-s.faults.closed:
		return false
	}
}
