//go:build scale

package e2e

import (
	"context"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// scalePage is one request that an operator makes.
type scalePage struct {
	name, method, path string
	form               url.Values
}

func scalePages(s *seeder, from, to string) []scalePage {
	q := func(path string, pairs ...string) string {
		v := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		if len(v) == 0 {
			return path
		}
		return path + "?" + v.Encode()
	}
	one := s.conns[len(s.conns)/3]
	return []scalePage{
		{name: "overview", method: "GET", path: "/dashboard"},
		{name: "overview of a tenant", method: "GET", path: q("/dashboard", "tenant", "acme")},
		{name: "accounts, all", method: "GET", path: "/dashboard/accounts"},
		{name: "accounts of a tenant", method: "GET", path: q("/dashboard/accounts", "tenant", "acme")},
		{name: "accounts of a connector that need consent", method: "GET", path: q("/dashboard/accounts", "connector", "files", "status", "needs_consent")},
		{name: "accounts with an error that one has", method: "GET", path: q("/dashboard/accounts", "error", "seed_rare")},
		{name: "accounts by scope", method: "GET", path: q("/dashboard/accounts", "scope", "files.write")},
		{name: "one subject", method: "POST", path: "/dashboard/accounts", form: url.Values{"tenant": {one.Tenant}, "subject": {one.Subject}}},
		{name: "one account", method: "GET", path: q("/dashboard/accounts/"+one.ID, "tenant", one.Tenant)},
		{name: "audit trail, newest", method: "GET", path: q("/dashboard/audit", "tenant", "acme")},
		{name: "audit trail, from a time on", method: "GET", path: q("/dashboard/audit", "tenant", "acme", "since", from, "until", to)},
		{name: "audit trail, one agent of two hundred", method: "GET", path: q("/dashboard/audit", "tenant", "acme", "agent", "agent-17")},
		{name: "audit trail, an agent seen now and then", method: "GET", path: q("/dashboard/audit", "tenant", "acme", "agent", rareAgent)},
		{name: "audit trail, one run", method: "GET", path: q("/dashboard/audit", "tenant", "acme", "run", "run-4711")},
		{name: "audit trail, an agent that never was", method: "GET", path: q("/dashboard/audit", "tenant", "acme", "agent", "agent-none")},
		{name: "audit trail, a client and a connector", method: "GET", path: q("/dashboard/audit", "tenant", "acme", "client", "acme-chat", "connector", "other")},
		{name: "audit trail, a rare type", method: "GET", path: q("/dashboard/audit", "tenant", "acme", "type", "operator.exported")},
		{name: "audit trail, a rare scope of a rare agent", method: "GET", path: q("/dashboard/audit", "tenant", "acme", "agent", rareAgent, "scope", rareScope)},
		{name: "audit trail, a rare scope", method: "GET", path: q("/dashboard/audit", "tenant", "acme", "scope", rareScope)},
		{name: "audit trail, an agent and a client that never met", method: "GET", path: q("/dashboard/audit", "tenant", "acme", "agent", "agent-17", "client", "rival")},
		{name: "audit trail, one connection", method: "GET", path: q("/dashboard/audit", "tenant", one.Tenant, "connection", one.ID)},
		{name: "what an agent could reach this month", method: "GET", path: q("/dashboard/audit/reach", "tenant", "acme", "agent", rareAgent, "month", s.now.Format("2006-01"))},
		{name: "what a busy agent could reach this month", method: "GET", path: q("/dashboard/audit/reach", "tenant", "acme", "agent", "agent-17", "month", s.now.Format("2006-01"))},
		{name: "export of a run", method: "POST", path: "/dashboard/audit/export", form: url.Values{"tenant": {"acme"}, "run": {"run-4711"}, "format": {"jsonl"}}},
		{name: "verification, its page", method: "GET", path: "/dashboard/audit/verify"},
		{name: "switches", method: "GET", path: "/dashboard/switches"},
		{name: "revoke all, its question", method: "GET", path: q("/dashboard/revoke-all", "tenant", "acme", "connector", "files")},
		{name: "jobs", method: "GET", path: "/dashboard/jobs"},
		{name: "health", method: "GET", path: "/dashboard/health"},
		{name: "own session", method: "GET", path: "/dashboard/session"},
		{name: "operators", method: "GET", path: "/dashboard/operators"},
	}
}

var matching = regexp.MustCompile(`role="status">([\d,. ]+) accounts?`)

// waitIndexed waits until the accounts page counts all connections.
func (o *scaleOperator) waitIndexed(connections int) time.Time {
	o.t.Helper()
	for {
		got := o.ask("GET", "/dashboard/accounts", nil)
		if m := matching.FindStringSubmatch(got.body); m != nil {
			if n, _ := strconv.Atoi(strings.NewReplacer(",", "", " ", "", ".", "").Replace(m[1])); n >= connections {
				return time.Now()
			}
		}
		time.Sleep(time.Second)
	}
}

// waitSearchable waits until the trail, as it is now, is in the index that the explorer reads.
func (o *scaleOperator) waitSearchable(redis *redisCLI) time.Time {
	o.t.Helper()
	number := func(id string) (ms, n int) {
		a, b, _ := strings.Cut(id, "-")
		ms, _ = strconv.Atoi(a)
		n, _ = strconv.Atoi(b)
		return ms, n
	}
	ctx := context.Background()
	for _, stream := range redis.rdb.Keys(ctx, "tb:{??}:a:*").Val() {
		last := redis.rdb.XRevRangeN(ctx, stream, "+", "-", 1).Val()
		for len(last) > 0 {
			ms, n := number(redis.rdb.HGet(ctx, strings.Replace(stream, ":a:", ":ax:m:", 1), "at").Val())
			if wantMs, wantN := number(last[0].ID); ms > wantMs || ms == wantMs && n >= wantN {
				break
			}
			time.Sleep(time.Second)
		}
	}
	return time.Now()
}
