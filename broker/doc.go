// Package broker is the domain: what a token broker must do, without knowing how anything is stored, sent or shown. It
// imports no network, no store, no encryption and no web framework; what it needs of those is in ports.go and, for operators, in ports_*.go.
//
// Read in this order: issue.go and issue_guess.go (a token), refresh.go, lanes.go and refresh_store.go (a refresh), consent_create.go,
// consent_browser.go, consent_exchange.go, consent_complete.go, consent_login.go, consent_store.go and consent_follow.go (a consent), direct.go
// (tokens without a consent), device.go (a consent on another device), revoke.go, sweep.go, early.go (refreshing ahead of need), circuit.go
// and refused.go (a provider that fails, or refuses our client), ttl.go (how long a token must live), shared.go (one grant,
// several connections), holders.go (grants that end together), notice.go (providers that say so by themselves),
// tenantconnector.go, connectoradmin.go and connectorsync.go (connectors that tenants make themselves), portal.go,
// portal_browser.go, portal_login.go and portal_list.go (the page on which users see and end what is connected). Every rule about
// who may have what is in policy.go; every event in audit.go; every error in error.go.
//
// What operators do on the dashboard: operator.go, operator_event.go, operator_signin.go and operator_sessions.go (who may do what, what
// is recorded, how they get in and out), accounts.go (connected accounts), explore.go (the audit trail), switch.go (what is disabled:
// every path that hands something out asks there), job.go and job_run.go (work that takes longer than a request), of which there are
// two kinds, revokeall.go and verify.go; overview.go and glance.go (what goes on), attention.go and attention_vitals.go (what somebody
// should look at), pulse.go (what is counted for it), vitals.go and circuitreport.go (how the broker itself is).
//
// # A token
//
//	client ── POST /v1/tokens ──▶ IssueToken
//	   1 policy: connector, scopes, ceiling ───────────────▶ access_denied, invalid_scope
//	   2 the connection of this tenant and subject ────────▶ consent_required + link, account_selection_required
//	   3 a stored token that lives long enough? ──yes──┐
//	   4 no: the refresher, once for all who wait ─────┤──▶ provider_unavailable, provider_misconfigured, ttl_unavailable
//	   5 one event per scope AND the token, in one step┘──▶ temporarily_unavailable: no event, no token
//	   6 the answer
//
// Mostly 2 to 5 are one step: on what this process remembers of a connection the entry is made before anything is read, and counts only
// if all is still as it was (issue_guess.go).
//
// Tokens leave the store by Connections.Release and Guesses.ReleaseGuessed alone, which write the events in the same step and refuse if
// the record changed since it was read: so a revocation on any replica holds for the very next answer on every other.
//
// # A refresh
//
//	look ─▶ lease (longer than the call) ─▶ time left? ─▶ one POST ─▶ spool ─▶ compare-and-swap ─▶ everything else
//	           │ busy: another replica            │ no: give back       │            │ record moved on: keep as alternate
//	           └─ wait for its result             └─ start over         │            └ revoked meanwhile: revoke upstream
//	                                                                    └ failed: grant dead | client refused | provider down | in doubt
//
// The POST and what follows run detached from the request that began them. Nothing but a dead grant, confirmed against
// the newest record and every alternate, makes a user consent again, and nothing deletes a refresh token but a revocation.
//
// A connector's own credentials obtain a token in the same place, under the same lease, where there is no user to consent (direct.go).
//
// # A consent
//
//	           create            start (cookie, state, PKCE)      callback                     complete (subject, code)
//	(nothing) ───────▶ pending ───────────────▶ started ──────────────▶ awaiting_completion ───────────▶ completed
//	                     │                        │ denied at provider     │ five wrong codes              = a connection
//	                     ├ cancel ─▶ denied ◀─────┤                        ├──▶ failed
//	                     └ 10 min ─▶ expired ◀────┴────── time is up ──────┘   (a provisional grant is revoked upstream)
//
// With binding "return" the provider's code is redeemed in complete; with binding "code" at the callback, and what it gave
// stays out of reach until the code was typed in the chat. Each write on the way is repeated until it is known what became of
// it (consent_store.go): an error of the store never costs the grant. Either way the chat's own backend says who is there: whoever
// only has the link can attach nobody's account to anything. With binding "login" the person's own organisation says it, before
// the provider is asked, and the callback completes (consent_login.go; login.go is the sign-in by itself). With binding "device" there is no link, and no such proof: device.go
// has that flow.
//
// # A connection
//
//	          completed consent                 grant dead, or ended without a refresh token
//	(nothing) ─────────────────▶ active ────────────────────────────────────▶ needs_consent
//	                               ▲ │ disconnect                               │ │ disconnect
//	                               │ └──────────────▶ revoked ◀─────────────────┘ │
//	                               └───────────── completed consent ─────────────-┘
//
// # Words
//
// tenant, client, subject, actor, provider, connector, connection, consent, event: as contract.md defines them. Generation:
// the number of a connection's record, one more with every write. Lease: the right to refresh one connection for a while.
// Shared grant: one that the provider gives to everybody who connects the same account; its lease and its newest tokens are
// its holders' together. Direct grant: a connector's own credentials obtain its tokens, and nobody consents. Soft band: the last part of a token's life, in which it is served and refreshed at the same time.
// Alternate: a refresh token that came too late to be stored as the current one. Implied scopes: those that the broker
// adds itself, for offline access and identity. Switch: what an operator disabled. Job: work that replicas do in steps, one after the
// other, until it is done. Class: what connections have in common that the dashboard counts and filters by (tenant, connector, status,
// error, scopes). Tally: what is counted for charts; the audit trail is the truth.
package broker
