package broker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// together gives a harness whose provider ends, with one revocation, everything that an account gave our OAuth client. The
// connectors files and mail stand on one client, other on another one.
func together(t *testing.T) *brokertest.Harness {
	t.Helper()
	h := brokertest.New(t, 1)
	h.Provider.RevokesAll = true
	h.Conns[0].RevokesAll = "rig/client"
	mail, other := h.Conns[0], h.Conns[0]
	mail.ID, other.ID, other.RevokesAll = "mail", "other", "rig/another"
	h.Conns = append(h.Conns, mail, other)
	h.Service.Sweep(t.Context()) // from here on nobody is enlisted any more
	return h
}

// alive checks that the connection's next refresh works.
func alive(t *testing.T, h *brokertest.Harness, connector, subject string) {
	t.Helper()
	time.Sleep(h.Provider.Lifetime + time.Second)
	if _, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: connector, Subject: subject}); err != nil {
		t.Errorf("%s of %s: %v", connector, subject, err)
	}
}

func disconnect(t *testing.T, h *brokertest.Harness, conn broker.Connection, want broker.RevokedUpstream) {
	t.Helper()
	before := len(h.Provider.Revoked)
	got, err := h.Service.Disconnect(t.Context(), h.Caller(), conn.ID)
	if err != nil || got != want {
		t.Errorf("disconnect %s: %s %v, want %s", conn.Subject, got, err, want)
	}
	if sent := len(h.Provider.Revoked) - before; (sent == 1) != (want == broker.RevokedDone) {
		t.Errorf("disconnect %s: %d revocations sent", conn.Subject, sent)
	}
	if h.Store.RefreshToken(conn.ID) != "" {
		t.Errorf("disconnect %s: the refresh token is still stored", conn.Subject)
	}
}

// Whoever leaves, of several who connected one account through one OAuth client, by whatever connector, ends their own
// connection alone. The last one ends it at the provider.
func TestLastOfAnAccountRevokes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := together(t)
		defer drain(t, h)
		alice, bob, carol := h.Connect(t, "alice", "files.read"), h.ConnectTo(t, "mail", "bob", "files.read"), h.Connect(t, "carol", "files.read")
		h.Provider.Account.ID = "u2"
		stranger := h.Connect(t, "stranger", "files.read")
		disconnect(t, h, stranger, broker.RevokedDone) // of another account: nobody else's
		disconnect(t, h, alice, broker.RevokedUnsupported)
		alive(t, h, "mail", "bob")
		alive(t, h, "files", "carol")
		disconnect(t, h, bob, broker.RevokedUnsupported)
		alive(t, h, "files", "carol")
		disconnect(t, h, carol, broker.RevokedDone)
	})
}

// Nothing is shared but the question who else is there: each refreshes its own grant, at the same time.
func TestRevokedTogetherSharesNoTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := together(t)
		defer drain(t, h)
		a, b := h.Connect(t, "alice", "files.read"), h.Connect(t, "bob", "files.read")
		if a.SharedGrant != "" || b.SharedGrant != "" {
			t.Error("the grants are shared")
		}
		time.Sleep(h.Provider.Lifetime + time.Second)
		h.Provider.Before = func(context.Context, string) error { time.Sleep(2 * time.Second); return nil }
		began := time.Now()
		var wait sync.WaitGroup
		for _, subject := range []string{"alice", "bob"} {
			wait.Go(func() {
				if _, err := h.Token(subject); err != nil {
					t.Errorf("%s: %v", subject, err)
				}
			})
		}
		wait.Wait()
		if took := time.Since(began); h.Provider.Refreshes != 2 || took > 3*time.Second {
			t.Errorf("%d refreshes in %v, want both at the same time", h.Provider.Refreshes, took)
		}
	})
}

// A link that was forwarded to the owner of the account: whatever ends the consent, the owner's own connections stay. The
// account's only consent is revoked, though.
func TestEndedConsentLeavesOthersOfTheAccount(t *testing.T) {
	for _, connected := range []bool{true, false} {
		for how, end := range map[string]func(t *testing.T, h *brokertest.Harness, link broker.ConsentLink, f broker.Finish){
			"abandoned": func(t *testing.T, h *brokertest.Harness, _ broker.ConsentLink, _ broker.Finish) {
				time.Sleep(broker.ProvisionalLife + time.Second)
				h.Service.Sweep(t.Context())
			},
			"five wrong codes": func(t *testing.T, h *brokertest.Harness, link broker.ConsentLink, _ broker.Finish) {
				for range broker.MaxCodeAttempts {
					_, _ = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "mallory", Code: broker.NewSecret("no")})
				}
			},
			"erased": func(t *testing.T, h *brokertest.Harness, _ broker.ConsentLink, _ broker.Finish) {
				if _, err := h.Service.EraseSubject(t.Context(), h.Caller(), "mallory"); err != nil {
					t.Error(err)
				}
			},
		} {
			t.Run(fmt.Sprintf("%s/connected=%v", how, connected), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := together(t)
					defer drain(t, h)
					if connected {
						h.Connect(t, "victim", "files.read")
					}
					link, f := half(t, h, "mallory")
					end(t, h, link, f)
					synctest.Wait()
					if v := status(t, h, link.ID); v.Status != broker.ConsentFailed && v.Status != broker.ConsentExpired {
						t.Fatalf("the consent is %s", v.Status)
					}
					if got := len(h.Provider.Revoked); (got == 0) != connected {
						t.Errorf("%d revocations", got)
					}
					if connected {
						alive(t, h, "files", "victim")
					}
				})
			})
		}
	}
}

