package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

type from string

func (f from) Address() string { return string(f) }

func (l *limitedRig) consent(client, tenant, subject, address string) (broker.ConsentLink, error) {
	caller := broker.Caller{Client: broker.Client{ID: client, Tenant: tenant}, Origin: from(address)}
	_, link, err := l.Service.CreateConsent(context.Background(), caller, broker.ConsentRequest{Connector: "files", Subject: subject})
	return link, err
}

// Threat 68: pending consents have a cap for each subject, client, tenant and address. What is refused leaves no consent and takes no place.
func TestThreat68PendingConsentsAreCapped(t *testing.T) {
	l := newLimited(t, 1, broker.Limits{
		Subject: broker.Limit{Consents: 3}, Client: broker.Limit{Consents: 10}, Tenant: broker.Limit{Consents: 15}, Address: broker.Limit{Consents: 12},
	})
	made := 0
	create := func(n int, client, tenant, subject, address string) int {
		through := admitted(t, n, func() error {
			made++
			_, err := l.consent(client, tenant, strings.ReplaceAll(subject, "*", fmt.Sprint(made)), address)
			return err
		})
		return through
	}
	for _, c := range []struct {
		n                                int
		client, tenant, subject, address string
		want                             int
	}{
		{9, "chat", "acme", "u", "192.0.2.1", 3},             // the subject's
		{30, "chat", "acme", "u*", "192.0.2.1", 7},           // the client's, 3 of 10 are taken
		{30, "mail", "acme", "u*", "192.0.2.1", 2},           // the address's, 10 of 12 are taken
		{30, "mail", "acme", "u*", "192.0.2.2", 3},           // another address, the tenant's: 12 of 15 are taken
		{30, "talk", "other", "u*", "192.0.2.1", 10},         // another tenant behind the address that is full: the client's
		{30, "more", "another", "u*", "2001:db8::1", 10},     // a network
		{30, "third", "another", "u*", "2001:db8::ff", 2},    // the same one: 10 of 12 are taken
		{30, "third", "another", "u*", "2001:db8:0:1::5", 3}, // another one
	} {
		if got := create(c.n, c.client, c.tenant, c.subject, c.address); got != c.want {
			t.Errorf("%s of %s for %s from %s: %d pending consents, of %d", c.client, c.tenant, c.subject, c.address, got, c.want)
		}
	}
	if held := l.shared.Held(); held["client_consents"] != 40 || held["tenant_consents"] != 40 || held["subject_consents"] != 40 || held["address_consents"] != 40 {
		t.Errorf("places %v", held)
	}
	if n := len(l.Store.Entries(broker.EventConsentCreated)); n != 40 {
		t.Errorf("%d consents were made", n)
	}
	if n := len(l.Store.Entries(broker.EventConsentFailed)); n != 0 {
		t.Errorf("refusals left %d events of their own", n)
	}
	// The links end, and so do their places, with nobody doing anything.
	l.now = l.now.Add(broker.LinkLife)
	if got := create(5, "chat", "acme", "u", "192.0.2.1"); got != 3 {
		t.Errorf("%d consents after the links have ended, of 3", got)
	}
}

// Consents that end give their places back at once: completed, denied, failed.
func TestThreat68EndedConsentsGiveTheirPlacesBack(t *testing.T) {
	ctx := context.Background()
	l := newLimited(t, 1, broker.Limits{Subject: broker.Limit{Consents: 1}, Client: broker.Limit{Consents: 100}})
	none := func(string) broker.Secret { return broker.Secret{} }
	l.Connect(t, "u", "files.read")
	for _, end := range []struct {
		name string
		end  func(link broker.ConsentLink) error
	}{
		{"denied", func(link broker.ConsentLink) error {
			_, err := l.Service.CancelConsent(ctx, brokertest.LinkSecret(link), none)
			return err
		}},
		{"failed", func(link broker.ConsentLink) error {
			callback := l.Start(t, link)
			if _, err := l.Service.FinishConsent(ctx, callback); err != nil {
				return err
			}
			for range broker.MaxCodeAttempts {
				_, _ = l.Service.CompleteConsent(ctx, l.Caller(), link.ID, broker.Completion{Subject: "u", Code: broker.NewSecret("WRONG")})
			}
			return nil
		}},
	} {
		_, link, err := l.Service.CreateConsent(ctx, l.Caller(), broker.ConsentRequest{Connector: "files", Subject: "u"})
		if err != nil {
			t.Fatalf("%s: the one before holds its place: %v", end.name, err)
		}
		if _, _, err := l.Service.CreateConsent(ctx, l.Caller(), broker.ConsentRequest{Connector: "files", Subject: "u"}); broker.CodeOf(err) != broker.CodeSlowDown {
			t.Fatalf("a second one: %v", err)
		}
		if err := end.end(link); err != nil {
			t.Fatalf("%s: %v", end.name, err)
		}
		if held := l.shared.Held(); held["subject_consents"] != 0 || held["client_consents"] != 0 {
			t.Errorf("%s: places %v", end.name, held)
		}
	}
}

