package broker_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// undecided is a consent that renews a connection of u1 and came back with u2.
func undecided(t *testing.T, h *brokertest.Harness) (broker.Connection, broker.ConsentLink, brokertest.Browser, broker.Finish) {
	t.Helper()
	first := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
	throughLogin(t, h, brokertest.Browser{}, first, "alice")
	all, _, err := h.Service.ListConnections(t.Context(), h.Caller(), broker.ConnectionQuery{Subject: "alice", Limit: 10})
	if err != nil || len(all) != 1 {
		t.Fatalf("%d connections, %v", len(all), err)
	}
	h.Provider.Account = broker.Account{ID: "u2", Name: "Work"}
	link := newLink(t, h, broker.ConsentRequest{Subject: "alice", Connection: all[0].ID, ReturnTo: "https://chat.example/done"})
	b := brokertest.Browser{}
	finish := throughLogin(t, h, b, link, "alice")
	if finish.Status != broker.ConsentAwaitingCompletion || !finish.Undecided() || !finish.Location.IsZero() {
		t.Fatalf("another account came back: %+v", finish)
	}
	shown, err := h.Service.FinishedConsent(t.Context(), link.ID, b.Cookie)
	if err != nil || shown.Previous == nil || shown.Previous.ID != "u1" || shown.Account == nil || shown.Account.ID != "u2" || !shown.UserCode.IsZero() {
		t.Fatalf("the page shows %+v, %v", shown, err)
	}
	if token, err := h.Token("alice"); err != nil || token.Account.ID != "u1" {
		t.Fatalf("before it is confirmed the old account stays: %+v, %v", token.Account, err)
	}
	return all[0], link, b, shown
}

// Threat 4: where another account comes back, the user decides on the page.
func TestThreat4OtherAccountIsConfirmedOnThePage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		conn, link, b, _ := undecided(t, h)
		old := h.Store.RefreshToken(conn.ID)
		if _, err := h.Service.DecideConsent(t.Context(), link.ID, noCookie, broker.DecideReplace); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("another browser decides: %v", err)
		}
		if _, err := h.Service.DecideConsent(t.Context(), link.ID, b.Cookie, "perhaps"); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("an answer that nobody offered: %v", err)
		}
		again, err := h.Service.DecideConsent(t.Context(), link.ID, b.Cookie, broker.DecideRetry)
		if err != nil || !again.Undecided() {
			t.Errorf("to try again is no yes: %+v, %v", again, err)
		}
		finish, err := h.Service.DecideConsent(t.Context(), link.ID, b.Cookie, broker.DecideReplace)
		if err != nil || finish.Status != broker.ConsentCompleted || finish.Location.Reveal() != "https://chat.example/done?consent="+link.ID {
			t.Fatalf("replace: %+v, %v", finish, err)
		}
		token, err := h.Token("alice")
		if err != nil || token.Account.ID != "u2" || token.Connection != conn.ID {
			t.Errorf("a token of %+v, %v", token.Account, err)
		}
		if len(h.Provider.Revoked) != 1 || h.Provider.Revoked[0] != old {
			t.Error("the replaced account's grant lives on at the provider")
		}
		if again, err := h.Service.DecideConsent(t.Context(), link.ID, b.Cookie, broker.DecideKeep); err != nil || again.Status != broker.ConsentCompleted {
			t.Errorf("a second press: %+v, %v", again, err)
		}
	})
}

