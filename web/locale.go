package web

import (
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	i18ntemplate "github.com/nicksnyder/go-i18n/v2/i18n/template"
	"go.yaml.in/yaml/v3"
	"golang.org/x/text/language"
)

// The words of all pages that users see, one file a language, by key; see locales/README.md for how to add one.
//
//go:embed locales
var localeFiles embed.FS

// sourceLanguage is the one that the others are translations of, and what is shown to whom none of them fits.
const sourceLanguage = "en"

// maxCounted is up to which number loadLanguages tries out every plural form. All rules of CLDR repeat within it, but for the
// "many" of a million in Romance languages, which is tried as well.
const maxCounted = 200

// lang is one language of the pages. It is read alone after loading, so all may use it at once.
type lang struct {
	Tag  string // BCP 47, as in the attribute lang
	Name string // in itself: "Deutsch"
	Dir  string // ltr or rtl

	localizer *i18n.Localizer
	keys      map[string]*i18n.Message
	catalogue map[string]string // what the catalogue of providers says in English, in this language
}

// languages are those that there is a file for, English first, then by their tags.
type languages struct {
	list    []*lang
	matcher language.Matcher
}

// ownLanguages are those of the files that are built in. Read once: they never change, and a program may have several Webs.
var ownLanguages = sync.OnceValues(func() (*languages, error) { return loadLanguages(localeFiles, false) })

// loadLanguages reads all files. whole: and refuses those that lack something, for a page in half a language is worse than one less
// language. Tests ask for that, of the files that are built in; a program that starts does not, because making each text once takes
// it 20 ms, and 3 MB for as long as it runs.
func loadLanguages(files fs.FS, whole bool) (*languages, error) {
	names, err := fs.Glob(files, "locales/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list languages: %w", err)
	}
	slices.SortFunc(names, func(a, b string) int { // the source first: the others are compared with it
		return strings.Compare(strings.Replace(a, "/"+sourceLanguage+".", "/.", 1), strings.Replace(b, "/"+sourceLanguage+".", "/.", 1))
	})
	l := &languages{}
	var tags []language.Tag
	var problems []error
	for _, name := range names {
		one, tag, err := loadLanguage(files, name)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
			continue
		}
		if whole {
			if len(l.list) > 0 {
				problems = append(problems, one.compare(name, l.list[0])...)
			}
			problems = append(problems, one.tryOut(name)...)
		}
		l.list, tags = append(l.list, one), append(tags, tag)
	}
	if len(problems) == 0 && (len(l.list) == 0 || l.list[0].Tag != sourceLanguage) {
		problems = append(problems, errors.New("locales/"+sourceLanguage+".yaml is missing"))
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	l.matcher = language.NewMatcher(tags)
	return l, nil
}

// loadLanguage reads a file of words, and the one of the catalogue's words if there is one.
func loadLanguage(files fs.FS, name string) (*lang, language.Tag, error) {
	text, err := fs.ReadFile(files, name)
	if err != nil {
		return nil, language.Und, err
	}
	tag, err := language.Parse(strings.TrimSuffix(path.Base(name), ".yaml"))
	if err != nil {
		return nil, language.Und, fmt.Errorf("the file is not named for a language (de.yaml, pt-BR.yaml): %w", err)
	}
	// A bundle each: the words of another language never stand in for a missing one.
	bundle := i18n.NewBundle(tag)
	bundle.RegisterUnmarshalFunc("yaml", yaml.Unmarshal)
	file, err := bundle.ParseMessageFileBytes(text, tag.String()+".yaml")
	if err != nil {
		return nil, language.Und, err
	}
	l := &lang{Tag: tag.String(), localizer: i18n.NewLocalizer(bundle, tag.String()), keys: map[string]*i18n.Message{}, catalogue: map[string]string{}}
	for _, m := range file.Messages {
		l.keys[m.ID] = m
	}
	l.Name, l.Dir = l.text("language.name"), l.text("language.direction")
	if l.Dir != "ltr" && l.Dir != "rtl" {
		return nil, language.Und, errors.New("language.direction must be ltr or rtl")
	}
	catalogue, err := fs.ReadFile(files, "locales/scopes/"+path.Base(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, language.Und, err
	}
	if err := yaml.Unmarshal(catalogue, &l.catalogue); err != nil {
		return nil, language.Und, fmt.Errorf("scopes: %w", err)
	}
	for from, to := range l.catalogue {
		if strings.TrimSpace(to) == "" {
			return nil, language.Und, fmt.Errorf("scopes: %q has no translation", from)
		}
	}
	return l, tag, nil
}

// placeholder is where a value stands in a text. Nothing else of a template's language is taken: translators need no more.
var placeholder = regexp.MustCompile(`\{\{\.([A-Z][A-Za-z]*)\}\}`)

// forms are the texts of a message, one or a plural's.
func forms(m *i18n.Message) []string {
	return slices.DeleteFunc([]string{m.Zero, m.One, m.Two, m.Few, m.Many, m.Other}, func(s string) bool { return s == "" })
}

// plural tells whether a number chooses among the forms; Japanese has a single one.
func plural(m *i18n.Message) bool {
	return len(forms(m)) > 1 || slices.Contains(placeholders(m), "Count")
}

// placeholders are those of a message. Count may be left out where the form says it: "one minute".
func placeholders(m *i18n.Message) []string {
	var names []string
	for _, text := range forms(m) {
		for _, found := range placeholder.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(names, found[1]) {
				names = append(names, found[1])
			}
		}
	}
	slices.Sort(names)
	return names
}

