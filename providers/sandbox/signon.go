package sandbox

import (
	"net/http"
	"slices"

	"github.com/zitadel/oidc/v3/pkg/op"
)

// This file keeps browsers signed in (Config.SingleSignOn), and signs them out.

const signOnCookie = "sandbox_session"

// mostSignedIn bounds how many browsers are remembered; beyond it all are forgotten.
const mostSignedIn = 10_000

// signedInAs is the login of whoever is signed in at that browser; "": nobody.
func (s *Server) signedInAs(r *http.Request) string {
	c, err := r.Cookie(signOnCookie)
	if !s.cfg.SingleSignOn || err != nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signedIn[c.Value]
}

// staySignedIn remembers the browser.
func (s *Server) staySignedIn(w http.ResponseWriter, login string) {
	if !s.cfg.SingleSignOn || login == "" {
		return
	}
	s.store.mu.Lock()
	id, err := s.store.token("sbs_")
	s.store.mu.Unlock()
	if err != nil {
		return // it is not remembered
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.signedIn) >= mostSignedIn {
		clear(s.signedIn)
	}
	s.signedIn[id] = login
	http.SetCookie(w, &http.Cookie{Name: signOnCookie, Value: id, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// endSession is the end session endpoint (OpenID Connect RP-Initiated Logout section 2). The library checks the request.
func (s *Server) endSession(w http.ResponseWriter, r *http.Request) {
	answer := newBuffered()
	op.EndSession(answer, r, s.provider)
	if answer.status < http.StatusBadRequest {
		if c, err := r.Cookie(signOnCookie); err == nil {
			s.mu.Lock()
			delete(s.signedIn, c.Value)
			s.mu.Unlock()
		}
		http.SetCookie(w, &http.Cookie{Name: signOnCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode})
		s.stats.add(func(c *Stats) { c.SignOuts++ })
	}
	answer.header.Set("Cache-Control", "no-store")
	answer.header.Set("Referrer-Policy", "no-referrer")
	answer.send(w)
}

// SetGroups changes the groups of a user, for tokens still to be issued.
func (s *Server) SetGroups(login string, groups []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[login] = slices.Clone(groups)
}

// grouped is the user with the groups of now.
func (s *Server) grouped(u User) User {
	s.mu.Lock()
	defer s.mu.Unlock()
	if groups, ok := s.groups[u.Login]; ok {
		u.Groups = groups
	}
	return u
}
