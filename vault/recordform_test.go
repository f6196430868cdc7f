package vault

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// everyHeader has every field that a header can have.
func everyHeader() header {
	h := headerOf(filled[broker.Connection]())
	h.Status, h.RefreshEpoch = string(broker.ConnectionActive), 7
	h.Tokens = append(h.Tokens, headerToken{Key: "narrow", Scopes: h.Scopes, Expires: h.CreatedAt - 5})
	h.Scopes = append(h.Scopes, "zebra")
	return h
}

// The binary forms lie in stores: they must not change, and must hold all that the JSON forms do.
func TestBinaryForms(t *testing.T) {
	h, p := everyHeader(), privateOf(filled[broker.Connection]())
	golden(t, "connection-header-2", []byte(hex.EncodeToString(h.binary())+"\n"))
	golden(t, "connection-private-2", []byte(hex.EncodeToString(p.binary())+"\n"))
	back, ok := parseHeader(string(h.binary()))
	if same(t, "header", back, h); !ok {
		t.Error("the header can't be read")
	}
	parsePrivate := func(text string) (private, bool) { return parsePrivate(text, p.Tenant, p.ID) }
	priv, ok := parsePrivate(string(p.binary()))
	if same(t, "private", priv, p); !ok {
		t.Error("the sealed part can't be read")
	}
	// What a later version adds comes behind, and keeps nobody from the rest.
	if later, ok := parseHeader(string(h.binary()) + "more"); !ok || !reflect.DeepEqual(later, h) {
		t.Error("a header with something behind it can't be read")
	}
	if later, ok := parsePrivate(string(p.binary()) + "more"); !ok || !reflect.DeepEqual(later, p) {
		t.Error("a sealed part with something behind it can't be read")
	}
	for i := range h.binary() {
		if _, ok := parseHeader(string(h.binary()[:i])); ok {
			t.Errorf("%d bytes of a header were taken for a whole one", i)
		}
	}
	for i := range p.binary() {
		if _, ok := parsePrivate(string(p.binary()[:i])); ok {
			t.Errorf("%d bytes of a sealed part were taken for a whole one", i)
		}
	}
}

// What builds before the first release wrote as form 2 is read: it has the id and the tenant in full, and no field that counts from
// another one than the connection's beginning.
func TestEarlierBinaryForms(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("testdata", name+".golden"))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	h, p := everyHeader(), privateOf(filled[broker.Connection]())
	if back, ok := parseHeader(read("connection-header-2-early")); !ok || !reflect.DeepEqual(back, h) {
		t.Errorf("header: read %+v, %t", back, ok)
	}
	if back, ok := parsePrivate(read("connection-private-2-early"), "whoever", "asks"); !ok || !reflect.DeepEqual(back, p) {
		t.Errorf("sealed part: read %+v, %t", back, ok)
	}
}

// The sealed part of another connection is known as such, even if it should open.
func TestPrivateOfAnother(t *testing.T) {
	p := private{ID: "AAECAwQFBgcICQoLDA0ODxAR", Tenant: "acme", Subject: "u"}
	for _, asked := range [][2]string{{"acme", "BAECAwQFBgcICQoLDA0ODxAV"}, {"acm", p.ID}, {"", ""}, {"acmeA", p.ID[1:]}} {
		if back, ok := parsePrivate(string(p.binary()), asked[0], asked[1]); !ok || back.ID == asked[1] && asked[1] != "" || back.Tenant != "" {
			t.Errorf("asked for %q it is of %q, %q (%t)", asked, back.Tenant, back.ID, ok)
		}
	}
}

// What mostly says the same is not said twice: the e-mail address of a subject that is one, when a token ends, what scopes begin with.
func TestBinaryFormsSayLittle(t *testing.T) {
	p := private{ID: "AAECAwQFBgcICQoLDA0ODxAR", Tenant: "acme", Subject: "user-00000001@example.com"}
	bare := len(p.binary())
	p.Account.Email = p.Subject
	if n := len(p.binary()) - bare; n != 2 {
		t.Errorf("an e-mail address that is the subject takes %d bytes", n)
	}
	h := header{Connector: "files", CreatedAt: 1_800_000_000_000, LastRefreshed: 1_802_000_000_000, Lifetime: 3_600_000, Tokens: []headerToken{{Expires: 1_802_003_600_000}}}
	bare = len(h.binary())
	for _, other := range []int64{0, 1_802_003_600_001, h.CreatedAt, h.LastRefreshed} {
		o := h
		o.Tokens = []headerToken{{Expires: other}}
		if back, ok := parseHeader(string(o.binary())); !ok || !reflect.DeepEqual(back, o) {
			t.Errorf("a token that ends at %d: read %+v, %t", other, back, ok)
		}
	}
	h.Tokens[0].Never = true
	h.Scopes = []string{"files.list"}
	h.Tokens[0].Scopes = h.Scopes
	if n := len(h.binary()) - bare; n != 1+2+len(".list") {
		t.Errorf("a scope that begins with the connector's name takes %d bytes", n)
	}
	for _, lifetime := range []int64{1, 999, 1000, 1001, 3_600_000, 3_600_001, math.MaxInt64} {
		h.Lifetime = lifetime
		if back, ok := parseHeader(string(h.binary())); !ok || !reflect.DeepEqual(back, h) {
			t.Errorf("a lifetime of %d ms: read %+v, %t", lifetime, back, ok)
		}
	}
}

