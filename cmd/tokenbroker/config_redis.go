package main

import (
	"crypto/tls"
	"crypto/x509"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault/redisstore"
)

// RedisConfig is what there is to say about Redis beside its URL.
type RedisConfig struct {
	// TLS is used where the URL asks for TLS; nil: the system's certification authorities, no client certificate.
	TLS *tls.Config
	// SentinelUser and SentinelPassword are for the sentinels themselves; empty: they ask for none.
	SentinelUser     string
	SentinelPassword broker.Secret
	// WaitReplicas is how many replicas shall confirm a new refresh token before its commit counts as confirmed, and
	// WaitTimeout how long that is waited for. 0: nobody is asked.
	WaitReplicas int
	WaitTimeout  time.Duration
	// WaitDisk: they shall have it on their disks (WAITAOF), where the server can tell.
	WaitDisk bool
}

// redisStore is all that the store needs to know of Redis.
func (c *Config) redisStore() redisstore.Config {
	o := c.RedisOpts
	return redisstore.Config{
		URL: c.Redis.Reveal(), TLS: o.TLS, SentinelUser: o.SentinelUser, SentinelPassword: o.SentinelPassword.Reveal(),
		WaitReplicas: o.WaitReplicas, WaitTimeout: o.WaitTimeout, WaitDisk: o.WaitDisk,
	}
}

// redisOptions reads redis_tls, redis_sentinel and redis_wait.
func (o object) redisOptions() RedisConfig {
	cfg := RedisConfig{TLS: o.redisTLS()}
	o.redisSentinel(&cfg)
	n := o.get("redis_wait")
	if n == nil {
		return cfg
	}
	if k, ok := o.s.object(n, "redis_wait", "replicas", "timeout", "disk"); ok {
		k.need("replicas", "1")
		cfg.WaitReplicas = k.number("replicas", 0, 0, 16)
		cfg.WaitTimeout = k.duration("timeout", 100*time.Millisecond, 10*time.Millisecond, 500*time.Millisecond)
		cfg.WaitDisk = k.truth("disk")
	}
	return cfg
}

func (o object) redisSentinel(cfg *RedisConfig) {
	n := o.get("redis_sentinel")
	if n == nil {
		return
	}
	k, ok := o.s.object(n, "redis_sentinel", "username", "password")
	if !ok {
		return
	}
	if _, url, ok := o.scalar("redis"); ok && !strings.HasPrefix(url, "redis-sentinel://") {
		o.fail("redis_sentinel", "", n, "is of no use but with redis-sentinel://")
	}
	k.need("password", "${SENTINEL_PASSWORD}")
	_, cfg.SentinelUser, _ = k.scalar("username")
	cfg.SentinelPassword, _ = k.secret("password")
}

func (o object) redisTLS() *tls.Config {
	n := o.get("redis_tls")
	if n == nil {
		return nil
	}
	k, ok := o.s.object(n, "redis_tls", "ca_file", "cert_file", "key_file")
	if !ok {
		return nil
	}
	if _, url, ok := o.scalar("redis"); ok && strings.HasPrefix(url, "redis://") {
		o.fail("redis_tls", "", n, "is of no use with redis://: write rediss://")
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if pem, given := k.file("ca_file"); given {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			k.fail("ca_file", ":", k.get("ca_file"), "the file holds no certificate in PEM form")
		}
	}
	cert, hasCert := k.file("cert_file")
	key, hasKey := k.file("key_file")
	switch {
	case hasCert != hasKey && (k.get("cert_file") == nil || k.get("key_file") == nil):
		o.fail("redis_tls", "", n, "needs cert_file and key_file together, or neither")
	case hasCert && hasKey:
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			k.fail("cert_file", ":", k.get("cert_file"), "it and key_file are no certificate and its key in PEM form")
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg
}

// file reads the file that the key names.
func (o object) file(key string) ([]byte, bool) {
	path := o.text(key, "", anyPath)
	if path == "" {
		return nil, false
	}
	data, err := o.s.env.readFile(o.s.path(path), maxIncludeSize)
	if err != nil {
		o.fail(key, ":", o.get(key), "the file cannot be read: %s", withoutPath(err))
		return nil, false
	}
	return data, true
}

// number returns a whole number between least and most.
func (o object) number(key string, absent, least, most int) int {
	n, text, ok := o.scalar(key)
	if !ok {
		return absent
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < least || v > most {
		o.fail(key, "", n, "must be a whole number from %d to %d", least, most)
		return absent
	}
	return v
}
