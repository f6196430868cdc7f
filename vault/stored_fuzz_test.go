package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"testing"

	"tokenbroker/broker"
)

// What lies in the store has two kinds of writers besides us: strangers, who can write there and know no key, and brokers of another
// version, who know them. Nothing of a stranger's opens; of the others' anything that is read stays the same when it is written again.

// fuzzedID is a name that records of all kinds can have.
const fuzzedID = "AAECAwQFBgcICQoLDA0ODxAR"

// known tells that an error is one of those that callers know how to take.
func known(err error) bool {
	return errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrNewerFormat) || errors.Is(err, broker.ErrIntegrity)
}

// fuzzVersioned does both to a record that is pinned to its version. of tells what was read: its id, and what would be stored of it.
func fuzzVersioned[T any](f *testing.F, s *Store, seed any, place func(id string, version int64) []byte, open func(id string, record map[string][]byte) (T, error), of func(T) (id string, stored any)) {
	text, err := json.Marshal(seed)
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := s.seals.sealFor("acme", text, place("another", 7))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, "1", "7", []byte(sealed))
	f.Add([]byte(`{"id":"`+fuzzedID+`","t":"acme"}`), "2", "-1", []byte(sealed[:9]))
	f.Add([]byte(`{"id":"`+fuzzedID+`","ID":"other","t":null}`), "", "07", []byte("\x01\x00\x00\x00\x00"))
	f.Add([]byte(`[]`), "x", "9223372036854775808", []byte{})
	f.Fuzz(func(t *testing.T, plain []byte, format, version string, stranger []byte) {
		record := map[string][]byte{fieldFormat: []byte(format), fieldVersion: []byte(version), fieldBody: stranger}
		if got, err := open(fuzzedID, record); err == nil || !known(err) {
			t.Fatalf("of a stranger's record was read %+v, %v", got, err)
		}
		n, err := strconv.ParseInt(version, 10, 64)
		if err != nil {
			return
		}
		write := func(plain []byte) {
			sealed, err := s.seals.sealFor("acme", plain, place(fuzzedID, n))
			if err != nil {
				t.Fatal(err)
			}
			record[fieldFormat], record[fieldVersion], record[fieldBody] = []byte("1"), []byte(strconv.FormatInt(n, 10)), []byte(sealed)
		}
		write(plain)
		first, err := open(fuzzedID, record)
		if err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		id, stored := of(first)
		if id != fuzzedID {
			t.Fatalf("the record of %q was read as that of %q", fuzzedID, id)
		}
		again, err := json.Marshal(stored)
		if err != nil {
			t.Fatal(err)
		}
		write(again)
		second, err := open(fuzzedID, record)
		if err != nil {
			t.Fatalf("written again it can't be read: %v", err)
		}
		if _, back := of(second); !sameJSON(t, stored, back) {
			t.Fatalf("%s: written and read it is %s", again, mustJSON(t, back))
		}
		record[fieldVersion] = []byte(strconv.FormatInt(n^1, 10))
		if _, err := open(fuzzedID, record); !errors.Is(err, broker.ErrIntegrity) {
			t.Fatalf("under another version: %v", err)
		}
	})
}

// FuzzStoredConsent (threats 31 and 34): a consent in the store.
func FuzzStoredConsent(f *testing.F) {
	s := formStore(f, false)
	fuzzVersioned(f, s, storeConsent(filled[broker.Consent]()), consentPlace, s.openConsent, func(c broker.Consent) (string, any) { return c.ID, storeConsent(c) })
}

// FuzzStoredJob (threats 31 and 34): a job in the store.
func FuzzStoredJob(f *testing.F) {
	s := formStore(f, false)
	fuzzVersioned(f, s, storeJob(filled[broker.Job]()), jobPlace, s.openJob, func(j broker.Job) (string, any) { return j.ID, storeJob(j) })
}