// Each field alone, so that a bit which says the wrong thing shows.
func TestBinaryFormsOneByOne(t *testing.T) {
	each := func(t *testing.T, full reflect.Value, try func(reflect.Value)) {
		for i := range full.NumField() {
			one := reflect.New(full.Type()).Elem()
			one.Field(i).Set(full.Field(i))
			try(one)
		}
	}
	each(t, reflect.ValueOf(everyHeader()), func(v reflect.Value) {
		h := v.Interface().(header)
		if back, ok := parseHeader(string(h.binary())); !ok || !reflect.DeepEqual(back, h) {
			t.Errorf("header %+v: read %+v, %t", h, back, ok)
		}
	})
	each(t, reflect.ValueOf(privateOf(filled[broker.Connection]())), func(v reflect.Value) {
		p := v.Interface().(private)
		if back, ok := parsePrivate(string(p.binary()), p.Tenant, p.ID); !ok || !reflect.DeepEqual(back, p) {
			t.Errorf("sealed part %+v: read %+v, %t", p, back, ok)
		}
	})
	for _, status := range []broker.ConnectionStatus{"", broker.ConnectionActive, broker.ConnectionNeedsConsent, broker.ConnectionRevoked, "of a later version"} {
		h := header{Status: string(status)}
		if back, ok := parseHeader(string(h.binary())); !ok || back.Status != string(status) {
			t.Errorf("status %q: read %q, %t", status, back.Status, ok)
		}
	}
}

func FuzzHeader(f *testing.F) {
	h := everyHeader()
	f.Add(string(h.binary()))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		h, ok := parseHeader(text)
		if !ok {
			return
		}
		if back, ok := parseHeader(string(h.binary())); !ok || !sameJSON(t, back, h) {
			t.Errorf("%+v: written and read it is %+v, %t", h, back, ok)
		}
	})
}

func FuzzPrivate(f *testing.F) {
	p := privateOf(filled[broker.Connection]())
	f.Add(string(p.binary()))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		p, ok := parsePrivate(text, "acme", "AAECAwQFBgcICQoLDA0ODxAR")
		if !ok {
			return
		}
		if back, ok := parsePrivate(string(p.binary()), p.Tenant, p.ID); !ok || !sameJSON(t, back, p) {
			t.Errorf("%+v: written and read it is %+v, %t", p, back, ok)
		}
	})
}

// sameJSON compares without telling nil from empty.
func sameJSON(t *testing.T, a, b any) bool {
	t.Helper()
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return string(x) == string(y)
}

var tokenTexts = []string{
	"", "a", "ab", "abc", "abcd", "a.b", ".", "...", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1In0.c2lnbmF0dXJl", "xoxb-12-34_56", "gho_16C7e42F292c6912E7710c838347Ae178B4a",
	"ya29.a0AfH6SMBx/+==", "spaces and\nlines", "\x00\xff", strings.Repeat("aZ09-_", 200) + "." + strings.Repeat("b", 77),
}

func TestPackedToken(t *testing.T) {
	for _, text := range tokenTexts {
		packed := packToken(text)
		if back, ok := unpackToken(packed); !ok || back != text {
			t.Errorf("%q: packed %x, read %q, %t", text, packed, back, ok)
		}
		if len(packed) > len(text)+1 {
			t.Errorf("%q grows by %d bytes", text, len(packed)-len(text))
		}
	}
	long := tokenTexts[len(tokenTexts)-1]
	if packed := packToken(long); len(packed) > len(long)*3/4+10 {
		t.Errorf("%d characters take %d bytes", len(long), len(packed))
	}
	golden(t, "token-packed", []byte(hex.EncodeToString(packToken("eyJ.abc-_0.Z"+strings.Repeat("q", 40)))+"\n"))
}

