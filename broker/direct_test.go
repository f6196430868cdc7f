package broker_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// robot is a connector of the tenant's own.
func robot() broker.Connector {
	c := brokertest.Files()
	c.ID, c.Grant, c.Exclusive, c.Implied, c.Tenants = "robot", broker.GrantClientCredentials, false, broker.ScopeSet{}, []string{"acme"}
	return c
}

// agent is a connector that acts for subjects.
func agent() broker.Connector {
	c := robot()
	c.ID, c.Grant, c.Impersonate = "agent", broker.GrantJWTBearer, []string{"*@acme.example", "root"}
	return c
}

func ask(h *brokertest.Harness, replica int, connector, subject, scopes string) (broker.Token, error) {
	return h.Replicas[replica].IssueToken(context.Background(), h.Caller(), broker.TokenRequest{Connector: connector, Subject: subject, Scopes: broker.ParseScopes(scopes)})
}

func mustAsk(t *testing.T, h *brokertest.Harness, connector, subject, scopes string) broker.Token {
	t.Helper()
	token, err := ask(h, 0, connector, subject, scopes)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func wantCode(t *testing.T, err error, code broker.Code) *broker.Error {
	t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got %v, want %s", err, code)
	}
	return e
}

func TestClientCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		h.Conns = append(h.Conns, robot())
		first := mustAsk(t, h, "robot", "", "")
		if again := mustAsk(t, h, "robot", "", ""); again.AccessToken.Reveal() != first.AccessToken.Reveal() || again.Connection != first.Connection {
			t.Error("a token that still lives was not given again")
		}
		if got := first.Scopes.String(); got != "files.read" {
			t.Errorf("scope is %q", got)
		}
		wide := mustAsk(t, h, "robot", "", "files.read files.write")
		if wide.AccessToken.Reveal() == first.AccessToken.Reveal() || wide.Connection != first.Connection || wide.Scopes.String() != "files.read files.write" {
			t.Errorf("for other scopes there is one other token of the same connection: %v", wide.Scopes)
		}
		if narrow := mustAsk(t, h, "robot", "", "files.read"); narrow.AccessToken.Reveal() != first.AccessToken.Reveal() {
			t.Error("the narrower token was lost to the wider one")
		}
		if n := len(h.Provider.Obtains()); n != 2 {
			t.Errorf("%d tokens were asked for, want one for each set of scopes", n)
		}

		// One event for each scope, about nobody.
		issued := h.Store.Entries(broker.EventTokenIssued)
		if last := issued[2]; last.Subject != "" || len(last.Scopes) != 2 || last.Tenant != "acme" || last.Connection != wide.Connection {
			t.Errorf("entry %+v", last)
		}
		if got := h.Store.Entries(broker.EventTokenRefreshed); len(got) != 2 || len(got[0].Scopes) != 1 || len(got[1].Scopes) != 2 {
			t.Errorf("what was obtained is not on record: %+v", got)
		}

		// What an operator sees: a connection of the tenant's own; a user's settings have nothing of it.
		list, _, err := h.Service.ListConnections(context.Background(), h.Caller(), broker.ConnectionQuery{Limit: 10})
		if err != nil || len(list) != 1 || list[0].Subject != "" || list[0].Status != broker.ConnectionActive || list[0].Error != "" {
			t.Fatalf("%+v, %v", list, err)
		}
		rows, err := h.Service.SubjectConnectors(context.Background(), h.Caller(), "u-1")
		if err != nil || len(rows) != 1 || rows[0].Connector.ID != "files" {
			t.Errorf("a user's connectors are %+v, %v", rows, err)
		}

		// Disconnecting drops what is stored; the credentials are the operator's, so the next request obtains anew.
		if _, err := h.Service.Disconnect(context.Background(), h.Caller(), first.Connection); err != nil {
			t.Fatal(err)
		}
		fresh := mustAsk(t, h, "robot", "", "")
		if fresh.Connection == first.Connection || fresh.AccessToken.Reveal() == first.AccessToken.Reveal() {
			t.Error("a disconnected connection's token came back")
		}
	})
}