func TestOtherAccountIsNotWanted(t *testing.T) {
	for name, decide := range map[string]func(t *testing.T, h *brokertest.Harness, id string, b brokertest.Browser) broker.ConsentStatus{
		"keep": func(t *testing.T, h *brokertest.Harness, id string, b brokertest.Browser) broker.ConsentStatus {
			finish, err := h.Service.DecideConsent(t.Context(), id, b.Cookie, broker.DecideKeep)
			if err != nil || brokertest.Query(t, finish.Location, "error") != "access_denied" {
				t.Errorf("keep: %+v, %v", finish, err)
			}
			return broker.ConsentDenied
		},
		"no word": func(t *testing.T, h *brokertest.Harness, id string, b brokertest.Browser) broker.ConsentStatus {
			time.Sleep(broker.ProvisionalLife + time.Second)
			if finish, err := h.Service.DecideConsent(t.Context(), id, b.Cookie, broker.DecideReplace); err != nil || finish.Status != broker.ConsentExpired {
				t.Errorf("too late: %+v, %v", finish, err)
			}
			h.Service.Sweep(t.Context())
			return broker.ConsentExpired
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := withLogin(t, 1)
				defer drain(t, h)
				conn, link, b, _ := undecided(t, h)
				old := h.Store.RefreshToken(conn.ID)
				want := decide(t, h, link.ID, b)
				if v := status(t, h, link.ID); v.Status != want {
					t.Errorf("status %s, want %s", v.Status, want)
				}
				if len(h.Provider.Revoked) != 1 || h.Provider.Revoked[0] == old {
					t.Errorf("revoked %d; the grant of the account that is not wanted must go, and it alone", len(h.Provider.Revoked))
				}
				if token, err := h.Token("alice"); err != nil || token.Account.ID != "u1" {
					t.Errorf("a token of %+v, %v", token.Account, err)
				}
			})
		})
	}
}

// With binding code the chat asks; the page can warn.
func TestCodePageKnowsThePreviousAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read")
		for _, account := range []string{"u1", "u2"} {
			h.Provider.Account.ID = account
			link := newLink(t, h, broker.ConsentRequest{Subject: "alice", Connection: conn.ID})
			cb := h.Start(t, link)
			if _, err := h.Service.FinishConsent(t.Context(), cb); err != nil {
				t.Fatal(err)
			}
			shown, err := h.Service.FinishedConsent(t.Context(), link.ID, cb.Cookie)
			if err != nil || (shown.Previous != nil) != (account == "u2") || shown.Undecided() || shown.UserCode.IsZero() {
				t.Errorf("%s came back: %+v, %v", account, shown, err)
			}
			decide := func(when string) {
				if _, err := h.Service.DecideConsent(t.Context(), link.ID, cb.Cookie, broker.DecideReplace); broker.CodeOf(err) != broker.CodeNotFound {
					t.Errorf("the page decides for the chat, %s: %v", when, err)
				}
			}
			decide("before the code")
			if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: shown.UserCode, Replace: true}); err != nil {
				t.Error(err)
			}
			decide("behind it")
		}
	})
}

// What keeps the connection from being made just now is kept, and tried again from the page.
func TestLoginConsentThatCantBeConnectedNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		throughLogin(t, h, brokertest.Browser{}, newLink(t, h, broker.ConsentRequest{Subject: "alice"}), "alice")
		all, _, err := h.Service.ListConnections(t.Context(), h.Caller(), broker.ConnectionQuery{Subject: "alice", Limit: 10})
		if err != nil || len(all) != 1 {
			t.Fatalf("%d connections, %v", len(all), err)
		}
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice", Connection: all[0].ID})
		b := brokertest.Browser{}
		to, err := signIn(t, h, b, link, "alice")
		if err != nil {
			t.Fatal(err)
		}
		h.Provider.IdentifyErr = &broker.UpstreamError{Class: broker.ClassInDoubt}
		finish, err := h.Service.FinishConsent(t.Context(), b.Allowed(t, "files", to))
		if err != nil || !finish.Undecided() {
			t.Fatalf("%+v, %v", finish, err)
		}
		if shown, err := h.Service.FinishedConsent(t.Context(), link.ID, b.Cookie); err != nil || shown.Previous != nil {
			t.Errorf("%+v, %v", shown, err)
		}
		h.Provider.IdentifyErr = nil
		if finish, err = h.Service.DecideConsent(t.Context(), link.ID, b.Cookie, broker.DecideRetry); err != nil || finish.Status != broker.ConsentCompleted {
			t.Errorf("%+v, %v", finish, err)
		}
		if h.Provider.Exchanges != 2 || len(h.Provider.Revoked) != 0 {
			t.Errorf("%d exchanges, %d revoked", h.Provider.Exchanges, len(h.Provider.Revoked))
		}
	})
}