func FuzzPackedToken(f *testing.F) {
	for _, text := range tokenTexts {
		f.Add(text, []byte(text))
		f.Add(text, packToken(text))
	}
	f.Fuzz(func(t *testing.T, text string, packed []byte) {
		if back, ok := unpackToken(packToken(text)); !ok || back != text {
			t.Errorf("%q: read %q, %t", text, back, ok)
		}
		unpackToken(packed) // whatever it is
	})
}

// formStore is a Store without a backend, which seals and opens.
func formStore(t testing.TB, compact bool) *Store {
	t.Helper()
	keyset, err := NewEphemeralKeyset()
	if err != nil {
		t.Fatal(err)
	}
	return &Store{
		cfg: Config{Compact: func() bool { return compact }, Now: time.Now}, seals: &sealer{keyset: keyset, now: time.Now},
		ready: newRecent[readyKey, string](maxReady), epochs: newRecent[epochKey, int64](maxReady),
	}
}

// formRecord is a record as a store writes it.
func formRecord(t testing.TB, s *Store, conn broker.Connection, grant broker.Grant) map[string][]byte {
	t.Helper()
	fields, err := s.connectionFields(conn, conn.Generation, conn.Generation, "wid")
	if err != nil {
		t.Fatal(err)
	}
	writes, err := s.tokenWrites(conn, "", grant)
	if err != nil {
		t.Fatal(err)
	}
	fields = append(fields, writes[0].Args...)
	record := make(map[string][]byte)
	for i := 0; i < len(fields); i += 2 {
		record[fields[i]] = []byte(fields[i+1])
	}
	return record
}

func formConnection(t testing.TB) (broker.Connection, broker.Grant) {
	t.Helper()
	now := time.UnixMilli(1_800_000_000_000).UTC()
	scopes := broker.NewScopeSet("https://www.googleapis.com/auth/drive.readonly", "https://www.googleapis.com/auth/calendar.events", "https://www.googleapis.com/auth/gmail.send")
	conn := broker.Connection{
		ID: "AAECAwQFBgcICQoLDA0ODxAR", Tenant: "acme", Subject: "user-1@example.com", Connector: "google-drive", Client: "chat", Status: broker.ConnectionActive,
		Scopes: scopes, Renewable: true, CreatedAt: now, LastRefreshed: now.Add(time.Hour), Lifetime: time.Hour, RefreshAt: now.Add(2 * time.Hour), Generation: 5,
		Account: broker.Account{ID: "109876543210000000001", Name: "Maria Musterfrau", Email: "maria@example.com"},
		Tokens:  []broker.AccessTokenInfo{{Scopes: scopes, ExpiresAt: now.Add(2 * time.Hour)}},
	}
	return conn, broker.Grant{AccessToken: broker.NewSecret(strings.Repeat("Az09-_", 150) + "." + strings.Repeat("b", 49)), RefreshToken: broker.NewSecret(strings.Repeat("r", 150))}
}

