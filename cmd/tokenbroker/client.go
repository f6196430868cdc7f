package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
)

type clientCommand struct {
	Create clientCreateCommand `cmd:"" help:"Print a new API key, once, and the configuration lines for it."`
}

type clientCreateCommand struct {
	ID     string `required:"" placeholder:"ID" help:"The client's id."`
	Tenant string `required:"" placeholder:"T" help:"The tenant that the client belongs to."`
}

// Run prints the key. It is the only command whose output holds a secret, and nothing keeps the key but that output.
func (c *clientCreateCommand) Run(con *console) error {
	if _, err := clientID(c.ID); err != nil {
		return &usageError{"--id " + err.Error()}
	}
	if _, err := clientID(c.Tenant); err != nil {
		return &usageError{"--tenant " + err.Error()}
	}
	key, err := newAPIKey(rand.Reader)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(key))
	_, err = fmt.Fprintf(con.out, `API key of %[1]s, shown this once; give it to the client as a secret:
%[3]s

Add this under clients: in the configuration. If the client is there already, add the hash as a second entry of its
key_sha256, and remove the old one when nobody uses the old key any more.
  - id: %[1]q
    tenant: %[2]q
    key_sha256: [%[4]q]
`, c.ID, c.Tenant, key, hex.EncodeToString(digest[:]))
	if err != nil {
		return fmt.Errorf("print the key: %w", err)
	}
	return nil
}

// newAPIKey makes tb_ and 43 characters: 256 random bits in base64url. The prefix lets secret scanners know it.
func newAPIKey(random io.Reader) (string, error) {
	raw := make([]byte, 32)
	if _, err := io.ReadFull(random, raw); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	return "tb_" + base64.RawURLEncoding.EncodeToString(raw), nil
}
