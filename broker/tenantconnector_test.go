package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

const canarySecret = "canary-client-secret"

// tenants is a harness whose client may manage connectors, and a caller of another tenant that may too.
func tenants(t *testing.T, replicas int) (*brokertest.Harness, broker.Caller) {
	h := brokertest.New(t, replicas)
	h.Client.ManageConnectors = true
	rival := h.Client
	rival.ID, rival.Tenant = "rival", "rival"
	return h, broker.Caller{Client: rival, RequestID: "r2"}
}

func drive() broker.NewConnector {
	return broker.NewConnector{Wish: "drive", Provider: "rig", Name: "Our Drive", ClientID: "abc", ClientSecret: broker.NewSecret(canarySecret)}
}

func made(t *testing.T, s *broker.Service, caller broker.Caller) broker.ConnectorView {
	t.Helper()
	view, err := s.CreateConnector(context.Background(), caller, drive())
	if err != nil {
		t.Fatal(err)
	}
	return view
}

func code(t *testing.T, err error, want broker.Code) {
	t.Helper()
	if err == nil || broker.CodeOf(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// Threats 7 and 38. A connector that one replica made is there on another at once for whoever names it, and within the time of a look for whoever
// lists; another tenant meets nothing that differs from what is not there.
func TestTenantConnectorIsItsTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, rival := tenants(t, 2)
		ctx := context.Background()
		view := made(t, h.Service, h.Caller())
		if !strings.HasPrefix(view.ID, "drive_") || len(view.ID) != len("drive_")+16 || view.RedirectURI != "https://broker.example/oauth2/callback/"+view.ID || view.ClientGeneration != 1 {
			t.Errorf("%+v", view)
		}
		second := h.Replicas[1]
		if got := len(second.ListConnectors(h.Caller())); got != 1 {
			t.Errorf("%d connectors known before anybody asked", got)
		}
		if _, _, err := second.CreateConsent(ctx, h.Caller(), broker.ConsentRequest{Connector: view.ID, Subject: "alice"}); err != nil {
			t.Errorf("named on another replica: %v", err)
		}

		ask := func(s *broker.Service, connector string) []error {
			_, err1 := s.IssueToken(ctx, rival, broker.TokenRequest{Connector: connector, Subject: "alice"})
			_, _, err2 := s.CreateConsent(ctx, rival, broker.ConsentRequest{Connector: connector, Subject: "alice"})
			_, err3 := s.OwnConnector(ctx, rival, connector)
			_, err4 := s.UpdateConnector(ctx, rival, connector, broker.ConnectorChange{ClientSecret: broker.NewSecret("x")})
			_, err5 := s.DeleteConnector(ctx, rival, connector, true)
			return []error{err1, err2, err3, err4, err5}
		}
		for i, s := range h.Replicas {
			foreign, unknown := ask(s, view.ID), ask(s, "drive_aaaaaaaaaaaaaaaa")
			for n := range foreign {
				if broker.CodeOf(foreign[n]) != broker.CodeNotFound || fmt.Sprint(foreign[n]) != fmt.Sprint(unknown[n]) {
					t.Errorf("replica %d, call %d: %v of another tenant's, %v of none", i, n, foreign[n], unknown[n])
				}
			}
			if list := s.ListConnectors(rival); len(list) != 1 {
				t.Errorf("replica %d lists %d connectors to another tenant", i, len(list))
			}
			rows, err := s.SubjectConnectors(ctx, rival, "alice")
			if err != nil || len(rows) != 1 {
				t.Errorf("replica %d shows %d connectors to another tenant: %v", i, len(rows), err)
			}
			if own, err := s.OwnConnectors(ctx, rival); err != nil || len(own) != 0 {
				t.Errorf("replica %d: %v, %v", i, own, err)
			}
		}
		if got := len(second.ListConnectors(h.Caller())); got != 2 {
			t.Errorf("%d connectors after it was named", got)
		}
		conn := h.ConnectTo(t, view.ID, "alice", "files.read")
		if _, err := second.IssueToken(ctx, h.Caller(), broker.TokenRequest{Connector: view.ID, Subject: "alice"}); err != nil || conn.Connector != view.ID {
			t.Errorf("a token of another replica: %v", err)
		}
	})
}