// Who is no longer allowed to by the configuration, or has no proof in the record, connects nothing, and no grant is left.
func TestLoginConsentThatMayNotBeConnected(t *testing.T) {
	for name, change := range map[string]func(h *brokertest.Harness){
		"no login any more":     func(h *brokertest.Harness) { h.Client.Login = false },
		"not for the connector": func(h *brokertest.Harness) { h.Client.Connectors = []string{"other"} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := withLogin(t, 1)
				defer drain(t, h)
				link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
				b := brokertest.Browser{}
				to, err := signIn(t, h, b, link, "alice")
				if err != nil {
					t.Fatal(err)
				}
				client := h.Client
				change(h)
				finish, err := h.Service.FinishConsent(t.Context(), b.Allowed(t, "files", to))
				if err != nil || finish.Status != broker.ConsentFailed || len(h.Provider.Revoked) != 1 {
					t.Errorf("%+v, %v, %d revoked", finish, err, len(h.Provider.Revoked))
				}
				h.Client = client
				wantNoToken(t, h, "alice")
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		_, link, b, _ := undecided(t, h)
		c, err := h.Store.Consent(t.Context(), link.ID)
		if err != nil {
			t.Fatal(err)
		}
		c.Login = broker.LoginRun{}
		if _, err := h.Store.UpdateConsent(t.Context(), c, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Service.DecideConsent(t.Context(), link.ID, b.Cookie, broker.DecideReplace); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("decided without a proof: %v", err)
		}
	})
}

// Of the same callback many times at once, at both redirects, one goes on.
func TestLoginCallbacksAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 3)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		b := brokertest.Browser{}
		login := b.SignedIn(t, b.Open(t, h.Service, link), "alice")
		var mu sync.Mutex
		var locations []broker.Secret
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				if finish, err := h.Replicas[i%3].FinishLogin(t.Context(), login); err == nil {
					mu.Lock()
					defer mu.Unlock()
					locations = append(locations, finish.Location)
				}
			})
		}
		wg.Wait()
		if len(locations) != 1 || len(h.OpenID.Redeemed) != 1 {
			t.Fatalf("%d went on, %d codes were sent", len(locations), len(h.OpenID.Redeemed))
		}
		h.Provider.ExchangeTakes = time.Second
		done := 0
		for i := range 30 {
			wg.Go(func() {
				if finish, err := h.Replicas[i%3].FinishConsent(t.Context(), b.Allowed(t, "files", locations[0])); err == nil && finish.Status == broker.ConsentCompleted {
					mu.Lock()
					defer mu.Unlock()
					done++
				}
			})
		}
		wg.Wait()
		if done != 1 || h.Provider.Exchanges != 1 {
			t.Errorf("%d completed, %d exchanges", done, h.Provider.Exchanges)
		}
	})
}

// Whatever write of the way fails, or is carried out and its answer lost: the user can start again in the same browser, nobody's
// account is connected to anybody else, and no grant stays at the provider without a connection.
func TestLoginConsentInAFailingStore(t *testing.T) {
	lost := errors.New("the connection broke")
	for write := 1; write <= 6; write++ {
		for _, kind := range []string{"refused", "lost"} {
			synctest.Test(t, func(t *testing.T) {
				h := withLogin(t, 1)
				defer drain(t, h)
				link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
				b := brokertest.Browser{}
				n, struck := 0, false
				fault := func(_ context.Context, op string) error {
					if op != "UpdateConsent" && op != "CompleteConsent" {
						return nil
					}
					if n++; n == write {
						struck = true
						return lost
					}
					return nil
				}
				if kind == "lost" {
					h.Store.After = fault
				} else {
					h.Store.Before = fault
				}
				location := b.Open(t, h.Service, link) // write 1
				to, err := h.Service.FinishLogin(t.Context(), b.SignedIn(t, location, "alice"))
				if err != nil {
					t.Fatalf("write %d %s: sign in: %v", write, kind, err)
				}
				finish, err := h.Service.FinishConsent(t.Context(), b.Allowed(t, "files", to.Location))
				if err != nil || finish.Status != broker.ConsentCompleted {
					t.Fatalf("write %d %s: %+v, %v", write, kind, finish, err)
				}
				if write < 6 && !struck {
					t.Errorf("there is no write %d", write)
				}
				if h.Provider.Exchanges != 1 || len(h.OpenID.Redeemed) != 1 || len(h.Provider.Revoked) != 0 {
					t.Errorf("write %d %s: %d exchanges, %d codes, %d revoked", write, kind, h.Provider.Exchanges, len(h.OpenID.Redeemed), len(h.Provider.Revoked))
				}
			})
		}
	}
}

