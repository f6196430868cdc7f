package main

import (
	"strings"
	"testing"

	"tokenbroker/broker"
)

func TestLimitsAreRead(t *testing.T) {
	const client = "clients:\n  - id: acme-chat\n    tenant: acme\n    key_sha256: [" + goodDigest + "]\n"
	for _, c := range []struct {
		text string
		want func(*broker.Limits)
	}{
		{client, func(*broker.Limits) {}},
		{client + "limits: {}\n", func(*broker.Limits) {}},
		{client + "limits: {client: {rate: 100, pending_consents: 50}}\n", func(l *broker.Limits) { l.Client = broker.Limit{Rate: 100, Burst: 200, Consents: 50} }},
		{client + "limits: {tenant: {burst: 7}}\n", func(l *broker.Limits) { l.Tenant.Burst = 7 }},
		{client + "limits: {subject: {rate: 5, burst: 9}}\n", func(l *broker.Limits) { l.Subject.Rate, l.Subject.Burst = 5, 9 }},
		{client + "limits: {address: {wrong_keys: 3, burst: 4, pending_consents: 5}}\n", func(l *broker.Limits) { l.Address = broker.Limit{Rate: 3, Burst: 4, Consents: 5} }},
		{client + "limits: {tenant: {pending_consents: 8}, tenants: [{id: acme, rate: 9}]}\n", func(l *broker.Limits) {
			l.Tenant.Consents = 8
			l.Tenants["acme"] = broker.Limit{Rate: 9, Burst: 18, Consents: 8}
		}},
		{client + "    limits: {rate: 20}\nlimits: {client: {pending_consents: 6}}\n", func(l *broker.Limits) {
			l.Client.Consents = 6
			l.Clients["acme-chat"] = broker.Limit{Rate: 20, Burst: 40, Consents: 6}
		}},
		{client + "limits: {client: off, tenant: {rate: off}}\n", func(l *broker.Limits) {
			l.Client, l.Tenant.Rate = broker.Limit{}, 0
		}},
		{client + "limits: {subject: {pending_consents: off, rate: 7}, address: {wrong_keys: off}}\n", func(l *broker.Limits) {
			l.Subject, l.Address.Rate, l.WrongKeys = broker.Limit{Rate: 7, Burst: 14}, 0, broker.Limit{}
		}},
		{client + "limits: {client: off, tenants: [{id: acme, rate: off}]}\n", func(l *broker.Limits) {
			l.Client, l.Tenants["acme"] = broker.Limit{}, broker.Limit{Burst: l.Tenant.Burst, Consents: l.Tenant.Consents}
		}},
		{client + "    limits: off\n", func(l *broker.Limits) { l.Clients["acme-chat"] = broker.Limit{} }},
		{client + "limits: off\n", func(l *broker.Limits) { *l = broker.Limits{Clients: l.Clients, Tenants: l.Tenants} }},
		{client + "    limits: {rate: 3}\nlimits: off\n", func(l *broker.Limits) {
			*l = broker.Limits{Clients: map[string]broker.Limit{"acme-chat": {Rate: 3, Burst: 6}}, Tenants: l.Tenants}
		}},
		{client + "    limits: {}\n", func(l *broker.Limits) { l.Clients["acme-chat"] = l.Client }},
	} {
		cfg, err := load(t, minimal+c.text, nil, nil)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		want := defaultLimits()
		want.Clients, want.Tenants = map[string]broker.Limit{}, map[string]broker.Limit{}
		c.want(&want)
		got := cfg.Limits
		if got.Client != want.Client || got.Tenant != want.Tenant || got.Subject != want.Subject || got.Address != want.Address || got.WrongKeys != want.WrongKeys {
			t.Errorf("%s: %+v", c.text, got)
		}
		if len(got.Clients) != len(want.Clients) || got.Clients["acme-chat"] != want.Clients["acme-chat"] || len(got.Tenants) != len(want.Tenants) || got.Tenants["acme"] != want.Tenants["acme"] {
			t.Errorf("%s: %+v", c.text, got)
		}
	}
	for text, says := range map[string]string{
		"limits: 5":                                     "limits must be a mapping",
		"limits: {clients: {rate: 5}}":                  `unknown key "clients" in limits; did you mean "client"?`,
		"limits: {client: {rate: 0}}":                   "limits.client.rate must be a whole number from 1 to",
		"limits: {tenant: {rate: 0}}":                   "write rate: off where there is to be no limit",
		"limits: {address: {wrong_keys: 0}}":            "write wrong_keys: off where there is to be no limit",
		"limits: {client: never}":                       "limits.client must be a mapping",
		"limits: {client: {burst: off}}":                "limits.client.burst must be a whole number from 1 to",
		"limits: {client: {rate: \"off \"}}":            "limits.client.rate must be a whole number",
		"limits: {client: {rate: 1.5}}":                 "limits.client.rate must be a whole number",
		"limits: {client: {rates: 5}}":                  `unknown key "rates" in limits.client; did you mean "rate"?`,
		"limits: {subject: {pending_consents: 0}}":      "limits.subject.pending_consents must be a whole number from 1 to",
		"limits: {address: {rate: 5}}":                  `unknown key "rate" in limits.address`,
		"limits: {tenants: {acme: {rate: 5}}}":          "limits.tenants must be a list",
		"limits: {tenants: [{rate: 5}]}":                "limits.tenants[0].id is missing",
		"limits: {tenants: [{id: acme}, {id: acme}]}":   "limits.tenants[1].id is in the list already",
		client + "    limits: {pending_consents: many}": "clients[0].limits.pending_consents must be a whole number",
	} {
		if _, err := load(t, minimal+text+"\n", nil, nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	cfg, err := load(t, minimal+"limits: {tenants: [{id: nobodys}]}\n", nil, nil)
	if err != nil || len(cfg.Notes) != 1 || !strings.Contains(cfg.Notes[0], `"nobodys"`) {
		t.Errorf("notes %v, %v", cfg, err)
	}
}
