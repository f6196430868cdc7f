package broker_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// half runs a consent of binding "code" as far as the code that the user must type.
func half(t *testing.T, h *brokertest.Harness, subject string) (broker.ConsentLink, broker.Finish) {
	t.Helper()
	_, link, err := h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: subject})
	if err != nil {
		t.Fatal(err)
	}
	f, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
	if err != nil {
		t.Fatal(err)
	}
	return link, f
}

// finish types it.
func finish(t *testing.T, h *brokertest.Harness, subject string, link broker.ConsentLink, f broker.Finish) {
	t.Helper()
	if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: subject, Code: f.UserCode}); err != nil {
		t.Fatal(err)
	}
}

// Somebody's consent spends the refresh token that another holder's refresh has on the wire.
func TestSharedRefreshBesideConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 1)
		defer drain(t, h)
		time.Sleep(h.Provider.Lifetime + time.Second)
		var once atomic.Bool
		h.Provider.Before = func(context.Context, string) error {
			if once.CompareAndSwap(false, true) {
				h.Connect(t, "newcomer", "files.read")
				return &broker.UpstreamError{Class: broker.ClassGrantDead, Status: 400, Code: "invalid_grant", What: "token_already_exchanged"}
			}
			return nil
		}
		_, err := h.Token("person-0")
		t.Logf("first: %v", err)
		time.Sleep(time.Minute)
		if _, err := h.Token("newcomer"); err != nil {
			t.Errorf("newcomer: %v", err)
		}
		if _, err := h.Token("person-0"); err != nil {
			t.Errorf("person-0: %v", err)
		}
	})
}

// A connection that was called dead goes on with what another holder was given. A provider that is away just then does not make its
// user consent again, and what is wrong is told as it is.
func TestProviderAwayBeforeAnothersTokenIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 1)
		defer drain(t, h)
		time.Sleep(h.Provider.Lifetime + time.Second)
		class := broker.ClassGrantDead
		h.Provider.Before = func(context.Context, string) error {
			if class == "" {
				return nil
			}
			return &broker.UpstreamError{Class: class, What: "as told"}
		}
		if _, err := h.Token("person-0"); broker.CodeOf(err) != broker.CodeConsentRequired {
			t.Fatalf("dead: %v", err)
		}
		h.Connect(t, "newcomer", "files.read")
		time.Sleep(h.Provider.Lifetime + time.Second)
		over := len(h.Store.Entries(broker.EventConnectionNeedsConsent))
		for _, class = range []broker.Class{broker.ClassUnsent, broker.ClassInDoubt, broker.ClassThrottled} {
			if _, err := h.Token("person-0"); broker.CodeOf(err) != broker.CodeProviderUnavailable {
				t.Errorf("%s: %v", class, err)
			}
			time.Sleep(time.Hour)
		}
		if n := len(h.Store.Entries(broker.EventConnectionNeedsConsent)); n != over {
			t.Errorf("%d times more on record that consent is needed", n-over)
		}
		class = ""
		if _, err := h.Token("person-0"); err != nil {
			t.Errorf("the provider is back: %v", err)
		}
	})
}

// The only holder leaves while a colleague's consent waits for its code.
func TestLeavingBesideAWaitingConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conns := workspace(t, 1, 1)
		defer drain(t, h)
		link, f := half(t, h, "bob")
		got, err := h.Service.Disconnect(t.Context(), h.Caller(), conns[0].ID)
		t.Logf("disconnect: %s %v, revoked %v", got, err, h.Provider.Revoked)
		finish(t, h, "bob", link, f)
		time.Sleep(h.Provider.Lifetime + time.Second)
		if _, err := h.Token("bob"); err != nil {
			t.Errorf("bob: %v", err)
		}
	})
}

