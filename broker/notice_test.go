package broker_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// noticing gives a harness whose provider sends notices, with connections of three accounts.
func noticing(t *testing.T) (*brokertest.Harness, map[string]broker.Connection) {
	t.Helper()
	h := brokertest.New(t, 1)
	h.Conns[0].Notices, h.Conns[0].ClientKey = true, "rig/client"
	conns := map[string]broker.Connection{}
	for subject, account := range map[string]string{"alice": "T1:U1", "bob": "T1:U2", "carol": "T2:U1"} {
		h.Provider.Account = broker.Account{ID: account}
		conns[subject] = h.Connect(t, subject, "files.read")
	}
	return h, conns
}

func refreshedSince(h *brokertest.Harness, before int) int { return h.Provider.Refreshes - before }

// A notice makes the broker look at the grants that it names, at once and at no others; what the provider says to that counts.
func TestNoticeIsAReasonToLook(t *testing.T) {
	for _, tc := range []struct {
		name   string
		notice broker.Notice
		looks  int
	}{
		{"an account", broker.Notice{Accounts: []string{"T1:U1"}, Status: 200}, 1},
		{"an account twice", broker.Notice{Accounts: []string{"T1:U1", "T1:U1"}, Status: 200}, 1},
		{"a group", broker.Notice{Groups: []string{"T1"}, Status: 200}, 2},
		{"a group that is no account", broker.Notice{Accounts: []string{"T1"}, Status: 200}, 0},
		{"a stranger", broker.Notice{Accounts: []string{"T9:U9"}, Groups: []string{"T", "T1:U"}, Status: 200}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, _ := noticing(t)
				defer drain(t, h)
				before := h.Provider.Refreshes
				h.Provider.Noticed = &tc.notice
				got, err := h.Service.HandleNotice(t.Context(), "files", broker.NoticeRequest{})
				if err != nil || got.Status != 200 {
					t.Fatalf("%v, status %d", err, got.Status)
				}
				synctest.Wait()
				if n := refreshedSince(h, before); n != tc.looks {
					t.Errorf("%d refreshes, want %d", n, tc.looks)
				}
				if n := len(h.Store.Entries(broker.EventConnectionNoticed)); n != tc.looks {
					t.Errorf("%d on record, want %d", n, tc.looks)
				}
				// The grants are alive, so nobody is asked for anything.
				for _, subject := range []string{"alice", "bob", "carol"} {
					if _, err := h.Token(subject); err != nil {
						t.Errorf("%s: %v", subject, err)
					}
				}
			})
		})
	}
}

// A grant that really ended shows before anybody asks for its token.
func TestNoticeOfADeadGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conns := noticing(t)
		defer drain(t, h)
		h.Provider.Kill(h.Store.RefreshToken(conns["alice"].ID))
		h.Provider.Noticed = &broker.Notice{Accounts: []string{"T1:U1"}, Status: 200}
		if _, err := h.Service.HandleNotice(t.Context(), "files", broker.NoticeRequest{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := h.Token("alice"); broker.CodeOf(err) != broker.CodeConsentRequired {
			t.Errorf("alice: %v", err)
		}
		if _, err := h.Token("bob"); err != nil {
			t.Errorf("bob: %v", err)
		}
	})
}

// A notice that comes while a refresh is under way is about what happened behind it: that refresh says nothing, and there is another.
func TestNoticeDuringARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := noticing(t)
		defer drain(t, h)
		notice := func() {
			t.Helper()
			h.Provider.Noticed = &broker.Notice{Accounts: []string{"T1:U1"}, Status: 200}
			if _, err := h.Service.HandleNotice(t.Context(), "files", broker.NoticeRequest{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		answered := make(chan struct{})
		h.Store.Before = func(_ context.Context, op string) error {
			if op == "CommitRefresh" {
				<-answered
			}
			return nil
		}
		before := h.Provider.Refreshes
		notice() // the provider's answer is there, and on its way to the store
		notice()
		close(answered)
		synctest.Wait()
		if n := refreshedSince(h, before); n != 2 {
			t.Errorf("%d refreshes, want one for each notice", n)
		}
		if _, err := h.Token("alice"); err != nil {
			t.Error(err)
		}
	})
}

// What is not signed is refused; where the store can't tell who is meant, the provider must come again; and who left is not
// looked at any more.
func TestNoticeRefusedOrLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conns := noticing(t)
		defer drain(t, h)
		if _, err := h.Service.HandleNotice(t.Context(), "files", broker.NoticeRequest{}); !errors.Is(err, broker.ErrNoticeRefused) {
			t.Errorf("unsigned: %v", err)
		}
		h.Provider.Noticed = &broker.Notice{Groups: []string{"T1"}, Status: 200}
		h.Store.Before = func(_ context.Context, op string) error {
			if op == "HeldBy" {
				return errors.New("away")
			}
			return nil
		}
		if _, err := h.Service.HandleNotice(t.Context(), "files", broker.NoticeRequest{}); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable {
			t.Errorf("store away: %v", err)
		}
		h.Store.Before = nil
		if _, err := h.Service.Disconnect(t.Context(), h.Caller(), conns["alice"].ID); err != nil {
			t.Fatal(err)
		}
		before := h.Provider.Refreshes
		if _, err := h.Service.HandleNotice(t.Context(), "files", broker.NoticeRequest{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := refreshedSince(h, before); n != 1 {
			t.Errorf("%d refreshes, want bob's alone", n)
		}
	})
}

// A notice can be sent again for as long as its signature is believed: that costs no more than a few requests a minute, and
// where a refresh ends the access token that somebody is using, one in ten minutes.
func TestRepeatedNotice(t *testing.T) {
	for _, ends := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h, _ := noticing(t)
			defer drain(t, h)
			h.Conns[0].RefreshEndsAccess = ends
			before := h.Provider.Refreshes
			h.Provider.Noticed = &broker.Notice{Accounts: []string{"T1:U1"}, Status: 200}
			for range 200 {
				if _, err := h.Service.HandleNotice(t.Context(), "files", broker.NoticeRequest{}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			most := 5
			if ends {
				most = 1
			}
			if n := refreshedSince(h, before); n == 0 || n > most {
				t.Errorf("a refresh ends the access token: %t: %d refreshes, want 1 to %d", ends, n, most)
			}
		})
	}
}
