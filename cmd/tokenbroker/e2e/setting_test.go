//go:build chaos || scale

package e2e

import (
	"os"
	"strconv"
	"testing"
)

// setting reads a whole number from the environment.
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s is no whole number: %q", name, text)
	}
	return n
}
