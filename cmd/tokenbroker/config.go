package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"tokenbroker/broker"
	"tokenbroker/providers"
	"tokenbroker/providers/assertion"
	"tokenbroker/providers/login"
	"tokenbroker/vault"
	"tokenbroker/vault/kek"
	"tokenbroker/web"
)

// Config is the configuration file, checked. Relative paths in it are resolved already: they count from the folder of
// the file, so that a service manager's working directory does not matter.
type Config struct {
	Listen    string // host:port for the API, consent pages and dashboard; default 127.0.0.1:8080
	OpsListen string // host:port for health and metrics; default 127.0.0.1:9090
	PublicURL string // what browsers see: scheme and host, no trailing slash
	Proxies   []netip.Prefix
	Redis     broker.Secret // a URL; it may hold a password
	RedisOpts RedisConfig
	Volatile  bool // allow_volatile_redis
	Keyset    KeysetConfig
	Keys      *vault.Keyset // of Keyset, opened; nil only beside KeysWait
	// KeysWait is why Keys, or those that sign the audit trail, could not be opened though nothing is wrong with the configuration: the key management service can't
	// be asked. Only whoever said that it waits (environment.waits) gets it; for others it is a problem.
	KeysWait   error
	KeysSum    [sha256.Size]byte // of the file that Keys is from
	SpoolDir   string            // "": no spool
	Dashboard  DashboardConfig
	Clients    []ClientConfig
	Connectors []providers.ConnectorConfig
	Providers  []*providers.Definition // custom ones
	// OutboundPorts are those that requests may go to at hosts that tenants name; default 443.
	OutboundPorts []uint16

	LogLevel slog.Level // default info
	// ShutdownDelay is how long /readyz says no before the listener closes, so that load balancers look elsewhere first;
	// default 1 s. ShutdownTimeout bounds what follows; default 60 s. Only a request for tokens that is on the wire then is
	// still waited for, up to 35 s: cut off, it could cost a refresh token.
	ShutdownDelay   time.Duration
	ShutdownTimeout time.Duration

	// EarlyRefreshes is how many grants of one provider this process refreshes ahead of need at the same time; default 16,
	// 0: it refreshes when somebody asks.
	EarlyRefreshes int
	// RefreshesAtOnce is how many refreshes of one OAuth client this process has under way at its provider, whoever they are for; default
	// 128, at most 256, which is how many connections it makes to a provider's host.
	RefreshesAtOnce int

	// StoredForm is the form in which records are written: 1, which the version before this one reads, or 2. 0: the second one as
	// soon as no replica of an older version was seen for ten minutes.
	StoredForm int
	// Retention is how long audit events are kept; the zero value: for good.
	Retention vault.Retention
	// Audit is what is done about the audit trail beside that.
	Audit AuditConfig

	// Limits bounds what callers of the API may do.
	Limits broker.Limits

	// Notes are not problems, but the operator should know them.
	Notes []string
}

// KeysetConfig says where the encryption keys are.
type KeysetConfig struct {
	File string
	KEK  string // env:NAME or a KMS key URI; a reference, no secret
}

// ClientConfig is a client with the hashes of its API keys, and with what only its edges need.
type ClientConfig struct {
	Client    broker.Client
	KeySHA256 [][32]byte
	Login     *login.ClientConfig // where its users sign in at their organisation; nil: nowhere
	// Assertions are what its requests may be proven with; nil: nothing.
	Assertions *assertion.ClientConfig
	Theme      web.Theme     // how the pages look for its users
	Limits     *broker.Limit // nil: those of every client
}

// LoadConfig reads and checks the file, and opens the keyset that it names. An error of type *configError lists all that
// is wrong with it.
func LoadConfig(file string, env environment) (*Config, error) {
	data, err := env.readFile(file, maxConfigSize)
	if err != nil {
		return nil, fmt.Errorf("the configuration %s cannot be read: %s; name another with --config", file, withoutPath(err))
	}
	s := newSource(file, env)
	root := s.parse(data)
	if root == nil {
		return nil, s.err()
	}
	cfg := s.config(root)
	if err := s.err(); err != nil {
		return nil, err
	}
	cfg.Notes = s.notes
	return cfg, nil
}

