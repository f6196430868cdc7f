package main

import (
	"fmt"
	"slices"
	"testing"

	"tokenbroker/providers"
	"tokenbroker/web"
)

// wordsNeeded are the providers whose permissions every language of the pages says in its own words. Of the others the test tells
// what is missing; the pages show that in English.
var wordsNeeded = []string{"google", "slack", "hubspot", "salesforce", "microsoft", "github-app", "github-oauth-app", "notion", "sandbox"}

// TestPermissionsAreTranslated compares the catalogue with the files in web/locales/scopes. It is here because web must not know
// the providers.
func TestPermissionsAreTranslated(t *testing.T) {
	definitions, err := providers.Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	dev, problems := providers.ParseDefinition([]byte(fmt.Sprintf(devProvider, "http://127.0.0.1:4000")))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var needed, others []string
	for _, d := range append(slices.Clone(definitions), dev) {
		into := &others
		if slices.Contains(wordsNeeded, d.ID) {
			into = &needed
		}
		for _, s := range d.Scopes {
			*into = append(*into, s.Description)
		}
		if d.WholeGrant != nil {
			*into = append(*into, d.WholeGrant.Description)
		}
	}
	if len(needed) < 80 || len(others) < 100 {
		t.Fatalf("the catalogue has %d and %d descriptions: the test looks in the wrong place", len(needed), len(others))
	}
	for list, must := range map[*[]string]bool{&needed: true, &others: false} {
		slices.Sort(*list)
		texts := slices.DeleteFunc(slices.Compact(*list), func(s string) bool { return s == "" })
		missing, err := web.Untranslated(texts)
		if err != nil {
			t.Fatal(err)
		}
		for tag, lacks := range missing {
			if must {
				t.Errorf("web/locales/scopes/%s.yaml lacks %q", tag, lacks)
			} else {
				t.Logf("web/locales/scopes/%s.yaml lacks %d of %d: %q", tag, len(lacks), len(texts), lacks)
			}
		}
	}
}
