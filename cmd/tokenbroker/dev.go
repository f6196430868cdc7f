package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"

	"tokenbroker/broker"
	"tokenbroker/cmd/tokenbroker/demo"
	"tokenbroker/providers"
	"tokenbroker/providers/sandbox"
	"tokenbroker/vault"
)

// devCommand runs everything in one process. It has no configuration file: what it needs it makes up and throws away.
type devCommand struct {
	Listen        string        `default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Address of the broker; loopback only."`
	OpsListen     string        `default:"127.0.0.1:9090" placeholder:"HOST:PORT" help:"Address of health and metrics; loopback only."`
	ChatListen    string        `default:"127.0.0.1:3000" placeholder:"HOST:PORT" help:"Address of the demo chat; loopback only."`
	SandboxListen string        `default:"127.0.0.1:4000" placeholder:"HOST:PORT" help:"Address of the sandbox provider; loopback only."`
	TokenLifetime time.Duration `default:"90s" help:"How long the sandbox's access tokens live."`
	Page          []string      `placeholder:"ORIGIN" help:"Origin of a page of yours, such as http://127.0.0.1:3001: it may open consents, and they may return to its /done and /portal. May be given more than once."`
	Verbose       bool          `help:"Log everything, not only what is wrong."`
}

// Run refuses to be reached from elsewhere: its provider signs anybody in (threats.md, 74).
func (c *devCommand) Run(ctx context.Context, con *console) error {
	for _, a := range []struct{ flag, address string }{
		{"--listen", c.Listen}, {"--ops-listen", c.OpsListen}, {"--chat-listen", c.ChatListen}, {"--sandbox-listen", c.SandboxListen},
	} {
		if err := loopbackListen(a.address); err != nil {
			return &usageError{a.flag + " " + err.Error()}
		}
	}
	for _, page := range c.Page {
		if _, err := webOrigin(page); err != nil {
			return &usageError{"--page " + err.Error()}
		}
	}
	if c.TokenLifetime < time.Second {
		return &usageError{"--token-lifetime must be a second or more"}
	}
	level := slog.LevelWarn
	if c.Verbose {
		level = slog.LevelDebug
	}
	log := newLogger(con.err, level)
	adoptLibraryLogs(log)
	d, err := newDev(ctx, c, con, log)
	if err != nil {
		return err
	}
	return d.run(ctx)
}

// dev is the broker and everything around it.
type dev struct {
	con       *console
	log       *slog.Logger
	redis     *miniredis.Miniredis
	app       *app
	telemetry *telemetry
	provider  *sandbox.Server
	sandbox   *listener
	chat      *listener
	moved     []string // usual addresses that were taken, as the welcome says it
	key       string   // the client's API key
	operator  string   // the dashboard's login token
}

const (
	devClientID    = "demo-chat"
	devClientName  = "Fern" // as the demo chat calls itself
	devTenant      = "demo"
	devConnector   = "files"
	sandboxTimeout = 2 * time.Second
)

// newDev puts everything together, the addresses first: the parts name one another.
func newDev(ctx context.Context, c *devCommand, con *console, log *slog.Logger) (d *dev, err error) {
	d = &dev{con: con, log: log}
	begun := d // d is nil where an error is returned
	defer func() {
		if err != nil {
			begun.close()
		}
	}()
	var broker, ops, chatAddress, sandboxAddress string
	for _, a := range []struct {
		what, flag, asked, usual string
		got                      *string
	}{
		{"the broker", "--listen", c.Listen, "127.0.0.1:8080", &broker},
		{"the health page", "--ops-listen", c.OpsListen, "127.0.0.1:9090", &ops},
		{"the demo chat", "--chat-listen", c.ChatListen, "127.0.0.1:3000", &chatAddress},
		{"the sandbox", "--sandbox-listen", c.SandboxListen, "127.0.0.1:4000", &sandboxAddress},
	} {
		var moved bool
		if *a.got, moved, err = devAddress(ctx, a.asked, a.usual); err != nil {
			return nil, fmt.Errorf("cannot listen on %s: %w; end what runs there, or give %s another address", a.asked, withoutOp(err), a.flag)
		}
		if moved {
			d.moved = append(d.moved, movedNote(a.what, a.usual, *a.got))
		}
	}
	var secret, staff string
	for _, s := range []*string{&d.key, &d.operator, &secret, &staff} {
		if *s, err = devSecret(); err != nil {
			return nil, err
		}
	}
	d.key = "tb_" + d.key

	d.provider, err = sandbox.New(sandbox.Config{
		Issuer: "http://" + sandboxAddress, AccessTokenLifetime: c.TokenLifetime, Now: time.Now, Random: rand.Reader, Admin: true,
		Users: append(sandbox.People(), devOperators()...),
		Clients: []sandbox.Client{
			{ID: devClientID, Name: devClientName, Secret: secret, RedirectURIs: []string{"http://" + broker + "/oauth2/callback/" + devConnector}, Users: logins(sandbox.People())},
			{ID: devDashboardID, Name: "tokenbroker's dashboard", Secret: staff, RedirectURIs: []string{"http://" + broker + "/dashboard/callback"}, Users: logins(devOperators())},
		},
	})
	if err != nil {
		return nil, err
	}
	if d.sandbox, err = listen(ctx, "--sandbox-listen", sandboxAddress, d.provider, log); err != nil {
		return nil, err
	}
	chat, err := demo.New(demo.Config{
		PublicURL: "http://" + chatAddress, BrokerURL: "http://" + broker, FilesURL: "http://" + sandboxAddress,
		APIKey: newSecret(d.key), Connector: devConnector, Now: time.Now, Random: rand.Reader, Log: log,
	})
	if err != nil {
		return nil, err
	}
	if d.chat, err = listen(ctx, "--chat-listen", chatAddress, chat, log); err != nil {
		return nil, err
	}
	d.chat.server.WriteTimeout = 90 * time.Second // it waits for the broker, which may wait for a provider

	if d.redis, err = miniredis.Run(); err != nil {
		return nil, fmt.Errorf("start the in-process redis: %w", err)
	}
	keys, err := vault.NewEphemeralKeyset()
	if err != nil {
		return nil, err
	}
	if d.telemetry, err = startTelemetry(ctx, telemetryConfig{Lookup: con.env.lookup, Log: log}); err != nil {
		return nil, err
	}
	cfg, err := d.config(broker, ops, chatAddress, sandboxAddress, secret)
	if err != nil {
		return nil, err
	}
	cfg.Dashboard.Login, cfg.Dashboard.Roles = devLogin("http://"+sandboxAddress, staff), devRoles()
	client := &cfg.Clients[0].Client
	for _, page := range c.Page {
		client.Origins = append(client.Origins, page)
		client.ReturnTo = append(client.ReturnTo, page+"/done", page+"/portal")
	}
	d.app, err = newApp(ctx, appConfig{Config: cfg, Keyset: keys, Ephemeral: true, Telemetry: d.telemetry, Log: log})
	return d, err
}

