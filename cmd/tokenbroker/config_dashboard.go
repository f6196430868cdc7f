package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"tokenbroker/broker"
	"tokenbroker/providers/login"
)

// DashboardConfig is how operators sign in, and what they may do then. Without TokenSHA256 and Login there is no dashboard.
type DashboardConfig struct {
	TokenSHA256 string                // 64 lower-case hex digits, or "": no token
	Login       *login.OperatorConfig // the operators' OpenID Provider; nil: none
	Roles       []broker.OperatorRole // of those who sign in there
	Idle        time.Duration         // a session ends unless it is used; default 30 min
	Absolute    time.Duration         // and in any case; default 12 h
	Recheck     time.Duration         // how long holds what Login said of groups; default 1 h
}

// loginName names what sessions of those who sign in at the provider hang on; "" where nobody does.
func (d DashboardConfig) loginName() string {
	if d.Login == nil {
		return ""
	}
	return fmt.Sprintf("%q %q", d.Login.Issuer, d.Login.ClientID)
}

// operatorScopes are asked for where the configuration names none.
var operatorScopes = []string{"openid", "profile", "email"}

// dashboard reads it. The clients are read already: they make the tenants.
func (o object) dashboard(clients []ClientConfig) DashboardConfig {
	cfg := DashboardConfig{Idle: 30 * time.Minute, Absolute: 12 * time.Hour}
	n := o.get("dashboard")
	if n == nil {
		return cfg
	}
	d, ok := o.s.object(n, "dashboard", "token_sha256", "login", "roles", "session")
	if !ok {
		return cfg
	}
	if node, text, ok := d.scalar("token_sha256"); ok {
		digest, err := sha256Hex(text)
		if err != nil {
			o.s.report(node, "dashboard.token_sha256 %s", err)
		} else {
			cfg.TokenSHA256 = hex.EncodeToString(digest[:])
		}
	}
	cfg.Login, cfg.Recheck = d.operatorLogin()
	cfg.Roles = d.roles(clients)
	if s := d.get("session"); s != nil {
		if session, ok := o.s.object(s, "dashboard.session", "idle", "absolute"); ok {
			cfg.Idle = session.duration("idle", cfg.Idle, time.Minute, 24*time.Hour)
			cfg.Absolute = session.duration("absolute", cfg.Absolute, 5*time.Minute, broker.LongestSession)
			if cfg.Idle > cfg.Absolute {
				session.fail("idle", "", s, "is longer than absolute (%s), so it would never end a session", cfg.Absolute)
			}
		}
	}
	return cfg
}

func (o object) operatorLogin() (*login.OperatorConfig, time.Duration) {
	recheck := time.Hour
	n := o.get("login")
	if n == nil {
		return nil, recheck
	}
	l, ok := o.s.object(n, o.at("login"), append(loginKeys(), "groups_claim", "name_claim", "sign_out", "recheck")...)
	if !ok {
		return nil, recheck
	}
	recheck = l.duration("recheck", recheck, shortestRecheck, broker.LongestSession)
	cfg := &login.OperatorConfig{
		ClientConfig: l.loginClient("tokenbroker-dashboard"), GroupsClaim: l.text("groups_claim", "groups", claimName), NameClaim: l.text("name_claim", "", claimName),
		SignOutHere: l.text("sign_out", "provider", oneOf("provider", "here")) == "here",
	}
	if l.get("scopes") == nil {
		cfg.Scopes = operatorScopes
	}
	if roles, _ := o.list("roles"); len(roles) == 0 && !o.s.settled[o.at("roles")] {
		o.fail("roles", "", o.node, "is missing or empty: whoever signs in by login gets in by a role of one of their groups; add roles: [{group: sre, role: operator}]")
	}
	return cfg, recheck
}

// roles reads which groups have which roles.
func (o object) roles(clients []ClientConfig) []broker.OperatorRole {
	nodes, given := o.list("roles")
	if given && o.get("login") == nil {
		o.fail("roles", "", o.get("roles"), "count for those who sign in by login, which is missing; whoever has the token may do all")
	}
	var names, tenants []string
	for _, r := range broker.Roles() {
		names = append(names, string(r))
	}
	for _, c := range clients {
		tenants = append(tenants, c.Client.Tenant)
	}
	var out []broker.OperatorRole
	lines := map[broker.OperatorRole]int{}
	for i, n := range nodes {
		r, ok := o.s.object(n, fmt.Sprintf("%s[%d]", o.at("roles"), i), "group", "role", "tenant")
		if !ok {
			continue
		}
		r.need("group", "sre")
		r.need("role", "operator")
		role := broker.OperatorRole{Group: r.text("group", "", groupName), OperatorGrant: broker.OperatorGrant{Role: broker.Role(r.text("role", "", oneOf(names...)))}}
		role.Tenant = r.text("tenant", "", func(text string) (string, error) {
			if !slices.Contains(tenants, text) {
				return "", errors.New("must be the tenant of a client under clients; left out: all tenants")
			}
			return text, nil
		})
		if _, written := r.values["tenant"]; written && r.get("tenant") == nil {
			r.fail("tenant", "", r.node, "is empty; name a tenant, or leave it out for all of them")
			continue
		}
		if role.Group == "" || role.Role == "" || (role.Tenant == "" && r.get("tenant") != nil) {
			continue // reported; a tenant that is wrong must not become all of them
		}
		if line := lines[role]; line != 0 {
			o.s.report(n, "%s is the same as on line %d; keep it once", r.path, line)
			continue
		}
		lines[role] = n.Line
		out = append(out, role)
	}
	return out
}

// groupName is a group as the provider's tokens have it, compared exactly.
func groupName(text string) (string, error) {
	if len(text) > 256 || !utf8.ValidString(text) || strings.TrimSpace(text) != text {
		return "", errors.New("must be a group exactly as the provider's tokens name it, at most 256 bytes, without spaces around it")
	}
	return oneLine(text)
}
