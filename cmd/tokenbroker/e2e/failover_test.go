package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
	"tokenbroker/vault/vaulttest"
)

// The master behind a Sentinel dies while everybody refreshes: the others take over, refusals say when to come back, and no
// grant is lost, whatever the new master has not heard of.
func TestSentinelFailoverUnderLoad(t *testing.T) {
	t.Parallel()
	s := vaulttest.StartSentinel(t)
	r := newRigAt(t, s.URL(), crowdUsers(10))
	r.writeConfig(patient)
	crowd := newCrowd(r, 10, r.start("SPOOL=spool-a"), r.start("SPOOL=spool-b"))
	crowd.begin(100 * time.Millisecond)
	r.eventually(20*time.Second, "everybody is at work", func() error {
		if n := r.provider.Stats().Refreshes; n < 50 {
			return fmt.Errorf("%d refreshes", n)
		}
		return nil
	})
	died := time.Now()
	s.Master.Kill()
	r.eventually(60*time.Second, "another master", func() error {
		if master, _ := s.Current(); master == s.Master {
			return fmt.Errorf("still the old one")
		}
		return nil
	})
	promoted := time.Since(died)
	crowd.good(crowd.names...)
	seen := crowd.end()
	refused, lasted := span(seen, died)
	t.Logf("a new master after %v; %d of %d answers were refusals, over %v", promoted, refused, len(seen), lasted)
	crowd.good(crowd.names...)
	crowd.nobodyAsked()
	for _, p := range crowd.replicas {
		p.waitReady(200)
	}
}

// A master acknowledges a refresh, tells its replica nothing of it, and dies. The replica that made the refresh heals the
// record; another one, asked first, does not send the refresh token from before.
func TestFailoverLosesARefresh(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"the writer", "another replica"} {
		t.Run(first+" is asked first", func(t *testing.T) {
			t.Parallel()
			s := vaulttest.StartSentinel(t)
			r := newRigAt(t, s.URL(), crowdUsers(1))
			r.writeConfig(patient)
			writer, other := r.start("SPOOL=spool-a"), r.start("SPOOL=spool-b")
			crowd := newCrowd(r, 1, writer, other)
			user := crowd.names[0]
			crowd.good(user) // both have connections to the master
			conn := writer.api(r.key).want(200, "GET", "/v1/connections?subject="+user, nil).list("connections")[0]["id"].(string)

			replicated(t, s, conn)
			s.Replica.Pause()
			if _, err := vaulttest.Command(s.Master.Addr, "CLIENT", "KILL", "TYPE", "replica"); err != nil {
				t.Fatal(err)
			}
			generation := generationAt(t, s.Master, conn)
			if got := crowd.ask(user, writer); got.status != 200 {
				t.Fatalf("the refresh: %d %s", got.status, got.text)
			}
			if now := generationAt(t, s.Master, conn); now <= generation {
				t.Fatalf("generation %s after %s", now, generation)
			}
			s.Master.Kill()
			s.Replica.Resume()
			r.eventually(60*time.Second, "the replica is the master", func() error {
				if master, _ := s.Current(); master != s.Replica {
					return fmt.Errorf("not yet")
				}
				return nil
			})
			if now := generationAt(t, s.Replica, conn); now != generation {
				t.Logf("the new master is at generation %s already, it was %s", now, generation)
			}
			asked := map[string]*brokerProcess{"the writer": writer, "another replica": other}[first]
			began := time.Now()
			r.eventually(60*time.Second, "a token", func() error {
				if got := crowd.ask(user, asked); got.status != 200 {
					return fmt.Errorf("%d %s", got.status, got.text)
				}
				return nil
			})
			t.Logf("a refresh works again after %v", time.Since(began))
			crowd.good(user)
			crowd.nobodyAsked()
			writer.stop()
			other.stop()
			// The events that the old master took with it are missing, and named as what they are.
			if out, code := r.try("audit", "verify", "--config", r.config); code != 0 && (strings.Contains(out, "tampered") || !strings.Contains(out, "otherwise as it was written")) {
				t.Errorf("the trail: exit %d\n%s", code, out)
			}
		})
	}
}

