package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"tokenbroker/api"
	"tokenbroker/broker"
	"tokenbroker/providers"
	"tokenbroker/providers/assertion"
	"tokenbroker/providers/login"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
	"tokenbroker/web"
)

// appConfig is what differs between serve and dev.
type appConfig struct {
	Config *Config
	Keyset *vault.Keyset
	// KeysetFile is watched, and read again when it changes; "": the keyset has no file.
	KeysetFile string
	// Doors are open already where the keyset had to be waited for; nil: run opens them.
	Doors *doors
	// Ephemeral: the Redis is part of this process and ends with it, so whether it keeps things is no question.
	Ephemeral bool
	Telemetry *telemetry
	Log       *slog.Logger
}

// app is the whole broker, joined.
type app struct {
	cfg        appConfig
	backend    *redisstore.Store
	store      *vault.Store
	registry   *providers.Registry
	logins     *login.Clients
	assertions *assertion.Verifier
	operators  *login.Operators // nil: operators have no OpenID Provider
	service    *broker.Service
	ready      *readiness
	full       atomic.Bool  // checkMemory
	probed     atomic.Int64 // when checkSpool last wrote, in ms
	waiting    error        // why redis could not be asked at the start; nil: it was
	stopSpool  func()
	stopSeals  func()
	sinks      *auditSinks
	stopSinks  func()
	stopTrail  func()

	keysetFile keysetFile
	outage     *outage
	handler    http.Handler // what listens on the main address

	id     string     // names this process among the replicas, anew with every start
	report lastReport // of ready
	forms  *formGate
	pages  *web.Web
}