func TestDirectSubject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		h.Conns = append(h.Conns, robot(), agent())
		_, err := ask(h, 0, "robot", "u-1", "")
		wantCode(t, err, broker.CodeInvalidRequest)
		_, err = ask(h, 0, "files", "", "")
		wantCode(t, err, broker.CodeInvalidRequest)
		_, err = ask(h, 0, "agent", "", "")
		wantCode(t, err, broker.CodeInvalidRequest)
		// Threat 40: whoever asks must not choose whom it acts for, but among those whom the operator listed.
		for _, subject := range []string{"eve@evil.example", "eve@evil.example@acme.example", "@acme.example", "bob@sub.acme.example", "bob@ACME.example", "Root"} {
			_, err := ask(h, 0, "agent", subject, "")
			wantCode(t, err, broker.CodeAccessDenied)
		}
		if n := len(h.Provider.Obtains()); n != 0 {
			t.Fatalf("%d tokens were asked for", n)
		}
		bob, ann := mustAsk(t, h, "agent", "bob@acme.example", ""), mustAsk(t, h, "agent", "ann@acme.example", "")
		mustAsk(t, h, "agent", "root", "")
		if got := h.Provider.Obtains(); len(got) != 3 || got[0].Subject != "bob@acme.example" || got[1].Subject != "ann@acme.example" || bob.Connection == ann.Connection {
			t.Errorf("obtained %+v", got)
		}
		// Threat 7: another tenant does not see that there is such a connector.
		h.Client.Tenant = "rival"
		_, err = ask(h, 0, "robot", "", "")
		wantCode(t, err, broker.CodeNotFound)
		if list := h.Service.ListConnectors(h.Caller()); len(list) != 1 {
			t.Errorf("another tenant is shown %d connectors", len(list))
		}
	})
}

func TestDirectNeedsNoConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		h.Conns = append(h.Conns, agent())
		_, _, err := h.Service.CreateConsent(context.Background(), h.Caller(), broker.ConsentRequest{Connector: "agent", Subject: "bob@acme.example"})
		wantCode(t, err, broker.CodeInvalidRequest)
	})
}

// A ceiling and what the provider really gave count as for everybody's tokens (threat 41).
func TestDirectCeiling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		h.Conns = append(h.Conns, robot())
		ceiling := broker.ParseScopes("files.read")
		h.Client.Scopes = &ceiling
		_, err := ask(h, 0, "robot", "", "files.read files.write")
		wantCode(t, err, broker.CodeAccessDenied)
		mustAsk(t, h, "robot", "", "files.read")
		// A provider that gives more than was asked for.
		wide := broker.ParseScopes("files.read files.write")
		h.Provider.Report = &wide
		h.Store.Trail = nil
		time.Sleep(2 * time.Hour)
		_, err = ask(h, 0, "robot", "", "files.read")
		wantCode(t, err, broker.CodeAccessDenied)
		if got := h.Store.Entries(broker.EventTokenIssued); len(got) != 0 {
			t.Errorf("a token left: %+v", got)
		}
		// And one that gives less: no second request for what was refused a moment ago.
		h.Client.Scopes = nil
		less := broker.ParseScopes("files.read")
		h.Provider.Report = &less
		before := len(h.Provider.Obtains())
		for range 3 {
			_, err = ask(h, 0, "robot", "", "files.read files.write")
			wantCode(t, err, broker.CodeAccessDenied)
		}
		if n := len(h.Provider.Obtains()) - before; n != 1 {
			t.Errorf("%d requests went out, want one", n)
		}
	})
}

// Many requests on several replicas, also the very first ones, are one request to the provider and one connection.
func TestDirectSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 3)
		h.Conns = append(h.Conns, robot())
		h.Provider.Before = func(context.Context, string) error { time.Sleep(time.Second); return nil }
		h.Store.Before = func(context.Context, string) error { time.Sleep(10 * time.Millisecond); return nil } // so that all find nothing at first
		together := func() {
			var wait sync.WaitGroup
			tokens := make([]string, 60)
			for i := range tokens {
				wait.Go(func() {
					token, err := ask(h, i%3, "robot", "", "")
					if err != nil {
						t.Error(err)
					}
					tokens[i] = token.AccessToken.Reveal() + token.Connection
				})
			}
			wait.Wait()
			for _, token := range tokens {
				if token != tokens[0] {
					t.Error("not all got the same")
				}
			}
		}
		together()
		time.Sleep(h.Provider.Lifetime)
		together()
		if got := h.Provider.Obtains(); len(got) != 2 {
			t.Errorf("%d requests to the provider, want 2", len(got))
		}
		list, _, err := h.Service.ListConnections(context.Background(), h.Caller(), broker.ConnectionQuery{Limit: 10})
		if err != nil || len(list) != 1 {
			t.Errorf("%d connections, %v", len(list), err)
		}
	})
}

