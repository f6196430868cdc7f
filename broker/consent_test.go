package broker_test

import (
	"context"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

func noCookie(string) broker.Secret { return broker.Secret{} }

func newLink(t *testing.T, h *brokertest.Harness, req broker.ConsentRequest) broker.ConsentLink {
	t.Helper()
	if req.Connector == "" {
		req.Connector = "files"
	}
	_, link, err := h.Service.CreateConsent(t.Context(), h.Caller(), req)
	if err != nil {
		t.Fatalf("create consent: %v", err)
	}
	return link
}

func status(t *testing.T, h *brokertest.Harness, id string) broker.ConsentView {
	t.Helper()
	v, err := h.Service.ConsentStatus(t.Context(), h.Caller(), id)
	if err != nil {
		t.Fatalf("consent status: %v", err)
	}
	return v
}

// wantRefused asserts that no token of anybody's account comes out for the subject.
func wantNoToken(t *testing.T, h *brokertest.Harness, subject string) {
	t.Helper()
	if token, err := h.Token(subject); broker.CodeOf(err) != broker.CodeConsentRequired {
		t.Fatalf("subject %s: token of %q, error %v; want consent_required", subject, token.Account.Name, err)
	}
}

// Threat 3: a victim consents behind a link that was made for somebody else.
func TestForwardedLinkBindsNobody(t *testing.T) {
	t.Run("return", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := brokertest.New(t, 1)
			defer drain(t, h)
			link := newLink(t, h, broker.ConsentRequest{Subject: "mallory", ReturnTo: "https://chat.example/done", State: "s&1"})
			finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link)) // in the victim's browser
			if err != nil {
				t.Fatal(err)
			}
			back, _ := url.Parse(finish.Location.Reveal())
			if back.Host != "chat.example" || back.Query().Get("state") != "s&1" || back.Query().Get("consent") != link.ID {
				t.Fatal("the browser does not go back to return_to with consent and state")
			}
			if h.Provider.Exchanges != 0 {
				t.Fatal("the code was redeemed before the client proved who is there")
			}
			wantNoToken(t, h, "mallory")
			code := broker.NewSecret(back.Query().Get("code"))
			// The victim is logged in at the client: it says so.
			_, err = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "victim", Code: code})
			if broker.CodeOf(err) != broker.CodeSubjectMismatch {
				t.Fatalf("completed for another subject: %v", err)
			}
			if h.Provider.Exchanges != 0 {
				t.Error("a mismatch redeemed the code")
			}
			wantNoToken(t, h, "mallory")
			wantNoToken(t, h, "victim")
			if len(h.Store.Entries(broker.EventConsentFailed)) != 1 {
				t.Error("the mismatch left no event")
			}
		})
	})
	t.Run("code", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := brokertest.New(t, 1)
			defer drain(t, h)
			link := newLink(t, h, broker.ConsentRequest{Subject: "mallory"})
			if _, err := h.Service.FinishConsent(t.Context(), h.Start(t, link)); err != nil {
				t.Fatal(err)
			}
			wantNoToken(t, h, "mallory") // provisional: mallory does not know the code
			for i := range broker.MaxCodeAttempts {
				_, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "mallory", Code: broker.NewSecret("BBBB-BBBB")})
				if broker.CodeOf(err) != broker.CodeInvalidCode {
					t.Fatalf("guess %d: %v", i, err)
				}
			}
			if v := status(t, h, link.ID); v.Status != broker.ConsentFailed {
				t.Errorf("after five guesses the consent is %s", v.Status)
			}
			if len(h.Provider.Revoked) != 1 {
				t.Error("the victim's grant was not revoked")
			}
			wantNoToken(t, h, "mallory")
		})
	})
	t.Run("code, nobody completes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := brokertest.New(t, 1)
			defer drain(t, h)
			link := newLink(t, h, broker.ConsentRequest{Subject: "mallory"})
			finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(broker.ProvisionalLife + time.Second)
			_, err = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "mallory", Code: finish.UserCode})
			if broker.CodeOf(err) != broker.CodeExpired {
				t.Errorf("late completion: %v", err)
			}
			h.Service.Sweep(t.Context())
			if v := status(t, h, link.ID); v.Status != broker.ConsentExpired || len(h.Provider.Revoked) != 1 {
				t.Errorf("status %s, revoked %d; want expired and one", v.Status, len(h.Provider.Revoked))
			}
		})
	})
}

