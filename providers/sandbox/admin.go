package sandbox

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"time"
)

// adminRoutes serve what Inject, ClearFaults, Stats and the setters do, to other processes on this machine.
func (s *Server) adminRoutes(m *http.ServeMux) {
	admin := func(pattern string, do func(w http.ResponseWriter, r *http.Request)) {
		m.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if !s.fromHere(r) {
				writeJSON(w, http.StatusForbidden, map[string]string{"error": "only programs on this machine may do that"})
				return
			}
			do(w, r)
		})
	}
	admin("GET /_sandbox/stats", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, s.Stats()) })
	admin("DELETE /_sandbox/faults", func(w http.ResponseWriter, _ *http.Request) {
		s.ClearFaults()
		w.WriteHeader(http.StatusNoContent)
	})
	admin("POST /_sandbox/faults", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Faults []Fault `json:"faults"`
		}
		if s.decode(w, r, &in) {
			s.done(w, s.Inject(in.Faults...))
		}
	})
	admin("POST /_sandbox/grants/revoke", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			User string `json:"user"`
		}
		if s.decode(w, r, &in) {
			writeJSON(w, http.StatusOK, map[string]int{"revoked": s.RevokeUser(in.User)})
		}
	})
	admin("POST /_sandbox/settings", s.settings)
}

func (s *Server) settings(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Rotation   Rotation         `json:"rotation"`
		LifetimeMS int64            `json:"access_token_lifetime_ms"`
		Auto       *json.RawMessage `json:"auto"` // an Auto, or {} for none
	}
	if !s.decode(w, r, &in) {
		return
	}
	if in.Rotation != "" {
		if err := s.SetRotation(in.Rotation); err != nil {
			s.done(w, err)
			return
		}
	}
	if in.LifetimeMS != 0 {
		if err := s.SetAccessTokenLifetime(time.Duration(in.LifetimeMS) * time.Millisecond); err != nil {
			s.done(w, err)
			return
		}
	}
	if in.Auto != nil {
		var auto Auto
		err := json.Unmarshal(*in.Auto, &auto)
		if err == nil && auto.Decision == "" && auto.User == "" {
			err = s.SetAuto(nil)
		} else if err == nil {
			err = s.SetAuto(&auto)
		}
		if err != nil {
			s.done(w, err)
			return
		}
	}
	s.done(w, nil)
}

// fromHere refuses callers from elsewhere, web pages (they send Origin or Sec-Fetch-Site) and names other than the issuer's
// (DNS rebinding).
func (s *Server) fromHere(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || !net.ParseIP(host).IsLoopback() {
		return false
	}
	issuer, err := url.Parse(s.cfg.Issuer)
	if err != nil || r.Host != issuer.Host {
		return false
	}
	return r.Header.Get("Origin") == "" && r.Header.Get("Sec-Fetch-Site") == ""
}

func (s *Server) decode(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return false
	}
	return true
}

func (s *Server) done(w http.ResponseWriter, err error) {
	if err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