// A master gives a lease, tells its replica nothing of it, and dies while the provider is at work: two refreshes may then run
// beside one another. Where a used refresh token passes for a while, that costs nothing; where it ends the grant, the user
// is asked once, and all is well after that.
func TestFailoverLosesALease(t *testing.T) {
	t.Parallel()
	for _, rotation := range []sandbox.Rotation{sandbox.RotationGrace, sandbox.RotationStrict} {
		t.Run(string(rotation), func(t *testing.T) {
			t.Parallel()
			s := vaulttest.StartSentinel(t)
			r := newRigAt(t, s.URL(), crowdUsers(1), func(c *sandbox.Config) { c.Rotation = rotation })
			r.rotation = string(rotation)
			r.writeConfig(patient)
			writer, other := r.start("SPOOL=spool-a"), r.start("SPOOL=spool-b")
			crowd := newCrowd(r, 1, writer, other)
			user, c := crowd.names[0], other.api(r.key)
			crowd.good(user)
			conn := c.want(200, "GET", "/v1/connections?subject="+user, nil).list("connections")[0]["id"].(string)
			replicated(t, s, conn)
			s.Replica.Pause()
			if _, err := vaulttest.Command(s.Master.Addr, "CLIENT", "KILL", "TYPE", "replica"); err != nil {
				t.Fatal(err)
			}
			r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindHang, When: sandbox.After, Times: 1})
			answers := make(chan answer, 2)
			ask := func(p *brokerProcess) {
				a, _ := p.api(r.key).try("POST", "/v1/tokens", object{"connector": "files", "subject": user, "min_ttl": 3600})
				answers <- a
			}
			go ask(writer)
			r.eventually(20*time.Second, "the provider holds its answer", func() error {
				if n := r.provider.Stats().Held; n != 1 {
					return fmt.Errorf("%d held", n)
				}
				return nil
			})
			s.Master.Kill()
			s.Replica.Resume()
			r.eventually(60*time.Second, "the replica is the master", func() error {
				if master, _ := s.Current(); master != s.Replica {
					return fmt.Errorf("not yet")
				}
				return nil
			})
			go ask(other)
			first := <-answers // the other's, or the writer's that waited for as long as it may
			r.provider.ClearFaults()
			second := <-answers
			for _, a := range []answer{first, second} {
				if a.status != 200 && a.header.Get("Retry-After") == "" && a.str("error") != "consent_required" {
					t.Errorf("%d %s", a.status, a.raw)
				}
			}
			grant := r.grant(user)
			t.Logf("two refreshes at the same time: %d passed within the grace, %d ended the grant", r.provider.Stats().GraceReuses, r.provider.Stats().Reuses)
			if grant.Revoked == "" {
				crowd.good(user)
				crowd.nobodyAsked()
				return
			}
			if rotation == sandbox.RotationGrace {
				t.Fatalf("the provider's view: %+v", grant)
			}
			r.eventually(40*time.Second, "the loss shows", func() error {
				a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": user, "min_ttl": 3600})
				if err != nil || a.status != 409 {
					return fmt.Errorf("%v, %d", err, a.status)
				}
				return nil
			})
			b := newBrowser(t)
			b.hint = user
			c.connect(b, user)
			crowd.good(user)
		})
	}
}

// replicated waits until the replica has the record as the master has it.
func replicated(t *testing.T, s *vaulttest.Sentinel, conn string) {
	t.Helper()
	eventually(t, 20*time.Second, "the replica has it all", func() error {
		if key, err := vaulttest.Command(s.Replica.Addr, "KEYS", "*:c:"+conn); err != nil || key == "" || generationAt(t, s.Replica, conn) != generationAt(t, s.Master, conn) {
			return fmt.Errorf("not yet: %v", err)
		}
		return nil
	})
}