// Both forms are read, with tokens of either form in either; and nothing of one form passes for the other.
func TestBothForms(t *testing.T) {
	conn, grant := formConnection(t)
	older, newer := formStore(t, false), formStore(t, true)
	newer.seals = older.seals
	one, two := formRecord(t, older, conn, grant), formRecord(t, newer, conn, grant)
	if string(one[fieldFormat]) != formatJSON || string(two[fieldFormat]) != formatBinary {
		t.Fatalf("forms %s and %s", one[fieldFormat], two[fieldFormat])
	}
	mixed := maps.Clone(two) // a write of the new form that left the tokens as they were
	mixed[fieldRefresh], mixed[fieldAccess] = one[fieldRefresh], one[fieldAccess]
	for what, record := range map[string]map[string][]byte{"JSON": one, "binary": two, "mixed": mixed} {
		for _, s := range []*Store{newer, older} {
			got, err := s.openConnection(conn.Tenant, conn.ID, record, nil)
			if err != nil || !reflect.DeepEqual(got, conn) {
				t.Fatalf("%s: %v\ngot:  %+v\nwant: %+v", what, err, got, conn)
			}
			access, err := s.openAccess(conn.Tenant, conn.ID, conn.Tokens[0], record[fieldAccess])
			if err != nil || !access.Equal(grant.AccessToken) {
				t.Errorf("%s: access token: %v", what, err)
			}
			refresh, err := s.openRefreshToken(conn.Tenant, conn.ID, conn.Generation, record[fieldRefresh])
			if err != nil || !refresh.Equal(grant.RefreshToken) {
				t.Errorf("%s: refresh token: %v", what, err)
			}
		}
	}
	for what, spoil := range map[string]func(map[string][]byte){
		"of the other form":         func(r map[string][]byte) { r[fieldFormat] = []byte(formatJSON) },
		"of a form with a zero":     func(r map[string][]byte) { r[fieldFormat] = []byte("02") },
		"of no form":                func(r map[string][]byte) { r[fieldFormat] = []byte("") },
		"with another status":       func(r map[string][]byte) { r[fieldStatus] = []byte(broker.ConnectionNeedsConsent) },
		"with a longer header":      func(r map[string][]byte) { r[fieldHeader] = append(r[fieldHeader], 0) },
		"with the header of a JSON": func(r map[string][]byte) { r[fieldHeader] = one[fieldHeader] },
		"with the body of a JSON":   func(r map[string][]byte) { r[fieldPrivate] = one[fieldPrivate] },
	} {
		record := make(map[string][]byte)
		for name, value := range two {
			record[name] = append([]byte(nil), value...)
		}
		spoil(record)
		if _, err := newer.openConnection(conn.Tenant, conn.ID, record, nil); !errors.Is(err, broker.ErrIntegrity) {
			t.Errorf("a record %s: %v", what, err)
		}
	}
	bare, _ := packedSeal(two[fieldAccess])
	if _, err := newer.openAccess(conn.Tenant, conn.ID, conn.Tokens[0], bare); !errors.Is(err, broker.ErrIntegrity) {
		t.Errorf("a packed token without its mark: %v", err)
	}
	if _, err := newer.openAccess(conn.Tenant, conn.ID, conn.Tokens[0], append([]byte{packedMark}, one[fieldAccess]...)); !errors.Is(err, broker.ErrIntegrity) {
		t.Errorf("a plain token with the mark: %v", err)
	}
	two[fieldFormat] = []byte("3")
	if _, err := newer.openConnection(conn.Tenant, conn.ID, two, nil); !errors.Is(err, broker.ErrNewerFormat) {
		t.Errorf("a record of a later form: %v", err)
	}
}

// Who has read one record of the new form writes it too: whoever wrote that one knew that everybody reads it.
func TestNewFormSpreads(t *testing.T) {
	conn, grant := formConnection(t)
	older, newer := formStore(t, false), formStore(t, true)
	newer.seals = older.seals
	if older.compact() || !newer.compact() {
		t.Fatal("which form is written does not follow the configuration")
	}
	if _, err := older.openConnection(conn.Tenant, conn.ID, formRecord(t, newer, conn, grant), nil); err != nil {
		t.Fatal(err)
	}
	if string(formRecord(t, older, conn, grant)[fieldFormat]) != formatBinary {
		t.Error("over a record of the new form it would write the old one")
	}
}

// The bytes and allocations that a record costs: what a change adds to either it must be worth.
func TestRecordCosts(t *testing.T) {
	conn, grant := formConnection(t)
	s := formStore(t, true)
	record := formRecord(t, s, conn, grant)
	size := 0
	for name, value := range record {
		size += len(name) + len(value)
	}
	if size > 1180 {
		t.Errorf("a record of 1.1 KB of tokens takes %d bytes", size)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, ok := readHeader(record); !ok {
			t.Fatal("unreadable")
		}
	}); n > 6 {
		t.Errorf("reading a header allocates %v times", n)
	}
	h := headerOf(conn)
	if n := testing.AllocsPerRun(100, func() { h.binary() }); n > 1 {
		t.Errorf("writing a header allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.openConnection(conn.Tenant, conn.ID, record, nil); err != nil {
			t.Fatal(err)
		}
	}); n > 40 {
		t.Errorf("reading a record allocates %v times", n)
	}
}

func BenchmarkOpenConnection(b *testing.B) {
	for name, compact := range map[string]bool{"json": false, "binary": true} {
		b.Run(name, func(b *testing.B) {
			conn, grant := formConnection(b)
			s := formStore(b, compact)
			record := formRecord(b, s, conn, grant)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.openConnection(conn.Tenant, conn.ID, record, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpenAccess(b *testing.B) {
	for name, compact := range map[string]bool{"plain": false, "packed": true} {
		b.Run(name, func(b *testing.B) {
			conn, grant := formConnection(b)
			s := formStore(b, compact)
			record := formRecord(b, s, conn, grant)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.openAccess(conn.Tenant, conn.ID, conn.Tokens[0], record[fieldAccess]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkWriteConnection(b *testing.B) {
	for name, compact := range map[string]bool{"json": false, "binary": true} {
		b.Run(name, func(b *testing.B) {
			conn, _ := formConnection(b)
			s := formStore(b, compact)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.connectionFields(conn, conn.Generation, 1, "wid"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
