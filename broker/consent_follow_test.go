package broker_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// news is what one follower heard, and when.
type news struct {
	mu    sync.Mutex
	heard []broker.ConsentStatus
	at    time.Time
	still int
	ended chan error
}

func (n *news) list() []broker.ConsentStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.heard)
}

func follow(ctx context.Context, h *brokertest.Harness, s *broker.Service, id string, known broker.ConsentStatus) *news {
	n, caller := &news{ended: make(chan error, 1)}, h.Caller()
	go func() {
		n.ended <- s.FollowConsent(ctx, caller, id, broker.Following{
			Known: known, Every: 15 * time.Second,
			Tell: func(v broker.ConsentView) error {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.heard, n.at = append(n.heard, v.Status), time.Now()
				return nil
			},
			Still: func() error {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.still++
				return nil
			},
		})
	}()
	return n
}

// Who follows on one replica hears within a second what came to another, and at once what came to the same one.
func TestFollowersHearSoon(t *testing.T) {
	// All follow on replica 1; limit is how late they may be.
	for name, limit := range map[string]time.Duration{"the same replica": time.Millisecond, "another replica": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 2)
				defer drain(t, h)
				link := newLink(t, h, broker.ConsentRequest{Subject: "u"})
				secret := brokertest.LinkSecret(link)
				n := follow(t.Context(), h, h.Replicas[1], link.ID, "")
				var waited, opened time.Duration
				var wg sync.WaitGroup
				began := time.Now()
				wg.Go(func() {
					v, err := h.Replicas[1].AwaitConsent(t.Context(), h.Caller(), link.ID, broker.ConsentPending, time.Minute)
					if waited = time.Since(began); err != nil || v.Status != broker.ConsentStarted {
						t.Errorf("await: %s, %v", v.Status, err)
					}
				})
				wg.Go(func() {
					v, err := h.Replicas[1].LinkStatus(t.Context(), secret, "", time.Minute)
					if opened = time.Since(began); err != nil || v.Status != broker.ConsentStarted || v.ConsentID != link.ID {
						t.Errorf("link: %+v, %v", v, err)
					}
				})
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if got := n.list(); !reflect.DeepEqual(got, []broker.ConsentStatus{broker.ConsentPending}) {
					t.Fatalf("heard %v at first", got)
				}
				if name == "the same replica" {
					h.Service = h.Replicas[1]
				}
				callback := h.Start(t, link)
				wg.Wait()
				if waited-10*time.Second > limit || opened-10*time.Second > limit {
					t.Errorf("heard after %v and %v", waited-10*time.Second, opened-10*time.Second)
				}
				time.Sleep(time.Second)
				finish, err := h.Service.FinishConsent(t.Context(), callback)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Second)
				done := time.Now()
				if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "u", Code: finish.UserCode}); err != nil {
					t.Fatal(err)
				}
				if err := <-n.ended; err != nil {
					t.Error(err)
				}
				want := []broker.ConsentStatus{broker.ConsentPending, broker.ConsentStarted, broker.ConsentAwaitingCompletion, broker.ConsentCompleted}
				if got := n.list(); !reflect.DeepEqual(got, want) {
					t.Errorf("heard %v", got)
				}
				if late := n.at.Sub(done); late > limit {
					t.Errorf("heard of the end after %v", late)
				}
				if n.still == 0 {
					t.Error("nothing was said while nothing happened")
				}
				// The link is used, and still tells how it went, as long as the record is there; an account it never tells.
				v, err := h.Service.LinkStatus(t.Context(), secret, broker.ConsentCompleted, time.Minute)
				if err != nil || v.Status != broker.ConsentCompleted {
					t.Errorf("a used link: %+v, %v", v, err)
				}
			})
		})
	}
}

