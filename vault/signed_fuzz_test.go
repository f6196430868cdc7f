package vault

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// signedArchive is an archive of one entry with its checkpoint, and who signed that.
func signedArchive(f *testing.F) (archive, checkpoint []byte, keys []PublicKey) {
	f.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	public := publicKey(private.Public().(ed25519.PublicKey))
	e := filled[broker.Entry]()
	e.Tenant = "acme"
	payload := appendEntry(nil, &e)
	m := clearOf(e)
	clear := m.chain(link{}, payload)
	at := link([]byte(clear)[len(clear)-len(link{}):])
	name := trailName{shard: 3, tenant: "acme"}
	span := signedSpan{name: name, writer: m.writer, first: 1, count: 1, root: rootOf([]treeHash{hashLeaf(at[:])})}
	c := &Checkpoint{
		Installation: "https://tokens.example", Log: "log", Seq: 1, Time: time.UnixMilli(1_800_000_000_000).UTC(), Entries: 1, KeyID: public.ID, spans: []signedSpan{span}, packed: packSpans([]signedSpan{span}),
		seen: []seenLog{{log: "other", seq: 3, time: 1_800_000_000_000}},
	}
	c.root, c.spansHash = rootOf(leavesOf(c.spans)), sha256.Sum256(c.packed)
	c.signature = ed25519.Sign(private, c.message())
	checkpoint, err := c.line(true)
	if err != nil {
		f.Fatal(err)
	}
	shown := archiveEntry{ID: "1-0", Clear: []byte(clear), Payload: payload}
	stored, err := openPayload(name, m, payload)
	if err != nil {
		f.Fatal(err)
	}
	for _, event := range stored.events() {
		line, err := event.Line()
		if err != nil {
			f.Fatal(err)
		}
		shown.Events = append(shown.Events, line)
	}
	var out bytes.Buffer
	a := newArchiver(&out, nil, archiveHead{Created: c.Time, Complete: true})
	a.put(archiveLine{Stream: &archiveStream{Tenant: "acme", Shard: "03"}})
	a.put(archiveLine{Entry: &shown})
	a.put(json.RawMessage(checkpoint))
	a.put(archiveLine{End: &archiveEnd{Entries: 1, Events: len(shown.Events)}})
	if a.writing != nil {
		f.Fatal(a.writing)
	}
	return out.Bytes(), checkpoint, []PublicKey{public}
}

// FuzzCheckpoint (threat 71): anything as a line of checkpoints. What is read stays what it is when it is written again, and only what the key's
// owner signed verifies.
func FuzzCheckpoint(f *testing.F) {
	_, good, keys := signedArchive(f)
	whole, err := ParseCheckpoint(good)
	if err != nil || !(Signers{Keys: keys}).signed(whole) {
		f.Fatalf("the checkpoint of this test: %v", err)
	}
	f.Add(good)
	f.Add([]byte(`{"checkpoint":1,"log":"l","seq":1,"time":"0000-01-01T00:00:00Z","root":"","spans":"AA==","seen":[{"log":"o","seq":1,"time":"1970-01-01T00:00:00Z","hash":""}]}`))
	f.Add(bytes.Replace(good, []byte(`"checkpoint":2`), []byte(`"checkpoint":3`), 1))
	f.Add(bytes.Replace(good, []byte(`"entries":1`), []byte(`"entries":18446744073709551615`), 1))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, bare := range []bool{false, true} {
			c, err := parseCheckpoint(text, bare)
			if err != nil {
				continue
			}
			if (Signers{Keys: keys}).signed(c) && c.hash() != whole.hash() {
				t.Fatalf("verifies, and nobody signed it: %s", c.name())
			}
			line, err := c.line(!bare)
			if err != nil {
				continue // of a time that JSON has no form for; no broker writes one
			}
			back, err := parseCheckpoint(line, bare)
			if err != nil || back.hash() != c.hash() {
				t.Fatalf("%s: written and read it is another: %v", line, err)
			}
		}
	})
}

// FuzzArchive (threat 71): anything as an archive, and the good one with a piece replaced. What counts as signed is what was signed.
func FuzzArchive(f *testing.F) {
	good, _, keys := signedArchive(f)
	report := VerifyArchive([]ArchiveFile{{Name: "a", From: bytes.NewReader(good)}}, Signers{Keys: keys})
	if len(report.Faults) > 0 || report.Signed != 1 {
		f.Fatalf("the archive of this test: %+v", report)
	}
	want := shownEvents(good)
	if len(want) == 0 {
		f.Fatal("no events in the archive of this test")
	}
	f.Add(good, 0, 0, []byte{})
	for _, line := range bytes.SplitAfter(good, []byte("\n")) {
		f.Add(line, bytes.Index(good, line), len(line), []byte{})
		f.Add(append(bytes.Clone(good), line...), bytes.Index(good, line), 0, line)
	}
	f.Add([]byte(`{"archive":{"format":1}}`+"\n"+`{"stream":{"shard":"00"}}`+"\n"+`{"links":{"writer":"w","first":18446744073709551615,"links":["","AA=="]}}`+"\n"), 40, 1, []byte("x"))
	f.Fuzz(func(t *testing.T, text []byte, at, drop int, put []byte) {
		stranger := VerifyArchive([]ArchiveFile{{Name: "a", From: bytes.NewReader(text)}}, Signers{})
		if stranger.Signed > 0 {
			t.Fatalf("signed by nobody: %+v", stranger)
		}
		at = int(uint(at) % uint(len(good)))
		drop = int(uint(drop) % uint(len(good)-at+1))
		changed := append(append(bytes.Clone(good[:at]), put...), good[at+drop:]...)
		for _, one := range [][]byte{changed, text} {
			got := VerifyArchive([]ArchiveFile{{Name: "a", From: bytes.NewReader(one)}}, Signers{Keys: keys})
			for _, fault := range got.Faults {
				if fault.What == "" {
					t.Fatalf("a fault that says nothing: %+v", fault)
				}
			}
			if len(got.Faults) == 0 && got.Signed > 0 {
				for event := range strings.Lines(shownEvents(one)) {
					if !strings.Contains(want, event) {
						t.Fatalf("passes for signed: %s", event)
					}
				}
			}
			if got.Signed > 1 || got.Signed > got.Entries {
				t.Fatalf("%d entries of %d pass for signed", got.Signed, got.Entries)
			}
		}
	})
}

// shownEvents are the events of the entries in an archive, as a plain reader of JSON finds them, one a line.
func shownEvents(archive []byte) string {
	var out strings.Builder
	for line := range bytes.Lines(archive) {
		var l archiveLine
		if json.Unmarshal(line, &l) != nil || l.Entry == nil {
			continue
		}
		for _, event := range l.Entry.Events {
			out.Write(event)
			out.WriteByte('\n')
		}
	}
	return out.String()
}

// FuzzProof (threat 71): anything as the proof of an event.
func FuzzProof(f *testing.F) {
	_, checkpoint, keys := signedArchive(f)
	f.Add([]byte(`{"proof":1,"checkpoint":` + string(checkpoint) + `,"span":{"shard":"03"},"entry":{"before":""}}`))
	f.Add([]byte(`{"proof":2}`))
	f.Add([]byte(`{"proof":1,"event":null,"entry":{"before":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},"span":{"first":0,"count":18446744073709551615,"shard":"00"},"checkpoint":{"checkpoint":1}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if event, c, err := VerifyProof(text, Signers{Keys: keys}); err == nil {
			t.Fatalf("proves %+v by %s", event, c.name())
		}
	})
}
