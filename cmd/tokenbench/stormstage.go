package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"crypto/rand"

	"golang.org/x/sync/errgroup"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// refreshStage is what scenarios of refreshes run on: two providers, of which one may have a storm, and replicas.
type refreshStage struct {
	redis    *redisServer
	house    *house
	calm     *stormProvider // of connector files
	stormy   *stormProvider // of connector storm
	replicas []*brokerServer
	client   *http.Client
}

const stormConnector = "storm"

// newRefreshStage starts everything. Users 0 to n-1 have a connection at storm, whose tokens have ended, users 0 to beside-1 also one
// at the calm provider.
func (b *bench) newRefreshStage(ctx context.Context, replicas, n, beside, limit int) (*refreshStage, error) {
	s := &refreshStage{client: &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 2000}}}
	var err error
	if s.redis, err = b.startRedis(ctx, everySecond); err != nil {
		return nil, err
	}
	if s.calm, err = startStormProvider(ctx, 20*time.Millisecond, 0); err != nil {
		return nil, err
	}
	if s.stormy, err = startStormProvider(ctx, 200*time.Millisecond, limit); err != nil {
		return nil, err
	}
	house, err := b.newHouse(s.redis.url, s.calm.asServer(), "")
	if err != nil {
		return nil, err
	}
	s.house = house
	if err := addStorm(filepath.Join(house.dir, "config.yaml"), s); err != nil {
		return nil, err
	}
	store, closeStore, err := openStore(house)
	if err != nil {
		return nil, err
	}
	err = establishEnded(ctx, store, stormConnector, n)
	if err == nil {
		err = establishEnded(ctx, store, benchConnector, beside)
	}
	closeStore()
	if err != nil {
		return nil, fmt.Errorf("establish connections: %w", err)
	}
	for range replicas {
		r, err := b.startBroker(ctx, house)
		if err != nil {
			return nil, err
		}
		s.replicas = append(s.replicas, r)
	}
	return s, nil
}

func (s *refreshStage) end() {
	s.client.CloseIdleConnections()
	for _, r := range s.replicas {
		r.stop()
	}
	s.calm.close()
	s.stormy.close()
	s.redis.empty()
}

// addStorm adds the second provider to a configuration.
func addStorm(path string, s *refreshStage) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(content)
	for _, change := range [][2]string{
		{"connectors: [" + benchConnector + ", other]", "connectors: [" + benchConnector + ", other, " + stormConnector + "]"},
		{"\nproviders:\n", fmt.Sprintf("\n  - {id: %s, provider: storm, client_id: %s, client_secret: %q, scopes: [%s]}\nproviders:\n", stormConnector, providerClient, s.stormy.secret, strings.Join(benchScopes(), ", "))},
	} {
		if strings.Count(text, change[0]) != 1 {
			return fmt.Errorf("the configuration has no %q", change[0])
		}
		text = strings.Replace(text, change[0], change[1], 1)
	}
	text += fmt.Sprintf(`  - id: storm
    name: Storm Files
    authorization_endpoint: http://%[1]s/authorize
    token_endpoint: http://%[1]s/token
    token_endpoint_auth_method: client_secret_basic
    pkce: S256
    scope_separator: " "
    rotation: strict
`, s.stormy.address)
	return os.WriteFile(path, []byte(text), 0o600)
}

// establishEnded makes connections whose access tokens have ended.
func establishEnded(ctx context.Context, store *vault.Store, connector string, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(32)
	now := time.Now().UTC().Truncate(time.Millisecond)
	for i := range n {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			user := subject(i)
			conn := broker.Connection{
				ID: recordID(store, benchTenant, user), Tenant: benchTenant, Subject: user, Connector: connector, Client: benchClient, Status: broker.ConnectionActive,
				Scopes: broker.NewScopeSet(benchScopes()...), Renewable: true, CreatedAt: now.Add(-2 * time.Hour), LastRefreshed: now.Add(-2 * time.Hour), Lifetime: time.Hour, Account: accountOf(i),
			}
			consent, err := store.CreateConsent(ctx, broker.Consent{
				ID: recordID(store, benchTenant, user), Tenant: benchTenant, Client: benchClient, Subject: user, Connector: connector, Scopes: conn.Scopes, Binding: broker.BindingCode,
				Link: broker.NewSecret(rand.Text()), Status: broker.ConsentAwaitingCompletion, Deadline: now.Add(time.Hour), CreatedAt: now, State: rand.Text(),
			}, "", nil)
			if err != nil {
				return err
			}
			consent.Status, consent.Result = broker.ConsentCompleted, conn.ID
			_, err = store.CompleteConsent(ctx, consent, conn, broker.Grant{
				AccessToken: broker.NewSecret(accessToken(i)), RefreshToken: broker.NewSecret(firstToken(connector + "-" + strconv.Itoa(i))),
				ObtainedAt: now.Add(-2 * time.Hour), ExpiresAt: now.Add(-time.Hour), Lifetime: time.Hour,
			}, nil)
			return err
		})
	}
	return group.Wait()
}

// tokenAnswer is what a caller was told.
type tokenAnswer struct {
	status int
	token  string
	again  time.Duration // Retry-After
	took   time.Duration
}

// ask asks for a token at a replica.
func (s *refreshStage) ask(ctx context.Context, replica int, connector string, user, minTTL int) (tokenAnswer, error) {
	body, err := json.Marshal(map[string]any{"connector": connector, "subject": subject(user), "min_ttl": minTTL})
	if err != nil {
		return tokenAnswer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.replicas[replica].address+"/v1/tokens", bytes.NewReader(body))
	if err != nil {
		return tokenAnswer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+benchKey)
	req.Header.Set("Content-Type", "application/json")
	began := time.Now()
	resp, err := s.client.Do(req)
	if err != nil {
		return tokenAnswer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return tokenAnswer{}, err
	}
	a := tokenAnswer{status: resp.StatusCode, took: time.Since(began)}
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	a.again = time.Duration(seconds) * time.Second
	var fields struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(text, &fields); err != nil {
		return a, fmt.Errorf("status %d, which is no JSON: %w", a.status, err)
	}
	a.token = fields.AccessToken
	return a, nil
}

// percentile of times, which it sorts.
func percentile(times []time.Duration, part float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[int(part*float64(len(times)-1))]
}

func inMillis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
