package e2e

import (
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// attacked is a town that somebody with write access to Redis visits: a signed trail, two users with tokens, a broker that runs.
type attacked struct {
	*rig
	t          *testing.T
	broker     *brokerProcess
	api        *api
	redis      *redisCLI
	conns      map[string]string // of subjects
	tokens     map[string]string
	records    map[string]string            // their keys
	old        map[string]map[string]string // each record as it was before it was refreshed
	refreshed  map[string]string            // the first tokens
	stream     string                       // alice's
	before     string                       // that stream as it was before the last events
	headBefore string
}

func newAttacked(t *testing.T) *attacked {
	r := newRig(t)
	r.run("audit", "key", "--create", "--file", filepath.Join(r.dir, "audit-key.json"), "--kek", "env:TOKENBROKER_KEK")
	r.writeConfig("audit: {signing_key: audit-key.json, checkpoint_every: 1s, publish: {file: checkpoints.jsonl}}\n")
	a := &attacked{rig: r, t: t, conns: map[string]string{}, tokens: map[string]string{}, records: map[string]string{}, old: map[string]map[string]string{}, refreshed: map[string]string{}}
	a.broker = r.start()
	a.api, a.redis = a.broker.api(r.key), r.redisCLI()
	for _, who := range []string{"alice", "bob"} {
		b := newBrowser(t)
		b.hint = who
		a.conns[who] = a.api.connect(b, who)
		a.records[who] = a.redis.recordOf(a.conns[who])
		a.refreshed[who] = a.api.token(who).str("access_token")
		a.old[who] = a.redis.hash(a.records[who])
		a.tokens[who] = a.api.token(who, object{"min_ttl": 3600}).str("access_token")
	}
	a.stream = a.records["alice"][:len("tb:{00}:")] + "a:acme"
	a.before, a.headBefore = a.redis.dump(a.stream), a.redis.dump(a.heads())
	for range 3 {
		a.api.token("alice")
	}
	return a
}

func (a *attacked) heads() string { return strings.Replace(a.stream, ":a:", ":h:", 1) }

// alarms are the events of what was found in the place of something else.
func (a *attacked) alarms() int {
	return len(a.api.events(url.Values{"type": {"integrity.failed"}}))
}

// asks asks for a token; whatever comes is the subject's own newest one or none.
func (a *attacked) asks(who string) answer {
	a.t.Helper()
	got, err := a.api.try("POST", "/v1/tokens", object{"connector": "files", "subject": who})
	if err != nil {
		a.t.Fatal(err)
	}
	for other, token := range a.tokens {
		if other != who && strings.Contains(got.raw, token) {
			a.t.Fatalf("%s got the token of %s", who, other)
		}
	}
	for _, token := range a.refreshed {
		if strings.Contains(got.raw, token) {
			a.t.Fatalf("%s got a token of before the refresh", who)
		}
	}
	if got.status == http.StatusOK && got.str("access_token") != a.tokens[who] {
		a.t.Fatalf("%s got a token that nobody ever got", who)
	}
	return got
}

func (a *attacked) put(key string, fields map[string]string) {
	a.redis.do("DEL", key)
	for f, v := range fields {
		a.redis.set(key, f, v)
	}
}

// On the records. Each is met by a request while the broker runs.
var recordAttacks = []struct {
	name   string
	spoil  func(*attacked)
	served bool // the newest token must be handed out all the same; else it may, or none is
}{
	{"Threat31 two records swapped", func(a *attacked) {
		alice, bob := a.redis.hash(a.records["alice"]), a.redis.hash(a.records["bob"])
		a.put(a.records["alice"], bob)
		a.put(a.records["bob"], alice)
	}, false},
	{"Threat31 another's access token", func(a *attacked) {
		for field, value := range a.redis.hash(a.records["bob"]) {
			if strings.HasPrefix(field, "at") {
				a.redis.set(a.records["alice"], field, value)
			}
		}
	}, false},
	{"Threat32 the refresh token as the access token", func(a *attacked) {
		for field := range a.redis.hash(a.records["alice"]) {
			if strings.HasPrefix(field, "at") {
				a.redis.set(a.records["alice"], field, a.redis.hash(a.records["alice"])["rt"])
			}
		}
	}, false},
	{"Threat34 an old record put back that says it is of a newer consent", func(a *attacked) {
		a.put(a.records["alice"], a.old["alice"])
		a.redis.set(a.records["alice"], "cg", "99")
	}, true},
	{"Threat34 an old record put back", func(a *attacked) { a.put(a.records["alice"], a.old["alice"]) }, true},
	{"Threat34 a record deleted", func(a *attacked) { a.redis.do("DEL", a.records["alice"]) }, true},
}

// TestThreat31To34RecordsUnderAttack: somebody with redis-cli changes records under a running broker. Never a wrong token, always an event.
func TestThreat31To34RecordsUnderAttack(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	whole := map[string]map[string]string{"alice": a.redis.hash(a.records["alice"]), "bob": a.redis.hash(a.records["bob"])}
	for _, attack := range recordAttacks {
		t.Run(strings.ReplaceAll(attack.name, " ", "-"), func(t *testing.T) {
			a.t = t
			before, sent := a.alarms(), a.provider.Stats()
			attack.spoil(a)
			got := a.asks("alice")
			switch {
			case attack.served && got.status != http.StatusOK:
				t.Errorf("the newest record was not put back: %d %s", got.status, got.raw)
			case got.status != http.StatusOK && (got.status != http.StatusInternalServerError || got.str("error") != "server_error"):
				t.Errorf("%d %s", got.status, got.raw)
			}
			if n := a.alarms(); n != before+1 {
				t.Errorf("%d events integrity.failed, want %d", n, before+1)
			}
			if now := a.provider.Stats(); now.Refreshes != sent.Refreshes || now.Reuses != 0 {
				t.Errorf("the provider was sent a refresh token")
			}
			if !attack.served {
				a.put(a.records["alice"], whole["alice"])
				a.put(a.records["bob"], whole["bob"])
			}
			for who := range a.tokens {
				if got := a.asks(who); got.status != http.StatusOK {
					t.Errorf("behind it, %s: %d %s", who, got.status, got.raw)
				}
			}
		})
	}
	a.t = t
	a.broker.stop()
	out, code := a.try("audit", "verify", "--config", a.config, "--strict")
	if code != 0 || !strings.Contains(out, "6 entries say that a record did not belong where it lay") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// On the trail, once the broker has ended, and its last checkpoint is published. Verifying names what was done.
var trailAttacks = []struct {
	name  string
	spoil func(*attacked)
	want  string
}{
	{"nothing", func(*attacked) {}, ""},
	{"two entries swapped", func(a *attacked) {
		entries := a.redis.entries(a.stream)
		a.redis.rebuild(a.stream, entries, func(i int) int { return map[int]int{1: 2, 2: 1}[i] + map[bool]int{true: i}[i != 1 && i != 2] }, -1)
	}, "changed|reordered|dropped"},
	{"an entry deleted", func(a *attacked) { a.redis.do("XDEL", a.stream, a.redis.entries(a.stream)[2].ID) }, "dropped"},
	{"the last entry deleted", func(a *attacked) {
		entries := a.redis.entries(a.stream)
		a.redis.do("XDEL", a.stream, entries[len(entries)-1].ID)
	}, "dropped"},
	{"entries and heads deleted", func(a *attacked) { a.redis.do("DEL", a.heads()); a.redis.do("DEL", a.stream) }, "dropped"},
	{"an entry changed", func(a *attacked) {
		a.redis.rebuild(a.stream, a.redis.entries(a.stream), func(i int) int { return i }, 3)
	}, "changed or forged"},
	{"an event replayed", func(a *attacked) {
		entries := a.redis.entries(a.stream)
		a.redis.do(append([]any{"XADD", a.stream, "*"}, entries[1].Values...)...)
	}, "reordered or repeated"},
	{"an event forged", func(a *attacked) { a.redis.do("XADD", a.stream, "*", "m", "token.issued", "b", "never") }, "changed or forged"},
	{"another tenant's event", func(a *attacked) {
		var values []any
		for _, key := range a.redis.keys() {
			if strings.Contains(key, ":a:acme") && key != a.stream {
				values = a.redis.entries(key)[0].Values
			}
		}
		a.redis.do(append([]any{"XADD", a.stream, "*"}, values...)...)
	}, "changed or forged"},
	{"a stream truncated", func(a *attacked) { a.redis.do("XTRIM", a.stream, "MAXLEN", "2") }, "dropped"},
	{"a stream set back with its heads", func(a *attacked) {
		a.redis.restore(a.stream, a.before)
		a.redis.restore(a.heads(), a.headBefore)
	}, "dropped: . entr[a-z]* [a-z]* missing at the end of a chain, of those that checkpoint"},
	{"a whole stream gone", func(a *attacked) {
		a.redis.do("DEL", a.stream, a.heads())
		a.redis.do("SREM", a.stream[:len("tb:{00}:")]+"t", "acme")
	}, "dropped: nothing is left of a stream"},
	{"a whole shard gone, and the checkpoints", func(a *attacked) {
		for _, key := range a.redis.keys() {
			if strings.HasPrefix(key, a.stream[:len("tb:{00}:")]) || strings.HasSuffix(key, ":cp") {
				a.redis.do("DEL", key)
			}
		}
	}, "dropped: nothing is left of a stream"},
	{"everything gone", func(a *attacked) { a.redis.do("FLUSHALL") }, "dropped: nothing is left of a stream"},
}

// TestThreat71TrailUnderAttack: whatever somebody with redis-cli does to the trail, verifying it with what was published names it.
func TestThreat71TrailUnderAttack(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	a.broker.stop()
	whole := map[string]string{}
	for _, key := range a.redis.keys() {
		whole[key] = a.redis.dump(key)
	}
	for _, attack := range trailAttacks {
		t.Run(strings.ReplaceAll(attack.name, " ", "-"), func(t *testing.T) {
			attack.spoil(a)
			out, code := a.try("audit", "verify", "--config", a.config, "--strict")
			named := regexp.MustCompile(`first bad event is [^:]*: (` + attack.want + ")").MatchString(out)
			if attack.want == "" && code != 0 || attack.want != "" && (code != 1 || !named || !strings.Contains(out, "tampered")) {
				t.Errorf("exit %d\n%s", code, out)
			}
			a.redis.do("FLUSHALL")
			for key, dumped := range whole {
				a.redis.restore(key, dumped)
			}
		})
	}
}