// A consent that nobody finishes, and another that waits for its code, of a grant that nobody holds yet.
func TestAbandonedConsentBesideAWaitingOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 0)
		defer drain(t, h)
		half(t, h, "mallory")
		time.Sleep(9 * time.Minute)
		link, f := half(t, h, "bob")
		time.Sleep(2 * time.Minute)
		h.Service.Sweep(t.Context())
		t.Logf("revoked %v", h.Provider.Revoked)
		finish(t, h, "bob", link, f)
		time.Sleep(h.Provider.Lifetime + time.Second)
		if _, err := h.Token("bob"); err != nil {
			t.Errorf("bob: %v", err)
		}
	})
}

// A consent is ended while its code is redeemed: what that gave is all that the others have.
func TestSharedConsentEndedDuringExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 1)
		defer drain(t, h)
		_, link, err := h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "bob"})
		if err != nil {
			t.Fatal(err)
		}
		cb := h.Start(t, link)
		h.Provider.ExchangeTakes = 5 * time.Second
		go func() {
			time.Sleep(time.Second)
			_, err := h.Service.EraseSubject(context.Background(), h.Caller(), "bob")
			t.Logf("erase: %v", err)
		}()
		_, err = h.Service.FinishConsent(t.Context(), cb)
		t.Logf("callback: %v", err)
		h.Provider.ExchangeTakes = 0
		synctest.Wait()
		time.Sleep(h.Provider.Lifetime + time.Second)
		if _, err := h.Token("person-0"); err != nil {
			t.Errorf("person-0: %v", err)
		}
	})
}

// The store blinks at the very write behind the exchange.
func TestStoreErrorAtASharedExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 1)
		defer drain(t, h)
		_, link, err := h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "bob"})
		if err != nil {
			t.Fatal(err)
		}
		cb := h.Start(t, link)
		var n atomic.Int32
		h.Store.Before = func(_ context.Context, op string) error {
			if op == "UpdateConsent" && n.Add(1) == 2 {
				return errors.New("redis blinks")
			}
			return nil
		}
		_, err = h.Service.FinishConsent(t.Context(), cb)
		t.Logf("callback: %v", err)
		h.Store.Before = nil
		time.Sleep(h.Provider.Lifetime + time.Second)
		if _, err := h.Token("person-0"); err != nil {
			t.Errorf("person-0: %v", err)
		}
	})
}

// What a consent was given could not be kept for all at first, and then nobody finished it.
func TestAbandonedSharedConsentOfABlinkingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 1)
		defer drain(t, h)
		var away atomic.Bool
		away.Store(true)
		h.Store.Before = func(_ context.Context, op string) error {
			if op == "Spread" && away.Load() {
				return errors.New("redis blinks")
			}
			return nil
		}
		half(t, h, "bob")
		away.Store(false)
		for range 30 {
			time.Sleep(time.Minute)
			h.Service.Sweep(t.Context())
		}
		time.Sleep(h.Provider.Lifetime)
		if _, err := h.Token("person-0"); err != nil {
			t.Errorf("person-0: %v", err)
		}
	})
}

// Two consents, and the tokens of the older one are kept last: they are spent.
func TestConsentsInTheOtherOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 1)
		defer drain(t, h)
		var away atomic.Bool
		away.Store(true)
		h.Store.Before = func(_ context.Context, op string) error {
			if op == "Spread" && away.Load() {
				return errors.New("redis blinks")
			}
			return nil
		}
		link, f := half(t, h, "bob") // redeemed first, its spread fails
		away.Store(false)
		time.Sleep(time.Millisecond)
		h.Connect(t, "carol", "files.read")
		time.Sleep(2 * time.Minute)
		finish(t, h, "bob", link, f) // spreads what carol's consent has spent
		time.Sleep(h.Provider.Lifetime + time.Second)
		for _, n := range []string{"carol", "person-0", "bob"} {
			if _, err := h.Token(n); err != nil {
				t.Errorf("%s: %v", n, err)
			}
		}
		if h.Provider.Reuses != 0 {
			t.Errorf("%d reuses", h.Provider.Reuses)
		}
	})
}