// Threats 2, 5, 6, 18: what a callback must bring, and what happens otherwise.
func TestCallbackChecks(t *testing.T) {
	for _, tc := range []struct {
		name  string
		bend  func(cb *broker.Callback)
		code  broker.Code // of the error; empty: the flow ends with a finish
		alive bool        // the right callback still works afterwards
	}{
		{"another browser", func(cb *broker.Callback) { cb.Cookie = noCookie }, broker.CodeAccessDenied, true},
		{"another connector", func(cb *broker.Callback) { cb.Connector = "crm" }, broker.CodeInvalidRequest, true},
		{"no state", func(cb *broker.Callback) { cb.State = broker.Secret{} }, broker.CodeInvalidRequest, true},
		{"changed state", func(cb *broker.Callback) {
			s := []byte(cb.State.Reveal())
			s[len(s)-1] ^= 1
			cb.State = broker.NewSecret(string(s))
		}, broker.CodeInvalidRequest, true},
		{"no code", func(cb *broker.Callback) { cb.Code = broker.Secret{} }, broker.CodeInvalidRequest, true},
		{"another issuer", func(cb *broker.Callback) { cb.Issuer, cb.HasIssuer = "https://evil.example", true }, broker.CodeInvalidRequest, false},
		{"right issuer", func(cb *broker.Callback) { cb.Issuer, cb.HasIssuer = "https://provider.example", true }, "", false},
		{"denied", func(cb *broker.Callback) { cb.Error = "access_denied" }, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 1)
				defer drain(t, h)
				link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
				right := h.Start(t, link)
				bent := right
				tc.bend(&bent)
				finish, err := h.Service.FinishConsent(t.Context(), bent)
				if tc.code != "" && broker.CodeOf(err) != tc.code || tc.code == "" && err != nil {
					t.Fatalf("got %v, want %q", err, tc.code)
				}
				if tc.name == "right issuer" != (finish.Status == broker.ConsentAwaitingCompletion) {
					t.Errorf("status %q", finish.Status)
				}
				if tc.name != "right issuer" && h.Provider.Exchanges != 0 {
					t.Error("the provider heard of the code")
				}
				_, err = h.Service.FinishConsent(t.Context(), right)
				if (err == nil) != tc.alive {
					t.Errorf("the right callback afterwards: %v", err)
				}
			})
		})
	}
}

// Threat 18: fifty equal callbacks at once, one exchange.
func TestCallbackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 2)
		defer drain(t, h)
		cb := h.Start(t, newLink(t, h, broker.ConsentRequest{Subject: "alice"}))
		var ok atomic.Int32
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				if _, err := h.Replicas[i%2].FinishConsent(t.Context(), cb); err == nil {
					ok.Add(1)
				}
			})
		}
		wg.Wait()
		if ok.Load() != 1 || h.Provider.Exchanges != 1 {
			t.Errorf("%d callbacks went through, %d exchanges; want 1 and 1", ok.Load(), h.Provider.Exchanges)
		}
	})
}

// A callback that comes again while the first one's exchange is under way is refused: a code is sent once.
func TestCallbackAgainDuringExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Provider.ExchangeTakes = 5 * time.Second
		cb := h.Start(t, newLink(t, h, broker.ConsentRequest{Subject: "alice"}))
		done := make(chan error, 1)
		go func() { _, err := h.Service.FinishConsent(t.Context(), cb); done <- err }()
		time.Sleep(time.Second)
		if _, err := h.Service.FinishConsent(t.Context(), cb); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("the second callback: %v", err)
		}
		if err := <-done; err != nil || h.Provider.Exchanges != 1 {
			t.Errorf("the first callback: %v, %d exchanges", err, h.Provider.Exchanges)
		}
	})
}