// compare tells what the language lacks, has too much, or says of other values than the source does.
func (l *lang) compare(name string, source *lang) []error {
	var problems []error
	for id, want := range source.keys {
		got, ok := l.keys[id]
		if !ok {
			problems = append(problems, fmt.Errorf("%s: %s is missing", name, id))
			continue
		}
		if g, w := placeholders(got), placeholders(want); !slices.Equal(g, w) {
			problems = append(problems, fmt.Errorf("%s: %s has the placeholders %v, but %v in %s", name, id, g, w, source.Tag))
		}
	}
	for id := range l.keys {
		if source.keys[id] == nil {
			problems = append(problems, fmt.Errorf("%s: %s is a key that %s does not have", name, id, source.Tag))
		}
	}
	return problems
}

// tryOut makes every text once, and every plural form.
func (l *lang) tryOut(name string) []error {
	var problems []error
	for id, m := range l.keys {
		for _, text := range forms(m) {
			if rest := placeholder.ReplaceAllString(text, ""); strings.Contains(rest, "{{") || strings.Count(rest, "**")%2 != 0 {
				problems = append(problems, fmt.Errorf("%s: %s: only {{.Name}} and **bold** are known, not %q", name, id, text))
			}
		}
		values := map[string]any{}
		for _, p := range placeholders(m) {
			values[p] = "x"
		}
		counts := []int{0}
		if plural(m) {
			for n := 1; n <= maxCounted; n++ {
				counts = append(counts, n)
			}
			counts = append(counts, 1_000_000)
		}
		for _, n := range counts {
			if plural(m) {
				values["Count"] = n
			}
			text, err := l.make(id, values)
			if err == nil && strings.TrimSpace(text) == "" {
				err = errors.New("it is empty")
			}
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %s says nothing for the number %d: %w", name, id, n, err))
				break
			}
		}
	}
	return problems
}

// strict makes a value that a text names and nobody gave an error.
var strict = &i18ntemplate.TextParser{Option: "missingkey=error"}

// make is the text of a key. A value Count, a whole number, chooses the plural form.
func (l *lang) make(key string, values map[string]any) (string, error) {
	count := values["Count"]
	text, err := l.localizer.Localize(&i18n.LocalizeConfig{MessageID: key, TemplateData: values, PluralCount: count, TemplateParser: strict})
	if err != nil {
		return "", fmt.Errorf("words for %s in %s: %w", key, l.Tag, err)
	}
	return text, nil
}

// pairs reads "Name", value, "Name", value.
func pairs(into map[string]any, list []any) (map[string]any, error) {
	all := make(map[string]any, len(into)+len(list)/2)
	for name, value := range into {
		all[name] = value
	}
	for i := 0; i < len(list); i += 2 {
		name, ok := list[i].(string)
		if !ok || i+1 == len(list) {
			return nil, errors.New("values are given as name and value")
		}
		all[name] = list[i+1]
	}
	return all, nil
}

// text is the plain text of a key that is known to be there; values as in pairs. A mistake shows as the key in ⟦ ⟧, which a test
// looks for on every page.
func (l *lang) text(key string, values ...any) string {
	all, err := pairs(nil, values)
	if err == nil {
		var text string
		if text, err = l.make(key, all); err == nil {
			return text
		}
	}
	return "⟦" + key + "⟧"
}

// Has tells whether there are words for a key.
func (l *lang) Has(key string) bool { return l.keys[key] != nil }

var bold = regexp.MustCompile(`\*\*(.+?)\*\*`)

// html is a text as part of a page: **bold** is strong, and each value that is a string is a name that somebody else chose, set
// apart by bdi so that its direction of writing leaves the sentence alone. Neither the text nor a value can bring markup.
func (l *lang) html(key string, values map[string]any) (template.HTML, error) {
	marked := make(map[string]any, len(values))
	var replace []string
	for name, value := range values {
		marked[name] = value
		if s, ok := value.(string); ok {
			mark := "\ue000" + name + "\ue001" // private use, so in no text; and values are put in last, at once
			marked[name] = mark
			replace = append(replace, mark, "<bdi>"+template.HTMLEscapeString(s)+"</bdi>")
		}
	}
	text, err := l.make(key, marked)
	if err != nil {
		return "", err
	}
	safe := bold.ReplaceAllString(template.HTMLEscapeString(text), "<strong>$1</strong>")
	return template.HTML(strings.NewReplacer(replace...).Replace(safe)), nil //nolint:gosec // escaped above, part by part
}

// described is what the catalogue says in English, in this language if there is a translation. Its language is empty where it
// is the page's own; else the page says whose words these are, for those who hear it read.
func (l *lang) described(english string) (text, tag string) {
	if l.Tag == sourceLanguage {
		return english, ""
	}
	if text, ok := l.catalogue[english]; ok {
		return text, ""
	}
	return english, sourceLanguage
}

// CompareCatalogue holds the languages against the English texts of the catalogue of providers: by the language's tag, those that it
// has no translation of, which the pages show as they are, and those that it translates though the catalogue has them no more.
func CompareCatalogue(english []string) (missing, stale map[string][]string, err error) {
	all, err := ownLanguages()
	if err != nil {
		return nil, nil, err
	}
	missing, stale = map[string][]string{}, map[string][]string{}
	for _, l := range all.list {
		for _, text := range english {
			if _, tag := l.described(text); tag != "" {
				missing[l.Tag] = append(missing[l.Tag], text)
			}
		}
		for text := range l.catalogue {
			if !slices.Contains(english, text) {
				stale[l.Tag] = append(stale[l.Tag], text)
			}
		}
	}
	return missing, stale, nil
}
