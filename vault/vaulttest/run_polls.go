package vaulttest

import (
	"time"

	"tokenbroker/broker"
)

// testPolls: a consent on another device is found when its provider may be asked, not while somebody has a claim on it, and
// not when it is over; another consent never.
func testPolls(r *rig) {
	s := r.store()
	c := newConsent(s, tenant(r), "u")
	c.Binding, c.Status, c.ReturnTo = broker.BindingDevice, broker.ConsentStarted, ""
	c.Device = broker.DeviceFlow{
		DeviceCode: broker.NewSecret("canary-device-code"), UserCode: broker.NewSecret("WDJB-MJHT"), VerificationURI: "https://p.example/device",
		Interval: 5 * time.Second, PollAt: time.Now().UTC().Truncate(time.Millisecond).Add(-time.Second),
	}
	c, err := s.CreateConsent(r.ctx(), c, "", nil)
	if err != nil {
		r.Fatal(err)
	}
	other := newConsent(s, tenant(r), "u")
	other.Status = broker.ConsentStarted
	if _, err := s.CreateConsent(r.ctx(), other, "", nil); err != nil {
		r.Fatal(err)
	}
	s = r.store() // another process
	due := func(before time.Time) (found []broker.Consent) {
		all, err := s.DuePolls(r.ctx(), before, 1000)
		if err != nil {
			r.Fatal(err)
		}
		for _, c := range all {
			if c.Tenant == tenant(r) {
				found = append(found, c)
			}
		}
		return found
	}
	if got := due(time.Now()); len(got) != 1 || got[0].ID != c.ID || got[0].Device.DeviceCode.Reveal() != "canary-device-code" || got[0].Device.Interval != 5*time.Second {
		r.Fatalf("due: %+v", got)
	}
	if got := due(c.Device.PollAt); len(got) != 0 {
		r.Fatalf("due before its time: %+v", got)
	}
	c.BusyUntil = time.Now().UTC().Truncate(time.Millisecond).Add(time.Hour)
	if c, err = s.UpdateConsent(r.ctx(), c, nil); err != nil {
		r.Fatal(err)
	}
	if got := due(time.Now().Add(30 * time.Minute)); len(got) != 0 {
		r.Fatalf("due while it is claimed: %+v", got)
	}
	if got := due(time.Now().Add(2 * time.Hour)); len(got) != 1 {
		r.Fatalf("the claim is over: %+v", got)
	}
	c.BusyUntil, c.Status = time.Time{}, broker.ConsentAwaitingCompletion
	if _, err = s.UpdateConsent(r.ctx(), c, nil); err != nil {
		r.Fatal(err)
	}
	if got := due(time.Now().Add(2 * time.Hour)); len(got) != 0 {
		r.Fatalf("due after the user has decided: %+v", got)
	}
}
