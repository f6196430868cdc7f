package web

import (
	"strings"
	"testing"

	"tokenbroker/broker"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"Ada Lovelace": "Ada Lovelace", " a \r\n b\t": "a b", "a\u202eb\u2066c\u200bd\ufeffe": "abcde", "नमस्\u200dते": "नमस्\u200dते", "שלום": "שלום",
		"\x00\x1b[31mred": "[31mred", "\xff": "", strings.Repeat("ä", 200): strings.Repeat("ä", 119) + "…", "👩\u200d💻": "👩\u200d💻",
	} {
		if got := plain(in); got != want {
			t.Errorf("plain(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestAccountInWords(t *testing.T) {
	for _, tt := range []struct {
		in           broker.Account
		main, detail string
	}{
		{broker.Account{ID: "1", Name: "Ada", Email: "a@x"}, "Ada", "a@x"},
		{broker.Account{ID: "1", Email: "a@x"}, "a@x", "1"},
		{broker.Account{ID: "1", Name: "Ada"}, "Ada", "1"},
		{broker.Account{ID: "1"}, "1", ""},
	} {
		if got := viewAccount(&tt.in); got == nil || got.Main != tt.main || got.Detail != tt.detail {
			t.Errorf("%+v: %+v", tt.in, got)
		}
	}
	if viewAccount(nil) != nil || viewAccount(&broker.Account{ID: "\u200b"}) != nil {
		t.Error("nobody became somebody")
	}
}

func TestAccountBeforeTheProof(t *testing.T) {
	for _, tt := range []struct {
		in   broker.Account
		want string
	}{
		{broker.Account{ID: "1", Name: "Ada Lovelace", Email: "ada@example.com"}, "a…@example.com"},
		{broker.Account{ID: "1", Email: "a@x"}, "a…@x"},
		{broker.Account{ID: "1", Email: `"a@b"@example.com`}, `"…@example.com`},
		{broker.Account{ID: "1", Name: "Ada Lovelace"}, "A… L…"},
		{broker.Account{ID: "1", Name: "ada@example.com"}, "a…@example.com"},
		{broker.Account{ID: "1", Name: "a b c d e f"}, "a… b… c…"},
		{broker.Account{ID: "1", Name: "Ada @ada.lovelace"}, "A… @…"}, // no address
		{broker.Account{ID: "1", Email: "Ada Lovelace <ada@example.com>"}, "A… L… <…"},
		{broker.Account{Name: "山田太郎"}, "山…"},
		{broker.Account{Name: "E\u0301va"}, "E\u0301…"},
		{broker.Account{Name: "\u202e\u200b Ada"}, "A…"},
		{broker.Account{Email: "@example.com"}, "@…"},
		{broker.Account{ID: "U02AB"}, "U…"},
		{broker.Account{ID: "ada@example.com"}, "a…@example.com"},
	} {
		if got := maskedAccount(&tt.in); got == nil || got.Main != tt.want || got.Detail != "" {
			t.Errorf("%+v: %+v", tt.in, got)
		}
	}
	if maskedAccount(nil) != nil || maskedAccount(&broker.Account{ID: "\u200b"}) != nil {
		t.Error("nobody became somebody")
	}
}

// Every kind of access has its place, and one that is not known is shown too.
func TestPermissionGroups(t *testing.T) {
	var p broker.ConsentPage
	for _, a := range []broker.Access{"unheard-of", broker.AccessDelete, broker.AccessSend, broker.AccessChange, broker.AccessRead, broker.AccessOther} {
		p.Scopes = append(p.Scopes, broker.PageScope{ScopeInfo: broker.ScopeInfo{Name: "s-" + string(a), Access: a}, New: true})
	}
	p.Scopes = append(p.Scopes, broker.PageScope{ScopeInfo: broker.ScopeInfo{Description: "all of it", Access: broker.AccessDelete, Sensitive: true}})
	f := frame{Lang: testLanguage(t, "en")}
	v := consentView(f, p, 0, broker.NewSecret("n"))
	want := "read: s-read|change: s-change|send: s-send|delete: s-delete|delete: all of it|care|also: s-unheard-of|also: s-"
	if got := inLine(v.Groups); got != want {
		t.Errorf("got %q", got)
	}
	if len(v.Exact) != 6 || v.Minutes != 1 || v.Kind != "connect" || len(v.Already) != 0 {
		t.Errorf("%d exact, %d minutes, kind %s, %d already", len(v.Exact), v.Minutes, v.Kind, len(v.Already))
	}

	// Of a renewal only what is new is asked anew; without anything new it is all.
	p.Renewal = true
	v = consentView(f, p, 0, broker.NewSecret("n"))
	if got := inLine(v.Groups); v.Kind != "more" || strings.Contains(got, "all of it") || strings.Count(got, "s-") != 6 || inLine(v.Already) != "delete: all of it|care" || v.Had != 1 || len(v.Exact) != 6 {
		t.Errorf("more: kind %s, %q, already %q (%d)", v.Kind, got, inLine(v.Already), v.Had)
	}
	p.Scopes = p.Scopes[6:]
	v = consentView(f, p, 0, broker.NewSecret("n"))
	if v.Kind != "renew" || inLine(v.Groups) != "delete: all of it|care" || len(v.Already) != 0 {
		t.Errorf("renew: kind %s, %q, already %q", v.Kind, inLine(v.Groups), inLine(v.Already))
	}
}

// "Also" is said in addition to something.
func TestHeadingOfOtherPermissions(t *testing.T) {
	other, read := broker.PageScope{ScopeInfo: broker.ScopeInfo{Name: "crm.custom"}}, broker.PageScope{ScopeInfo: broker.ScopeInfo{Name: "x", Access: broker.AccessRead}}
	l := testLanguage(t, "en")
	for want, scopes := range map[string][]broker.PageScope{
		"Permissions": {other, other}, "See": {read}, "See, Also": {other, read},
	} {
		var got []string
		for _, g := range groupsOf(l, scopes) {
			got = append(got, l.text("access."+g.Heading))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("got the headings %q, not %s", got, want)
		}
	}
}

func inLine(groups []permissionGroup) string {
	var all []string
	for _, g := range groups {
		for _, i := range g.Items {
			all = append(all, g.Access+": "+i.Text)
		}
		if g.Care {
			all = append(all, "care")
		}
	}
	return strings.Join(all, "|")
}
