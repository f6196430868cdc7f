package broker_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

var errBlink = errors.New("no answer came")

// bindings are the ways in which a consent can be bound.
var bindings = []broker.Binding{broker.BindingReturn, broker.BindingCode}

// linkOf makes a consent of alice's with the binding.
func linkOf(t *testing.T, h *brokertest.Harness, binding broker.Binding) broker.ConsentLink {
	t.Helper()
	req := broker.ConsentRequest{Subject: "alice"}
	if binding == broker.BindingReturn {
		req.ReturnTo = "https://chat.example/done"
	}
	return newLink(t, h, req)
}

// proof is what the client's backend calls complete with.
func proof(t *testing.T, f broker.Finish) broker.Completion {
	t.Helper()
	code := f.UserCode
	if f.Binding == broker.BindingReturn {
		code = broker.NewSecret(brokertest.Query(t, f.Location, "code"))
	}
	return broker.Completion{Subject: "alice", Code: code}
}

// works checks that the user ended with a connection whose grant the provider honours, and that its code was sent once.
func works(t *testing.T, h *brokertest.Harness, id string) {
	t.Helper()
	synctest.Wait()
	if v := status(t, h, id); v.Status != broker.ConsentCompleted || v.Connection == "" {
		t.Errorf("consent: %s, connection %q", v.Status, v.Connection)
	}
	if h.Provider.Exchanges != 1 || len(h.Provider.Revoked) != 0 {
		t.Errorf("the code was sent %d times, and %d grants were revoked", h.Provider.Exchanges, len(h.Provider.Revoked))
	}
	time.Sleep(h.Provider.Lifetime + time.Second)
	if _, err := h.Token("alice"); err != nil {
		t.Errorf("the connection's refresh: %v", err)
	}
}

// Each write of a consent whose outcome is not known, one after the other, carried out or not: nobody notices.
func TestConsentWriteOfUnknownOutcome(t *testing.T) {
	for _, binding := range bindings {
		for _, written := range []bool{false, true} {
			for n := range int32(5) {
				t.Run(fmt.Sprintf("%s/written=%v/write %d", binding, written, n+1), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						h := brokertest.New(t, 1)
						defer drain(t, h)
						link := linkOf(t, h, binding)
						var count atomic.Int32
						lose := func(_ context.Context, op string) error {
							if (op == "UpdateConsent" || op == "CompleteConsent") && count.Add(1) == n+1 {
								return errBlink
							}
							return nil
						}
						if written {
							h.Store.After = lose
						} else {
							h.Store.Before = lose
						}
						finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
						if err != nil {
							t.Fatalf("callback: %v", err)
						}
						if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, proof(t, finish)); err != nil {
							t.Fatalf("complete: %v", err)
						}
						if count.Load() <= n {
							t.Fatalf("there were %d writes only", count.Load())
						}
						granted, completed := len(h.Store.Entries(broker.EventConsentGranted)), len(h.Store.Entries(broker.EventConsentCompleted))
						if granted != 1 || completed != 1 {
							t.Errorf("%d consent.granted and %d consent.completed", granted, completed)
						}
						works(t, h, link.ID)
					})
				})
			}
		}
	}
}

// hang makes the store's writes of consents fail slowly from the nth on, until the time is up. carried: the first of them is
// carried out, and its answer lost.
func hang(h *brokertest.Harness, nth int32, carried bool, long time.Duration) {
	var count atomic.Int32
	var end atomic.Int64
	hung := func(op string) bool {
		at := end.Load()
		return at != 0 && time.Now().UnixNano() < at && op != "CreateConsent"
	}
	begin := func(op string) bool {
		if (op == "UpdateConsent" || op == "CompleteConsent") && count.Add(1) == nth {
			end.Store(time.Now().Add(long).UnixNano())
			return true
		}
		return false
	}
	h.Store.After = func(ctx context.Context, op string) error {
		if carried && begin(op) {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	h.Store.Before = func(ctx context.Context, op string) error {
		if hung(op) || !carried && begin(op) {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
}

// A store that hangs for longer than a caller waits, at each write of a completing call: the caller hears to try again, and
// the same call finds the connection when the store is back. What the user gave is neither lost nor revoked.
func TestCompletionGoesOnBehindAHungStore(t *testing.T) {
	for _, binding := range bindings {
		writes := int32(3) // the claim, the grant, the connection
		if binding == broker.BindingCode {
			writes = 2
		}
		for _, carried := range []bool{false, true} {
			for n := range writes {
				for _, long := range []time.Duration{2500 * time.Millisecond, 20 * time.Second} {
					t.Run(fmt.Sprintf("%s/carried=%v/write %d/%v", binding, carried, n+1, long), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							h := brokertest.New(t, 2)
							defer drain(t, h)
							link := linkOf(t, h, binding)
							finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
							if err != nil {
								t.Fatal(err)
							}
							hang(h, n+1, carried, long)
							var conn broker.Connection
							calls := 0
							for {
								began := time.Now()
								conn, err = h.Replicas[calls%2].CompleteConsent(t.Context(), h.Caller(), link.ID, proof(t, finish))
								if calls++; err == nil || calls > 60 {
									break
								}
								var public *broker.Error
								if took := time.Since(began); !errors.As(err, &public) || public.Code != broker.CodeTemporarilyUnavailable || public.RetryAfter < time.Second || took > 5*time.Second {
									t.Fatalf("call %d, after %v: %v", calls, took, err)
								}
								time.Sleep(public.RetryAfter)
							}
							if err != nil {
								t.Fatalf("call %d: %v", calls, err)
							}
							if long > 10*time.Second && calls == 1 {
								t.Error("the caller was left waiting")
							}
							if v := status(t, h, link.ID); v.Connection != conn.ID {
								t.Errorf("the consent made %q, the call answered %q", v.Connection, conn.ID)
							}
							if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, proof(t, finish)); broker.CodeOf(err) != broker.CodeExpired {
								t.Errorf("answered, and called again: %v; a code works once", err)
							}
							works(t, h, link.ID)
						})
					})
				}
			}
		}
	}
}