// The one connection of an account is ended while somebody's consent with it waits for its code.
func TestLeavingBesideAConsentOfTheAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := together(t)
		defer drain(t, h)
		alice := h.Connect(t, "alice", "files.read")
		link, f := half(t, h, "bob")
		disconnect(t, h, alice, broker.RevokedUnsupported)
		finish(t, h, "bob", link, f)
		alive(t, h, "files", "bob")
	})
}

// Connections of a version that did not count: they count before anything is revoked.
func TestConnectionsOfBeforeCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := together(t)
		defer drain(t, h)
		alice := h.Connect(t, "alice", "files.read")
		bob := h.Connect(t, "bob", "files.read")
		h.Store.ForgetHolders()
		disconnect(t, h, alice, broker.RevokedUnsupported)
		alive(t, h, "files", "bob")
		disconnect(t, h, bob, broker.RevokedDone)
	})
}

// Of whoever comes too late for that (a replica of the older version made it), a refresh makes it count.
func TestRefreshMakesAHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := together(t)
		defer drain(t, h)
		h.Conns[0].RevokesAll = ""
		h.Connect(t, "bob", "files.read")
		h.Conns[0].RevokesAll = "rig/client"
		alive(t, h, "files", "bob")
		alice := h.Connect(t, "alice", "files.read")
		disconnect(t, h, alice, broker.RevokedUnsupported)
		alive(t, h, "files", "bob")
	})
}

// Where it can't be known who else is there, nothing is revoked at the provider: the walk is not done, the store is away, the
// account has no name. Here all is erased all the same.
func TestNotRevokedWhereOthersAreUnknown(t *testing.T) {
	for name, blind := range map[string]func(h *brokertest.Harness){
		"not enlisted": func(h *brokertest.Harness) {
			h.Store.ForgetHolders()
			h.Store.Before = func(_ context.Context, op string) error {
				if op == "Enlist" {
					return errors.New("there are very many connections")
				}
				return nil
			}
		},
		"no account": func(h *brokertest.Harness) { h.Provider.Account = broker.Account{} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := together(t)
				defer drain(t, h)
				blind(h)
				alice := h.Connect(t, "alice", "files.read")
				disconnect(t, h, alice, broker.RevokedUnsupported)
				half(t, h, "mallory")
				time.Sleep(broker.ProvisionalLife + time.Second)
				h.Service.Sweep(t.Context())
				if len(h.Provider.Revoked) != 0 {
					t.Error("an abandoned consent was revoked")
				}
			})
		})
	}
}

// Two who leave at the same moment, and two consents that end so: one of them is the last.
func TestTwoOfAnAccountLeaveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := together(t)
		defer drain(t, h)
		conns := []broker.Connection{h.Connect(t, "alice", "files.read"), h.Connect(t, "bob", "files.read")}
		var wait sync.WaitGroup
		for _, conn := range conns {
			wait.Go(func() {
				if _, err := h.Service.Disconnect(t.Context(), h.Caller(), conn.ID); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		if len(h.Provider.Revoked) != 1 {
			t.Errorf("%d revocations for two who left", len(h.Provider.Revoked))
		}
		half(t, h, "carol")
		half(t, h, "dave")
		time.Sleep(broker.ProvisionalLife + time.Second)
		h.Service.Sweep(t.Context())
		if len(h.Provider.Revoked) < 2 {
			t.Error("what two abandoned consents were given lives on at the provider")
		}
	})
}

// Whoever replaces the account leaves the others of the old one alone, and counts for the new one.
func TestReplacedAccountLeavesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := together(t)
		defer drain(t, h)
		alice := h.Connect(t, "alice", "files.read")
		bob := h.Connect(t, "bob", "files.read")
		h.Provider.Account.ID = "u2"
		carol := h.Connect(t, "carol", "files.read")
		_, link, err := h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "alice", Connection: alice.ID})
		if err != nil {
			t.Fatal(err)
		}
		f, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: f.UserCode, Replace: true}); err != nil {
			t.Fatal(err)
		}
		if len(h.Provider.Revoked) != 0 {
			t.Error("the old account was revoked, with bob's connection")
		}
		alive(t, h, "files", "bob")
		disconnect(t, h, bob, broker.RevokedDone) // nobody is left of the old one
		disconnect(t, h, carol, broker.RevokedUnsupported)
		alive(t, h, "files", "alice")
	})
}