// A token request without a connection makes a link, which counts once however often it comes back; and never more than the cap.
func TestThreat68LinksOfTokenRequestsCount(t *testing.T) {
	l := newLimited(t, 1, broker.Limits{Client: broker.Limit{Consents: 2}})
	seen := map[string]bool{}
	for range 20 {
		_, err := l.Token("u1")
		var public *broker.Error
		if !errors.As(err, &public) || public.Consent == nil {
			t.Fatalf("token: %v", err)
		}
		seen[public.Consent.Consent.ID] = true
	}
	if held := l.shared.Held(); len(seen) != 1 || held["client_consents"] != 1 {
		t.Errorf("%d links, places %v", len(seen), held)
	}
	if _, err := l.Token("u2"); broker.CodeOf(err) != broker.CodeConsentRequired {
		t.Errorf("a second user: %v", err)
	}
	before := len(l.Store.Entries())
	for range 50 {
		if _, err := l.Token("u3"); broker.CodeOf(err) != broker.CodeSlowDown {
			t.Fatalf("a third user: %v", err)
		}
	}
	if after := len(l.Store.Entries()); after != before {
		t.Errorf("refusals left %d events", after-before)
	}
	if _, err := l.Token("u1"); broker.CodeOf(err) != broker.CodeConsentRequired {
		t.Errorf("the link of the first user does not come back: %v", err)
	}
}

// Links that are made and ended in a circle leave records that live on: there is a limit of making them, too.
func TestThreat68LinksAreLimitedByTime(t *testing.T) {
	l := newLimited(t, 1, broker.Limits{Client: broker.Limit{Consents: 60}})
	none := func(string) broker.Secret { return broker.Secret{} }
	circle := func() error {
		_, link, err := l.Service.CreateConsent(context.Background(), l.Caller(), broker.ConsentRequest{Connector: "files", Subject: "u"})
		if err != nil {
			return err
		}
		_, err = l.Service.CancelConsent(context.Background(), brokertest.LinkSecret(link), none)
		return err
	}
	if got := admitted(t, 100, circle); got != 60 {
		t.Errorf("%d links at once, of 60", got)
	}
	l.now = l.now.Add(broker.LinkLife / 2)
	if got := admitted(t, 100, circle); got != 30 {
		t.Errorf("%d links in half of what a link lives, of 30", got)
	}
	l.now = l.now.Add(time.Second)
	if _, _, err := l.Service.CreatePortal(context.Background(), l.Caller(), broker.PortalRequest{Subject: "u"}); broker.CodeOf(err) != broker.CodeSlowDown {
		t.Errorf("a link to a visit is none: %v", err)
	}
}

// Threat 68: an error of the store takes no places for good from who tries again: those of consents that were not made come back, and
// those of consents that were made after all stay.
func TestThreat68ErrorsTakeNoPlaces(t *testing.T) {
	const most = 3
	away := errors.New("the store is away")
	for _, c := range []struct {
		name         string
		fail         func(l *limitedRig, failing bool)
		made, before int // of those that a failed call leaves
	}{
		{"the answer about the places is lost", func(l *limitedRig, failing bool) { l.shared.SetLost(failing) }, 0, most},
		{"the consent is not stored", func(l *limitedRig, failing bool) {
			l.Store.Before = func(_ context.Context, operation string) error {
				if failing && (operation == "CreateConsent" || operation == "Consent") {
					return away
				}
				return nil
			}
		}, 0, most},
		{"the answer about the consent is lost", func(l *limitedRig, failing bool) {
			l.Store.After = func(_ context.Context, operation string) error {
				if failing && operation == "CreateConsent" {
					return away
				}
				return nil
			}
		}, most, most},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLimited(t, 1, broker.Limits{Subject: broker.Limit{Consents: most}, Client: broker.Limit{Consents: 100}})
			c.fail(l, true)
			for range most {
				if _, err := l.consent("chat", "acme", "u", "192.0.2.1"); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable {
					t.Fatalf("a consent while the store fails: %v", err)
				}
			}
			settle := func() int {
				l.now = l.now.Add(time.Minute)
				if err := broker.FollowLimits(l.Service); err != nil {
					t.Fatal(err)
				}
				return l.shared.Held()["subject_consents"]
			}
			if held := l.shared.Held()["subject_consents"]; held != c.before {
				t.Errorf("%d places before they are settled, not %d", held, c.before)
			}
			l.now = l.now.Add(time.Minute)
			l.shared.SetAway(true) // what can't be settled now is later
			_ = broker.FollowLimits(l.Service)
			l.shared.SetAway(false)
			c.fail(l, false)
			if held := settle(); held != c.made {
				t.Errorf("%d places when the store is back, of %d consents", held, c.made)
			}
			if got := admitted(t, 5, func() error { _, err := l.consent("chat", "acme", "u", "192.0.2.1"); return err }); got != most-c.made {
				t.Errorf("%d consents when the store is back, of %d", got, most-c.made)
			}
		})
	}
}