// A thousand followers read the store no more than the bound says, one more finds no room, nor does one client take it all,
// and with their callers they are all gone: also when the process ends.
func TestFollowersAreBounded(t *testing.T) {
	for _, end := range []string{"callers go", "the process ends"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 1)
				defer drain(t, h)
				var reads atomic.Int64
				h.Store.Before = func(_ context.Context, operation string) error {
					if operation == "Consent" {
						reads.Add(1)
					}
					return nil
				}
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				var all []*news
				clients := []string{"chat", "other", "third"}
				for i := range 1000 {
					h.Client.ID = clients[i%2]
					link := newLink(t, h, broker.ConsentRequest{Subject: fmt.Sprint("u", i)})
					all = append(all, follow(ctx, h, h.Service, link.ID, ""))
					if i == 999 {
						synctest.Wait()
						h.Client.ID = "third"
						more := newLink(t, h, broker.ConsentRequest{Subject: "one more"})
						var slow *broker.Error
						if _, err := h.Service.AwaitConsent(t.Context(), h.Caller(), more.ID, broker.ConsentPending, time.Second); !errors.As(err, &slow) || slow.Code != broker.CodeSlowDown || slow.RetryAfter <= 0 {
							t.Errorf("one more: %v", err)
						}
						if v, err := h.Service.LinkStatus(t.Context(), brokertest.LinkSecret(more), broker.ConsentPending, time.Second); broker.CodeOf(err) != broker.CodeSlowDown || v.ConsentID != more.ID {
							t.Errorf("one more by its link: %+v, %v", v, err)
						}
						if _, err := h.Service.AwaitConsent(t.Context(), h.Caller(), more.ID, "", 0); err != nil {
							t.Errorf("reading without waiting: %v", err)
						}
					}
				}
				reads.Store(0)
				time.Sleep(10 * time.Second)
				if n := reads.Load(); n > 10*2200 || n < 10*1000 {
					t.Errorf("%d reads in 10 s", n)
				}
				if end == "callers go" {
					leave()
				} else {
					h.Service.EndFollowing()
				}
				before := time.Now()
				for _, n := range all {
					<-n.ended
				}
				if late := time.Since(before); late > 0 {
					t.Errorf("they ended after %v", late)
				}
				reads.Store(0)
				time.Sleep(time.Minute)
				if n := reads.Load(); n > 0 {
					t.Errorf("%d reads when nobody follows", n)
				}
				if end == "callers go" { // there is room again, also for a client that had half of it
					h.Client.ID = clients[0]
					link := newLink(t, h, broker.ConsentRequest{Subject: "next"})
					if _, err := h.Service.AwaitConsent(t.Context(), h.Caller(), link.ID, broker.ConsentPending, time.Second); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		links := map[string]broker.ConsentLink{}
		taken := func(subject string) error {
			if links[subject].ID == "" {
				links[subject] = newLink(t, h, broker.ConsentRequest{Subject: subject})
			}
			short, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			_, err := h.Service.AwaitConsent(short, h.Caller(), links[subject].ID, broker.ConsentPending, time.Minute)
			return err
		}
		hold := func(subject string) {
			_ = taken(subject)
			follow(ctx, h, h.Service, links[subject].ID, "")
			synctest.Wait()
		}
		for range 8 {
			hold("one")
		}
		if err := taken("one"); broker.CodeOf(err) != broker.CodeSlowDown {
			t.Errorf("a ninth follower of one consent: %v", err)
		}
		for i := range 492 {
			hold(fmt.Sprint("u", i))
		}
		if err := taken("more"); broker.CodeOf(err) != broker.CodeSlowDown {
			t.Errorf("a client with half of all: %v", err)
		}
		h.Client.ID = "other"
		if err := taken("another client's"); err != nil {
			t.Errorf("another client beside it: %v", err)
		}
	})
}

// Whoever has links, many of them or somebody else's, leaves room for the client that made them.
func TestFollowersByLinkAreFewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		byLink := func(ctx context.Context, link broker.ConsentLink) error {
			_, err := h.Service.LinkStatus(ctx, brokertest.LinkSecret(link), broker.ConsentPending, time.Minute)
			return err
		}
		hold := func(link broker.ConsentLink) {
			for range 4 {
				go func() { _ = byLink(ctx, link) }()
			}
			synctest.Wait()
			if err := byLink(t.Context(), link); broker.CodeOf(err) != broker.CodeSlowDown {
				t.Fatalf("a fifth follower by one link: %v", err)
			}
		}
		room := func(link broker.ConsentLink) {
			t.Helper()
			if _, err := h.Service.AwaitConsent(t.Context(), h.Caller(), link.ID, broker.ConsentPending, time.Second); err != nil {
				t.Errorf("no room for the client itself: %v", err)
			}
		}
		first := newLink(t, h, broker.ConsentRequest{Subject: "first"})
		hold(first)
		room(first)
		for i := range 61 {
			hold(newLink(t, h, broker.ConsentRequest{Subject: fmt.Sprint("u", i)}))
		}
		last := newLink(t, h, broker.ConsentRequest{Subject: "last"})
		for range 2 {
			go func() { _ = byLink(ctx, last) }()
		}
		synctest.Wait()
		more := newLink(t, h, broker.ConsentRequest{Subject: "more"})
		if err := byLink(t.Context(), more); broker.CodeOf(err) != broker.CodeSlowDown {
			t.Errorf("more than half of a client's by links: %v", err)
		}
		room(more)
		leave()
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := byLink(short, more); broker.CodeOf(err) == broker.CodeSlowDown {
			t.Errorf("after they have left: %v", err)
		}
	})
}

