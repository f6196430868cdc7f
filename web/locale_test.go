package web

import (
	"fmt"
	"html"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func testLanguage(t *testing.T, tag string) *lang {
	t.Helper()
	all, err := ownLanguages()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all.list {
		if l.Tag == tag {
			return l
		}
	}
	t.Fatalf("there is no language %s", tag)
	return nil
}

// No file that is built in lacks a key, has one too many, other placeholders or not all plural forms.
func TestLanguagesAreWhole(t *testing.T) {
	all, err := loadLanguages(localeFiles, true)
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, l := range all.list {
		tags = append(tags, l.Tag+" "+l.Dir)
	}
	want := "en ltr, ar rtl, de ltr, es ltr, fr ltr, ja ltr, pt ltr"
	if got := strings.Join(tags, ", "); !strings.HasPrefix(got+",", want) && len(tags) <= 7 {
		t.Errorf("the languages are %s, not %s", got, want)
	}
	// Keys are in the order of their sections, one file like the other, so that a new section has one place. Read as text: a
	// YAML map has no order.
	section := regexp.MustCompile(`(?m)^([a-z_]+):`)
	for _, l := range all.list {
		text, err := fs.ReadFile(localeFiles, "locales/"+l.Tag+".yaml")
		if err != nil {
			t.Fatal(err)
		}
		source, _ := fs.ReadFile(localeFiles, "locales/en.yaml")
		if got, want := section.FindAllString(string(text), -1), section.FindAllString(string(source), -1); !slices.Equal(got, want) {
			t.Errorf("%s: sections %v, not %v", l.Tag, got, want)
		}
	}
}

func TestBrokenLanguagesAreRefused(t *testing.T) {
	const en = "language: {name: English, direction: ltr}\nhello: \"Hi {{.Client}}\"\nleft: {one: one left, other: \"{{.Count}} left\"}\n"
	const pl = "language: {name: Polski, direction: ltr}\nhello: \"Cześć {{.Client}}\"\nleft: {one: jedna, few: \"{{.Count}} minuty\", many: \"{{.Count}} minut\", other: \"{{.Count}} minuty\"}\n"
	load := func(en, pl, scopes string) error {
		_, err := loadLanguages(fstest.MapFS{
			"locales/en.yaml": {Data: []byte(en)}, "locales/pl.yaml": {Data: []byte(pl)}, "locales/scopes/pl.yaml": {Data: []byte(scopes)},
		}, true)
		return err
	}
	if err := load(en, pl, "See your files: Pliki"); err != nil {
		t.Fatalf("a good pair: %v", err)
	}
	for what, try := range map[string]struct{ pl, scopes, says string }{
		"a key less":            {strings.Replace(pl, "hello", "helo", 1), "", "hello is missing"},
		"a key more":            {pl + "more: x\n", "", "more is a key that en does not have"},
		"another placeholder":   {strings.Replace(pl, ".Client", ".Klient", 1), "", "[Klient], but [Client]"},
		"no placeholder":        {strings.Replace(pl, " {{.Client}}", "", 1), "", "hello has the placeholders"},
		"a plural form less":    {strings.Replace(pl, `few: "{{.Count}} minuty", `, "", 1), "", "left says nothing for the number 2"},
		"an empty text":         {strings.Replace(pl, `"Cześć {{.Client}}"`, `""`, 1), "", "hello"},
		"a program in the text": {strings.Replace(pl, "{{.Client}}", "{{.Client}}{{if true}}x{{end}}", 1), "", "only {{.Name}} and **bold** are known"},
		"half a bold":           {strings.Replace(pl, "Cześć", "**Cześć", 1), "", "only {{.Name}} and **bold** are known"},
		"no direction":          {strings.Replace(pl, "ltr", "left", 1), "", "direction must be ltr or rtl"},
		"a key twice":           {pl + "hello: again\n", "", "already defined"},
		"scope without words":   {pl, "See your files: ''", "has no translation"},
		"no YAML":               {"\t", "", "locales/pl.yaml"},
	} {
		if err := load(en, try.pl, try.scopes); err == nil || !strings.Contains(err.Error(), try.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := loadLanguages(fstest.MapFS{"locales/pl.yaml": {Data: []byte(pl)}}, true); err == nil {
		t.Error("no English, no error")
	}
	if _, err := loadLanguages(fstest.MapFS{"locales/en.yaml": {Data: []byte(en)}, "locales/no-such-language-x.yaml": {Data: []byte(en)}}, true); err == nil {
		t.Error("a file that is named for no language")
	}
}

func TestWordsBringNoMarkup(t *testing.T) {
	l := testLanguage(t, "en")
	got, err := l.html("consent.caution", map[string]any{"Client": "<b>\ue000Client\ue001 **x** {{.Client}}", "Other": 1})
	if err != nil {
		t.Fatal(err)
	}
	want := "Continue only if <strong>you</strong> asked for this in <bdi>&lt;b&gt;\ue000Client\ue001 **x** {{.Client}}</bdi> just now. If somebody sent you this link, choose Cancel."
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, err := l.html("consent.caution", nil); err == nil {
		t.Error("a value that nobody gave is no error")
	}
	if _, err := l.html("consent.cuation", nil); err == nil {
		t.Error("an unknown key is no error")
	}
	if got := l.text("no.such.key"); got != "⟦no.such.key⟧" {
		t.Errorf("an unknown key reads %q", got)
	}
	if _, err := pairs(nil, []any{"Count"}); err == nil {
		t.Error("a name without a value is no error")
	}
	if got := html.UnescapeString(l.text("consent.life", "Count", 1)) + l.text("consent.life", "Count", 2); !strings.Contains(got, "one more minute.") || !strings.Contains(got, "2 more minutes") {
		t.Errorf("plural: %s", got)
	}
	ar := testLanguage(t, "ar")
	forms := map[string]bool{}
	for _, n := range []int{0, 1, 2, 3, 11, 100} {
		forms[strings.ReplaceAll(ar.text("consent.already", "Count", n), fmt.Sprint(n), "#")] = true
	}
	if len(forms) != 6 {
		t.Errorf("Arabic has %d of its 6 plurals: %v", len(forms), slices.Collect(maps.Keys(forms)))
	}
}

func TestDescribed(t *testing.T) {
	for _, tt := range []struct{ tag, in, out, lang string }{
		{"en", "See your contacts", "See your contacts", ""},
		{"de", "No such text", "No such text", "en"},
	} {
		if out, lang := testLanguage(t, tt.tag).described(tt.in); out != tt.out || lang != tt.lang {
			t.Errorf("%s %q: %q, %q", tt.tag, tt.in, out, lang)
		}
	}
	missing, stale, err := CompareCatalogue([]string{"No such text"})
	if err != nil || len(missing["de"]) != 1 || len(missing["en"]) != 0 || !slices.Contains(stale["de"], "See your contacts") {
		t.Errorf("missing %v, stale %v, %v", missing, stale["de"], err)
	}
}
