package vault

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"testing"
)

// TestOldCheckpoint (threat 71): what was signed before checkpoints named the installation is read and verified for good, and written again as it was.
func TestOldCheckpoint(t *testing.T) {
	line, err := os.ReadFile("testdata/checkpoint-1.golden")
	if err != nil {
		t.Fatal(err)
	}
	line = bytes.TrimSpace(line)
	c, err := ParseCheckpoint(line)
	if err != nil {
		t.Fatal(err)
	}
	key := publicKey(ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey))
	if what := (Signers{Keys: []PublicKey{key}, Installations: []string{"https://here.example"}}).fault(c); what != "" || c.Installation != "" {
		t.Errorf("%s, of %q", what, c.Installation)
	}
	if again, err := c.line(true); err != nil || !bytes.Equal(again, line) {
		t.Errorf("written again, %v:\n%s\n%s", err, again, line)
	}
	c.Installation = "https://here.example"
	if (Signers{Keys: []PublicKey{key}}).signed(c) {
		t.Error("it got a name that was not signed")
	}
}
