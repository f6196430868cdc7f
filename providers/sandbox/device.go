package sandbox

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"
)

// Consents on another device (RFC 8628): the library makes the codes and answers the polls, the store keeps what became of
// them, and the page at /device is where the user types the code.

var _ op.DeviceAuthorizationStorage = (*storage)(nil)

const (
	deviceLifetime = 10 * time.Minute
	// deviceInterval is short, as tests wait for it; who asks more often is told to slow down.
	deviceInterval = time.Second
	maxDevices     = 10_000
)

// deviceRequest is a device code, until it was redeemed.
type deviceRequest struct {
	client, userCode string
	scopes           []string
	expires          time.Time
	polled           time.Time
	decided, allowed bool
	sub              string
	at               time.Time
}

func deviceConfig() op.DeviceAuthorizationConfig {
	return op.DeviceAuthorizationConfig{Lifetime: deviceLifetime, PollInterval: deviceInterval, UserFormPath: "/device", UserCode: op.UserCodeBase20}
}

// deviceAuthorization is the endpoint of RFC 8628 section 3.1.
func (s *Server) deviceAuthorization(w http.ResponseWriter, r *http.Request) {
	if !s.postedForm(w, r) {
		return
	}
	s.record(r)
	if !s.authenticated(w, r) {
		return
	}
	answer := newBuffered()
	if err := op.DeviceAuthorization(answer, r, s.provider); err != nil {
		op.RequestError(answer, r, err, nil)
	}
	answer.header.Set("Cache-Control", "no-store")
	answer.send(w)
}

// StoreDeviceAuthorization keeps a new device code.
func (s *storage) StoreDeviceAuthorization(_ context.Context, clientID, deviceCode, userCode string, _ time.Time, scopes []string) error {
	var known []string
	for _, scope := range scopes {
		if standing(scope) || slices.ContainsFunc(s.server.cfg.Scopes, func(k Scope) bool { return k.Name == scope }) {
			known = append(known, scope)
		}
	}
	return s.server.store.addDevice(deviceCode, &deviceRequest{client: clientID, userCode: userCode, scopes: known})
}

// GetDeviceAuthorizatonState answers a poll. A code that was allowed is spent by it.
func (s *storage) GetDeviceAuthorizatonState(_ context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	return s.server.store.pollDevice(clientID, deviceCode)
}

func (s *store) addDevice(code string, d *deviceRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, old := range s.devices {
		if s.now().After(old.expires) {
			delete(s.devices, other)
		}
	}
	if len(s.devices) >= maxDevices {
		return errors.New("too many device codes")
	}
	d.expires = s.now().Add(deviceLifetime)
	s.devices[code] = d
	return nil
}

func (s *store) pollDevice(clientID, code string) (*op.DeviceAuthorizationState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[code]
	if d == nil || d.client != clientID {
		return nil, errUnknownToken
	}
	now := s.now()
	soon := now.Sub(d.polled) < deviceInterval
	d.polled = now
	if soon && !d.decided {
		return nil, context.DeadlineExceeded // the library's sign for slow_down
	}
	state := &op.DeviceAuthorizationState{
		ClientID: d.client, Scopes: d.scopes, Done: d.decided && d.allowed, Denied: d.decided && !d.allowed, Subject: d.sub, AuthTime: d.at,
	}
	if state.Expires = time.Now().Add(time.Minute); now.After(d.expires) {
		state.Expires, state.Done = time.Now().Add(-time.Minute), false
	}
	if d.decided {
		delete(s.devices, code)
	}
	return state, nil
}

// DecideDevice is what the user does who types the code: decision is allow or deny. false: no such code waits.
func (s *Server) DecideDevice(userCode, login, decision string) bool {
	u, known := s.user(login)
	if decision != decisionAllow && decision != decisionDeny || decision == decisionAllow && !known {
		return false
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	for _, d := range s.store.devices {
		if strings.EqualFold(d.userCode, strings.TrimSpace(userCode)) && !d.decided && s.store.now().Before(d.expires) {
			d.decided, d.allowed, d.sub, d.at = true, decision == decisionAllow, u.Sub, s.store.now()
			return true
		}
	}
	return false
}

// redeemDevice makes a grant of a device code that was allowed.
func (s *store) redeemDevice(state *op.DeviceAuthorizationState, offline bool) (issued, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.grantOf(&authRequest{clientID: state.ClientID, sub: state.Subject, scopes: state.Scopes, authTime: state.AuthTime})
	if err != nil {
		return issued{}, err
	}
	out, err := s.issueAccess(g, g.scopes)
	if err != nil {
		return issued{}, err
	}
	if offline {
		if out.refresh, err = s.issueRefresh(g); err != nil {
			return issued{}, err
		}
	}
	s.keep(g)
	return out, nil
}

// devicePage asks for the code and for who is there.
func (s *Server) devicePage(w http.ResponseWriter, r *http.Request) {
	s.page(w, http.StatusOK, "device", struct {
		Code  string
		Users []User
	}{r.URL.Query().Get("user_code"), s.cfg.Users})
}

// device takes the form of the page.
func (s *Server) device(w http.ResponseWriter, r *http.Request) {
	if r.ParseForm() != nil || !s.DecideDevice(r.PostForm.Get("user_code"), r.PostForm.Get("user"), r.PostForm.Get("decision")) {
		s.page(w, http.StatusNotFound, "gone", nil)
		return
	}
	s.page(w, http.StatusOK, "decided", nil)
}