// The same in the browser's half of binding code: the page comes late, and the code that it shows works.
func TestCallbackGoesOnBehindAHungStore(t *testing.T) {
	for _, carried := range []bool{false, true} {
		for n := range int32(3) { // the state's use, the grant, the code
			t.Run(fmt.Sprintf("carried=%v/write %d", carried, n+1), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := brokertest.New(t, 1)
					defer drain(t, h)
					link := linkOf(t, h, broker.BindingCode)
					cb := h.Start(t, link)
					hang(h, n+1, carried, 12*time.Second)
					finish, err := h.Service.FinishConsent(t.Context(), cb)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, proof(t, finish)); err != nil {
						t.Fatal(err)
					}
					works(t, h, link.ID)
				})
			})
		}
	}
}

// The store is away for longer than a claim lasts. Before the code was sent: it is put back, and serves the next call. Behind
// it: the grant is kept until the store takes it, and not revoked.
func TestStoreAwayBeyondTheClaim(t *testing.T) {
	for n := range int32(2) {
		for _, carried := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d/carried=%v", n+1, carried), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := brokertest.New(t, 1)
					defer drain(t, h)
					link := linkOf(t, h, broker.BindingReturn)
					finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
					if err != nil {
						t.Fatal(err)
					}
					long := 100 * time.Second
					if n == 0 {
						long = 50 * time.Second // the claim can't be used any more, but lasts
					}
					hang(h, n+1, carried, long)
					if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, proof(t, finish)); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable {
						t.Fatal(err)
					}
					time.Sleep(long + 2*time.Second)
					if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, proof(t, finish)); err != nil {
						t.Errorf("once the store is back: %v", err)
					}
					works(t, h, link.ID)
				})
			})
		}
	}
}

// A consent that is ended while its code is redeemed can't keep the grant: that is revoked, and the trail says so.
func TestDroppedGrantIsOnRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		link := linkOf(t, h, broker.BindingReturn)
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		h.Provider.ExchangeTakes = 5 * time.Second
		go func() {
			time.Sleep(time.Second)
			if _, err := h.Service.EraseSubject(context.Background(), h.Caller(), "alice"); err != nil {
				t.Errorf("erase: %v", err)
			}
		}()
		if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, proof(t, finish)); err == nil {
			t.Fatal("a consent that was ended was completed")
		}
		synctest.Wait()
		said := 0
		for _, e := range h.Store.Entries(broker.EventConsentFailed) {
			if e.Outcome == "revoked_upstream_done" && e.Subject == "alice" && len(e.Scopes) == 1 && e.Scopes[0].Scope == "files.read" {
				said++
			}
		}
		if len(h.Provider.Revoked) != 1 || said != 1 {
			t.Errorf("%d revocations, %d events that say so", len(h.Provider.Revoked), said)
		}
	})
}

// A replica that is told to end waits for a grant that the store does not take yet.
func TestDrainWaitsForAGrantInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 2)
		link := linkOf(t, h, broker.BindingReturn)
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		hang(h, 2, false, 15*time.Second)
		if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, proof(t, finish)); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable {
			t.Fatal(err)
		}
		if err := h.Service.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.Service = h.Replicas[1]
		defer drain(t, h)
		if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, proof(t, finish)); err != nil {
			t.Errorf("the other replica: %v", err)
		}
		works(t, h, link.ID)
	})
}

// The answer to a write is lost, and a wrong code is counted before it is repeated: the write is found to have been made, and
// is not made twice.
func TestWrongCodeBehindAWriteOfUnknownOutcome(t *testing.T) {
	for n := range int32(2) { // the claim, the grant
		t.Run(fmt.Sprintf("write %d", n+1), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 1)
				defer drain(t, h)
				link := linkOf(t, h, broker.BindingReturn)
				finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
				if err != nil {
					t.Fatal(err)
				}
				var count atomic.Int32
				h.Store.After = func(_ context.Context, op string) error {
					if op != "UpdateConsent" || count.Add(1) != n+1 {
						return nil
					}
					wrong := broker.Completion{Subject: "mallory", Code: broker.NewSecret("no")}
					if _, err := h.Service.CompleteConsent(context.Background(), h.Caller(), link.ID, wrong); broker.CodeOf(err) != broker.CodeSubjectMismatch {
						t.Errorf("the wrong call: %v", err)
					}
					return errBlink
				}
				if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, proof(t, finish)); err != nil {
					t.Fatal(err)
				}
				if n := len(h.Store.Entries(broker.EventConsentGranted)); n != 1 {
					t.Errorf("%d consent.granted", n)
				}
				works(t, h, link.ID)
			})
		})
	}
}
