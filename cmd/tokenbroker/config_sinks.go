package main

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"tokenbroker/broker"
)

// mostSinks bounds how many places get each event: every one reads the whole trail.
const mostSinks = 8

// The kinds of sinks, as their keys.
const (
	sinkFile    = "file"
	sinkWebhook = "webhook"
	sinkSyslog  = "syslog"
	sinkOTLP    = "otlp"
)

// SinkConfig is a place that gets each event.
type SinkConfig struct {
	Kind string
	// Address is a path or a URL, whose path may be a secret; of syslog what comes behind the network.
	Address broker.Secret
	Network string // of syslog: udp, tcp or unix
	// Required: no token is handed out before the place has its events.
	Required bool
}

// sinks reads audit.sinks.
func (o object) sinks() []SinkConfig {
	nodes, _ := o.list("sinks")
	var all []SinkConfig
	taken := make(map[string]bool)
	for i, n := range nodes {
		one, ok := o.s.object(n, fmt.Sprintf("audit.sinks[%d]", i), sinkFile, sinkWebhook, sinkSyslog, sinkOTLP, "required")
		if !ok {
			continue
		}
		cfg, ok := one.sink()
		if !ok {
			continue
		}
		id := strings.Join([]string{cfg.Kind, cfg.Network, cfg.Address.Reveal()}, " ")
		switch {
		case taken[id]:
			one.fail(cfg.Kind, "", one.get(cfg.Kind), "is the same place as another one of audit.sinks")
		case len(all) == mostSinks:
			o.fail("sinks", "", o.get("sinks"), "must be %d places at most", mostSinks)
			return all
		}
		taken[id] = true
		all = append(all, cfg)
	}
	return all
}

// sink reads one place.
func (o object) sink() (cfg SinkConfig, ok bool) {
	for _, kind := range []string{sinkFile, sinkWebhook, sinkSyslog, sinkOTLP} {
		switch {
		case o.get(kind) == nil:
		case cfg.Kind != "":
			o.fail(kind, "", o.get(kind), "and %s are two places; make an item of the list of each", cfg.Kind)
			return cfg, false
		default:
			cfg.Kind = kind
		}
	}
	if cfg.Kind == "" {
		o.s.report(o.node, "%s must say where: file, webhook, syslog or otlp", o.path)
		return cfg, false
	}
	cfg.Required = o.truth("required")
	switch cfg.Kind {
	case sinkFile:
		file := o.text(sinkFile, "", anyPath)
		if ok = file != ""; ok {
			cfg.Address = broker.NewSecret(filepath.Clean(o.s.path(file)))
			o.tryFile(sinkFile, o.s.path(file))
		}
	case sinkWebhook, sinkOTLP:
		if cfg.Address, ok = o.secret(cfg.Kind); ok {
			if err := outboundURL(cfg.Address.Reveal()); err != nil {
				o.fail(cfg.Kind, "", o.get(cfg.Kind), "%s", err)
				return cfg, false
			}
		}
	case sinkSyslog:
		var address string
		text := o.text(sinkSyslog, "", func(text string) (string, error) { return text, nil })
		if cfg.Network, address, ok = syslogAddress(text); !ok {
			o.fail(sinkSyslog, "", o.get(sinkSyslog), "must be such as udp://127.0.0.1:514, tcp://127.0.0.1:601 or unix:///dev/log")
			return cfg, false
		}
		cfg.Address = broker.NewSecret(address)
		if cfg.Required && cfg.Network == "udp" {
			o.fail("required", "", o.get("required"), "can't be true of syslog over udp, which never tells whether anything arrived; use tcp:// or unix://, or better a file or a webhook")
			return cfg, false
		}
		if host, _, err := net.SplitHostPort(address); err == nil && !isLoopback(host) {
			o.s.notes = append(o.s.notes, fmt.Sprintf("%s:%d: events go to %s in clear; a relay on this machine can encrypt them", o.s.file, o.node.Line, address))
		}
	}
	return cfg, ok
}

// syslogAddress reads udp://HOST:PORT, tcp://HOST:PORT or unix:///PATH.
func syslogAddress(text string) (network, address string, ok bool) {
	u, err := url.Parse(text)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", false
	}
	switch u.Scheme {
	case "udp", "tcp":
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		return u.Scheme, u.Host, u.Hostname() != "" && err == nil && port > 0 && u.Path == ""
	case "unix":
		return u.Scheme, u.Path, u.Host == "" && filepath.IsAbs(u.Path)
	}
	return "", "", false
}
