package main

import (
	"fmt"

	"go.yaml.in/yaml/v3"

	"tokenbroker/broker"
)

// mostRate is as good as no limit.
const mostRate = 10_000_000

// defaultLimits are such that no honest load meets them: requests as fast as two processors can answer them, so that who measures one
// client, or one subject, measures the broker and not a limit. Who has many tenants gives them less. Pending links cost memory, and are
// bounded well below what that would allow.
func defaultLimits() broker.Limits {
	return broker.Limits{
		Client:    broker.Limit{Rate: 20_000, Burst: 40_000, Consents: 20_000},
		Tenant:    broker.Limit{Rate: 40_000, Burst: 80_000, Consents: 40_000},
		Subject:   broker.Limit{Rate: 10_000, Burst: 20_000, Consents: 20_000},
		Address:   broker.Limit{Rate: 5, Burst: 1000, Consents: 40_000},
		WrongKeys: broker.Limit{Rate: 500, Burst: 10_000},
	}
}

// limits reads who may ask how much. What is left out has its default.
func (o object) limits() broker.Limits {
	all := defaultLimits()
	n := o.get("limits")
	if n == nil {
		return all
	}
	if isOff(n) {
		return broker.Limits{}
	}
	l, ok := o.s.object(n, "limits", "client", "tenant", "subject", "address", "tenants")
	if !ok {
		return all
	}
	all.Tenants = map[string]broker.Limit{}
	all.Client = l.limit("client", all.Client, mostRate)
	all.Tenant = l.limit("tenant", all.Tenant, mostRate)
	all.Subject = l.limit("subject", all.Subject, mostRate)
	all.Address = l.addressLimit("address", all.Address)
	if all.Address.Rate == 0 {
		all.WrongKeys = broker.Limit{} // they are counted, and not slowed
	}
	nodes, _ := l.list("tenants")
	for i, n := range nodes {
		t, ok := o.s.object(n, fmt.Sprintf("limits.tenants[%d]", i), "id", "rate", "burst", "pending_consents")
		if !ok {
			continue
		}
		t.need("id", "acme")
		id := t.text("id", "", clientID)
		if _, twice := all.Tenants[id]; twice {
			t.fail("id", "", t.get("id"), "is in the list already; keep it once")
			continue
		}
		if id == "" {
			continue
		}
		all.Tenants[id] = t.limitOf(all.Tenant, mostRate)
	}
	return all
}

// limit reads one limit.
func (o object) limit(key string, absent broker.Limit, mostConsents int) broker.Limit {
	n := o.get(key)
	if n == nil {
		return absent
	}
	if isOff(n) {
		return broker.Limit{}
	}
	l, ok := o.s.object(n, o.at(key), "rate", "burst", "pending_consents")
	if !ok {
		return absent
	}
	return l.limitOf(absent, mostConsents)
}

func (o object) limitOf(absent broker.Limit, mostConsents int) broker.Limit {
	l := broker.Limit{
		Rate:     float64(o.numberOrOff("rate", int(absent.Rate), mostRate)),
		Consents: o.numberOrOff("pending_consents", absent.Consents, mostConsents),
	}
	burst := absent.Burst
	if l.Rate != absent.Rate && l.Rate > 0 {
		burst = int(2 * l.Rate) // a rate alone must not come with a burst that was meant for another
	}
	l.Burst = o.number("burst", max(1, burst), 1, 2*mostRate)
	return l
}

// off stands for no limit. A 0 does not: it could as well be meant to let nothing through.
const off = "off"

func isOff(n *yaml.Node) bool { return n != nil && n.Kind == yaml.ScalarNode && n.Value == off }

// numberOrOff reads a number of at least 1; off is 0.
func (o object) numberOrOff(key string, absent, most int) int {
	n := o.get(key)
	switch {
	case isOff(n):
		return 0
	case n != nil && n.Kind == yaml.ScalarNode && n.Value == "0":
		o.fail(key, "", n, "must be a whole number from 1 to %d; write %s: off where there is to be no limit", most, key)
		return absent
	}
	return o.number(key, absent, 1, most)
}

// addressLimit reads that of an address, which counts wrong keys alone.
func (o object) addressLimit(key string, absent broker.Limit) broker.Limit {
	n := o.get(key)
	if n == nil {
		return absent
	}
	if isOff(n) {
		return broker.Limit{}
	}
	l, ok := o.s.object(n, o.at(key), "wrong_keys", "burst", "pending_consents")
	if !ok {
		return absent
	}
	return broker.Limit{
		Rate:     float64(l.numberOrOff("wrong_keys", int(absent.Rate), mostRate)),
		Burst:    l.number("burst", max(1, absent.Burst), 1, 2*mostRate),
		Consents: l.numberOrOff("pending_consents", absent.Consents, mostRate),
	}
}

// ownLimits reads a client's own; what is left out of them is every client's.
func (o object) ownLimits(all broker.Limit) *broker.Limit {
	if o.get("limits") == nil {
		return nil
	}
	limit := o.limit("limits", all, mostRate)
	return &limit
}

// addLimits joins what clients have of their own with what all have.
func (cfg *Config) addLimits(o object) {
	tenants := map[string]bool{}
	cfg.Limits.Clients = map[string]broker.Limit{}
	for _, client := range cfg.Clients {
		tenants[client.Client.Tenant] = true
		if client.Limits != nil {
			cfg.Limits.Clients[client.Client.ID] = *client.Limits
		}
	}
	for id := range cfg.Limits.Tenants {
		if !tenants[id] {
			o.s.notes = append(o.s.notes, fmt.Sprintf("%s: limits.tenants has the tenant %q, which no client belongs to", o.s.file, id))
		}
	}
}
