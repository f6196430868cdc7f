package api

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tokenbroker/broker"
)

// fullBody has every field.
const fullBody = `{"connector":"files","subject":"ünicode 𝄞","scopes":["files.read","files.write"],"connection":"c","min_ttl":300,"actor":{"agent":"a","run":"r","tool":"t"},"reason":"because","return_to":"https://x.example/","state":"s"}`

// What plainToken accepts decode accepts, and reads it to the same values.
func FuzzPlainToken(f *testing.F) {
	for _, seed := range []string{goodBody, fullBody, strings.ReplaceAll(fullBody, `,`, " ,\n\t"), strings.ReplaceAll(fullBody, `:`, " : "), ` {} `, `{"scopes":"a b  c"}`, `{"scopes":[]}`,
		`{"scopes":""}`, `{"scopes":["a",]}`, `{"scopes":["a" "b"]}`, `{"actor":{}}`, `{"actor":{"run":"a","run":"b"}}`, `{"actor":{"agent":"a"},"actor":{}}`, `{"actor":null}`, `{"connector":"a","connector":"b"}`,
		`{"min_ttl":0}`, `{"min_ttl":-0}`, `{"min_ttl":01}`, `{"min_ttl":1e3}`, `{"min_ttl":1.0}`, `{"min_ttl":999999999}`, `{"min_ttl":1000000000}`, `{"min_ttl":9223372036854775808}`, `{"min_ttl":}`,
		`{"subject":"\u0041"}`, "{\"subject\":\"\x7f\"}", "{\"subject\":\"\xff\"}", "{\"subject\":\"a\nb\"}", `{"subject":"a`, `{"subject"`, `{"subject":"a"}}`, `{"subject":"a"} x`, `{"Subject":"a"}`, `{"":"a"}`, "\ufeff{}",
		"{\u00a0}", `{,}`, `{"subject":"a",}`, `[]`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		plain, ok := plainToken(text)
		if !ok {
			return
		}
		var strict tokenBody
		if err := decode(text, &strict); err != nil {
			t.Fatalf("%q is accepted; the decoder says %v", text, err)
		}
		if len(strict.Scopes.names) == 0 && len(plain.Scopes.names) == 0 {
			strict.Scopes, plain.Scopes = scopeList{}, scopeList{}
		}
		if !reflect.DeepEqual(plain, strict) {
			t.Fatalf("%q is read as %+v; the decoder reads %+v", text, plain, strict)
		}
	})
}

// TestPlainTokenIsUsed: usual bodies need no decoder, or all the above shows nothing.
func TestPlainTokenIsUsed(t *testing.T) {
	for _, text := range []string{goodBody, fullBody, ` { } `, `{"scopes":"a b","min_ttl":0}`} {
		if _, ok := plainToken([]byte(text)); !ok {
			t.Errorf("%s is not plain", text)
		}
	}
	body, err := readTokenBody([]byte(`{"subject":"\u0041"}`))
	if err != nil || body.Subject != "A" {
		t.Errorf("an escape is read as %q: %v", body.Subject, err)
	}
}

// The appended answer is to the byte what the encoder writes.
func FuzzAppendToken(f *testing.F) {
	f.Add("ya29.x", int64(3599), int64(1790000000), "files.read files.write", "files", "c1", "u1", "Ada \"L\" \u2028<&>\x00\x7f", "a@example.com", "instance_url", "https://x", "z", "", true)
	f.Add("", int64(-5), int64(-62135596800), "", "", "", "\xff", "\xf0\x9d\x84\x9e\xed\xa0\x80", "\x1f", "\xff", "a", "\xfe", "b", false)
	f.Add("\xc3(", int64(1)<<62, int64(253402300800), "ü \\ \"", "\n", "\t", "\u00e9", "�", "e", "b", "1", "a", "2", false)
	f.Fuzz(func(t *testing.T, token string, in, at int64, scopes, connector, connection, id, name, email, key1, value1, key2, value2 string, degraded bool) {
		answer := broker.Token{
			ExpiresIn: time.Duration(in), ExpiresAt: time.Unix(at%(1<<38), in%1e9), Scopes: broker.ParseScopes(scopes), Connector: connector, Connection: connection,
			Account: broker.Account{ID: id, Name: name, Email: email}, Degraded: degraded,
		}
		if key1 != "" {
			answer.Extra = map[string]string{key1: value1}
		}
		if key2 != "" {
			if answer.Extra == nil {
				answer.Extra = map[string]string{}
			}
			answer.Extra[key2] = value2
		}
		got, ok := appendToken(nil, token, answer)
		if !ok {
			return // the encoder writes it, or says that it can't
		}
		want, err := encode(tokenAnswerOf(token, answer))
		if err != nil || string(got) != string(want) {
			t.Fatalf("got\n%s\nwant\n%s\n%v", got, want, err)
		}
	})
}