// generationAt reads the generation of a record from that very server.
func generationAt(t *testing.T, server *vaulttest.Redis, conn string) string {
	t.Helper()
	keys, err := vaulttest.Command(server.Addr, "KEYS", "*:c:"+conn)
	if err != nil || keys == "" {
		t.Fatalf("find the record: %q %v", keys, err)
	}
	gen, err := vaulttest.Command(server.Addr, "HGET", keys, "gen")
	if err != nil {
		t.Fatal(err)
	}
	return gen
}

// One master of a Cluster dies: users whose slots others have do not notice, the rest come back, and no grant is lost.
func TestClusterLosesAMaster(t *testing.T) {
	t.Parallel()
	cluster := vaulttest.StartClusterReplicas(t)
	r := newRigAt(t, cluster.URL(), crowdUsers(24))
	r.writeConfig(patient)
	crowd := newCrowd(r, 24, r.start("SPOOL=spool-a"), r.start("SPOOL=spool-b"))
	c := crowd.replicas[0].api(r.key)
	victim := cluster.Nodes[0]
	affected := map[string]bool{}
	for _, user := range crowd.names {
		conn := c.want(200, "GET", "/v1/connections?subject="+user, nil).list("connections")[0]["id"].(string)
		key := ""
		for _, n := range cluster.Nodes[:3] {
			if found, err := vaulttest.Command(n.Addr, "KEYS", "*:c:"+conn); err == nil && found != "" {
				key = found
			}
		}
		affected[user] = cluster.MasterOf(key) == victim
	}
	crowd.begin(100 * time.Millisecond)
	r.eventually(20*time.Second, "everybody is at work", func() error {
		if n := r.provider.Stats().Refreshes; n < 100 {
			return fmt.Errorf("%d refreshes", n)
		}
		return nil
	})
	died := time.Now()
	victim.Kill()
	crowd.good(crowd.names...)
	seen := crowd.end()
	refused, lasted := span(seen, died)
	unaffected, wrong := 0, 0
	before, wrongBefore := 0, 0
	for _, a := range seen {
		if a.at.Before(died) {
			before++
			if a.status != 200 {
				wrongBefore++
			}
		}
		if a.at.Before(died) || affected[a.user] {
			continue
		}
		unaffected++
		if a.status != 200 {
			wrong++
			t.Logf("a user of another slot: %d after %v: %s", a.status, a.took, a.text)
		}
	}
	n := 0
	for _, hit := range affected {
		if hit {
			n++
		}
	}
	t.Logf("%d of %d users had their slots there: %d refusals over %v; the others: %d answers, %d refusals", n, len(affected), refused, lasted, unaffected, wrong)
	// On a busy machine an event may take longer than 250 ms now and then, failover or not: with all masters there, how often?
	// The replica that takes over reads its data meanwhile, on the same cores.
	if usual := float64(wrongBefore) / float64(max(before, 1)); float64(wrong) > (0.02+3*usual)*float64(unaffected) {
		t.Errorf("%d of %d answers to users of other slots were refusals, before %d of %d", wrong, unaffected, wrongBefore, before)
	}
	if n == 0 || n == len(affected) || unaffected == 0 {
		t.Errorf("%d of %d users are affected: that shows nothing", n, len(affected))
	}
	crowd.good(crowd.names...)
	crowd.nobodyAsked()
	topology{nodes: live(cluster.Nodes, victim)}.wantNoError(t, "CROSSSLOT")
	if text := crowd.replicas[0].log.String(); strings.Contains(text, `"panic`) {
		t.Error("something panicked")
	}
}

func live(nodes []*vaulttest.Redis, dead *vaulttest.Redis) (out []*vaulttest.Redis) {
	for _, n := range nodes {
		if n != dead {
			out = append(out, n)
		}
	}
	return out
}
