package vault

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"tokenbroker/broker"
)

// clearOf is what stands in clear beside an entry.
func clearOf(e broker.Entry) meta {
	return meta{writer: "w", seq: 1, time: millis(e.Time), kind: string(e.Type), connector: e.Connector}
}

// The binary form of an entry lies in trails for good: it must not change, and must hold all that the JSON form does.
func TestBinaryEntryForm(t *testing.T) {
	e := filled[broker.Entry]()
	e.Scopes = append(e.Scopes, broker.EventScope{ID: "AAECAwQFBgcICQoLDA0ODxAR", Scope: e.Scopes[0].Scope + ".more"}, broker.EventScope{})
	e.TraceID, e.RequestID = "0af7651916cd43dd8448eb211c80319c", "abc"
	golden(t, "entry-2", []byte(hex.EncodeToString(appendEntry(nil, &e))+"\n"))
	back, ok := parseEntry(appendEntry(nil, &e), e.Tenant, clearOf(e))
	if same(t, "entry", back.entry(), e); !ok {
		t.Error("unreadable")
	}
	for i := range appendEntry(nil, &e) {
		if _, ok := parseEntry(appendEntry(nil, &e)[:i], e.Tenant, clearOf(e)); ok {
			t.Errorf("%d bytes were taken for a whole entry", i)
		}
	}
	if later, ok := parseEntry(append(appendEntry(nil, &e), "more"...), e.Tenant, clearOf(e)); !ok || !reflect.DeepEqual(later.entry(), e) {
		t.Error("an entry with something behind it can't be read")
	}
	full := reflect.ValueOf(filled[broker.Entry]())
	for i := range full.NumField() {
		one := reflect.New(full.Type()).Elem()
		one.Field(i).Set(full.Field(i))
		e := one.Interface().(broker.Entry)
		if back, ok := parseEntry(appendEntry(nil, &e), e.Tenant, clearOf(e)); !ok || !reflect.DeepEqual(back.entry(), e) {
			t.Errorf("%+v: read %+v, %t", e, back.entry(), ok)
		}
	}
}

func TestShortTexts(t *testing.T) {
	for _, text := range append(tokenTexts, "0", "00", "ab", "abc", "abg", "deadbeef", "DEADBEEF", "0af7651916cd43dd8448eb211c80319c") {
		b := appendShort(nil, text)
		r := scan{rest: string(b)}
		if back := r.short(); r.bad || back != text || r.rest != "" {
			t.Errorf("%q: written %x, read %q, left %q", text, b, back, r.rest)
		}
		if len(b) > len(text)+3 {
			t.Errorf("%q grows by %d bytes", text, len(b)-len(text))
		}
	}
}

func FuzzEntry(f *testing.F) {
	e := filled[broker.Entry]()
	f.Add(appendEntry(nil, &e))
	f.Add([]byte{entryBinary})
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, ok := parseEntry(payload, "t", meta{kind: "k"})
		if !ok {
			return
		}
		again := got.entry()
		back, ok := parseEntry(appendEntry(nil, &again), "t", meta{kind: "k"})
		if x, y := mustJSON(t, back), mustJSON(t, got); !ok || x != y {
			t.Errorf("%s: written and read it is %s, %t", y, x, ok)
		}
	})
}

func FuzzShortText(f *testing.F) {
	for _, text := range tokenTexts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := scan{rest: string(appendShort(nil, text))}
		if back := r.short(); r.bad || back != text || r.rest != "" {
			t.Errorf("%q: read %q, left %q", text, back, r.rest)
		}
		r = scan{rest: text}
		r.short() // whatever it is
	})
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// issuedEntry is what a token for three scopes leaves.
func issuedEntry() broker.Entry {
	e := broker.Entry{
		Type: broker.EventTokenIssued, Time: time.UnixMilli(1_800_000_000_000).UTC(), Tenant: "acme", Client: "chat", Subject: "user-1@example.com", Connector: "google-drive",
		Connection: "AAECAwQFBgcICQoLDA0ODxAR", Outcome: "ok", RequestID: "ThHqMMUo2OTE_sHwPxGp1g", TraceID: "0af7651916cd43dd8448eb211c80319c",
		Actor: broker.Actor{Agent: "agent-1", Run: "run-42"},
	}
	for _, scope := range []string{"calendar.events", "drive.readonly", "gmail.send"} {
		e.Scopes = append(e.Scopes, broker.EventScope{ID: "AAECAwQFBgcICQoLDA0ODxAR", Scope: "https://www.googleapis.com/auth/" + scope, Requested: true})
	}
	return e
}

// Entries of both forms are read, whichever a process writes, and neither passes for the other.
func TestBothEntryForms(t *testing.T) {
	older, newer := formStore(t, false), formStore(t, true)
	newer.seals = older.seals
	e, name := issuedEntry(), trailName{shard: 7, tenant: "acme"}
	var bodies []TrailEntry
	for _, writer := range []*Store{older, newer} {
		drafts, err := writer.drafts("acme", []broker.Entry{e})
		if err != nil {
			t.Fatal(err)
		}
		m := clearOf(e)
		clear := m.chain(link{}, drafts[0].payload)
		body, err := writer.seals.sealBody(name, drafts[0].payload, clear)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, TrailEntry{Meta: clear, Body: body})
		for _, reader := range []*Store{older, newer} {
			payload, back, err := reader.openEntry(name, TrailEntry{Meta: clear, Body: body})
			if err != nil || !reflect.DeepEqual(back.entry(), e) || string(payload) != string(drafts[0].payload) {
				t.Errorf("compact %t: %v\ngot:  %+v\nwant: %+v", writer.compact(), err, back.entry(), e)
			}
		}
	}
	one, two := bodies[0], bodies[1]
	if len(two.Body) > len(one.Body)*6/10 {
		t.Errorf("an entry takes %d bytes in place of %d", len(two.Body), len(one.Body))
	}
	for what, body := range map[string]TrailEntry{
		"a binary entry without its mark": {Meta: two.Meta, Body: two.Body[1:]},
		"a JSON entry with the mark":      {Meta: one.Meta, Body: string([]byte{entryBinary}) + one.Body},
		"a body beside another's clear":   {Meta: one.Meta, Body: two.Body},
		"a mark alone":                    {Meta: two.Meta, Body: string([]byte{entryBinary})},
		"nothing":                         {Meta: two.Meta},
	} {
		if _, _, err := newer.openEntry(name, body); !errors.Is(err, broker.ErrIntegrity) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { appendEntry(make([]byte, 0, 512), &e) }); n > 1 {
		t.Errorf("writing an entry allocates %v times", n)
	}
}

func BenchmarkWriteEntry(b *testing.B) {
	for name, compact := range map[string]bool{"json": false, "binary": true} {
		b.Run(name, func(b *testing.B) {
			s, e := formStore(b, compact), issuedEntry()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.payload(&e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
