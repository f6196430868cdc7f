package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
	"tokenbroker/vault/vaulttest"
)

// topology is a Redis in one of its forms.
type topology struct {
	url   string
	nodes []*vaulttest.Redis // all that hold data
}

// wantNoError holds the servers to never having answered an error of the kind.
func (s topology) wantNoError(t *testing.T, kind string) {
	t.Helper()
	for _, n := range s.nodes {
		info, err := vaulttest.Command(n.Addr, "INFO", "errorstats")
		if err != nil {
			t.Errorf("ask for the errors of a server: %v", err)
		}
		if strings.Contains(info, "errorstat_"+kind+":") {
			t.Errorf("a server answered %s:\n%s", kind, info)
		}
	}
}

// empty forgets everything.
func (s topology) empty(t *testing.T) {
	t.Helper()
	for _, n := range s.nodes {
		info, err := vaulttest.Command(n.Addr, "INFO", "replication")
		if err == nil && strings.Contains(info, "role:master") {
			_, err = vaulttest.Command(n.Addr, "FLUSHALL")
		}
		if err != nil {
			t.Fatalf("empty a server: %v", err)
		}
	}
}

// The contract's tests once more, on Sentinel and on a Cluster, with subjects that look like hash tags.
func TestContractOnSentinelAndCluster(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) topology{
		"sentinel": func(t *testing.T) topology {
			s := vaulttest.StartSentinel(t)
			return topology{url: s.URL(), nodes: []*vaulttest.Redis{s.Master, s.Replica}}
		},
		"cluster": func(t *testing.T) topology {
			c := vaulttest.StartClusterReplicas(t)
			return topology{url: c.URL(), nodes: c.Nodes}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := start(t)
			for _, tc := range []struct {
				name   string
				change []func(*sandbox.Config)
				run    func(*testing.T, *rig)
			}{
				{"tour a{b}c", nil, func(t *testing.T, r *rig) { contractTour(t, r, "a{b}c") }},
				{"tour }{", nil, func(t *testing.T, r *rig) { contractTour(t, r, "}{") }},
				{"tour emoji", nil, func(t *testing.T, r *rig) { contractTour(t, r, "😀{👩‍🚀}") }},
				{"narrowed", nil, narrowedForACeiling},
				{"min_ttl", []func(*sandbox.Config){shortLived(30 * time.Second)}, minTTLAndLongLived},
				{"forwarded link", nil, forwardedLinkInThreeJars},
				{"consent threats", nil, consentThreats},
				{"unknown links", nil, unknownLinks},
				{"bad requests", nil, badRequests},
			} {
				t.Run(tc.name, func(t *testing.T) {
					store.empty(t)
					tc.run(t, newRigAt(t, store.url, tc.change...))
				})
			}
			store.wantNoError(t, "CROSSSLOT")
		})
	}
}

// crowd is users who refresh all the time, each at a replica of its own choice, and what they were answered.
type crowd struct {
	rig      *rig
	replicas []*brokerProcess
	names    []string

	stop chan struct{}
	once sync.Once
	wait sync.WaitGroup
	mu   sync.Mutex
	seen []crowdAnswer
	odd  map[string]bool // users about whom something was said already
}

type crowdAnswer struct {
	user   string
	at     time.Time // when it was asked
	took   time.Duration
	status int
	text   string
}

// newCrowd connects n users.
func newCrowd(r *rig, n int, replicas ...*brokerProcess) *crowd {
	r.t.Helper()
	c := &crowd{rig: r, replicas: replicas, stop: make(chan struct{}), odd: map[string]bool{}}
	for i := range n {
		name := fmt.Sprintf("user-%d", i)
		c.names = append(c.names, name)
		b := newBrowser(r.t)
		b.hint = name
		replicas[0].api(r.key).connect(b, name)
	}
	return c
}

func crowdUsers(n int) func(*sandbox.Config) {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("user-%d", i))
	}
	return users(names...)
}

// begin lets them ask, each every so often.
func (c *crowd) begin(pace time.Duration) {
	c.rig.t.Cleanup(func() { c.end() })
	for i, name := range c.names {
		c.wait.Go(func() {
			for n := i; !isClosed(c.stop); n++ {
				c.ask(name, c.replicas[n%len(c.replicas)])
				select {
				case <-c.stop:
				case <-time.After(pace):
				}
			}
		})
	}
}

func (c *crowd) ask(name string, p *brokerProcess) crowdAnswer {
	began := time.Now()
	a, err := p.api(c.rig.key).try("POST", "/v1/tokens", object{"connector": "files", "subject": name, "min_ttl": 3600})
	got := crowdAnswer{user: name, at: began, took: time.Since(began), status: a.status, text: a.raw}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || a.status != 200 && (a.status != 503 || a.header.Get("Retry-After") == "") {
		if !c.odd[name] {
			c.rig.t.Errorf("%s: %v, %d %s", name, err, a.status, a.raw)
		}
		c.odd[name] = true
	}
	c.seen = append(c.seen, got)
	return got
}

// end stops them and returns what they were answered, in the order in which they asked.
func (c *crowd) end() []crowdAnswer {
	c.once.Do(func() { close(c.stop) })
	c.wait.Wait()
	slices.SortFunc(c.seen, func(a, b crowdAnswer) int { return a.at.Compare(b.at) })
	return c.seen
}

// good waits until each user is served at each replica, one after the other.
func (c *crowd) good(names ...string) {
	c.rig.t.Helper()
	for _, name := range names {
		for _, p := range c.replicas {
			c.rig.eventually(60*time.Second, "a token for "+name+" after the failover", func() error {
				if got := c.ask(name, p); got.status != http.StatusOK {
					return fmt.Errorf("%d %s", got.status, got.text)
				}
				return nil
			})
		}
	}
}

// nobodyAsked holds that no user was asked to consent again, and no refresh token came twice.
func (c *crowd) nobodyAsked() {
	c.rig.t.Helper()
	stats := c.rig.provider.Stats()
	if stats.Reuses != 0 {
		c.rig.t.Errorf("%d refresh tokens came twice", stats.Reuses)
	}
	for _, g := range stats.Grants {
		if g.Revoked != "" || g.Failures != 0 {
			c.rig.t.Errorf("the provider's view of a grant: %+v", g)
		}
	}
	if events := c.replicas[0].api(c.rig.key).events(url.Values{"type": {"connection.needs_consent"}}); len(events) != 0 {
		c.rig.t.Errorf("%d events say that a user must consent again", len(events))
	}
}

// span is from the first refusal to the last, among answers to requests from that time on.
func span(seen []crowdAnswer, from time.Time) (refused int, took time.Duration) {
	var first, last time.Time
	for _, a := range seen {
		if a.at.Before(from) || a.status == 200 {
			continue
		}
		if refused++; first.IsZero() {
			first = a.at
		}
		last = a.at.Add(a.took)
	}
	return refused, last.Sub(first)
}
