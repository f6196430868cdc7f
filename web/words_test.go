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

// Every kind of access has its place, and one that is not known is shown too.
func TestPermissionGroups(t *testing.T) {
	var p broker.ConsentPage
	for _, a := range []broker.Access{"unheard-of", broker.AccessDelete, broker.AccessSend, broker.AccessChange, broker.AccessRead, broker.AccessOther} {
		p.Scopes = append(p.Scopes, broker.PageScope{ScopeInfo: broker.ScopeInfo{Name: "s-" + string(a), Access: a}, New: true})
	}
	p.Scopes = append(p.Scopes, broker.PageScope{ScopeInfo: broker.ScopeInfo{Description: "all of it", Access: broker.AccessDelete}})
	v := consentView(p, 0, broker.NewSecret("n"))
	var got []string
	for _, g := range v.Groups {
		for _, i := range g.Items {
			got = append(got, g.Title+": "+i.Text)
			if i.New {
				t.Error("everything is new where nothing is renewed")
			}
		}
	}
	want := "See: s-read|Change: s-change|Send on your behalf: s-send|Delete: s-delete|Delete: all of it|Also: s-unheard-of|Also: s-"
	if strings.Join(got, "|") != want {
		t.Errorf("got %q", got)
	}
	if len(v.Exact) != 6 || v.Minutes != 1 {
		t.Errorf("%d exact, %d minutes", len(v.Exact), v.Minutes)
	}
}