// Another account's refresh token must never serve the one that replaced it.
func TestReplacedAccountKeepsNoRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read")
		h.Provider.Account, h.Provider.NoRefreshToken = broker.Account{ID: "u2"}, true
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice", Connection: conn.ID})
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: finish.UserCode, Replace: true})
		if err != nil || got.Renewable || h.Store.RefreshToken(conn.ID) != "" {
			t.Errorf("renewable %v with refresh token %q, %v", got.Renewable, h.Store.RefreshToken(conn.ID), err)
		}
		// It works until its token ends, and then says so, whether or not anybody asked for a token.
		if _, err := h.Token("alice"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * h.Provider.Lifetime)
		seen, err := h.Service.GetConnection(t.Context(), h.Caller(), conn.ID)
		if err != nil || seen.Status != broker.ConnectionNeedsConsent || seen.Error != broker.ErrorExpired {
			t.Errorf("after its end: %s %s %v", seen.Status, seen.Error, err)
		}
		_, err = h.Token("alice")
		if e, ok := err.(*broker.Error); !ok || e.Consent == nil || e.Consent.Reason != broker.ReasonExpired {
			t.Errorf("after its end: %v", err)
		}
		if n := len(h.Store.Entries(broker.EventConnectionNeedsConsent)); n != 1 {
			t.Errorf("%d connection.needs_consent entries, want 1", n)
		}
	})
}

// Opening a link has no effect; starting it binds it to one browser; it lives ten minutes.
func TestLinkLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		secret := brokertest.LinkSecret(link)
		for range 5 {
			if _, err := h.Service.OpenLink(t.Context(), secret); err != nil {
				t.Fatalf("open: %v", err)
			}
		}
		start, err := h.Service.StartConsent(t.Context(), secret, noCookie)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Service.StartConsent(t.Context(), secret, noCookie); broker.CodeOf(err) != broker.CodeAccessDenied {
			t.Errorf("another browser started the same link: %v", err)
		}
		again, err := h.Service.StartConsent(t.Context(), secret, func(string) broker.Secret { return start.Cookie })
		if err != nil {
			t.Errorf("the same browser, after the back button: %v", err)
		}
		if again.Location.Equal(start.Location) {
			t.Error("the second start has the first one's state")
		}
		time.Sleep(broker.LinkLife)
		if _, err := h.Service.OpenLink(t.Context(), secret); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("after ten minutes: %v", err)
		}
	})
}

// Threat 4: a named connection that comes back with another account.
func TestAccountChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read")
		old := h.Store.RefreshToken(conn.ID)
		h.Provider.Account = broker.Account{ID: "u2", Name: "Bob"}
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice", Connection: conn.ID, Scopes: broker.ParseScopes("files.write")})
		if v := status(t, h, link.ID); v.Scopes.String() != "files.read files.write" {
			t.Errorf("a renewal asks for %q: its scopes are kept, more are added", v.Scopes)
		}
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		done := broker.Completion{Subject: "alice", Code: finish.UserCode}
		_, err = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, done)
		if broker.CodeOf(err) != broker.CodeAccountChanged || len(err.(*broker.Error).Accounts) != 2 {
			t.Fatalf("got %v, want account_changed with both", err)
		}
		if token, err := h.Token("alice"); err != nil || token.Account.ID != "u1" {
			t.Fatalf("before it is confirmed the old account stays: %+v, %v", token.Account, err)
		}
		done.Replace = true
		again, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, done)
		if err != nil || again.ID != conn.ID || again.Account.ID != "u2" {
			t.Fatalf("replace: %+v, %v", again, err)
		}
		if len(h.Provider.Revoked) != 1 || h.Provider.Revoked[0] != old {
			t.Error("the replaced account's grant lives on at the provider")
		}
		if h.Provider.Exchanges != 2 {
			t.Errorf("%d exchanges, want one a consent", h.Provider.Exchanges)
		}
		if _, err = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, done); broker.CodeOf(err) != broker.CodeExpired {
			t.Errorf("a code works once: %v", err)
		}
	})
}

