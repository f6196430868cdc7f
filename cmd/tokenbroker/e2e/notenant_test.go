package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// A tenant that there is not has no page, for those who may see all tenants too, and its name leaves nothing in Redis.
func TestNoSuchTenant(t *testing.T) {
	t.Parallel()
	const none = "junk-4711"
	r := newRig(t)
	p := r.start()
	conn := p.api(r.key).connect(newBrowser(t), "alice")
	op := p.boss()
	token := formToken.FindStringSubmatch(op.get(p.url + "/dashboard/session").body)[1]
	asked := 0
	for _, d := range deeds {
		if d.foreign == "" || strings.HasPrefix(d.route, "/dashboard/accounts/:id") { // those look for the record first
			continue
		}
		address := p.url + strings.NewReplacer("{rival}", conn, "tenant=rival", "tenant="+none).Replace(d.foreign)
		var got page
		if d.method == "GET" {
			got = op.get(address)
		} else {
			form := url.Values{"form": {token}}
			for name, value := range d.form {
				form[name] = value
			}
			if form.Has("tenant") {
				form.Set("tenant", none)
			}
			if form.Has("reason") {
				form.Set("reason", "a typing error")
			}
			form.Set("once", "x")
			if form.Has("format") {
				form.Set("format", "jsonl")
			}
			got = op.post(address, form)
		}
		asked++
		if looks := d.method == "GET" || d.form.Has("reason") || d.form.Has("format"); got.status >= 500 || looks && got.status != http.StatusNotFound && !strings.Contains(d.route, "switches") && !strings.Contains(d.route, "revoke-all") && !strings.Contains(d.route, "reach") {
			t.Errorf("%s %s: %d", d.method, address, got.status)
		}
	}
	if got := op.get(p.url + "/dashboard/accounts/" + conn + "?tenant=" + none); got.status != http.StatusNotFound {
		t.Errorf("an account of it: %d", got.status)
	}
	if asked < 10 {
		t.Errorf("asked %d times", asked)
	}
	redis := r.redisCLI().rdb
	for _, key := range redis.Keys(t.Context(), "*").Val() {
		members, _ := redis.SMembers(t.Context(), key).Result()
		if strings.Contains(key, none) || strings.Contains(strings.Join(members, " "), none) {
			t.Errorf("it left %s", key)
		}
	}
}