// FuzzStoredReplica (threat 31): what a replica says of itself. A stranger can say that there is one, and no more.
func FuzzStoredReplica(f *testing.F) {
	s := formStore(f, false)
	text, err := json.Marshal(broker.Replica{ID: fuzzedID, Host: "one", Ready: true, Checks: map[string]string{"redis": "ok"}, OldSeals: map[uint32]int{7: 3}, Circuits: []broker.OpenCircuit{{Connector: "files"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, "1", "1800000000000", []byte("\x01abcd"))
	f.Add([]byte(`{"ID":"`+fuzzedID+`","Started":"2026-11-30T10:00:00Z"}`), "2", "-9223372036854775808", []byte{})
	f.Fuzz(func(t *testing.T, plain []byte, format, beat string, stranger []byte) {
		record := map[string][]byte{fieldFormat: []byte(format), fieldBeat: []byte(beat), fieldBody: stranger}
		got := s.readReplica(fuzzedID, replicaPlace(fuzzedID), record)
		got.Beat = broker.Replica{}.Beat
		if want := (broker.Replica{ID: fuzzedID, Unreadable: true}); !sameJSON(t, got, want) || !got.Unreadable {
			t.Fatalf("a stranger says %+v", got)
		}
		sealed, err := s.seals.seal(plain, replicaPlace(fuzzedID))
		if err != nil {
			t.Fatal(err)
		}
		record[fieldFormat], record[fieldBody] = []byte(replicaFormat), []byte(sealed)
		if got := s.readReplica(fuzzedID, replicaPlace(fuzzedID), record); got.ID != fuzzedID {
			t.Fatalf("%q is read as %q", fuzzedID, got.ID)
		}
	})
}

// FuzzSpoolFile (threats 30 and 31): a file of the spool. A stranger's is not replayed, and what others of ours left is kept as it is.
func FuzzSpoolFile(f *testing.F) {
	s := formStore(f, true)
	conn, grant := formConnection(f)
	c := commit{
		id: "commit1", conn: conn, grant: grant, token: "", entries: []broker.Entry{filled[broker.Entry]()},
		lease: broker.Lease{Tenant: conn.Tenant, Connection: conn.ID, Generation: 5, Owner: "x", Fence: 3, Shared: filled[broker.SharedLease]()},
	}
	c.lease.Shared.Newer = nil // what is newer than the connection is not in the spool
	files := make(fuzzedFiles)
	p := openSpool(files, s.seals)
	content, err := p.encode(c)
	if err != nil {
		f.Fatal(err)
	}
	plain, _, err := s.seals.openAny(content, spoolPlace(c.id))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content[:len(content)-1], plain)
	f.Add([]byte{}, []byte(`{"v":1,"t":"acme","sl":null,"g":{"lf":9223372036854775807}}`))
	f.Add(content, []byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, stranger, plain []byte) {
		files["commit2"+spoolSuffix] = stranger
		if _, err := p.read(t.Context(), "commit2"); err == nil || !known(err) {
			t.Fatalf("a stranger's file is read: %v", err)
		}
		sealed, err := s.seals.sealFor("acme", plain, spoolPlace("commit1"))
		if err != nil {
			t.Fatal(err)
		}
		files["commit1"+spoolSuffix] = []byte(sealed)
		first, err := p.read(t.Context(), "commit1")
		if err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		again, err := p.encode(first)
		if err != nil {
			t.Fatal(err)
		}
		files["commit1"+spoolSuffix] = again
		second, err := p.read(t.Context(), "commit1")
		if err != nil {
			t.Fatalf("written again it can't be read: %v", err)
		}
		third, err := p.encode(second)
		if err != nil {
			t.Fatal(err)
		}
		x, _, err1 := s.seals.openAny(again, spoolPlace("commit1"))
		y, _, err2 := s.seals.openAny(third, spoolPlace("commit1"))
		if errors.Join(err1, err2) != nil || !bytes.Equal(x, y) {
			t.Fatalf("%s: written and read it is %s", x, y)
		}
	})
}