// A second consent with the same account renews the connection, one with another account makes a second.
func TestSameAccountRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		first := h.Connect(t, "alice", "files.read")
		h.Provider.NoRefreshToken = true // Google's second consent
		if again := h.Connect(t, "alice", "files.read"); again.ID != first.ID || !again.Renewable {
			t.Errorf("same account: id %s (first %s), renewable %v", again.ID, first.ID, again.Renewable)
		}
		h.Provider.NoRefreshToken = false
		h.Provider.Account = broker.Account{ID: "u2", Name: "Work"}
		second := h.Connect(t, "alice", "files.read")
		if second.ID == first.ID {
			t.Fatal("another account took the first one's connection")
		}
		_, err := h.Token("alice")
		if broker.CodeOf(err) != broker.CodeAccountSelectionRequired || len(err.(*broker.Error).Accounts) != 2 {
			t.Fatalf("two accounts: %v", err)
		}
		token, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice", Connection: second.ID})
		if err != nil || token.Account.ID != "u2" {
			t.Errorf("named: %+v, %v", token.Account, err)
		}
	})
}

// While a link is pending, the same one comes back; other scopes need another one.
func TestPendingLinkComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		urls := map[string]bool{}
		var mu sync.Mutex
		ask := func(scopes string) string {
			_, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice", Scopes: broker.ParseScopes(scopes)})
			e, ok := err.(*broker.Error)
			if !ok || e.Consent == nil || e.Consent.Reason != broker.ReasonNeverConnected {
				t.Fatalf("got %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			urls[e.Consent.Consent.URL.Reveal()] = true
			return e.Consent.Consent.ID
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { ask("files.read") })
		}
		wg.Wait()
		first := ask("files.read")
		if len(urls) != 1 {
			t.Errorf("%d links for the same question", len(urls))
		}
		if ask("files.read files.write") == first {
			t.Error("a link for fewer scopes came back")
		}
		if got := len(h.Store.Entries(broker.EventTokenRefused)); got != 22 {
			t.Errorf("%d refused entries, want one a request", got)
		}
	})
}

// Replicas that are asked at the same moment give the same link.
func TestPendingLinkAcrossReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 3)
		defer drain(t, h)
		h.Store.Before = func(_ context.Context, op string) error {
			time.Sleep(10 * time.Millisecond) // so that all of them look before any has written
			return nil
		}
		urls := make([]string, 30)
		var wg sync.WaitGroup
		for i := range urls {
			wg.Go(func() {
				_, err := h.Replicas[i%3].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice"})
				if e, ok := err.(*broker.Error); ok && e.Consent != nil {
					urls[i] = e.Consent.Consent.URL.Reveal()
				}
			})
		}
		wg.Wait()
		for i, url := range urls {
			if url == "" || url != urls[0] {
				t.Fatalf("caller %d got another link than caller 0, or none", i)
			}
		}
	})
}

func TestEraseSubject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read")
		h.Provider.Account.ID = "u2"
		h.Connect(t, "alice", "files.read")
		waiting := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, waiting))
		if err != nil {
			t.Fatal(err)
		}
		erased, err := h.Service.EraseSubject(t.Context(), h.Caller(), "alice")
		if err != nil || erased.Connections != 2 || erased.RevokedUpstream[broker.RevokedDone] != 2 || len(h.Provider.Revoked) != 3 {
			t.Errorf("erased %+v, %v, revoked %d", erased, err, len(h.Provider.Revoked))
		}
		if _, err := h.Service.GetConnection(t.Context(), h.Caller(), conn.ID); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("an erased connection: %v", err)
		}
		_, err = h.Service.CompleteConsent(t.Context(), h.Caller(), waiting.ID, broker.Completion{Subject: "alice", Code: finish.UserCode})
		if broker.CodeOf(err) != broker.CodeExpired {
			t.Errorf("a consent outlived its subject: %v", err)
		}
	})
}
