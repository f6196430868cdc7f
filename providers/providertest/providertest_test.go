package providertest_test

import (
	"path/filepath"
	"strings"
	"testing"

	"tokenbroker/providers"
	"tokenbroker/providers/providertest"
)

// Every definition of the catalogue has a recording under its id, and every recording is played.
func TestCatalogue(t *testing.T) {
	all, err := providers.Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		providertest.Load(t, filepath.Join("testdata", d.ID+".yaml"))
	}
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < len(all) {
		t.Fatalf("%d recordings for %d definitions: %v", len(files), len(all), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			providertest.Run(t, providertest.Load(t, file))
		})
	}
}
