package vaulttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// RunSigned runs what a signed trail must show (threats.md, rows 34 and 71), on a topology of its own: checkpoints are one log for all.
func RunSigned(t *testing.T, start func(testing.TB) Topology) {
	for _, a := range signedAttacks {
		t.Run(strings.ReplaceAll(a.name, " ", "-"), func(t *testing.T) { newRig(t, start(t)).attack(a) })
	}
	t.Run("trimmed", func(t *testing.T) { testSignedTrimmed(newRig(t, start(t))) })
	t.Run("doubts", func(t *testing.T) { testSignedDoubts(newRig(t, start(t))) })
	t.Run("archive", func(t *testing.T) { testArchive(newRig(t, start(t))) })
	t.Run("archive among many checkpoints", func(t *testing.T) { testArchiveAmongMany(newRig(t, start(t))) })
	t.Run("archive of a stream that is held", func(t *testing.T) { testArchiveHeld(newRig(t, start(t))) })
	t.Run("export", func(t *testing.T) { testExport(newRig(t, start(t))) })
	t.Run("spoiled checkpoints", func(t *testing.T) { testSignedSpoiled(newRig(t, start(t))) })
	t.Run("saying that events go", func(t *testing.T) { testSayingAgain(newRig(t, start(t))) })
	t.Run("memory", func(t *testing.T) { testSignedMemory(newRig(t, start(t))) })
	t.Run("installations", func(t *testing.T) { testInstallations(newRig(t, start(t))) })
	t.Run("publishing", func(t *testing.T) { testPublishing(newRig(t, start(t))) })
}

// paper keeps checkpoints outside of the store.
type paper struct {
	mu    sync.Mutex
	lines [][]byte
	fail  error
}

func (p *paper) Name() string { return "paper" }

func (p *paper) Publish(_ context.Context, line []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail == nil {
		p.lines = append(p.lines, bytes.Clone(line))
	}
	return p.fail
}

func (p *paper) source() []vault.CheckpointSource {
	p.mu.Lock()
	defer p.mu.Unlock()
	return []vault.CheckpointSource{{Name: "paper", Lines: slices.Clone(p.lines)}}
}

// signed are keys, the paper to which replicas publish, and a replica's configuration with both.
type signed struct {
	*rig
	keys  *vault.SigningKeys
	paper *paper
	// installation is the name that is signed.
	installation string
}

// by are the keys and the name.
func (s *signed) by() vault.Signers {
	return vault.Signers{Keys: s.keys.Public(), Installations: []string{s.installation}}
}

func (r *rig) signed() *signed {
	r.Helper()
	kek, err := vault.NewKEK(bytes.Repeat([]byte{7}, 32), "the test")
	if err != nil {
		r.Fatal(err)
	}
	content, err := vault.AddSigningKey(nil, kek, rand.Reader, time.Now())
	if err != nil {
		r.Fatal(err)
	}
	keys, err := vault.OpenSigningKeys(content, kek)
	if err != nil {
		r.Fatal(err)
	}
	return &signed{rig: r, keys: keys, paper: &paper{}, installation: "https://here.example"}
}

// signs has a store's trail signed; a checkpoint is made when it is closed, or told to.
func (s *signed) signs(vc *vault.Config, _ *redisstore.Config) {
	vc.Signing = vault.Signing{Keys: s.keys, Installation: s.installation, Interval: time.Hour, Publishers: []vault.Publisher{s.paper}}
}

// verify compares the trail with the checkpoints in Redis and on these papers.
func (s *signed) verify(papers ...vault.CheckpointSource) vault.Report {
	s.Helper()
	report, err := s.store().VerifySigned(s.ctx(), s.by(), papers)
	if err != nil {
		s.Fatal(err)
	}
	return report
}

// signedTown is what an attacker finds: two replicas wrote into one stream, and ended one behind the other.
type signedTown struct {
	*trail
	signed *signed
	saved  map[string]string // the stream's keys as they were before the second one
}

// attack is done by somebody who has Redis, and perhaps the keyset, but not the signing key.
type signedAttack struct {
	name  string
	spoil func(*signedTown)
	// blind: without signatures nobody sees it.
	blind bool
	want  string // what verifying says, with what was published
}