// config reads the top level.
func (s *source) config(root *yaml.Node) *Config {
	cfg := &Config{}
	o, ok := s.object(root, "", "listen", "ops_listen", "public_url", "trusted_proxies", "redis", "allow_volatile_redis", "keyset",
		"spool_dir", "dashboard", "clients", "connectors", "providers", "log_level", "shutdown_delay", "shutdown_timeout",
		"outbound_ports", "redis_tls", "redis_sentinel", "redis_wait", "early_refreshes", "refreshes_at_once", "stored_form", "audit", "limits")
	if !ok {
		return cfg
	}
	o.need("public_url", "https://tokens.example.com")
	o.need("redis", "redis://127.0.0.1:6379/0")
	o.need("keyset", "{file: keyset.json, kek: env:TOKENBROKER_KEK}")

	cfg.Listen = o.text("listen", "127.0.0.1:8080", listenAddress)
	cfg.OpsListen = o.text("ops_listen", "127.0.0.1:9090", listenAddress)
	if cfg.Listen == cfg.OpsListen && !strings.HasSuffix(cfg.Listen, ":0") {
		s.report(o.node, "listen and ops_listen are both %s; users must not reach what is on ops_listen, so give it another port", cfg.Listen)
	}
	cfg.PublicURL = o.text("public_url", "", publicURL)
	cfg.Proxies = o.prefixes("trusted_proxies")
	if redis, given := o.secret("redis"); given {
		if err := redisURL(redis.Reveal()); err != nil {
			o.fail("redis", "", o.get("redis"), "%s", err)
		}
		cfg.Redis = redis
	}
	cfg.RedisOpts = o.redisOptions()
	cfg.Volatile = o.truth("allow_volatile_redis")
	cfg.Keyset = o.keyset(cfg)
	if dir := o.text("spool_dir", "", anyPath); dir != "" {
		cfg.SpoolDir = s.path(dir)
		if s.env.trySpool != nil {
			if err := s.env.trySpool(cfg.SpoolDir); err != nil {
				o.fail("spool_dir", ":", o.get("spool_dir"), "the directory can't be written to (%s): give it to the user that runs the broker, or make room", withoutPath(err))
			}
		}
	}
	cfg.LogLevel = o.logLevel()
	cfg.ShutdownDelay = o.duration("shutdown_delay", time.Second, 0, 5*time.Minute)
	cfg.ShutdownTimeout = o.duration("shutdown_timeout", time.Minute, time.Second, time.Hour)

	cfg.EarlyRefreshes = o.number("early_refreshes", 16, 0, 1000)
	cfg.RefreshesAtOnce = o.number("refreshes_at_once", 128, 1, 256)
	cfg.StoredForm = o.number("stored_form", 0, 1, knownForms)
	cfg.Retention, cfg.Audit = o.audit(cfg.Keyset.KEK, cfg.PublicURL)
	if cfg.KeysWait == nil {
		cfg.KeysWait = cfg.Audit.wait
	}

	cfg.OutboundPorts = o.ports("outbound_ports")
	cfg.Connectors = o.connectors()
	cfg.Providers = o.providers(cfg.Connectors)
	cfg.Limits = o.limits()
	cfg.Clients = o.clients(cfg.Connectors, cfg.Limits.Client)
	cfg.addLimits(o)
	cfg.Dashboard = o.dashboard(cfg.Clients)
	return cfg
}

// prefixes reads networks in CIDR form; a single address is a network of one.
func (o object) prefixes(key string) []netip.Prefix {
	var out []netip.Prefix
	items, _ := o.texts(key, func(text string) (string, error) {
		if address, err := netip.ParseAddr(text); err == nil {
			return netip.PrefixFrom(address, address.BitLen()).String(), nil
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return "", errors.New("must be a network such as 10.0.0.0/8")
		}
		if prefix != prefix.Masked() {
			return "", fmt.Errorf("has address bits beyond its length; write %s", prefix.Masked())
		}
		return prefix.String(), nil
	})
	for _, i := range items {
		out = append(out, netip.MustParsePrefix(i.text))
	}
	return out
}

// ports reads a list of port numbers.
func (o object) ports(key string) []uint16 {
	var out []uint16
	items, _ := o.texts(key, func(text string) (string, error) {
		if n, err := strconv.ParseUint(text, 10, 16); err != nil || n == 0 {
			return "", errors.New("must be a port from 1 to 65535")
		}
		return text, nil
	})
	for _, i := range items {
		n, _ := strconv.ParseUint(i.text, 10, 16) // as was checked
		out = append(out, uint16(n))
	}
	return out
}

func (o object) keyset(cfg *Config) KeysetConfig {
	n := o.get("keyset")
	if n == nil {
		return KeysetConfig{}
	}
	k, ok := o.s.object(n, "keyset", "file", "kek")
	if !ok {
		return KeysetConfig{}
	}
	k.need("file", "keyset.json")
	k.need("kek", "env:TOKENBROKER_KEK")
	out := KeysetConfig{KEK: k.text("kek", "", kekReference)}
	if file := k.text("file", "", anyPath); file != "" {
		out.File = o.s.path(file)
	}
	k.openKeyset(out, cfg)
	return out
}

// openKeyset opens the keyset for real, so that what would end serve is a problem of the file, with the line of the key
// that is to blame.
func (o object) openKeyset(cfg KeysetConfig, into *Config) {
	var key vault.KEK
	var content []byte
	var err error
	if cfg.KEK != "" {
		if key, err = parseKEK(cfg.KEK, o.s.env); err != nil {
			o.fail("kek", ":", o.get("kek"), "%s", err)
		}
	}
	if cfg.File != "" {
		if content, err = readKeysetFile(cfg.File, cfg.KEK, o.s.env); err != nil {
			o.fail("file", ":", o.get("file"), "%s", err)
		}
	}
	if key == nil || content == nil {
		return
	}
	switch err = into.openKeys(cfg, key, content); {
	case err == nil:
	case errors.Is(err, kek.ErrUnavailable) && o.s.env.waits:
		into.KeysWait = err
	case errors.Is(err, kek.ErrUnavailable), errors.Is(err, errOtherKEK), errors.Is(err, errKEKRefuses):
		o.fail("kek", ":", o.get("kek"), "%s", err)
	default:
		o.fail("file", ":", o.get("file"), "%s", err)
	}
}

// openKeys sets Keys and KeysSum.
func (c *Config) openKeys(cfg KeysetConfig, key vault.KEK, content []byte) error {
	keys, err := withKEK(cfg.File, cfg.KEK, key, func(key vault.KEK) (*vault.Keyset, error) { return vault.OpenKeyset(content, key) })
	if err != nil {
		return err
	}
	c.Keys, c.KeysSum = keys, sha256.Sum256(content)
	return nil
}

func (o object) logLevel() slog.Level {
	levels := []string{"debug", "info", "warn", "error"}
	text := o.text("log_level", "info", func(text string) (string, error) {
		if !slices.Contains(levels, text) {
			return "", errors.New("must be one of " + strings.Join(levels, ", "))
		}
		return text, nil
	})
	var level slog.Level
	_ = level.UnmarshalText([]byte(text))
	return level
}
