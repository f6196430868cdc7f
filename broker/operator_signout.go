package broker

import (
	"context"
	"time"
)

// This file ends the session of an operator's browser at the operators' provider (OpenID Connect RP-Initiated Logout 1.0).

// OperatorSignOutCookie is the cookie that says what the provider sends back when a sign-out is done.
const OperatorSignOutCookie = "tb_operator_out"

// signOutPatience bounds how long a sign-out waits for the provider's metadata: who wants to leave is not kept.
const signOutPatience = 3 * time.Second

// OperatorLogout is what the provider is told of a sign-out.
type OperatorLogout struct {
	RedirectURI string // where the browser shall come to afterwards
	State       Secret // that comes back with it
	IDToken     Secret // of the session that is to end; zero: it is not known any more, and the provider may ask
}

// SignOutAtProvider is where the browser goes to be signed out at the operators' provider too, whose session here has ended. A zero
// Location: it stays signed in there, as the provider can't end sessions or it is configured so. The browser comes back to
// /dashboard/login/out with state, which is the cookie's value.
func (s *Service) SignOutAtProvider(ctx context.Context, idToken Secret) (OperatorStart, error) {
	if s.cfg.OperatorLogins == nil {
		return OperatorStart{}, nil
	}
	state, err := s.ids().secret(32)
	if err != nil {
		return OperatorStart{}, serverError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, signOutPatience)
	defer cancel()
	location, err := s.cfg.OperatorLogins.LogoutURL(ctx, OperatorLogout{RedirectURI: s.cfg.PublicURL + "/dashboard/login/out", State: state, IDToken: idToken})
	if err != nil {
		return OperatorStart{}, s.loginFault(ctx, s.operatorParty(), err)
	}
	if location.IsZero() {
		return OperatorStart{}, nil
	}
	return OperatorStart{Location: location, CookieName: OperatorSignOutCookie, Cookie: state, MaxAge: FlowLife}, nil
}
