package broker

import (
	"context"
	"errors"
	"slices"
	"time"
)

// This file signs operators in at their own OpenID Provider, and ends their sessions. Why it is as it is:
// decisions/0019-operator-sign-in.md.
//
//	BeginOperatorSignIn ─▶ (the run is stored under its state) ─▶ the browser signs in ─▶ FinishOperatorSignIn: state, browser
//	   ─▶ (the run is used up: of many callbacks one goes on) ─▶ code and ID token ─▶ groups give roles ─▶ (the event) ─▶ a session

// OperatorLogins speaks to the operators' OpenID Provider. It is as Logins otherwise.
type OperatorLogins interface {
	// AuthorizationURL is as Logins.AuthorizationURL.
	AuthorizationURL(ctx context.Context, req LoginRequest) (Authorization, error)
	// Redeem redeems the code, once, verifies the ID token in full, and tells who signed in. ErrLoginRefused;
	// ErrGroupsElsewhere.
	Redeem(ctx context.Context, req LoginResponse) (OperatorIdentity, error)
	// LogoutURL is where a browser ends its session at the provider; zero: the provider has no such place, or it shall not be used.
	LogoutURL(ctx context.Context, req OperatorLogout) (Secret, error)
}

// ErrGroupsElsewhere: the provider says that the person has groups, and does not say which.
var ErrGroupsElsewhere = errors.New("the provider left the groups out of the ID token, as there are too many: have it send only those that are assigned to the application")

// ErrNoRole: somebody proved who they are, and no role is configured for any of their groups.
var ErrNoRole = errors.New("no role for these groups")

// OperatorIdentity is who signed in, as the operators' provider says it.
type OperatorIdentity struct {
	Issuer  string
	Subject string // the claim sub; never empty
	Name    string // may be empty, as may Email
	Email   string // that the provider has verified
	Groups  []string
	// GroupsGiven: there is such a claim, though it may hold none.
	GroupsGiven bool
	// IDToken tells the provider at the sign-out whose session it is.
	IDToken Secret
}

// OperatorRole gives whoever is in a group at the operators' provider a role.
type OperatorRole struct {
	Group string
	OperatorGrant
}

// OperatorRun is a sign-in of an operator that is under way.
type OperatorRun struct {
	LoginRun
	// To is the page that the browser asked for first.
	To string
	// Again is the session whose operator's groups are asked for anew; the zero one: somebody signs in.
	Again OperatorAgain
}

// OperatorAgain is a session for which the provider is asked again who is there, and in which groups.
type OperatorAgain struct {
	Session  string // OperatorSession.ID
	Operator string
	Since    time.Time // when somebody signed in
	// Turn and Epoch are the session's when the provider was asked: only from these it goes on.
	Turn  int64
	Epoch string
}

// OperatorSignIns keeps sign-ins of operators that are under way, sealed, until their LoginRun.Until.
type OperatorSignIns interface {
	// CreateSignIn stores one under its state. Durable.
	CreateSignIn(ctx context.Context, state Secret, run OperatorRun) error
	// SignIn returns it. ErrNotFound when there is none.
	SignIn(ctx context.Context, state Secret) (OperatorRun, error)
	// UseSignIn removes it: of several callers one is told no error, the others ErrNotFound. After any other error the sign-in
	// counts as used.
	UseSignIn(ctx context.Context, state Secret) error
}

// OperatorStart is where a browser goes to sign in.
type OperatorStart struct {
	Location   Secret // holds state
	CookieName string
	Cookie     Secret
	MaxAge     time.Duration
}

// OperatorSignedIn is who signed in, for a session.
type OperatorSignedIn struct {
	ID   string // of Operator
	Name string // for people: name and address, as far as they are known
	// Groups are those that some role is configured for; what they give is looked up anew with each request (OperatorGrants).
	Groups []string
	Grants []OperatorGrant
	To     string // as in OperatorRun; also beside an error, as far as it is known
	// IDToken is for SignOutAtProvider; sessions keep it sealed.
	IDToken Secret
	// Again is the session that goes on by this (RecheckOperator), in its next turn and under the same epoch, if it still is as it was
	// then; the zero one: another session begins.
	Again OperatorAgain
}

// OperatorByLogin is the id of an operator who signed in at the provider.
func OperatorByLogin(subject string) string { return "oidc:" + subject }

// operatorCookie names the cookie of one sign-in, so that several tabs don't disturb each other.
func operatorCookie(state Secret) string { return "tb_operator_" + state.Digest()[:16] }