// What is asked for is answered at once where there is nothing to wait for, and the end of the time is news too.
func TestAwaitConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "u"})
		await := func(known broker.ConsentStatus, wait time.Duration) (broker.ConsentStatus, time.Duration) {
			t.Helper()
			began := time.Now()
			v, err := h.Service.AwaitConsent(t.Context(), h.Caller(), link.ID, known, wait)
			if err != nil {
				t.Error(err)
			}
			return v.Status, time.Since(began)
		}
		if status, took := await(broker.ConsentStarted, time.Minute); status != broker.ConsentPending || took > 0 {
			t.Errorf("another status than the known one: %s after %v", status, took)
		}
		if status, took := await(broker.ConsentPending, 7*time.Second); status != broker.ConsentPending || took != 7*time.Second {
			t.Errorf("no news: %s after %v", status, took)
		}
		if status, took := await("", 7*time.Second); status != broker.ConsentPending || took != 7*time.Second {
			t.Errorf("no news of what it was: %s after %v", status, took)
		}
		stranger := h.Caller()
		stranger.Client.Tenant = "other"
		if _, err := h.Service.AwaitConsent(t.Context(), stranger, link.ID, "", time.Minute); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("another tenant's: %v", err)
		}
		if err := h.Service.FollowConsent(t.Context(), stranger, link.ID, broker.Following{}); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("another tenant's: %v", err)
		}
		for _, wrong := range []string{"", "x", link.ID, brokertest.LinkSecret(link).Reveal()[:55] + "A"} {
			if brokertest.LinkSecret(link).Reveal() == wrong {
				continue
			}
			if v, err := h.Service.LinkStatus(t.Context(), broker.NewSecret(wrong), "", 0); broker.CodeOf(err) != broker.CodeNotFound || v.ConsentID != "" {
				t.Errorf("link %q: %+v, %v", wrong, v, err)
			}
		}
		// The store is away for a while: who waits hears all the same.
		fault := errors.New("away")
		var down atomic.Bool
		h.Store.Before = func(_ context.Context, operation string) error {
			if operation == "Consent" && down.Load() {
				return fault
			}
			return nil
		}
		n := follow(t.Context(), h, h.Service, link.ID, broker.ConsentPending)
		time.Sleep(broker.LinkLife - time.Minute)
		down.Store(true)
		if _, err := h.Service.AwaitConsent(t.Context(), h.Caller(), link.ID, "", time.Second); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable {
			t.Errorf("away at once: %v", err)
		}
		time.Sleep(20 * time.Second)
		down.Store(false)
		time.Sleep(time.Second)
		if status, _ := await(broker.ConsentPending, time.Minute); status != broker.ConsentExpired {
			t.Errorf("at the end of the link: %s", status)
		}
		if err := <-n.ended; err != nil || !reflect.DeepEqual(n.list(), []broker.ConsentStatus{broker.ConsentExpired}) {
			t.Errorf("heard %v, %v", n.list(), err)
		}
		if status, took := await(broker.ConsentExpired, time.Minute); status != broker.ConsentExpired || took > 0 {
			t.Errorf("what can't change: %s after %v", status, took)
		}
		n = follow(t.Context(), h, h.Service, link.ID, broker.ConsentExpired)
		if err := <-n.ended; err != nil || len(n.list()) > 0 {
			t.Errorf("followed to its end already: %v, %v", n.list(), err)
		}
	})
}

// A consent that is just being completed when its time is up is not heard to be over: it may be completed yet.
func TestFollowersHearOneEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "u", ReturnTo: "https://chat.example/done"})
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		h.Provider.ExchangeTakes = 5 * time.Second
		n := follow(t.Context(), h, h.Service, link.ID, "")
		time.Sleep(broker.ReturnCodeLife - 2*time.Second)
		if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "u", Code: broker.NewSecret(brokertest.Query(t, finish.Location, "code"))}); err != nil {
			t.Fatal(err)
		}
		if err := <-n.ended; err != nil || !reflect.DeepEqual(n.list(), []broker.ConsentStatus{broker.ConsentAwaitingCompletion, broker.ConsentCompleted}) {
			t.Errorf("heard %v, %v", n.list(), err)
		}
	})
}

// Whoever follows a consent that was completed and whose account can't be read just now hears of that trouble, not of nothing:
// nothing means that there is nothing new.
func TestFollowersHearOfATroubledStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "u"})
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "u", Code: finish.UserCode}); err != nil {
			t.Fatal(err)
		}
		h.Store.Before = func(_ context.Context, operation string) error {
			if operation == "Connection" {
				return errors.New("away")
			}
			return nil
		}
		h.Service.EndFollowing() // this process ends meanwhile: the caller must know that it has to come again
		n := follow(t.Context(), h, h.Service, link.ID, broker.ConsentPending)
		if err := <-n.ended; broker.CodeOf(err) != broker.CodeTemporarilyUnavailable || len(n.list()) > 0 {
			t.Errorf("heard %v, %v", n.list(), err)
		}
	})
}
