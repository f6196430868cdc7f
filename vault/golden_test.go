package vault

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"tokenbroker/broker"
)

var update = flag.Bool("update", false, "write the golden files anew: only for a format that was never released")

// filled returns a value of the type in which no field is zero, so that a field which the stored form forgets shows.
func filled[T any]() T {
	var v T
	n := 0
	fill(reflect.ValueOf(&v).Elem(), &n)
	return v
}

// golden compares with the file of that name.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got) {
		t.Errorf("the stored form %s changed: records that are stored could not be read any more. Raise the format version.\ngot:  %s\nwant: %s", name, got, want)
	}
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

// same compares by what is inside, secrets and scopes too.
func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: stored and read back it differs: a field is missing in the stored form", what)
	}
}

func TestConnectionForm(t *testing.T) {
	conn := filled[broker.Connection]()
	conn.Switches = "" // it comes with the read and is not stored
	priv := privateOf(conn)
	h := headerOf(conn)
	h.Status, h.RefreshEpoch = "status", 7 // of the record, not of the connection
	golden(t, "connection-header", encoded(t, h))
	golden(t, "connection-private", encoded(t, priv))
	back := broker.Connection{
		// Fields of the hash beside the header, and the volatile one.
		ID: conn.ID, Tenant: conn.Tenant, Status: conn.Status, Generation: conn.Generation, LastIssued: conn.LastIssued,
	}
	priv.fill(&back)
	headerOf(conn).fill(&back)
	same(t, "connection", back, conn)
}

func TestConsentForm(t *testing.T) {
	consent := filled[broker.Consent]()
	golden(t, "consent", encoded(t, storeConsent(consent)))
	same(t, "consent", storeConsent(consent).consent(consent.Version), consent)
}

func TestPortalForm(t *testing.T) {
	portal := filled[broker.Portal]()
	golden(t, "portal", encoded(t, storePortal(portal)))
	same(t, "visit", storePortal(portal).portal(portal.Version), portal)
}

// The fields of a session that is looked at anew came later: a version before them reads the record as a sign-in, which it is.
func TestSignInForm(t *testing.T) {
	run := filled[broker.OperatorRun]()
	golden(t, "sign-in", encoded(t, storeSignIn(run)))
	same(t, "sign-in", storeSignIn(run).run(), run)
}

func TestConnectorForm(t *testing.T) {
	connector := filled[broker.TenantConnector]()
	golden(t, "connector", encoded(t, storeConnector(connector)))
	same(t, "connector", storeConnector(connector).connector(connector.Version), connector)
}

func TestJobForm(t *testing.T) {
	job := filled[broker.Job]()
	job.Claim = "" // it is of the lease, which lies beside
	golden(t, "job", encoded(t, storeJob(job)))
	same(t, "job", storeJob(job).job(job.Version), job)
}

func TestSwitchesForm(t *testing.T) {
	off := filled[broker.Switch]()
	golden(t, "switches", encoded(t, storedSwitches{Version: 7, Write: "w", History: []string{"v"}, Off: []storedSwitch{storeSwitch(off)}}))
	same(t, "switch", storeSwitch(off).off(), off)
}

func TestGrantForm(t *testing.T) {
	grant := filled[broker.Grant]()
	golden(t, "grant", encoded(t, storeGrant(grant)))
	same(t, "grant", storeGrant(grant).grant(), grant)
}

func TestEntryForm(t *testing.T) {
	entry := filled[broker.Entry]()
	golden(t, "entry", encoded(t, storeEntry(entry)))
	same(t, "entry", storeEntry(entry).entry(), entry)
	events := storeEntry(entry).events()
	if len(events) != len(entry.Scopes) {
		t.Fatalf("%d events of %d scopes", len(events), len(entry.Scopes))
	}
	for i, e := range events {
		if reflect.ValueOf(e).IsZero() || e.Scope != entry.Scopes[i].Scope || e.ID != entry.Scopes[i].ID || e.TraceID != entry.TraceID || e.Portal != entry.Portal {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	if one := (storedEntry{}).events(); len(one) != 1 || one[0].Scope != "" {
		t.Errorf("events of an entry without scopes: %+v", one)
	}
}

func TestMetaForm(t *testing.T) {
	m := meta{
		writer: "writer", seq: 300, time: 1800000000000, kind: "token.issued", connector: "files", tag: "tagtag",
		resumes: &position{writer: "before", seq: 7, link: link{1, 2, 3}},
		attests: []attestation{{seq: 299, id: streamID{ms: 1800000000001, n: 3}}, {seq: 298, id: streamID{ms: 5}}},
		found:   []position{{writer: "a", seq: 300, link: link{4}}, {writer: "b", seq: 1, link: link{5}}},
	}
	text := m.chain(link{9}, []byte("payload"))
	golden(t, "audit-meta", []byte(hex.EncodeToString([]byte(text))+"\n"))
	back, unlinked, err := parseMeta(text)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, m) {
		t.Errorf("read back: %+v, want %+v", back, m)
	}
	if linkOf(link{9}, unlinked, []byte("payload")) != m.link {
		t.Error("the link does not follow from what was read")
	}
	for i := range len(text) {
		if _, _, err := parseMeta(text[:i]); err == nil {
			t.Errorf("%d bytes of %d were taken for a whole", i, len(text))
		}
	}
	if _, _, err := parseMeta(text + "x"); err == nil {
		t.Error("trailing bytes were taken")
	}
}

func FuzzMeta(f *testing.F) {
	m := meta{writer: "w", seq: 1, kind: "k", attests: []attestation{{seq: 1}}}
	f.Add(m.chain(link{}, nil))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		_, unlinked, err := parseMeta(text)
		if err == nil && len(unlinked)+len(link{}) != len(text) {
			t.Error("what was read is not the whole")
		}
	})
}