// A replica that meets a connector only in a consent or a connection knows it before it speaks to the provider: what comes back
// from there can be kept, and what is ended here is ended there.
func TestTenantConnectorIsKnownByItsRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := tenants(t, 3)
		ctx := context.Background()
		view := made(t, h.Service, h.Caller())
		conn := h.ConnectTo(t, view.ID, "alice", "files.read")
		consent, _, err := h.Service.CreateConsent(ctx, h.Caller(), broker.ConsentRequest{Connector: view.ID, Subject: "bob"})
		if err != nil {
			t.Fatal(err)
		}
		knows := func(replica int) bool { _, ok := h.Registries[replica].Connector(view.ID); return ok }
		if knows(1) || knows(2) {
			t.Fatal("known before it was met")
		}
		if _, err := h.Replicas[1].ConsentStatus(ctx, h.Caller(), consent.ID); err != nil || !knows(1) {
			t.Errorf("not known behind its consent: %v", err)
		}
		if _, err := h.Replicas[2].Disconnect(ctx, h.Caller(), conn.ID); err != nil || !knows(2) {
			t.Errorf("not known behind its connection: %v", err)
		}
	})
}

// Replicas look every five seconds, change what changed alone, and go on with what they know while the store is down.
func TestTenantConnectorsAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := tenants(t, 2)
		var down atomic.Bool
		var reads atomic.Int64
		h.Store.Before = func(_ context.Context, operation string) error {
			if operation == "AllTenantConnectors" {
				if reads.Add(1); down.Load() {
					return errors.New("the store is down")
				}
			}
			return nil
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- h.Replicas[1].Run(ctx) }()
		synctest.Wait()
		view := made(t, h.Service, h.Caller())
		listed := func() int { return len(h.Replicas[1].ListConnectors(h.Caller())) }
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if listed() != 2 {
			t.Errorf("%d connectors after five seconds", listed())
		}
		down.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if listed() != 2 || reads.Load() < 10 {
			t.Errorf("%d connectors while the store is down, after %d looks", listed(), reads.Load())
		}
		down.Store(false)
		if _, err := h.Service.DeleteConnector(context.Background(), h.Caller(), view.ID, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if listed() != 1 {
			t.Errorf("%d connectors after the deletion", listed())
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Managing needs the right, and using needs it apart from that: neither follows from the other.
func TestWhoMayManageAndUseConnectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := tenants(t, 1)
		ctx := context.Background()
		view := made(t, h.Service, h.Caller())
		as := func(change func(*broker.Client)) broker.Caller {
			c := h.Caller()
			change(&c.Client)
			return c
		}
		plain := as(func(c *broker.Client) { c.ManageConnectors = false })
		_, err := h.Service.CreateConnector(ctx, plain, drive())
		code(t, err, broker.CodeAccessDenied)
		_, err = h.Service.OwnConnectors(ctx, plain)
		code(t, err, broker.CodeAccessDenied)
		_, err = h.Service.OwnConnector(ctx, plain, view.ID)
		code(t, err, broker.CodeAccessDenied)
		_, err = h.Service.UpdateConnector(ctx, plain, view.ID, broker.ConnectorChange{})
		code(t, err, broker.CodeAccessDenied)
		_, err = h.Service.DeleteConnector(ctx, plain, view.ID, true)
		code(t, err, broker.CodeAccessDenied)
		uses := func(c broker.Caller) bool {
			_, _, err := h.Service.CreateConsent(ctx, c, broker.ConsentRequest{Connector: view.ID, Subject: "bob"})
			if err != nil {
				code(t, err, broker.CodeAccessDenied)
			}
			return err == nil
		}
		for what, test := range map[string]struct {
			caller broker.Caller
			may    bool
		}{
			"no list":             {plain, true},
			"a list":              {as(func(c *broker.Client) { c.Connectors = []string{"files"} }), false},
			"a list, and own":     {as(func(c *broker.Client) { c.Connectors, c.OwnConnectors = []string{"files"}, true }), true},
			"a list with its id":  {as(func(c *broker.Client) { c.Connectors = []string{view.ID} }), true},
			"an empty list alone": {as(func(c *broker.Client) { c.Connectors = []string{} }), false},
		} {
			if got := uses(test.caller); got != test.may {
				t.Errorf("%s: %t, want %t", what, got, test.may)
			}
		}
		var refusals int
		for _, e := range h.Store.Entries(broker.EventConnectorCreated, broker.EventConnectorUpdated, broker.EventConnectorDeleted) {
			if e.Outcome == "access_denied" {
				refusals++
			}
		}
		if refusals != 3 {
			t.Errorf("%d refusals are on record, want 3", refusals)
		}
	})
}