// One consent that can't be read keeps nobody else's places.
func TestThreat68UnreadableConsentHoldsItsOwnPlaceAlone(t *testing.T) {
	l := newLimited(t, 1, broker.Limits{Subject: broker.Limit{Consents: 3}, Client: broker.Limit{Consents: 100}})
	unreadable := 0
	l.Store.Before = func(_ context.Context, operation string) error {
		switch operation {
		case "CreateConsent":
			return errors.New("the store is away")
		case "Consent":
			if unreadable++; unreadable == 1 {
				return broker.ErrIntegrity
			}
		}
		return nil
	}
	for range 3 {
		if _, err := l.consent("chat", "acme", "u", "192.0.2.1"); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable {
			t.Fatalf("a consent while the store fails: %v", err)
		}
	}
	l.now = l.now.Add(time.Minute)
	if err := broker.FollowLimits(l.Service); err != nil {
		t.Fatal(err)
	}
	if held := l.shared.Held()["subject_consents"]; held != 1 {
		t.Errorf("%d places are held, want that of the one that can't be read", held)
	}
	l.now = l.now.Add(time.Minute)
	if err := broker.FollowLimits(l.Service); err != nil || l.shared.Held()["subject_consents"] != 0 {
		t.Errorf("once it can: %v, %v", l.shared.Held(), err)
	}
}

// Threats 68 and 73: a consent that ends at a replica whose clock is ahead gives its places back all the same: they end by the store's
// clock, by which its link still lives. So do those that the store did not take back at first.
func TestThreat68PlacesOfSkewedClocks(t *testing.T) {
	ctx := context.Background()
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("the store is away: %t", away), func(t *testing.T) {
			l := &limitedRig{now: time.Now()}
			l.shared = brokertest.NewShared(func() time.Time { return l.now })
			off := time.Duration(0)
			l.Harness = brokertest.NewWith(t, 2, func(cfg *broker.Config) {
				mine := off
				cfg.Limits, cfg.SharedRates, cfg.Places = broker.Limits{Subject: broker.Limit{Consents: 1}}, l.shared, l.shared
				cfg.Now = func() time.Time { return l.now.Add(mine) }
				off = 7 * time.Minute
			})
			_, link, err := l.Service.CreateConsent(ctx, l.Caller(), broker.ConsentRequest{Connector: "files", Subject: "u"})
			if err != nil {
				t.Fatal(err)
			}
			l.now = l.now.Add(4 * time.Minute)
			callback := l.Start(t, link)
			if _, err := l.Service.FinishConsent(ctx, callback); err != nil {
				t.Fatal(err)
			}
			ahead := l.Replicas[1]
			l.shared.SetAway(away)
			for range broker.MaxCodeAttempts {
				_, _ = ahead.CompleteConsent(ctx, l.Caller(), link.ID, broker.Completion{Subject: "u", Code: broker.NewSecret("WRONG")})
			}
			if events := l.Store.Entries(broker.EventConsentFailed); len(events) == 0 {
				t.Fatal("the consent has not ended")
			}
			if away {
				l.shared.SetAway(false)
				l.now = l.now.Add(time.Minute)
				if err := broker.FollowLimits(ahead); err != nil {
					t.Fatal(err)
				}
			}
			if held := l.shared.Held()["subject_consents"]; held != 0 {
				t.Errorf("%d places of a consent that has ended", held)
			}
			if _, _, err := ahead.CreateConsent(ctx, l.Caller(), broker.ConsentRequest{Connector: "files", Subject: "u"}); err != nil {
				t.Errorf("the next consent: %v", err)
			}
		})
	}
}