// operatorParty is where operators sign in.
func (s *Service) operatorParty() loginParty {
	p := loginParty{whose: "the operators'", setting: "under dashboard: login", uri: s.cfg.PublicURL + "/dashboard/callback"}
	if s.cfg.OperatorLogins != nil && s.cfg.OperatorSignIns != nil {
		p.url = s.cfg.OperatorLogins.AuthorizationURL
	}
	return p
}

// ErrSignInNeeded: the provider can't tell without a question whether it is still the same person, so somebody must sign in anew.
var ErrSignInNeeded = errors.New("the provider would have to ask who is there")

// ErrOvertaken: the session about which the provider was asked is not as it was then. It was ended, or it has gone on already, by the
// answer to another tab. Whoever is signed in all the same sees that on the next page.
var ErrOvertaken = errors.New("the session ended, or has gone on, while the provider was asked")

// RecheckOperator asks the provider anew in which groups the operator of a session is, without showing anything: it answers with what
// FinishOperatorSignIn takes, and then the session goes on under another cookie (OperatorSignedIn.Again).
func (s *Service) RecheckOperator(ctx context.Context, to string, again OperatorAgain) (OperatorStart, error) {
	ctx, end := s.telemetry.begin(ctx, "broker.RecheckOperator", "")
	party := s.operatorParty()
	party.silent = true
	start, err := s.beginOperatorSignIn(ctx, party, OperatorRun{To: to, Again: again}, false)
	end(err)
	return start, err
}

// BeginOperatorSignIn begins a sign-in of whoever is at the browser. fresh: who is signed in there already must sign in again.
func (s *Service) BeginOperatorSignIn(ctx context.Context, to string, fresh bool) (OperatorStart, error) {
	ctx, end := s.telemetry.begin(ctx, "broker.BeginOperatorSignIn", "")
	start, err := s.beginOperatorSignIn(ctx, s.operatorParty(), OperatorRun{To: to}, fresh)
	end(err)
	return start, err
}

func (s *Service) beginOperatorSignIn(ctx context.Context, party loginParty, of OperatorRun, fresh bool) (OperatorStart, error) {
	state, err := s.ids().secret(32)
	if err != nil {
		return OperatorStart{}, serverError(err)
	}
	browser, err := s.ids().secret(secretBytes)
	if err != nil {
		return OperatorStart{}, serverError(err)
	}
	run, location, err := s.beginRun(ctx, party, state, browser, fresh)
	if err != nil {
		return OperatorStart{}, err
	}
	of.LoginRun = run
	// A crash behind this leaves a record that ends by itself.
	store, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	if err := s.cfg.OperatorSignIns.CreateSignIn(store, state, of); err != nil {
		return OperatorStart{}, storeError("store the sign-in", err)
	}
	return OperatorStart{Location: location, CookieName: operatorCookie(state), Cookie: browser, MaxAge: FlowLife}, nil
}

// FinishOperatorSignIn takes the redirect of the operators' provider, and records who signed in, or who did and may not: then the
// error is access_denied by ErrNoRole, and comes with whom to tell an administrator of. invalid_request: it belongs to no sign-in
// under way. access_denied otherwise: that was begun in another browser. login_failed: nobody signed in, or nothing proves who, or
// by ErrGroupsElsewhere.
func (s *Service) FinishOperatorSignIn(ctx context.Context, cb LoginCallback, requestID, traceID string) (OperatorSignedIn, error) {
	ctx, end := s.telemetry.begin(ctx, "broker.FinishOperatorSignIn", "")
	who, err := s.finishOperatorRun(ctx, cb, requestID, traceID)
	end(err)
	return who, err
}

func (s *Service) finishOperatorRun(ctx context.Context, cb LoginCallback, requestID, traceID string) (OperatorSignedIn, error) {
	party := s.operatorParty()
	if party.url == nil {
		return OperatorSignedIn{}, party.gone()
	}
	if cb.State.IsZero() {
		return OperatorSignedIn{}, errBadSignIn()
	}
	run, err := s.useOperatorRun(ctx, cb)
	if err != nil {
		return OperatorSignedIn{}, err
	}
	if run.Again.Session == "" {
		return s.finishOperatorSignIn(ctx, party, run, cb, requestID, traceID)
	}
	return s.finishRecheck(ctx, party, run, cb, requestID, traceID)
}

