package broker_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// television makes a harness whose connector takes consents on another device.
func television(t *testing.T, replicas int) *brokertest.Harness {
	h := brokertest.New(t, replicas)
	h.Conns[0].Device = true
	h.Provider.Device.ExpiresIn, h.Provider.Device.Interval = 30*time.Minute, 5*time.Second
	return h
}

func beginDevice(t *testing.T, h *brokertest.Harness, subject string) broker.ConsentView {
	t.Helper()
	view, _, err := h.Service.CreateConsent(context.Background(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: subject, Device: true})
	if err != nil {
		t.Fatal(err)
	}
	return view
}

// sweepFor lets the background of all replicas work for that time.
func sweepFor(h *brokertest.Harness, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
		for _, s := range h.Replicas {
			s.Sweep(context.Background())
		}
	}
	synctest.Wait()
}

func statusNow(t *testing.T, h *brokertest.Harness, id string) broker.ConsentView {
	t.Helper()
	view, err := h.Service.ConsentStatus(context.Background(), h.Caller(), id)
	if err != nil {
		t.Fatal(err)
	}
	return view
}

func completeDevice(h *brokertest.Harness, id, subject, code string) (broker.Connection, error) {
	return h.Service.CompleteConsent(context.Background(), h.Caller(), id, broker.Completion{Subject: subject, Code: broker.NewSecret(code)})
}

func TestDeviceConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := television(t, 3)
		h.Provider.Device.Answers = []error{broker.ErrDevicePending, broker.ErrDevicePending}
		began := time.Now()
		view := beginDevice(t, h, "u-1")
		if view.Status != broker.ConsentStarted || view.Binding != broker.BindingDevice || view.Device == nil || view.Device.UserCode.Reveal() != "WXYZ-0001" ||
			view.Device.VerificationURI == "" || view.Device.Interval != 5*time.Second || !view.ExpiresAt.Equal(began.Add(broker.FlowLife)) {
			t.Fatalf("view %+v, %+v", view, view.Device)
		}
		sweepFor(h, 30*time.Second)
		// One poller for all replicas, no sooner than the interval, and none after the grant.
		if n := h.Provider.Device.Polls; n != 3 {
			t.Errorf("%d polls, want 3", n)
		}
		waiting := statusNow(t, h, view.ID)
		if waiting.Status != broker.ConsentAwaitingCompletion || waiting.Account == nil || waiting.Account.Email != "alice@example.com" || waiting.Device != nil {
			t.Fatalf("view %+v", waiting)
		}
		// Nothing comes out of it before the chat says who is there (threat 3).
		_, err := h.Token("u-1")
		wantCode(t, err, broker.CodeConsentRequired)
		_, err = completeDevice(h, view.ID, "mallory", "WXYZ-0001")
		wantCode(t, err, broker.CodeSubjectMismatch)
		_, err = completeDevice(h, view.ID, "u-1", "WXYZ-0002")
		wantCode(t, err, broker.CodeInvalidCode)
		conn, err := completeDevice(h, view.ID, "u-1", "wxyz 0001")
		if err != nil || conn.Subject != "u-1" || !conn.Renewable || conn.Account.ID != "u1" {
			t.Fatalf("%+v, %v", conn, err)
		}
		if token, err := h.Token("u-1"); err != nil || token.Connection != conn.ID {
			t.Errorf("%v, %v", token.Connection, err)
		}
		var trail []broker.EventType
		for _, e := range h.Store.Entries() {
			if !slices.Contains(trail, e.Type) {
				trail = append(trail, e.Type)
			}
		}
		want := []broker.EventType{broker.EventConsentCreated, broker.EventConsentStarted, broker.EventConsentGranted, broker.EventTokenRefused,
			broker.EventConsentFailed, broker.EventConsentCompleted, broker.EventTokenIssued}
		if !slices.Equal(trail, want) {
			t.Errorf("trail %v", trail)
		}
	})
}

func TestDeviceIsOptIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := television(t, 1)
		ctx := context.Background()
		_, _, err := h.Service.CreateConsent(ctx, h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "u", Device: true, ReturnTo: "https://chat.example/done"})
		wantCode(t, err, broker.CodeInvalidRequest)
		h.Conns[0].Device = false
		_, _, err = h.Service.CreateConsent(ctx, h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "u", Device: true})
		wantCode(t, err, broker.CodeInvalidRequest)
		if n := h.Provider.Device.Begun; n != 0 {
			t.Errorf("%d codes were asked for", n)
		}
	})
}

