package web_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
)

// whileAsked is a site in whose session the groups are due to be looked up, and the answer of the provider that the browser has got.
func whileAsked(t *testing.T, meanwhile func(s *site, asked broker.OperatorAgain)) (*site, func() *http.Response) {
	group := "admin"
	var s *site
	s = withRecheck(t, &group, func(asked broker.OperatorAgain) {
		if meanwhile != nil {
			meanwhile(s, asked)
		}
	})
	s.signInAs("admin", "")
	for range 3 {
		time.Sleep(25 * time.Minute)
		if res := s.get("/dashboard/session"); strings.Contains(res.Header.Get("Refresh"), "prompt=none") {
			return s, func() *http.Response {
				return s.callback(url.Values{"state": {"re-/dashboard/session"}, "code": {"c"}})
			}
		}
	}
	t.Fatal("the groups are not looked up")
	return nil, nil
}

// Whose session is ended while their groups are looked up is out, whoever ended it and however late: before the answer, or between the
// broker's look at the session and the step that lets it go on.
func TestEndedWhileGroupsAreLookedUp(t *testing.T) {
	ends := map[string]func(s *site, asked broker.OperatorAgain) error{
		"the session": func(s *site, asked broker.OperatorAgain) error {
			return s.sessions.EndOperatorSession(t.Context(), asked.Session)
		},
		"all of the operator's": func(s *site, asked broker.OperatorAgain) error {
			return s.sessions.SetOperatorEpoch(t.Context(), asked.Operator, "another", time.Now().Add(time.Hour))
		},
	}
	for name, end := range ends {
		for _, late := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				do := func(s *site, asked broker.OperatorAgain) {
					if err := end(s, asked); err != nil {
						t.Error(err)
					}
				}
				meanwhile := do
				if !late {
					meanwhile = nil
				}
				s, answer := whileAsked(t, meanwhile)
				old := s.jar[sessionCookie]
				if !late {
					do(s, s.asked(t))
				}
				res := answer()
				if s.jar[sessionCookie] != old || res.Header.Get("Refresh") != "0; url=/dashboard/session" {
					t.Errorf("%s, late %v: another cookie %v, goes on to %q", name, late, s.jar[sessionCookie] != old, res.Header.Get("Refresh"))
				}
				status(t, s.get("/dashboard/session"), http.StatusUnauthorized)
			})
		}
	}
}

// asked is the session that the site's browser is in, as the provider is asked about it.
func (s *site) asked(t *testing.T) broker.OperatorAgain {
	t.Helper()
	all, _, err := s.sessions.OperatorSessions(t.Context(), "", 2)
	if err != nil || len(all) != 1 {
		t.Fatalf("%d sessions, %v", len(all), err)
	}
	return broker.OperatorAgain{Session: all[0].ID, Operator: all[0].Operator}
}

// Whoever ends the session behind the answer, by what they saw on the list before it, ends it too: it goes on under the id that it had.
func TestEndedBehindTheLookUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, answer := whileAsked(t, nil)
		seen := s.asked(t)
		status(t, answer(), http.StatusOK)
		status(t, s.get("/dashboard/session"), http.StatusOK)
		if s.asked(t) != seen {
			t.Errorf("on the list it is %+v, was %+v", s.asked(t), seen)
		}
		if err := s.sessions.EndOperatorSession(t.Context(), seen.Session); err != nil {
			t.Fatal(err)
		}
		status(t, s.get("/dashboard/session"), http.StatusUnauthorized)
	})
}

// Several tabs ask at the same time: whichever answer comes first lets the session go on, and the others lead to their pages in it. So does
// one that comes between the broker's look at the session and the step that lets it go on, also where the provider is of the same site
// and the browser's cookie comes along.
func TestTabsLookUpGroupsTogether(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			group, second := "admin", (func() *http.Response)(nil)
			s := withRecheck(t, &group, func(broker.OperatorAgain) {
				if now := second; now != nil {
					second = nil
					res := now()
					status(t, res, http.StatusOK)
				}
			})
			s.signInAs("admin", "")
			for range 2 {
				time.Sleep(25 * time.Minute)
				status(t, s.get("/dashboard/session"), http.StatusOK)
			}
			time.Sleep(25 * time.Minute)
			for _, page := range []string{"/dashboard/session", "/dashboard/jobs", "/dashboard/operators"} {
				status(t, s.get(page), http.StatusOK)
			}
			answer := func(page string) *http.Response {
				return s.callback(url.Values{"state": {"re-" + page}, "code": {"c"}})
			}
			if late {
				second = func() *http.Response { return answer("/dashboard/jobs") }
			}
			for _, page := range []string{"/dashboard/session", "/dashboard/operators"} {
				res := answer(page)
				status(t, res, http.StatusOK)
				if to := res.Header.Get("Refresh"); to != "0; url="+page {
					t.Errorf("late %v: the tab with %s goes on to %q", late, page, to)
				}
				if res := s.get(page); res.StatusCode != http.StatusOK || res.Header.Get("Refresh") != "" {
					t.Errorf("late %v: %s: %d %q", late, page, res.StatusCode, res.Header.Get("Refresh"))
				}
			}
			if s.asked(t); s.service.Count("FinishOperatorSignIn") < 3 {
				t.Error("not all have answered")
			}
		})
	}
}