func (s *Service) finishOperatorSignIn(ctx context.Context, party loginParty, run OperatorRun, cb LoginCallback, requestID, traceID string) (OperatorSignedIn, error) {
	who := OperatorSignedIn{To: run.To, Again: run.Again}
	req, err := s.readAnswer(ctx, party, run.LoginRun, loginAnswer{Code: cb.Code, Issuer: cb.Issuer, HasIssuer: cb.HasIssuer, Error: cb.Error})
	if err != nil {
		return who, err
	}
	upstream, cancel := context.WithTimeout(ctx, s.cfg.UpstreamTimeout)
	defer cancel()
	person, err := s.cfg.OperatorLogins.Redeem(upstream, req)
	switch {
	case errors.Is(err, ErrGroupsElsewhere):
		s.cfg.Log.WarnContext(ctx, "an operator can't be given a role: "+ErrGroupsElsewhere.Error())
		return who, Errorf(CodeLoginFailed, "the provider does not tell the groups of this person").Because(err)
	case err != nil:
		return who, s.loginFault(ctx, party, err)
	case run.Issuer == "" || person.Issuer != run.Issuer:
		return who, Errorf(CodeLoginFailed, "the sign-in could not be verified; start again")
	}
	who.ID, who.Name, who.IDToken = OperatorByLogin(person.Subject), person.words(), person.IDToken
	if run.Again.Session != "" && who.ID != run.Again.Operator {
		return OperatorSignedIn{To: run.To}, Errorf(CodeLoginFailed, "somebody else is signed in at the provider")
	}
	who.Groups = s.groupsWithRoles(person.Groups)
	who.Grants = s.OperatorGrants(who.Groups)
	op := Operator{ID: who.ID, Grants: who.Grants, RequestID: requestID, TraceID: traceID}
	if len(who.Grants) == 0 {
		if !person.GroupsGiven {
			s.cfg.Log.WarnContext(ctx, "an operator has no role: neither the ID token nor userinfo has the groups claim; check groups_claim and scopes "+party.setting+", and what the provider puts into tokens")
		}
		if err := s.RecordOperator(ctx, op, EventOperatorSignInFailed, string(CodeAccessDenied), firstBytes(who.Name+": no role for the groups of this person", maxReason)); err != nil {
			return OperatorSignedIn{To: run.To}, err
		}
		return who, Errorf(CodeAccessDenied, "no role is configured for the groups of this person").Because(ErrNoRole)
	}
	// Not recorded means not signed in. A crash behind this leaves an event of a sign-in that came to nothing.
	roles := op.RoleNames()
	if run.Again.Session != "" {
		roles += ", looked up anew"
	}
	if err := s.RecordOperator(ctx, op, EventOperatorSignedIn, "ok", firstBytes(who.Name+": "+roles, maxReason)); err != nil {
		return OperatorSignedIn{To: run.To}, err
	}
	return who, nil
}

// useOperatorRun finds the run that a callback belongs to and uses it up, before anything is sent: a code is sent once, and a
// state in another browser neither goes on nor ends anything (threats.md, login CSRF).
func (s *Service) useOperatorRun(ctx context.Context, cb LoginCallback) (OperatorRun, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	run, err := s.cfg.OperatorSignIns.SignIn(ctx, cb.State)
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrIntegrity):
		return OperatorRun{}, errBadSignIn()
	case err != nil:
		return OperatorRun{}, storeError("read the sign-in", err)
	}
	if err := s.checkLogin(run.LoginRun, cb, operatorCookie(cb.State)); err != nil {
		return OperatorRun{}, err
	}
	switch err := s.cfg.OperatorSignIns.UseSignIn(ctx, cb.State); {
	case errors.Is(err, ErrNotFound):
		return OperatorRun{}, errBadSignIn()
	case err != nil:
		return OperatorRun{}, storeError("use up the sign-in", err)
	}
	return run, nil
}

func errBadSignIn() *Error {
	return Errorf(CodeInvalidRequest, "this answer belongs to no sign-in that is under way, or was used already; start again")
}

// OperatorGrants is what those groups may, by the configuration as it is now.
func (s *Service) OperatorGrants(groups []string) []OperatorGrant {
	var grants []OperatorGrant
	for _, r := range s.cfg.OperatorRoles {
		if slices.Contains(groups, r.Group) && !slices.Contains(grants, r.OperatorGrant) {
			grants = append(grants, r.OperatorGrant)
		}
	}
	return grants
}

// groupsWithRoles are those of a person's groups that count here: the others are nobody's business.
func (s *Service) groupsWithRoles(groups []string) []string {
	return slices.DeleteFunc(slices.Clone(groups), func(group string) bool {
		return !slices.ContainsFunc(s.cfg.OperatorRoles, func(r OperatorRole) bool { return r.Group == group })
	})
}

// words is how people know the person.
func (p OperatorIdentity) words() string {
	switch {
	case p.Name != "" && p.Email != "" && p.Name != p.Email:
		return p.Name + " <" + p.Email + ">"
	case p.Name != "":
		return p.Name
	case p.Email != "":
		return p.Email
	}
	return p.Subject
}