var signedAttacks = []signedAttack{
	{"nothing", func(*signedTown) {}, true, ""},
	{"a stream is gone whole", func(t *signedTown) {
		t.raw("DEL", t.stream, t.heads)
		t.raw("SREM", t.index, t.tenant)
	}, true, "dropped: nothing is left of a stream"},
	{"a stream is set back whole", func(t *signedTown) { t.setBack() }, true, "dropped: 3 entries are missing at the end of a chain, of those that checkpoint 1"},
	{"the newest of a replica are gone with its head", func(t *signedTown) {
		t.drop(4, 5, 6)
		t.dropHead(t.newest())
	}, true, "dropped: 3 entries are missing"},
	{"one entry is gone", func(t *signedTown) { t.drop(1) }, false, "dropped: 1 entry is missing between the entries of a chain"},
	{"another history with the keyset", func(t *signedTown) {
		t.raw("DEL", t.stream, t.heads)
		s := t.rig.store()
		t.write(s, 7)
		s.Close()
	}, true, "dropped: 4 entries are missing"},
	{"another history with the keyset under the same names", func(t *signedTown) {
		t.raw("DEL", t.stream, t.heads)
		s := t.rig.store(t.named)
		t.write(s, 4)
		s.Close()
		s = t.rig.store(t.named2)
		t.write(s, 3)
		s.Close()
	}, true, "changed: 1 to 4 of a chain are not the entries that checkpoint 1"},
	{"entries are added with the keyset", func(t *signedTown) {
		s := t.rig.store(t.named2again)
		t.write(s, 1)
		s.Close()
	}, true, "unsigned"},
	{"all checkpoints are gone from Redis", func(t *signedTown) { t.raw("DEL", "tb:{00}:cp"); t.setBack() }, true, "dropped: 3 entries are missing"},
	{"checkpoints in Redis say no more of what they signed", func(t *signedTown) {
		t.bareCheckpoints()
		t.raw("DEL", t.stream, t.heads)
		t.raw("SREM", t.index, t.tenant)
	}, true, "dropped: nothing is left of a stream"},
	{"a checkpoint is forged", func(t *signedTown) {
		line := string(t.signed.paper.source()[0].Lines[0])
		t.raw("XADD", "tb:{00}:cp", "*", "m", strings.Replace(line, `"seq":1`, `"seq":2`, 1), "b", "")
	}, true, "forged: checkpoint 2 of log"},
}

// reader gives each byte value many times, so that who begins with the same one names the same writer.
type sameBytes byte

func (b sameBytes) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

var _ io.Reader = sameBytes(0)

func (t *signedTown) named(vc *vault.Config, _ *redisstore.Config)  { vc.Random = sameBytes(1) }
func (t *signedTown) named2(vc *vault.Config, _ *redisstore.Config) { vc.Random = sameBytes(2) }

// named2again is another writer than both.
func (t *signedTown) named2again(vc *vault.Config, _ *redisstore.Config) { vc.Random = sameBytes(3) }

func (t *signedTown) newest() (fields []string) {
	for _, f := range lines(t.raw("HKEYS", t.heads)) {
		if strings.HasPrefix(f, "AgIC") {
			fields = append(fields, f)
		}
	}
	return fields
}

// keep remembers the stream and its heads as an attacker would: byte for byte.
func (t *signedTown) keep() {
	t.saved = map[string]string{}
	for _, key := range []string{t.stream, t.heads} {
		t.saved[key] = t.raw("DUMP", key)
	}
}

func (t *signedTown) setBack() {
	for key, dump := range t.saved {
		t.raw("RESTORE", key, "0", dump, "REPLACE")
	}
}

// bareCheckpoints puts those in Redis into the form that proofs have, which has the same signature.
func (t *signedTown) bareCheckpoints() {
	t.Helper()
	t.raw("DEL", "tb:{00}:cp")
	for _, line := range t.signed.paper.source()[0].Lines {
		var all map[string]any
		if err := json.Unmarshal(line, &all); err != nil {
			t.Fatal(err)
		}
		spans, err := base64.StdEncoding.DecodeString(all["spans"].(string))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(spans)
		delete(all, "spans")
		all["spans_sha256"] = sum[:]
		bare, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		t.raw("XADD", "tb:{00}:cp", "*", "m", string(bare), "b", "")
	}
}