// A new client secret is a new generation; the one before is kept for the overlap, and a repeated call changes nothing.
func TestClientSecretIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := tenants(t, 1)
		ctx := context.Background()
		view := made(t, h.Service, h.Caller())
		stored := func() broker.TenantConnector {
			c, err := h.Store.TenantConnector(ctx, "acme", view.ID)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		change := func(c broker.ConnectorChange) broker.ConnectorView {
			t.Helper()
			view, err := h.Service.UpdateConnector(ctx, h.Caller(), view.ID, c)
			if err != nil {
				t.Fatal(err)
			}
			return view
		}
		second := broker.ConnectorChange{ClientSecret: broker.NewSecret("canary-second")}
		got := change(second)
		if c := stored(); got.ClientGeneration != 2 || c.ClientSecret.Reveal() != "canary-second" || c.Previous.Reveal() != canarySecret || !got.PreviousUntil.Equal(time.Now().Add(broker.DefaultOverlap)) {
			t.Errorf("%+v", got)
		}
		time.Sleep(time.Hour)
		until := got.PreviousUntil
		if got = change(second); got.ClientGeneration != 2 || !got.PreviousUntil.Equal(until) || stored().Previous.Reveal() != canarySecret {
			t.Errorf("the same call again: %+v", got)
		}
		hour, none := time.Hour, time.Duration(0)
		if got = change(broker.ConnectorChange{Overlap: &hour}); got.ClientGeneration != 2 || !got.PreviousUntil.Equal(time.Now().Add(hour)) {
			t.Errorf("a shorter overlap: %+v", got)
		}
		time.Sleep(hour)
		if one, err := h.Service.OwnConnector(ctx, h.Caller(), view.ID); err != nil || !one.PreviousUntil.IsZero() {
			t.Errorf("after the overlap: %v, %v", one.PreviousUntil, err)
		}
		name := "New name"
		if got = change(broker.ConnectorChange{Name: &name}); got.Name != name || !stored().Previous.IsZero() {
			t.Error("an earlier secret whose time is over is still stored")
		}
		if got = change(broker.ConnectorChange{ClientSecret: broker.NewSecret("canary-third"), Overlap: &none}); got.ClientGeneration != 3 || !stored().Previous.IsZero() {
			t.Errorf("without an overlap: %+v", got)
		}
		_, err := h.Service.UpdateConnector(ctx, h.Caller(), view.ID, broker.ConnectorChange{Overlap: &hour})
		code(t, err, broker.CodeInvalidRequest)

		// Nothing that leaves has a secret: not the view, not the trail, not the log.
		text, _ := json.Marshal(got)
		var trail []string
		for _, e := range h.Store.Entries() {
			trail = append(trail, fmt.Sprintf("%+v", e))
		}
		for _, place := range []string{string(text), fmt.Sprintf("%+v", got), strings.Join(trail, "\n"), fmt.Sprintf("%+v", stored()), strings.Join(h.Log.Lines("canary"), "")} {
			if strings.Contains(place, "canary") {
				t.Errorf("a client secret shows: %s", place)
			}
		}
		if events := h.Store.Entries(broker.EventConnectorUpdated); len(events) != 5 || events[0].Reason != "changed: client_secret (generation 2)" || events[0].Connector != view.ID || events[0].Client != "chat" {
			t.Errorf("events %+v", events)
		}
	})
}