// newApp joins the parts, in the order in which they need one another. It sends nothing, except to ask Redis whether it
// keeps what it is given and lets the broker work: one that does not is refused, one that does not answer is waited for.
func newApp(ctx context.Context, cfg appConfig) (*app, error) {
	a := &app{cfg: cfg}
	a.keysetFile.loaded, a.keysetFile.wanted = cfg.Config.KeysSum, make(chan struct{}, 1)
	if err := a.join(ctx); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *app) join(ctx context.Context) (err error) {
	// What is said here is said in a few lines where it is about one outage of Redis.
	a.outage = newOutage(time.Now)
	a.cfg.Log = slog.New(outageHandler{a.cfg.Log.Handler(), a.outage})
	cfg, c := a.cfg, a.cfg.Config
	if a.backend, err = redisstore.New(c.redisStore()); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if err := a.refuseRedis(ctx); err != nil {
		return err
	}
	counted, err := newStoreCounter()
	if err != nil {
		return err
	}
	signing, err := c.Audit.signing()
	if err != nil {
		return err
	}
	if a.sinks, err = c.Audit.open(); err != nil {
		return err
	}
	a.forms = newFormGate(c.StoredForm, cfg.Ephemeral, func(ctx context.Context) ([]broker.Replica, time.Time, error) { return a.store.AllReplicas(ctx) }, time.Now)
	if a.store, err = vault.New(vault.Config{
		Compact: a.forms.open,
		Confirm: c.RedisOpts.WaitReplicas > 0 || c.RedisOpts.WaitDisk, Count: counted,
		Backend: a.backend, Keyset: cfg.Keyset, ReloadKeyset: a.reloadKeyset, SpoolDir: c.SpoolDir, Orphan: a.revokeOrphan,
		Retention: c.Retention, Signing: signing, Sinks: a.sinks.of(c.Audit.Sinks),
		Now: time.Now, Random: rand.Reader, Log: cfg.Log,
	}); err != nil {
		return err
	}
	if a.stopSpool, err = watchSpool(a.store, time.Now); err != nil {
		return err
	}
	if a.stopSeals, err = watchSeals(a.store); err != nil {
		return err
	}
	if a.stopSinks, err = watchSinks(a.store, a.sinks.gate, time.Now); err != nil {
		return err
	}
	if a.stopTrail, err = watchTrail(a.store, time.Now); err != nil {
		return err
	}
	if a.registry, err = providers.New(providers.Config{
		Custom: c.Providers, Connectors: c.Connectors, OutboundPorts: c.OutboundPorts, AllPorts: cfg.Ephemeral, Now: time.Now, Log: cfg.Log,
	}); err != nil {
		return err
	}
	owner, err := newOwner()
	if err != nil {
		return err
	}
	a.id = owner
	clients := map[string]broker.Client{}
	var logins []login.ClientConfig
	var keys []api.ClientKey
	var proofs []assertion.ClientConfig
	var tenants []string
	var everyClient []broker.Client
	themes := map[string]web.Theme{}
	for _, client := range c.Clients {
		clients[client.Client.ID], themes[client.Client.ID] = client.Client, client.Theme
		everyClient = append(everyClient, client.Client)
		keys = append(keys, api.ClientKey{Client: client.Client, KeySHA256: client.KeySHA256, Otherwise: client.proven()})
		if client.Assertions != nil {
			proofs = append(proofs, *client.Assertions)
		}
		if client.Login != nil {
			logins = append(logins, *client.Login)
		}
		if !slices.Contains(tenants, client.Client.Tenant) {
			tenants = append(tenants, client.Client.Tenant)
		}
	}
	if a.logins, err = login.New(login.Config{Clients: logins, Now: time.Now}); err != nil {
		return err
	}
	if a.assertions, err = assertion.New(assertion.Config{Clients: proofs, Issuer: c.PublicURL, TokenEndpoint: c.PublicURL + "/oauth2/token", Now: time.Now}); err != nil {
		return err
	}
	operators, err := a.operatorLogin()
	if err != nil {
		return err
	}
	connections, guesses := a.sinks.gate.guard(a.store, a.store)
	if a.service, err = broker.New(broker.Config{
		Connections: connections,
		Index:       a.store,
		Search:      a.store, Verifier: a.store, Retention: a.store,
		Refreshes:   a.store,
		Schedule:    a.store,
		Shared:      a.store,
		Revocations: a.store,
		Consents:    a.store,
		Portals:     a.store,
		Audit:       a.store,
		Placement:   a.store,
		Cursors:     a.store,
		Jobs:        a.store,
		Counters:    a.store,
		Limits:      c.Limits, SharedRates: a.store, Places: a.store,
		Replicas:    a.store,
		StoreHealth: storeHealth{a.backend, c.Volatile || cfg.Ephemeral},
		Backlogs:    a.store,
		Switches:    a.store,
		Guesses:     guesses,
		Upstream:    a.registry, Connectors: a.registry, TenantConnectors: a.store, Registry: a.registry, Logins: a.logins,
		Assertions: a.assertions, UsedAssertions: a.store,
		Client:         func(id string) (broker.Client, bool) { client, ok := clients[id]; return client, ok },
		Tenant:         func(tenant string) bool { return slices.Contains(tenants, tenant) },
		OperatorLogins: operators, OperatorSignIns: a.store, OperatorEpochs: a.store, OperatorSessions: a.store, OperatorRoles: c.Dashboard.Roles,
		EarlyRefreshes: earlyRefreshes(c.EarlyRefreshes), RefreshesAtOnce: c.RefreshesAtOnce, StoreFull: a.full.Load, PublicURL: c.PublicURL, Owner: owner, Now: time.Now, Random: rand.Reader, Log: cfg.Log,
	}); err != nil {
		return err
	}

	address := clientIP(c.Proxies)
	rest, err := api.New(api.Config{Service: a.service, Clients: keys, Erased: cfg.Keyset.Erased, PublicURL: c.PublicURL, TokenSeed: cfg.Keyset.TokenSeed, Now: time.Now, Random: rand.Reader, Log: cfg.Log, ClientIP: address})
	if err != nil {
		return err
	}
	pages, err := web.New(web.Config{
		Service: a.service, Sessions: a.store, PublicURL: c.PublicURL, DashboardTokenSHA256: c.Dashboard.TokenSHA256, Tenants: tenants, Clients: everyClient, Themes: themes,
		OperatorLogin: c.Dashboard.loginName(), SessionIdle: c.Dashboard.Idle, SessionLife: c.Dashboard.Absolute, OperatorRecheck: c.Dashboard.Recheck,
		ClientIP: address, RequestID: requestID, Now: time.Now, Random: rand.Reader, Log: cfg.Log,
	})
	if err != nil {
		return err
	}
	a.pages = pages
	router := newRouter(cfg.Log, address)
	rest.Register(router)
	pages.Register(router)
	(&api.Notices{Service: a.service, PublicURL: c.PublicURL, Now: time.Now, Log: cfg.Log}).Register(router)
	router.RouteNotFound("/*", pages.NotFound)
	a.handler = cfg.Telemetry.instrument(router)
	a.ready = &readiness{checks: []readyCheck{
		{name: "redis", run: a.checkRedis}, {name: "permissions", run: a.checkPermissions}, {name: "durability", run: a.checkDurability}, {name: "memory", run: a.checkMemory}, {name: "spool", run: a.checkSpool}, {name: "audit", run: a.checkAudit},
		{name: "keyset", run: a.checkKeyset},
	}}
	return nil
}