// A wrong person is counted once, also where the answer of that write got lost.
func TestLostAnswerToACountedLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		b := brokertest.Browser{}
		cb := b.SignedIn(t, b.Open(t, h.Service, link), "bob")
		n := 0
		h.Store.After = func(_ context.Context, op string) error {
			if n++; op == "UpdateConsent" && n == 2 {
				return errors.New("the connection broke")
			}
			return nil
		}
		if _, err := h.Service.FinishLogin(t.Context(), cb); broker.CodeOf(err) != broker.CodeSubjectMismatch {
			t.Fatal(err)
		}
		h.Store.After = nil
		c, err := h.Store.Consent(t.Context(), link.ID)
		if err != nil || c.Attempts != 1 || c.Status != broker.ConsentPending || c.BrowserDigest != "" {
			t.Errorf("%d attempts, %s, %v", c.Attempts, c.Status, err)
		}
		if len(h.Store.Entries(broker.EventConsentFailed)) != 1 {
			t.Error("not one event")
		}
	})
}

// A process that dies between the writes leaves a consent that goes on in the same browser, or ends; a grant is never left.
func TestLoginConsentOfADeadProcess(t *testing.T) {
	for _, dies := range []int{3, 5, 6} { // behind the sign-in's claim (2), the exchange's claim (4), and the kept grant (5)
		synctest.Test(t, func(t *testing.T) {
			h := withLogin(t, 2)
			defer drain(t, h)
			link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
			b := brokertest.Browser{}
			n, dead := 0, false
			h.Store.Before = func(ctx context.Context, op string) error {
				if op == "UpdateConsent" || op == "CompleteConsent" {
					n++
				}
				if dead = dead || n == dies; dead {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			login := b.SignedIn(t, b.Open(t, h.Service, link), "alice")
			if to, err := h.Service.FinishLogin(ctx, login); err == nil {
				if _, err := h.Service.FinishConsent(ctx, b.Allowed(t, "files", to.Location)); err == nil {
					t.Fatalf("died at %d: it went well", dies)
				}
			}
			killed, kill := context.WithCancel(t.Context())
			kill()
			_ = h.Service.Drain(killed)
			h.Store.Before = nil
			h.Service = h.Replicas[1]
			h.Replicas = h.Replicas[1:]
			time.Sleep(2 * time.Minute) // a claim's life
			if _, err := h.Service.FinishLogin(t.Context(), login); broker.CodeOf(err) != broker.CodeInvalidRequest {
				t.Errorf("died at %d: the state of the sign-in works again: %v", dies, err)
			}
			finish := throughLogin(t, h, b, link, "alice")
			if finish.Status != broker.ConsentCompleted {
				t.Fatalf("died at %d: %s", dies, finish.Status)
			}
			synctest.Wait() // the grant that was left is revoked behind the answer
			if lost := h.Provider.Exchanges - 1; dies == 6 && (lost != 1 || len(h.Provider.Revoked) != 1) {
				t.Errorf("died at %d: %d grants too many, %d revoked", dies, lost, len(h.Provider.Revoked))
			}
		})
	}
}