// newSecret keeps the name broker free for addresses above.
func newSecret(text string) broker.Secret { return broker.NewSecret(text) }

// config is what serve would read from a file.
func (d *dev) config(address, ops, chat, issuer, secret string) (*Config, error) {
	definition, problems := providers.ParseDefinition(fmt.Appendf(nil, devProvider, "http://"+issuer))
	if len(problems) > 0 {
		return nil, problems
	}
	return &Config{
		Listen: address, OpsListen: ops, PublicURL: "http://" + address, Redis: broker.NewSecret("redis://" + d.redis.Addr() + "/0"),
		Dashboard: DashboardConfig{TokenSHA256: hexDigest(d.operator)},
		Limits:    defaultLimits(),
		Clients: []ClientConfig{{
			Client: broker.Client{
				ID: devClientID, Name: devClientName, Tenant: devTenant,
				ReturnTo: []string{"http://" + chat + "/done", "http://" + chat + "/portal"}, Origins: []string{"http://" + chat},
			},
			KeySHA256: [][32]byte{sha256.Sum256([]byte(d.key))},
		}},
		Connectors: []providers.ConnectorConfig{{
			ID: devConnector, Provider: "sandbox", ClientID: devClientID, ClientSecret: broker.NewSecret(secret),
			Scopes: []string{"files.read", "files.write"}, DefaultScopes: []string{"files.read"},
		}},
		Providers:       []*providers.Definition{definition},
		ShutdownTimeout: 10 * time.Second,
	}, nil
}

// devProvider is the sandbox as an operator would describe it.
const devProvider = `
id: sandbox
name: Sandbox Files
category: files
issuer: %s
token_endpoint_auth_method: client_secret_basic
offline_scopes: [offline_access]
identity_scopes: [openid, email, profile]
rotation: strict
scopes:
  files.read: {description: See your files, access: read}
  files.write: {description: Create and change your files, access: change}
`

// devAddress takes another free port where somebody has the usual one. An address that was asked for is not exchanged.
func devAddress(ctx context.Context, address, usual string) (got string, moved bool, err error) {
	try := func(a string) (string, error) {
		socket, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a)
		if err != nil {
			return "", err
		}
		defer func() { _ = socket.Close() }()
		return socket.Addr().String(), nil
	}
	got, err = try(address)
	if err != nil && address == usual {
		moved = true
		got, err = try("127.0.0.1:0")
	}
	return got, moved, err
}

func devSecret() (string, error) {
	raw := make([]byte, 24)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

func hexDigest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// run serves until ctx ends.
func (d *dev) run(ctx context.Context) error {
	defer d.close()
	defer endTelemetry(ctx, d.telemetry, d.log)
	d.sandbox.start()
	d.chat.start()
	// The in-process Redis has no clock of its own: what shall expire in it expires when it is told that time went by.
	clock, stop := context.WithCancel(context.WithoutCancel(ctx))
	var ticking sync.WaitGroup
	ticking.Go(func() { every(clock, time.Second, func() { d.redis.FastForward(time.Second) }) })
	err := d.app.run(ctx, func(main, ops string) { d.welcome(main, ops) })
	stop()
	ticking.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), sandboxTimeout)
	defer cancel()
	_ = d.provider.Close()
	return errors.Join(err, d.chat.shutdown(last), d.sandbox.shutdown(last))
}

func (d *dev) close() {
	if d.redis != nil {
		d.redis.Close()
	}
	for _, l := range []*listener{d.chat, d.sandbox} {
		if l != nil {
			_ = l.socket.Close()
		}
	}
}

var _ http.Handler = (*sandbox.Server)(nil)