// earlyRefreshes is the setting as the broker has it, where 0 stands for the default.
func earlyRefreshes(configured int) int {
	if configured == 0 {
		return -1
	}
	return configured
}

// newOwner names this process in leases.
func newOwner() (string, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

// startCheckTimeout bounds the question to Redis at start.
const startCheckTimeout = 3 * time.Second

// refuseRedis is an error where Redis answers, and would lose grants or refuses this process for a reason that waiting does
// not end. Where it does not answer, /readyz goes on asking.
func (a *app) refuseRedis(ctx context.Context) error {
	if a.cfg.Ephemeral {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startCheckTimeout)
	defer cancel()
	problems, err := a.backend.CheckDurability(ctx)
	lost, versionErr := a.backend.CheckVersion(ctx)
	if len(lost) > 0 {
		a.cfg.Log.WarnContext(ctx, "this redis is old; the broker works with it, but for this", "lost", lost)
	}
	denied, deniedErr := a.backend.Permissions(ctx)
	switch {
	case errors.Is(versionErr, redisstore.ErrRefused):
		return fmt.Errorf("redis is too old: %w", versionErr)
	case errors.Is(err, redisstore.ErrRefused):
		return fmt.Errorf("redis refuses this process: %w", err)
	case errors.Is(deniedErr, redisstore.ErrRefused):
		return fmt.Errorf("redis refuses this process: %w", deniedErr)
	case len(denied.Needed) > 0:
		return errors.New(denied.String())
	case err != nil:
		a.waiting = err
	case len(problems) > 0 && a.cfg.Config.Volatile:
		a.cfg.Log.WarnContext(ctx, "this redis may lose what it was given, and allow_volatile_redis accepts that", "problems", problems)
	case len(problems) > 0:
		return errors.New(volatileText(problems))
	}
	return nil
}

func volatileText(problems []string) string {
	return "this redis may lose users' grants: " + strings.Join(problems, "; ") + "; mend it, or accept the loss with allow_volatile_redis: true"
}

func (a *app) checkRedis(ctx context.Context) trouble {
	err := a.backend.Health(ctx)
	if err == nil {
		return trouble{}
	}
	// Of a cluster some masters may work: whoever takes this process out of service for the others' sake stops everybody.
	var partial *redisstore.PartialError
	return trouble{text: err.Error(), serves: errors.As(err, &partial)}
}

// checkPermissions tells what the user of Redis may not do. Without what only some things need the process serves.
func (a *app) checkPermissions(ctx context.Context) trouble {
	denied, err := a.backend.Permissions(ctx)
	switch {
	case errors.Is(err, redisstore.ErrRefused):
		return trouble{text: err.Error()}
	case err != nil:
		return trouble{text: unknownText, serves: true} // the check of redis decides
	}
	return trouble{text: denied.String(), serves: len(denied.Needed) == 0}
}

// unknownText is what a check says whose question redis did not answer.
const unknownText = "unknown while redis does not answer"

func (a *app) checkDurability(ctx context.Context) trouble {
	if a.cfg.Config.Volatile || a.cfg.Ephemeral {
		return trouble{}
	}
	problems, err := a.backend.CheckDurability(ctx)
	switch {
	case err != nil:
		return trouble{text: unknownText, serves: true} // the check of redis decides
	case len(problems) > 0:
		return trouble{text: volatileText(problems)}
	}
	return trouble{}
}

// memoryLimit is the part of the store's memory from which on no consent begins: what is left is for refreshes, and for the
// events of tokens. At the limit itself a Redis refuses every write that needs memory.
const memoryLimit = 0.9

// checkMemory also keeps what it finds, for those who begin consents.
func (a *app) checkMemory(ctx context.Context) trouble {
	used, err := a.backend.Fullness(ctx)
	if err != nil {
		return trouble{text: unknownText, serves: true}
	}
	a.full.Store(used >= memoryLimit)
	switch {
	case used < memoryLimit:
		return trouble{}
	case used >= 1:
		return trouble{serves: true, text: "redis uses all of its maxmemory and refuses every write that needs more: no token is handed out, as its event can't be written, and no consent begins; give it more memory (CONFIG SET maxmemory), or delete what is not the broker's"} // the check of redis decides
	}
	return trouble{serves: true, text: "redis uses 90 % of its maxmemory or more: no new consent begins; give it more memory, or delete what is not the broker's"}
}

const (
	// spoolPatience is how long a token may wait in the spool before /readyz tells of it: longer than a failover takes.
	spoolPatience = 30 * time.Second
	// spoolProbeEvery is how often checkSpool writes.
	spoolProbeEvery = 10 * time.Second
)

// checkSpool tells what is wrong with the spool. The process serves all the same: what is at risk is a grant whose refresh
// token rotates just while Redis is away too, and whose process then ends. Refusing every request would be worse, and a disk
// that is full is so on all replicas as a rule.
func (a *app) checkSpool(ctx context.Context) trouble {
	now := time.Now()
	last := a.probed.Load()
	probe := now.UnixMilli()-last >= spoolProbeEvery.Milliseconds() && a.probed.CompareAndSwap(last, now.UnixMilli())
	state, err := a.store.Spool(ctx, probe)
	var wrong []string
	switch {
	case err != nil:
		wrong = append(wrong, "spool_dir can't be read: "+withoutPath(err))
	case state.Failure != nil:
		wrong = append(wrong, "spool_dir can't be written to ("+withoutPath(state.Failure)+"): make room, or mend its rights; until then a refreshed token is lost if redis is away and this process ends")
	}
	if n := len(state.Unreadable); n > 0 {
		wrong = append(wrong, fmt.Sprintf("%s in spool_dir can't be read, %s the first: damaged, or sealed with a key that the keyset lacks; keep it until you know", count(n, "file"), state.Unreadable[0]))
	}
	if age := now.Sub(state.Oldest); state.Waiting > 0 && !state.Oldest.IsZero() && age > spoolPatience {
		wrong = append(wrong, fmt.Sprintf("redis does not have %s yet, the oldest since %s: keep spool_dir, and this process on it", count(state.Waiting, "refreshed token"), state.Oldest.UTC().Format(time.RFC3339)))
	}
	return trouble{text: strings.Join(wrong, "; "), serves: true}
}

// revokeOrphan ends, at the provider, a grant that the spool held for a connection which was revoked meanwhile or became
// another account's. An error means that it is worth another try.
func (a *app) revokeOrphan(ctx context.Context, conn broker.Connection, grant broker.Grant) error {
	if a.service.HeldByOthers(ctx, conn) {
		return nil
	}
	err := a.registry.Revoke(ctx, conn.Connector, broker.RevokeRequest{RefreshToken: grant.RefreshToken, AccessToken: grant.AccessToken, Vars: conn.Vars})
	switch {
	case err == nil, errors.Is(err, broker.ErrRevokeUnsupported):
		return nil
	case broker.ClassOf(err) == broker.ClassRefused, broker.ClassOf(err) == broker.ClassGrantDead:
		// The provider has understood and will not: asking again would change nothing.
		a.cfg.Log.WarnContext(ctx, "a provider refused to revoke a grant that nobody needs", "connection", conn.ID, "connector", conn.Connector, "error", err)
		return nil
	}
	return fmt.Errorf("revoke at the provider: %w", err)
}

// close releases what newApp made, the users of a thing before the thing.
func (a *app) close() {
	for _, stop := range []func(){a.stopSpool, a.stopSeals, a.stopSinks, a.stopTrail} {
		if stop != nil {
			stop()
		}
	}
	if a.store != nil {
		a.store.Close()
	}
	if a.sinks != nil {
		a.sinks.close()
	}
	if a.registry != nil {
		a.registry.Close()
	}
	if a.logins != nil {
		a.logins.Close()
	}
	if a.assertions != nil {
		a.assertions.Close()
	}
	if a.operators != nil {
		a.operators.Close()
	}
	if a.backend != nil {
		_ = a.backend.Close()
	}
}
