package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// tokenLife is how long the tokens of a measurement live: none of them is refreshed while it runs.
const tokenLife = 30 * 24 * time.Hour

// openStore opens the house's vault as a replica would; close it by what it returns.
func openStore(h *house) (*vault.Store, func(), error) {
	keyset, err := h.keyset()
	if err != nil {
		return nil, nil, err
	}
	backend, err := redisstore.New(redisstore.Config{URL: h.redisURL, IOTimeout: 20 * time.Second, PoolSize: 16})
	if err != nil {
		return nil, nil, err
	}
	store, err := vault.New(vault.Config{
		Backend: backend, Keyset: keyset, RoundTrip: 20 * time.Second, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		_ = backend.Close()
		return nil, nil, err
	}
	return store, func() { store.Close(); _ = backend.Close() }, nil
}

// establish makes the connections of users 0 to n-1, each by a consent that is completed, as the broker would. It is right for
// some thousands.
func establish(ctx context.Context, store *vault.Store, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(32)
	now := time.Now().UTC().Truncate(time.Millisecond)
	for i := range n {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return establishOne(ctx, store, i, now)
		})
	}
	return group.Wait()
}

// recordID is a random id that names the shard of its user.
func recordID(store *vault.Store, tenant, subject string) string {
	raw := make([]byte, 18)
	_, _ = rand.Read(raw) // it never fails
	raw[0] = store.Shard(tenant, subject) ^ raw[17]
	return base64.RawURLEncoding.EncodeToString(raw)
}

func accountOf(i int) broker.Account {
	return broker.Account{ID: fmt.Sprintf("acc-%0*d", subjectWidth, i), Name: fmt.Sprintf("User %0*d", subjectWidth, i), Email: subject(i)}
}

func establishOne(ctx context.Context, store *vault.Store, i int, now time.Time) error {
	user := subject(i)
	conn := broker.Connection{
		ID: recordID(store, benchTenant, user), Tenant: benchTenant, Subject: user, Connector: benchConnector, Client: benchClient, Status: broker.ConnectionActive,
		Scopes: broker.NewScopeSet(benchScopes()...), Renewable: true, CreatedAt: now, LastRefreshed: now, Lifetime: tokenLife, Account: accountOf(i),
	}
	consent, err := store.CreateConsent(ctx, broker.Consent{
		ID: recordID(store, benchTenant, user), Tenant: benchTenant, Client: benchClient, Subject: user, Connector: benchConnector, Scopes: conn.Scopes, Binding: broker.BindingCode,
		Link: broker.NewSecret(rand.Text()), Status: broker.ConsentAwaitingCompletion, Deadline: now.Add(time.Minute), CreatedAt: now, State: rand.Text(),
	}, "", nil)
	if err != nil {
		return err
	}
	consent.Status, consent.Result = broker.ConsentCompleted, conn.ID
	_, err = store.CompleteConsent(ctx, consent, conn, broker.Grant{
		AccessToken: broker.NewSecret(accessToken(i)), RefreshToken: broker.NewSecret(refreshToken(i)),
		ObtainedAt: now, ExpiresAt: now.Add(tokenLife), Lifetime: tokenLife,
	}, []broker.Entry{{
		Type: broker.EventConsentCompleted, Time: now, Tenant: benchTenant, Client: benchClient, Subject: user, Connector: benchConnector,
		Connection: conn.ID, Outcome: "ok", RequestID: rand.Text(), Scopes: []broker.EventScope{{ID: rand.Text(), Scope: "files.read", Requested: true}},
	}})
	return err
}
