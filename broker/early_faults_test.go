package broker_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// A holder is refused between the exchange of a consent and its being kept for all: what that brought brings it back.
func TestSharedGrantCalledDeadTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 1)
		defer drain(t, h)
		time.Sleep(h.Provider.Lifetime + time.Second)
		h.Provider.Before = func(context.Context, string) error {
			return &broker.UpstreamError{Class: broker.ClassGrantDead, Status: 400, Code: "invalid_grant", What: "token_already_exchanged"}
		}
		ran := false
		h.Store.Before = func(_ context.Context, op string) error {
			if op == "Spread" && !ran {
				ran = true
				_, err := h.Token("person-0")
				t.Logf("between exchange and spread: %v", err)
				h.Provider.Before = nil
			}
			return nil
		}
		h.Connect(t, "bob", "files.read")
		h.Store.Before = nil
		time.Sleep(time.Minute)
		if _, err := h.Token("bob"); err != nil {
			t.Errorf("bob %v", err)
		}
		if _, err := h.Token("person-0"); err != nil {
			t.Errorf("person-0 %v", err)
		}
	})
}

// One grant's trouble is one grant's, however many hold it.
func TestOneSharedGrantOpensNoCircuit(t *testing.T) {
	for _, shared := range []bool{true, false} {
		t.Run(fmt.Sprint(shared), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 3
				if !shared {
					n = 1
				}
				h, conns := workspace(t, 1, n)
				defer drain(t, h)
				h.Provider.OneChain = false
				h.Provider.Account.ID = "another-workspace"
				h.Connect(t, "victim", "files.read")
				time.Sleep(h.Provider.Lifetime + time.Second)
				arrived := 0
				h.Provider.Before = func(context.Context, string) error {
					arrived++
					return &broker.UpstreamError{Class: broker.ClassThrottled, Status: 429, RetryAfter: time.Minute, What: "throttled"}
				}
				for arrived < 6 && time.Now().Year() < 2001 {
					for _, c := range conns {
						_, _ = h.Token(c.Subject)
						if arrived == 5 {
							break
						}
					}
					if arrived == 5 {
						break
					}
					time.Sleep(5 * time.Second)
				}
				h.Provider.Before = nil
				if _, err := h.Token("victim"); err != nil {
					t.Errorf("victim of another workspace: %v", err)
				}
			})
		})
	}
}

// What another holder was given needs no provider.
func TestAdoptionBehindAnOpenCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 2)
		defer drain(t, h)
		time.Sleep(h.Provider.Lifetime + time.Second)
		if _, err := h.Token("person-0"); err != nil {
			t.Fatal(err)
		}
		other := brokertest.Files()
		other.ID = "mail"
		other.ProviderID = "files"
		h.Conns = append(h.Conns, other)
		h.Provider.OneChain = false
		names := []string{"a", "b", "c", "d", "e", "f"}
		for _, n := range names {
			h.Provider.Account.ID = "acc" + n
			h.ConnectTo(t, "mail", n, "files.read")
		}
		time.Sleep(50 * time.Minute) // person-0's shared token lives on
		if _, err := h.Token("person-0"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(h.Provider.Lifetime - 50*time.Minute + time.Second)
		h.Token("person-0")
		h.Provider.BeforeFor = func(ctx context.Context, c string) error {
			if c == "mail" {
				return down(ctx, "")
			}
			return nil
		}
		for _, n := range names {
			_, _ = h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "mail", Subject: n})
		}
		calls := h.Provider.Calls
		_, err0 := h.Token("person-0")
		_, err1 := h.Token("person-1")
		t.Logf("person-0 %v, calls %d %d", err0, calls, h.Provider.Calls)
		if err1 != nil {
			t.Errorf("person-1, for whom a good token lies there: %v", err1)
		}
	})
}

// A hanging grant with many holders takes one of its provider's places, not all.
func TestEarlyPlacesOfASharedGrant(t *testing.T) {
	for _, hang := range []bool{false, true} {
		t.Run(fmt.Sprint(hang), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, conns := workspace(t, 1, 40)
				defer drain(t, h)
				h.Provider.OneChain = false
				h.Provider.Account.ID = "other"
				victim := h.Connect(t, "victim", "files.read")
				for _, c := range conns {
					h.Token(c.Subject)
				}
				h.Token("victim")
				mine := h.Store.RefreshToken(victim.ID)
				time.Sleep(50 * time.Minute)
				h.Provider.Before = func(ctx context.Context, token string) error {
					if hang && token != mine {
						<-ctx.Done()
						return &broker.UpstreamError{Class: broker.ClassInDoubt, What: "hangs"}
					}
					return nil
				}
				began := time.Now()
				for time.Since(began) < 12*time.Minute {
					h.Service.Sweep(t.Context())
					for _, e := range h.Store.Entries(broker.EventTokenRefreshed) {
						if e.Subject == "victim" {
							t.Logf("hang %v: victim refreshed early %v after 50 min", hang, time.Since(began))
							return
						}
					}
					time.Sleep(5 * time.Second)
				}
				t.Errorf("hang %v: victim's token ended without an early refresh", hang)
			})
		})
	}
}

// After an outage, a few grants that fail for reasons of their own must not keep the others out.
func TestBadGrantsDoNotKeepTheCircuitOpen(t *testing.T) {
	for _, bad := range []int{0, 1, 2, 4} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 1)
				defer drain(t, h)
				names := people(t, h, 10)
				badToken := map[string]bool{}
				for i := range bad {
					all, _ := h.Store.OfSubject(t.Context(), "acme", names[i], "")
					badToken[h.Store.RefreshToken(all[0].ID)] = true
				}
				h.Provider.Before = down
				for _, n := range names {
					_, _ = h.Token(n)
				} // a short outage opens it
				h.Provider.Before = func(_ context.Context, token string) error {
					if badToken[token] {
						return &broker.UpstreamError{Class: broker.ClassThrottled, Status: 429, RetryAfter: time.Minute, What: "throttled"}
					}
					return nil
				}
				began, ok := time.Now(), false
				for time.Since(began) < 30*time.Minute {
					for i := range bad {
						_, _ = h.Token(names[i])
					} // they poll
					if int(time.Since(began).Seconds())%5 == 0 {
						if _, err := h.Token(names[9]); err == nil {
							ok = true
							break
						}
					}
					time.Sleep(time.Second)
				}
				if took := time.Since(began); !ok || took > time.Minute {
					t.Errorf("with %d bad grants a good one is served %v after the end of the outage (%v)", bad, took, ok)
				}
			})
		})
	}
}

// A grant that nobody uses and that its provider refuses is not tried, and put on record, for ever and a day.
func TestUnaskedRefreshesGetRarer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Conns[0].RefreshIdle = 180 * 24 * time.Hour
		h.Connect(t, "alice", "files.read")
		h.Provider.Before = func(context.Context, string) error {
			return &broker.UpstreamError{Class: broker.ClassRefused, Status: 400, Code: "invalid_scope", What: "refused"}
		}
		time.Sleep(180 * 24 * time.Hour * 9 / 10)
		before := len(h.Store.Entries(broker.EventTokenRefreshFailed))
		for range 24 * 720 {
			h.Service.Sweep(t.Context())
			time.Sleep(5 * time.Second)
		}
		if n := len(h.Store.Entries(broker.EventTokenRefreshFailed)) - before; n > 40 {
			t.Errorf("%d token.refresh_failed in a day for one grant that nobody uses", n)
		}
	})
}
