package redisstore

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// open makes the client that the URL asks for. Errors never hold the URL: it may hold a password.
func open(cfg Config, servers *dialled) (redis.UniversalClient, error) {
	target, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	or := func(d, def time.Duration) time.Duration {
		if d > 0 {
			return d
		}
		return def
	}
	dial, io, pool := or(cfg.DialTimeout, time.Second), or(cfg.IOTimeout, 800*time.Millisecond), poolSize(cfg)
	var tlsConfig *tls.Config
	if target.tls {
		tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if cfg.TLS != nil {
			tlsConfig = cfg.TLS.Clone()
		}
	}
	const none = -1 // for go-redis: no retries
	connect := servers.note(dialer(dial, tlsConfig))
	switch target.scheme {
	case schemeCluster:
		return redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: target.addrs, Username: target.user, Password: target.password, TLSConfig: tlsConfig, Protocol: 2,
			// Redirections are answers of the cluster, not repetitions.
			MaxRedirects: 3, MaxRetries: none, ContextTimeoutEnabled: true, DialTimeout: dial, DialerRetries: 1, Dialer: connect,
			ReadTimeout: io, WriteTimeout: io, PoolSize: pool, PoolTimeout: io, DisableIdentity: true,
		}), nil
	case schemeSentinel:
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: target.master, SentinelAddrs: target.addrs, Username: target.user, Password: target.password,
			SentinelUsername: cfg.SentinelUser, SentinelPassword: cfg.SentinelPassword,
			DB: target.db, TLSConfig: tlsConfig, Protocol: 2, MaxRetries: none, ContextTimeoutEnabled: true, DialTimeout: dial, DialerRetries: 1, Dialer: connect,
			ReadTimeout: io, WriteTimeout: io, PoolSize: pool, PoolTimeout: io, DisableIdentity: true,
		}), nil
	default:
		return redis.NewClient(&redis.Options{
			Addr: target.addrs[0], Username: target.user, Password: target.password, DB: target.db, TLSConfig: tlsConfig, Protocol: 2,
			MaxRetries: none, ContextTimeoutEnabled: true, DialTimeout: dial, DialerRetries: 1, Dialer: connect,
			ReadTimeout: io, WriteTimeout: io, PoolSize: pool, PoolTimeout: io, DisableIdentity: true,
		}), nil
	}
}

func poolSize(cfg Config) int {
	if cfg.PoolSize > 0 {
		return cfg.PoolSize
	}
	return 16
}

const (
	schemePlain    = "redis"
	schemeTLS      = "rediss"
	schemeSentinel = "redis-sentinel"
	schemeCluster  = "redis-cluster"
)

// target is a parsed URL.
type target struct {
	scheme         string
	addrs          []string
	master         string
	user, password string
	db             int
	tls            bool
}

// CheckURL tells what is wrong with a URL, if anything, without connecting.
func CheckURL(text string) error {
	_, err := parseURL(text)
	return err
}

func parseURL(text string) (target, error) {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		return target{}, errors.New("redis URL must begin with redis://, rediss://, redis-sentinel:// or redis-cluster://")
	}
	t := target{scheme: scheme, tls: scheme == schemeTLS}
	switch scheme {
	case schemePlain, schemeTLS, schemeSentinel, schemeCluster:
	default:
		// Not quoted: what stands there may be a piece of a password.
		return target{}, errors.New("unknown redis URL scheme: use redis, rediss, redis-sentinel or redis-cluster")
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndex(hosts, "@"); at >= 0 {
		// net/url can't read several hosts, so the part before them is read by itself.
		u, err := url.Parse("redis://" + hosts[:at] + "@host")
		if err != nil || u.User == nil {
			return target{}, errors.New("user and password of the redis URL can't be read: write special characters as %XX")
		}
		t.user = u.User.Username()
		t.password, _ = u.User.Password()
		hosts = hosts[at+1:]
	}
	for _, host := range strings.Split(hosts, ",") {
		if host == "" {
			continue
		}
		addr, err := withPort(host, scheme)
		if err != nil {
			return target{}, err
		}
		t.addrs = append(t.addrs, addr)
	}
	if err := t.options(path, query); err != nil {
		return target{}, err
	}
	switch {
	case len(t.addrs) == 0:
		return target{}, errors.New("redis URL names no host")
	case len(t.addrs) > 1 && (scheme == schemePlain || scheme == schemeTLS):
		return target{}, errors.New("redis URL names several hosts: use redis-sentinel:// or redis-cluster:// for those")
	}
	return t, nil
}

// options reads what stands behind the hosts.
func (t *target) options(path, query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the part of the redis URL behind ? can't be read")
	}
	for name, v := range values {
		switch {
		case name == "db" && t.scheme != schemeCluster:
			if t.db, err = parseDB(v[0]); err != nil {
				return err
			}
		case name == "tls" && (t.scheme == schemeSentinel || t.scheme == schemeCluster):
			t.tls = v[0] == "true"
		default:
			// Not quoted: a ? in a password makes its rest look like options.
			return errors.New("unknown option in the redis URL: db and tls are known; a ? in a password is written %3F")
		}
	}
	switch t.scheme {
	case schemeSentinel:
		name := strings.TrimSuffix(path, "/")
		if strings.Contains(name, "/") {
			return errors.New("redis-sentinel URL has something behind the master's name: redis-sentinel://HOST:PORT,.../MASTER, with ?db=N for a database and %2F for a / in the name")
		}
		t.master, err = url.PathUnescape(name)
		if err != nil || t.master == "" {
			return errors.New("redis-sentinel URL names no master: redis-sentinel://HOST:PORT,.../MASTER")
		}
	case schemeCluster:
		if path != "" && path != "0" {
			return errors.New("a redis cluster has only the database 0")
		}
	default:
		if path != "" {
			t.db, err = parseDB(path)
		}
	}
	return err
}

func parseDB(text string) (int, error) {
	db, err := strconv.Atoi(text)
	if err != nil || db < 0 {
		return 0, errors.New("the database in the redis URL must be a number")
	}
	return db, nil
}

// withPort takes HOST, HOST:PORT, [IPv6] and [IPv6]:PORT (RFC 3986 section 3.2.2), and an IPv6 address without brackets
// where no port follows.
func withPort(text, scheme string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = text, "6379"
		if scheme == schemeSentinel {
			port = "26379"
		}
		if inner, ok := strings.CutPrefix(text, "["); ok {
			if host, ok = strings.CutSuffix(inner, "]"); !ok {
				return "", errHost()
			}
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", errors.New("a port in the redis URL is no number from 1 to 65535")
	}
	address, notAddress := netip.ParseAddr(host)
	if strings.HasPrefix(text, "[") || strings.Contains(host, ":") {
		if notAddress != nil || !address.Is6() {
			return "", errHost()
		}
	} else if notAddress != nil && !hostName.MatchString(host) {
		return "", errHost()
	}
	return net.JoinHostPort(host, port), nil
}

// hostName is what resolvers take, underscores of container networks among it.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?$`)

func errHost() error { return errors.New("a host in the redis URL can't be read") }
