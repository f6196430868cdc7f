package trial

import (
	"context"
	"errors"

	"tokenbroker/broker"
)

// refreshes uses the grant as the broker would, and once as it never would: a used refresh token is sent again. It returns
// the newest grant that works, as far as one does.
func (a *attempt) refreshes(ctx context.Context, first broker.Grant) broker.Grant {
	if first.RefreshToken.IsZero() {
		return first
	}
	second, err := a.refresh(ctx, first, first.RefreshToken)
	if err != nil {
		a.found(Finding{Fact: "refresh", Key: "token_request", Seen: inWords(err), Verdict: Failed, Advice: "see token_request and errors in the definition"})
		return first
	}
	a.found(Finding{Fact: "refresh", Seen: "works", Verdict: Agrees})
	a.lifetime("life of a refreshed access token", second)
	a.oldAccessToken(ctx, first)
	stated := a.Definition.Rotation
	if second.RefreshToken.IsZero() || second.RefreshToken.Equal(first.RefreshToken) {
		a.found(Finding{Fact: "refresh token after its use", Key: "rotation", Stated: stated, Seen: "none", Verdict: rotates(stated, "none"), Advice: advised(stated, "none")})
		second.RefreshToken = first.RefreshToken
		return second
	}
	return a.reuse(ctx, first, second, stated)
}

// reuse sends the used refresh token again.
func (a *attempt) reuse(ctx context.Context, first, second broker.Grant, stated string) broker.Grant {
	third, err := a.refresh(ctx, first, first.RefreshToken)
	seen, newest := "", second
	switch {
	case err == nil:
		// Still good a moment later; for how long, only waiting would tell.
		if seen = "grace"; !third.RefreshToken.IsZero() {
			newest = third
		}
	case broker.ClassOf(err) == broker.ClassGrantDead:
		seen = "strict"
	default:
		a.found(Finding{Fact: "refresh token after its use", Key: "rotation", Stated: stated, Seen: "another one; sent again the old one met: " + inWords(err), Verdict: Unknown})
		return second
	}
	a.found(Finding{Fact: "refresh token after its use", Key: "rotation", Stated: stated, Seen: seen, Verdict: rotates(stated, seen), Advice: advised(stated, seen)})
	fourth, err := a.refresh(ctx, newest, newest.RefreshToken)
	finding := Finding{Fact: "grant after a used refresh token came again", Key: "reuse_ends_grant", Stated: ends(a.Definition.ReuseEndsGrant), Seen: "goes on"}
	switch {
	case err == nil:
		if fourth.RefreshToken.IsZero() {
			fourth.RefreshToken = newest.RefreshToken
		}
		newest = fourth
	case broker.ClassOf(err) == broker.ClassGrantDead:
		finding.Seen, newest = "ends", broker.Grant{}
	default:
		finding.Seen = inWords(err)
	}
	switch finding.Verdict = is(finding.Stated, finding.Seen); {
	case finding.Seen == "goes on" && seen == "grace" && a.Definition.ReuseEndsGrant:
		finding.Verdict = Unknown // within the grace nothing was reused yet
	case finding.Seen == "ends" && !a.Definition.ReuseEndsGrant:
		// That the key is left out is no claim; the broker never sends one twice in any case.
		finding.Verdict, finding.Advice = Noted, "write down reuse_ends_grant: true"
	}
	a.found(finding)
	return newest
}

// rotates judges what was seen of rotation. A grace that nobody states costs nothing: strict is the careful assumption.
func rotates(stated, seen string) Verdict {
	if stated == "strict" && seen != "strict" {
		return Noted
	}
	return is(stated, seen)
}

func advised(stated, seen string) string {
	switch {
	case stated == seen:
		return ""
	case stated == "strict":
		return "rotation: strict is the careful assumption and does no harm; rotation: " + seen + " is what was seen"
	}
	return "write down rotation: " + seen + ", else an answer that gets lost is taken for harmless"
}

func ends(reuse bool) string {
	if reuse {
		return "ends"
	}
	return "goes on"
}

func (a *attempt) refresh(ctx context.Context, grant broker.Grant, token broker.Secret) (broker.Grant, error) {
	scopes := a.Scopes
	if grant.ScopesReported {
		scopes = grant.Scopes
	}
	next, err := a.Upstream.Refresh(ctx, a.Connector.ID, broker.RefreshRequest{RefreshToken: token, Scopes: scopes, RedirectURI: a.RedirectURI, Vars: grant.Vars})
	if err == nil && next.Vars == nil {
		next.Vars = grant.Vars
	}
	return next, err
}

// oldAccessToken looks whether the access token from before a refresh still opens the account.
func (a *attempt) oldAccessToken(ctx context.Context, first broker.Grant) {
	stated := "still good"
	if a.Definition.RefreshEndsAccessToken {
		stated = "over"
	}
	finding := Finding{Fact: "old access token after a refresh", Key: "refresh_ends_access_token", Stated: stated, Seen: "still good"}
	probe := broker.Grant{AccessToken: first.AccessToken, Vars: first.Vars}
	identified, err := a.Upstream.Identify(ctx, a.Connector.ID, probe)
	switch {
	case err == nil && identified.Account.ID == "":
		finding.Seen, finding.Verdict = "there is nowhere to try it", Unknown
		a.found(finding)
		return
	case broker.ClassOf(err) == broker.ClassUnsent || broker.ClassOf(err) == broker.ClassThrottled:
		finding.Seen, finding.Verdict = inWords(err), Unknown
		a.found(finding)
		return
	case err != nil:
		finding.Seen = "over"
	}
	finding.Verdict = is(finding.Stated, finding.Seen)
	a.found(finding)
}

// revocation ends the grant and looks whether that is so.
func (a *attempt) revocation(ctx context.Context, grant broker.Grant) {
	if grant.RefreshToken.IsZero() && grant.AccessToken.IsZero() {
		return
	}
	stated := "supported"
	if a.Definition.Revocation.Unsupported {
		stated = "unsupported"
	}
	finding := Finding{Fact: "revocation", Key: "revocation", Stated: stated}
	err := a.Upstream.Revoke(ctx, a.Connector.ID, broker.RevokeRequest{RefreshToken: grant.RefreshToken, AccessToken: grant.AccessToken, Vars: grant.Vars})
	switch {
	case errors.Is(err, broker.ErrRevokeUnsupported):
		finding.Seen, finding.Verdict = "unsupported", is(stated, "unsupported")
		finding.Advice = "this trial's grant stays at the provider: take the app out of the account there"
		if stated == "supported" {
			finding.Verdict = Noted
		}
	case err != nil:
		finding.Seen, finding.Verdict, finding.Advice = inWords(err), Failed, "this trial's grant stays at the provider: take the app out of the account there"
	case grant.RefreshToken.IsZero():
		finding.Seen, finding.Verdict = "accepted", Agrees
	default:
		_, err := a.refresh(ctx, grant, grant.RefreshToken)
		switch {
		case err == nil:
			finding.Seen, finding.Verdict, finding.Advice = "accepted, and the refresh token still works", Differs, "see revocation.token and revocation.ends"
		case broker.ClassOf(err) == broker.ClassGrantDead:
			finding.Seen, finding.Verdict = "the refresh token is over", Agrees
		default:
			finding.Seen, finding.Verdict = "accepted; the refresh token then met: "+inWords(err), Unknown
		}
	}
	a.found(finding)
}