// TestPlainTokenAgainstDecoder: as FuzzPlainToken, with texts that are nearly right: fuzzing without guidance finds few of those.
func TestPlainTokenAgainstDecoder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// In a sound body each part is one of its right ones, the first so many. Where every part may be wrong, nearly always one is.
		sound := rapid.Bool().Draw(t, "sound")
		pick := func(label string, right int, from ...string) string {
			if sound {
				from = from[:right]
			}
			return rapid.SampledFrom(from).Draw(t, label)
		}
		space := func() string { return pick("space", 6, "", "", "", " ", "\n\t", "\r", "\f", "\u00a0") }
		text := func() string {
			return pick("text", 5, `"a"`, `"files"`, `"ü"`, `""`, `"a b  c "`, `"\n"`, `"\u00e9"`, "\"\x01\"", "\"\xff\"", `"`, `'a'`, "\"\x7f\u2028\"", "\"\xed\xa0\x80\"")
		}
		list := func(open, end string, items []string) string {
			return open + space() + strings.Join(items, space()+pick("comma", 4, ",", ",", ",", ",", "", ",,")+space()) + space() + end
		}
		member := func(name, value string) string {
			return name + space() + pick("colon", 4, ":", ":", ":", ":", "") + space() + value
		}
		var repeated bool
		once := func(seen map[string]bool, name string) string {
			repeated = repeated || seen[name]
			seen[name] = true
			return name
		}
		actor := func() string {
			var members []string
			seen := map[string]bool{}
			for range rapid.IntRange(0, 3).Draw(t, "in actor") {
				name := once(seen, pick("name", 3, `"agent"`, `"run"`, `"tool"`, `"Tool"`, `"a"`))
				members = append(members, member(name, text()))
			}
			return list("{", pick("end", 3, "}", "}", "}", "]", ""), members)
		}
		var members []string
		seen := map[string]bool{}
		for range rapid.IntRange(0, 5).Draw(t, "members") {
			name := once(seen, pick("name", 9, `"connector"`, `"subject"`, `"scopes"`, `"connection"`, `"min_ttl"`, `"actor"`, `"reason"`, `"return_to"`, `"state"`, `"x"`, `"subj\u0065ct"`, `"Subject"`, `""`))
			value := ""
			switch pick("kind", 4, "right", "right", "right", "right", "text", "number", "list", "actor", "other") + name {
			case `right"min_ttl"`, `number` + name:
				value = pick("number", 4, "0", "7", "60", "999999999", "1000000000", "-1", "01", "1.0", "1e3", "9223372036854775808", "+1", "", "1a")
			case `right"scopes"`, `list` + name:
				var items []string
				for range rapid.IntRange(0, 3).Draw(t, "scopes") {
					items = append(items, text())
				}
				value = list("[", pick("end", 3, "]", "]", "]", "}", ""), items)
			case `right"actor"`, `actor` + name:
				value = actor()
			case `other` + name:
				value = pick("other", 2, "null", "true", "[]", "{}", "NaN", "", "[[]]")
			default:
				value = text()
			}
			members = append(members, member(name, value))
		}
		body := space() + list("{", pick("end", 4, "}", "}", "}", "}", "}}", ""), members) + space() + pick("behind", 3, "", "", "", "{}", "x", "\x00")
		plain, ok := plainToken([]byte(body))
		var strict tokenBody
		err := decode([]byte(body), &strict)
		if !ok && sound && !repeated {
			t.Fatalf("%q is not plain", body)
		}
		if !ok {
			return
		}
		if len(strict.Scopes.names) == 0 && len(plain.Scopes.names) == 0 {
			strict.Scopes, plain.Scopes = scopeList{}, scopeList{}
		}
		if err != nil || !reflect.DeepEqual(plain, strict) {
			t.Fatalf("%q is read as %+v; the decoder reads %+v, %v", body, plain, strict, err)
		}
	})
}

func plainAnswer() broker.Token {
	return broker.Token{
		ExpiresIn: time.Hour, ExpiresAt: testTime, Scopes: broker.ParseScopes("files.read files.share files.write"), Connector: "files", Connection: "c2hhcmQwMTIzNDU2Nzg5MDEy",
		Account: broker.Account{ID: "108234567890123456789", Name: "Ada Lovelace", Email: "ada@example.com"}, Extra: map[string]string{"instance_url": "https://acme.my.example.com"},
	}
}

// TestTokenPartsAllocate little: one copy of the body and one list of scopes, and a min_ttl; the answer nothing but its buffer and the names of extra.
func TestTokenPartsAllocate(t *testing.T) {
	text := []byte(`{"connector":"files","subject":"u","scopes":["a","b","c"],"min_ttl":60,"actor":{"agent":"a","run":"r","tool":"t"}}`)
	if n := testing.AllocsPerRun(200, func() { _, _ = plainToken(text) }); n > 4 {
		t.Errorf("reading a body makes %v allocations", n)
	}
	token, secret := plainAnswer(), strings.Repeat("x", 600)
	buffer := make([]byte, 0, 2048)
	if n := testing.AllocsPerRun(200, func() { _, _ = appendToken(buffer, secret, token) }); n > 2 {
		t.Errorf("writing an answer makes %v allocations", n)
	}
}

// BenchmarkTokenParts: body and answer of a token, plain and by the strict decoder and the encoder.
func BenchmarkTokenParts(b *testing.B) {
	text, token, secret := []byte(fullBody), plainAnswer(), strings.Repeat("x", 600)
	for name, part := range map[string]func(){
		"read/plain":    func() { _, _ = plainToken(text) },
		"read/strict":   func() { var body tokenBody; _ = decode(text, &body) },
		"write/plain":   func() { _, _ = appendToken(make([]byte, 0, 1300), secret, token) },
		"write/encoder": func() { _, _ = encode(tokenAnswerOf(secret, token)) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				part()
			}
		})
	}
}