// While users are connected a connector stays, unless their connections are to end with it.
func TestDeleteConnector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := tenants(t, 2)
		ctx := context.Background()
		view := made(t, h.Service, h.Caller())
		h.ConnectTo(t, view.ID, "alice", "files.read")
		h.ConnectTo(t, view.ID, "bob", "files.read")
		other := h.Connect(t, "alice", "files.read")
		_, err := h.Replicas[1].DeleteConnector(ctx, h.Caller(), view.ID, false)
		code(t, err, broker.CodeConnectorInUse)
		if len(h.Provider.Revoked) != 0 {
			t.Error("a refused deletion revoked something")
		}
		erased, err := h.Replicas[1].DeleteConnector(ctx, h.Caller(), view.ID, true)
		if err != nil || erased.Connections != 2 || erased.RevokedUpstream[broker.RevokedDone] != 2 || len(h.Provider.Revoked) != 2 {
			t.Errorf("%+v, %v, %d revoked at the provider", erased, err, len(h.Provider.Revoked))
		}
		_, err = h.Replicas[1].IssueToken(ctx, h.Caller(), broker.TokenRequest{Connector: view.ID, Subject: "alice"})
		code(t, err, broker.CodeNotFound)
		_, err = h.Replicas[1].OwnConnector(ctx, h.Caller(), view.ID)
		code(t, err, broker.CodeNotFound)
		if conn, err := h.Service.GetConnection(ctx, h.Caller(), other.ID); err != nil || conn.Status != broker.ConnectionActive {
			t.Errorf("another connector's connection: %v, %v", conn.Status, err)
		}
	})
}

// Input that is wrong leaves nothing; a tenant has its limit, which is no other's.
func TestCreateConnectorRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, rival := tenants(t, 1)
		ctx := context.Background()
		for what, change := range map[string]func(*broker.NewConnector){
			"a wish with capitals":   func(n *broker.NewConnector) { n.Wish = "Drive" },
			"a wish with the mark":   func(n *broker.NewConnector) { n.Wish = "drive_a" },
			"a wish with braces":     func(n *broker.NewConnector) { n.Wish = "}{" },
			"a wish that is long":    func(n *broker.NewConnector) { n.Wish = strings.Repeat("a", 41) },
			"a provider that is not": func(n *broker.NewConnector) { n.Provider = "none" },
		} {
			n := drive()
			change(&n)
			if _, err := h.Service.CreateConnector(ctx, h.Caller(), n); broker.CodeOf(err) != broker.CodeInvalidRequest {
				t.Errorf("%s: %v", what, err)
			}
		}
		if own, err := h.Service.OwnConnectors(ctx, h.Caller()); err != nil || len(own) != 0 {
			t.Errorf("left %d, %v", len(own), err)
		}
		ids := map[string]bool{}
		for range broker.MaxTenantConnectors {
			ids[made(t, h.Service, h.Caller()).ID] = true
		}
		if len(ids) != broker.MaxTenantConnectors {
			t.Errorf("%d ids of %d connectors with one wish", len(ids), broker.MaxTenantConnectors)
		}
		_, err := h.Service.CreateConnector(ctx, h.Caller(), drive())
		code(t, err, broker.CodeInvalidRequest)
		made(t, h.Service, rival)
	})
}

// However many are asked for at once, a tenant gets no more than there may be.
func TestConnectorsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, caller := tenants(t, 1)
		defer drain(t, h)
		h.Store.Before = func(context.Context, string) error { time.Sleep(time.Millisecond); return nil }
		var made, refused atomic.Int32
		var group sync.WaitGroup
		for range broker.MaxTenantConnectors + 50 {
			group.Go(func() {
				_, err := h.Service.CreateConnector(t.Context(), caller, drive())
				switch {
				case err == nil:
					made.Add(1)
				case broker.CodeOf(err) == broker.CodeInvalidRequest:
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		group.Wait()
		if made.Load() != broker.MaxTenantConnectors || refused.Load() != 50 {
			t.Errorf("%d made, %d refused", made.Load(), refused.Load())
		}
	})
}