func (r *rig) attack(a signedAttack) {
	t := &signedTown{signed: r.signed(), trail: r.trail(1)}
	one := r.store(t.named, t.signed.signs)
	t.write(one, 4)
	one.Close()
	t.keep()
	two := r.store(t.named2, t.signed.signs)
	t.write(two, 3)
	two.Close()
	// Something signed later, elsewhere, so that what is unsigned is not merely new.
	later := r.store(t.signed.signs, func(vc *vault.Config, _ *redisstore.Config) {
		vc.Now = func() time.Time { return time.Now().Add(time.Hour) }
	})
	other := entry(broker.EventTokenIssued, broker.Connection{Tenant: t.tenant + "x", Subject: "v"}, "a")
	if err := later.Append(r.ctx(), other); err != nil {
		r.Fatal(err)
	}
	later.Close()
	published := t.signed.paper.source()
	if len(published[0].Lines) != 3 {
		r.Fatalf("%d checkpoints were published", len(published[0].Lines))
	}
	a.spoil(t)

	plain, err := t.store.Verify(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	if a.blind != (len(plain.Faults) == 0) {
		r.Errorf("without signatures: %+v", plain.Faults)
	}
	report := t.signed.verify(published...)
	switch {
	case a.want == "":
		if len(report.Faults) > 0 || report.Signed.Entries != 8 || report.Signed.Unsigned != 0 || report.Signed.Logs != 3 || report.Signed.Checkpoints != 3 {
			r.Errorf("untouched: %+v, %+v", report.Faults, report.Signed)
		}
	case a.want == "unsigned":
		if len(report.Faults) > 0 || report.Signed.Unsigned != 1 || t.names[report.Signed.FirstUnsigned.Event] != "7" {
			r.Errorf("%+v, %+v", report.Faults, report.Signed)
		}
	default:
		if len(report.Faults) == 0 || !slices.ContainsFunc(report.Faults, func(f vault.Fault) bool { return strings.HasPrefix(f.What, a.want) }) {
			r.Errorf("want %q, got %+v", a.want, report.Faults)
		}
	}
}

// testSignedTrimmed: what retention drops is no fault, and what is trimmed without having been announced is one, even with the keyset.
func testSignedTrimmed(r *rig) {
	for _, announced := range []bool{true, false} {
		s := r.signed()
		t := r.trail(1)
		one := r.store(s.signs)
		t.write(one, 6)
		one.Close()
		two := r.store(s.signs)
		t.write(two, 2)
		two.Close()
		keep := vault.Retention{Age: 90 * 24 * time.Hour}
		b := &later{Store: r.backend(), ahead: ahead}
		trimmer := r.store(func(vc *vault.Config, rc *redisstore.Config) {
			vc.Backend, vc.Now, vc.Retention = b, func() time.Time { return time.Now().Add(ahead) }, keep
			if announced {
				s.signs(vc, rc)
			}
		})
		r.trimmed(trimmer)
		trimmer.Close()
		report := s.verify(s.paper.source()...)
		mine := slices.DeleteFunc(report.Faults, func(f vault.Fault) bool { return !strings.HasPrefix(f.Stream, t.tenant) })
		if report.Dropped < 8 {
			r.Errorf("%d were dropped", report.Dropped)
		}
		if announced && len(report.Faults) > 0 {
			r.Errorf("announced: %+v", report.Faults)
		}
		if !announced && (len(mine) == 0 || !strings.HasPrefix(mine[0].What, "dropped: entries were trimmed")) {
			r.Errorf("not announced: %+v", report.Faults)
		}
		r.everywhere("FLUSHALL")
	}
}

// testSignedDoubts: entries whose answers were lost are signed all the same, each once.
func testSignedDoubts(r *rig) {
	s, t := r.signed(), r.trail(1)
	b := &later{Store: r.backend()}
	n := 0
	b.apply = func(ctx context.Context, steps []vault.Step, apply func(context.Context, []vault.Step) []vault.Result) []vault.Result {
		results := apply(ctx, steps)
		if n++; n%2 == 1 {
			for i := range results {
				results[i] = vault.Result{Err: fmt.Errorf("the answer is lost")}
			}
		}
		return results
	}
	one := r.store(s.signs, func(vc *vault.Config, _ *redisstore.Config) { vc.Backend = b })
	var entries []broker.Entry
	for range 5 {
		entries = append(entries, entry(broker.EventTokenIssued, broker.Connection{Tenant: t.tenant, Subject: "u"}, "a"))
	}
	for range 3 {
		if err := one.Append(r.ctx(), entries...); err != nil {
			r.Fatal(err)
		}
		for i := range entries {
			entries[i].Scopes = []broker.EventScope{{ID: eventID(), Scope: "a"}}
		}
	}
	one.Close()
	report := s.verify(s.paper.source()...)
	if len(report.Faults) > 0 || report.Signed.Entries != report.Entries || report.Entries != 15 {
		r.Errorf("%d entries: %+v %+v", report.Entries, report.Faults, report.Signed)
	}
}

// testPublishing: a place that does not take checkpoints gets all of them later, in order, and stops nobody meanwhile.
func testPublishing(r *rig) {
	s, t := r.signed(), r.trail(1)
	s.paper.fail = fmt.Errorf("the paper is wet")
	one := r.store(s.signs, func(vc *vault.Config, _ *redisstore.Config) { vc.Signing.Interval = 10 * time.Millisecond })
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = one.Run(ctx) })
	for n := range 3 {
		t.write(one, 1)
		r.within(10*time.Second, "a checkpoint waits", func() bool { return one.Published()[1].Waiting > n })
	}
	if at := one.Published()[1]; at.Failure == nil || at.Oldest.IsZero() || !at.Last.IsZero() {
		r.Errorf("it does not say so: %+v", at)
	}
	s.paper.mu.Lock()
	s.paper.fail = nil
	s.paper.mu.Unlock()
	r.within(20*time.Second, "all are published", func() bool { return one.Published()[1].Waiting == 0 })
	if at := one.Published()[1]; at.Failure != nil || time.Since(at.Last) > time.Minute {
		r.Errorf("it does not say that they are: %+v", at)
	}
	cancel()
	running.Wait()
	one.Close()
	r.raw("DEL", "tb:{00}:cp")
	report := s.verify(s.paper.source()...)
	if len(report.Faults) > 0 || report.Signed.Entries != 3 || report.Signed.Checkpoints != 4 {
		r.Errorf("%+v %+v", report.Faults, report.Signed)
	}
}