// Another holder's token carries more than this client may have.
func TestCeilingOnASharedGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 1)
		defer drain(t, h)
		time.Sleep(30 * time.Minute)
		h.Connect(t, "boss", "files.read files.write")
		boss, err := h.Token("boss")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Minute)

		c := h.Caller()
		set := broker.ParseScopes("files.read")
		c.Client.Scopes = &set
		tok, err := h.Service.IssueToken(t.Context(), c, broker.TokenRequest{Connector: "files", Subject: "person-0"})
		t.Logf("boss has %s with %s", boss.AccessToken.Reveal(), boss.Scopes)
		if err == nil && tok.AccessToken.Reveal() == boss.AccessToken.Reveal() {
			t.Errorf("a client with ceiling files.read was given %s, said to carry %s", tok.AccessToken.Reveal(), tok.Scopes)
		} else {
			t.Logf("%v %v", tok.AccessToken.Reveal(), err)
		}
	})
}

// What was narrowed for one holder is not the token of the others.
func TestNarrowedTokenIsNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Conns[0].SharedGrants = "rig/client"
		h.Conns[0].Narrows = true
		h.Provider.OneChain = true
		h.Connect(t, "a", "files.read files.write")
		h.Connect(t, "b", "files.read files.write")
		time.Sleep(h.Provider.Lifetime + time.Second)
		c := h.Caller()
		set := broker.ParseScopes("files.read")
		c.Client.Scopes = &set
		n, err := h.Service.IssueToken(t.Context(), c, broker.TokenRequest{Connector: "files", Subject: "a", Scopes: set})
		if err != nil {
			t.Fatal(err)
		}
		b, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "b", Scopes: broker.ParseScopes("files.read files.write")})
		if err != nil || b.AccessToken.Reveal() == n.AccessToken.Reveal() {
			t.Errorf("b asked for both scopes: %s said to carry %q (a's narrowed token: %s %q) %v", b.AccessToken.Reveal(), b.Scopes, n.AccessToken.Reveal(), n.Scopes, err)
		}
	})
}

// What the provider told about one holder is not told to another's client.
func TestSharedGrantKeepsUsersApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 0)
		h.Provider.Extra = map[string]string{"who": "Alice"}
		h.Connect(t, "person-0", "files.read")
		defer drain(t, h)
		time.Sleep(30 * time.Minute)
		h.Provider.Extra = map[string]string{"who": "Boss"}
		h.Connect(t, "boss", "files.read")
		time.Sleep(31 * time.Minute)
		tok, err := h.Token("person-0")
		if err != nil || tok.Extra["who"] != "Alice" {
			t.Errorf("person-0 is answered with extra %v, account %v, %v", tok.Extra, tok.Account, err)
		}
	})
}

// Whoever replaces the account leaves no lease behind on the grant of those who stay.
func TestReplacedAccountLeavesNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conns := workspace(t, 1, 2)
		defer drain(t, h)
		time.Sleep(h.Provider.Lifetime + time.Second)
		h.Provider.OneChain = false
		h.Provider.Account.ID = "second-workspace"
		_, link, err := h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "person-0", Connection: conns[0].ID})
		if err != nil {
			t.Fatal(err)
		}
		f, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "person-0", Code: f.UserCode, Replace: true}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = h.Token("person-1")
		if took := time.Since(began); err != nil || took > time.Second {
			t.Errorf("person-1 of the workspace that person-0 left: %v after %v", err, took)
		}
	})
}

// Two who leave at the same time: one of them is the last.
func TestErasingBothHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 0)
		defer drain(t, h)
		other := h.Conns[0]
		other.ID = "mail"
		h.Conns = append(h.Conns, other)
		h.Connect(t, "alice", "files.read")
		h.ConnectTo(t, "mail", "alice", "files.read")
		h.Store.Before = func(_ context.Context, op string) error {
			if op == "Holders" {
				time.Sleep(time.Millisecond)
			}
			return nil
		}
		e, err := h.Service.EraseSubject(t.Context(), h.Caller(), "alice")
		t.Logf("%+v %v revoked %v", e, err, h.Provider.Revoked)
		if len(h.Provider.Revoked) == 0 {
			t.Error("the grant lives on at the provider")
		}
	})
}