// Somebody who uses it steadily never waits: its token is obtained ahead of its end.
func TestDirectAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		h.Conns = append(h.Conns, robot())
		all := "files.read files.write"
		first := mustAsk(t, h, "robot", "", all)
		time.Sleep(h.Provider.Lifetime - time.Minute)
		h.Service.Sweep(context.Background())
		synctest.Wait()
		if n := len(h.Provider.Obtains()); n != 2 {
			t.Fatalf("%d requests to the provider, want a second one ahead of need", n)
		}
		h.Provider.Before = func(context.Context, string) error { t.Error("somebody had to wait"); return nil }
		if token := mustAsk(t, h, "robot", "", all); token.AccessToken.Reveal() == first.AccessToken.Reveal() {
			t.Error("the token of before was given")
		}
		// Taken from the configuration, it is left alone.
		h.Provider.Before = nil
		h.Conns[1].Tenants = []string{"somebody-else"}
		time.Sleep(h.Provider.Lifetime - time.Minute)
		h.Service.Sweep(context.Background())
		synctest.Wait()
		if n := len(h.Provider.Obtains()); n != 2 {
			t.Errorf("a token was obtained for a tenant that may not have it any more")
		}
	})
}

func TestDirectFailures(t *testing.T) {
	for _, c := range []struct {
		class broker.Class
		code  broker.Code
		after broker.Code // when asked again at once
	}{
		{broker.ClassGrantDead, broker.CodeProviderMisconfigured, broker.CodeProviderMisconfigured}, // an assertion that is refused
		{broker.ClassRefused, broker.CodeProviderMisconfigured, broker.CodeProviderMisconfigured},
		{broker.ClassClientRefused, broker.CodeProviderMisconfigured, broker.CodeProviderMisconfigured},
		{broker.ClassInDoubt, broker.CodeProviderUnavailable, broker.CodeProviderUnavailable},
		{broker.ClassThrottled, broker.CodeProviderUnavailable, broker.CodeProviderUnavailable},
	} {
		t.Run(string(c.class), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 1)
				h.Conns = append(h.Conns, robot())
				h.Provider.Before = func(context.Context, string) error { return &broker.UpstreamError{Class: c.class, What: "test"} }
				_, err := ask(h, 0, "robot", "", "")
				wantCode(t, err, c.code)
				_, err = ask(h, 0, "robot", "", "")
				wantCode(t, err, c.after)
				if got := h.Store.Entries(broker.EventConnectionNeedsConsent); len(got) != 0 {
					t.Error("somebody should consent, whom there is not")
				}
				if got := h.Store.Entries(broker.EventTokenRefreshFailed); len(got) == 0 {
					t.Error("the failure is not on record")
				}
				h.Provider.Before = nil
				time.Sleep(time.Minute)
				mustAsk(t, h, "robot", "", "")
			})
		})
	}
}

// A grant that the operator changes: what a consent made does not serve a direct grant, nor the other way round.
func TestDirectAndConsentedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		subject := "bob@acme.example"
		consented := h.Connect(t, subject, "files.read")
		as := agent()
		as.ID = "files"
		h.Conns = brokertest.Connectors{as}
		token, err := h.Token(subject)
		if err != nil || token.Connection == consented.ID {
			t.Fatalf("%v, %v", token.Connection, err)
		}
		h.Conns = brokertest.Connectors{brokertest.Files()}
		if back, err := h.Token(subject); err != nil || back.Connection != consented.ID {
			t.Errorf("%v, %v", back.Connection, err)
		}
	})
}
