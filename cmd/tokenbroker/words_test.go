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
	slices.Sort(needed)
	slices.Sort(others)
	all := slices.DeleteFunc(slices.Concat(needed, others), func(s string) bool { return s == "" })
	missing, stale, err := web.CompareCatalogue(slices.Compact(all))
	if err != nil {
		t.Fatal(err)
	}
	for tag, texts := range missing {
		for _, text := range texts {
			if slices.Contains(needed, text) {
				t.Errorf("web/locales/scopes/%s.yaml lacks %q", tag, text)
			} else {
				t.Logf("web/locales/scopes/%s.yaml lacks %q", tag, text)
			}
		}
	}
	for tag, texts := range stale {
		t.Errorf("web/locales/scopes/%s.yaml translates what the catalogue does not say any more: %q", tag, texts)
	}
}