// RFC 8628 section 3.5: what each answer means, and how often is asked then.
func TestDevicePolling(t *testing.T) {
	unsent := &broker.UpstreamError{Class: broker.ClassUnsent, What: "test"}
	for name, c := range map[string]struct {
		answers []error
		status  broker.ConsentStatus
		code    string
		within  time.Duration
		polls   int
	}{
		"denied":  {[]error{broker.ErrDevicePending, broker.ErrDeviceDenied}, broker.ConsentDenied, "access_denied", 30 * time.Second, 2},
		"expired": {[]error{broker.ErrDeviceExpired}, broker.ConsentExpired, "expired", 30 * time.Second, 1},
		"refused": {[]error{&broker.UpstreamError{Class: broker.ClassRefused, What: "test"}}, broker.ConsentFailed, "provider_misconfigured", 30 * time.Second, 1},
		// 5 s, then 10, 15 and 20 s: within 45 s there is no fourth poll.
		"too fast": {[]error{broker.ErrDeviceTooFast, broker.ErrDeviceTooFast, broker.ErrDeviceTooFast}, broker.ConsentStarted, "", 45 * time.Second, 3},
		// 5 s, then 10, 20 and 40 s.
		"away":      {[]error{unsent, unsent, unsent}, broker.ConsentStarted, "", 70 * time.Second, 3},
		"away once": {[]error{unsent}, broker.ConsentAwaitingCompletion, "", 30 * time.Second, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := television(t, 2)
				h.Provider.Device.Answers = c.answers
				view := beginDevice(t, h, "u-1")
				sweepFor(h, c.within)
				if got := statusNow(t, h, view.ID); got.Status != c.status || got.Error != c.code {
					t.Errorf("status %s, error %q", got.Status, got.Error)
				}
				if h.Provider.Device.Polls != c.polls {
					t.Errorf("%d polls, want %d", h.Provider.Device.Polls, c.polls)
				}
			})
		})
	}
}

// Nobody types the code: it ends with its time, no more is asked, and what may still come is not taken.
func TestDeviceTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := television(t, 2)
		h.Provider.Device.Answers = slices.Repeat([]error{broker.ErrDevicePending}, 1000)
		view := beginDevice(t, h, "u-1")
		sweepFor(h, broker.FlowLife+time.Minute)
		if got := statusNow(t, h, view.ID); got.Status != broker.ConsentExpired {
			t.Errorf("status %s", got.Status)
		}
		polls := h.Provider.Device.Polls
		sweepFor(h, time.Minute)
		if h.Provider.Device.Polls != polls {
			t.Error("the provider was asked about a consent that is over")
		}
		_, err := completeDevice(h, view.ID, "u-1", "WXYZ-0001")
		wantCode(t, err, broker.CodeExpired)
	})
}

// A chat that never completes: what the user gave is revoked at the provider.
func TestDeviceNeverCompleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := television(t, 1)
		view := beginDevice(t, h, "u-1")
		sweepFor(h, time.Minute)
		sweepFor(h, broker.ProvisionalLife)
		if got := statusNow(t, h, view.ID); got.Status != broker.ConsentExpired || len(h.Provider.Revoked) != 1 {
			t.Errorf("status %s, %d revocations", got.Status, len(h.Provider.Revoked))
		}
	})
}

// A replica that dies in a poll: another one goes on when its claim is over.
func TestDeviceAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := television(t, 2)
		view := beginDevice(t, h, "u-1")
		time.Sleep(6 * time.Second)
		stopped := make(chan struct{})
		h.Provider.Before = func(ctx context.Context, _ string) error {
			<-stopped // it hangs for good, whatever its deadline
			return &broker.UpstreamError{Class: broker.ClassInDoubt, What: "nobody is there to hear it"}
		}
		go h.Replicas[0].Sweep(context.Background())
		synctest.Wait()
		h.Provider.Before = nil
		h.Replicas[1].Sweep(context.Background())
		if h.Provider.Device.Polls != 0 {
			t.Fatal("two replicas asked at the same time")
		}
		for range 120 {
			time.Sleep(time.Second)
			h.Replicas[1].Sweep(context.Background())
		}
		if got := statusNow(t, h, view.ID); got.Status != broker.ConsentAwaitingCompletion {
			t.Errorf("status %s", got.Status)
		}
		close(stopped)
		synctest.Wait()
		if got := statusNow(t, h, view.ID); got.Status != broker.ConsentAwaitingCompletion {
			t.Errorf("the replica that came back made it %s", got.Status)
		}
		if _, err := completeDevice(h, view.ID, "u-1", "WXYZ-0001"); err != nil {
			t.Error(err)
		}
	})
}

// A replica that dies with the grant stored and the consent not yet moved on: what the provider gave once is not asked for
// again, and not lost.
func TestDeviceGrantSurvivesACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := television(t, 2)
		view := beginDevice(t, h, "u-1")
		time.Sleep(6 * time.Second)
		writes, stopped := 0, make(chan struct{})
		h.Store.Before = func(_ context.Context, operation string) error {
			if operation == "UpdateConsent" {
				if writes++; writes > 2 { // the claim, and the grant
					<-stopped // it hangs
					return errors.New("too late")
				}
			}
			return nil
		}
		go h.Replicas[0].Sweep(context.Background())
		synctest.Wait()
		h.Store.Before = nil
		for range 120 {
			time.Sleep(time.Second)
			h.Replicas[1].Sweep(context.Background())
		}
		if got := statusNow(t, h, view.ID); got.Status != broker.ConsentAwaitingCompletion || h.Provider.Device.Polls != 1 || len(h.Provider.Revoked) != 0 {
			t.Errorf("status %s after %d polls, %d revocations", got.Status, h.Provider.Device.Polls, len(h.Provider.Revoked))
		}
		if _, err := completeDevice(h, view.ID, "u-1", "WXYZ-0001"); err != nil {
			t.Error(err)
		}
		close(stopped)
		synctest.Wait()
	})
}
