package e2e

import (
	"testing"

	"tokenbroker/providers/sandbox"
)

// A provider where one revocation ends all that an account gave our OAuth client (Google). Two subjects of two tenants connect
// one account: whatever one of them does, the other's connection goes on. The last one who leaves ends it at the provider.
func TestRevocationEndsNobodyElsesGrant(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *sandbox.Config) { c.RevocationEndsAll = true })
	r.writeConfig("    revocation: {ends: client}\n")
	p := r.start()
	acme, rival := p.api(r.key), p.api(r.other)
	alice := acme.connect(newBrowser(t), "alice")
	eve := rival.connect(newBrowser(t), "eve") // the same account
	goesOn := func(what string) {
		t.Helper()
		acme.refreshed("alice")
		if stats := r.provider.Stats(); stats.Revocations != 0 {
			t.Errorf("%s: %d revocations", what, stats.Revocations)
		}
	}

	if got := rival.want(200, "DELETE", "/v1/connections/"+eve, nil).str("revoked_upstream"); got != "unsupported" {
		t.Errorf("disconnected beside another holder: %q", got)
	}
	goesOn("one of two disconnected")

	// A link that the account's owner was sent: the codes typed for it are wrong.
	consent := rival.consent("mallory")
	newBrowser(t).consent(consent.str("url"))
	for range 5 {
		rival.want(400, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": "mallory", "code": "BCDF-GHJK"})
	}
	if got := rival.want(200, "GET", "/v1/consents/"+consent.str("id"), nil).str("status"); got != "failed" {
		t.Errorf("after five wrong codes the consent is %s", got)
	}
	goesOn("five wrong codes")

	// One that nobody finishes, ended before its time.
	consent = rival.consent("mallory")
	newBrowser(t).consent(consent.str("url"))
	rival.want(200, "DELETE", "/v1/subjects/mallory", nil)
	if got := rival.want(200, "GET", "/v1/consents/"+consent.str("id"), nil).str("status"); got != "failed" {
		t.Errorf("the consent of an erased subject is %s", got)
	}
	goesOn("an unfinished consent was ended")

	if got := acme.want(200, "DELETE", "/v1/connections/"+alice, nil).str("revoked_upstream"); got != "done" {
		t.Errorf("the last one disconnected: %q", got)
	}
	for _, g := range r.provider.Stats().Grants {
		if g.Revoked == "" {
			t.Errorf("a grant lives on at the provider: %+v", g)
		}
	}
}
