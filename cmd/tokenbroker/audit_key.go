package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"tokenbroker/vault"
)

type auditKeyCommand struct {
	File   string `required:"" placeholder:"FILE" help:"The file of signing keys."`
	Create bool   `xor:"make" help:"Make the file, with a first key."`
	Rotate bool   `xor:"make" help:"Add a key, which signs from then on; the others go on verifying. Restart the replicas behind it."`
	Kek    string `name:"kek" placeholder:"KEK" help:"For --create and --rotate: the key that encrypts it, as in keyset.kek: ${kek_forms}."`
}

// Run prints the public keys, one a line, oldest first. It needs no KEK for that.
func (c *auditKeyCommand) Run(con *console) error {
	var content, was []byte
	var err error
	if !c.Create {
		if content, err = readSigningFile(c.File, con.env); err != nil {
			return err
		}
	}
	if c.Create || c.Rotate {
		if c.Kek == "" {
			return &usageError{"--kek is needed to make a key; see tokenbroker audit key --help"}
		}
		kek, err := parseKEK(c.Kek, con.env)
		if err != nil {
			return err
		}
		was = content
		if content, err = vault.AddSigningKey(content, vault.NamedKEK{KEK: kek, Name: c.Kek}, rand.Reader, time.Now()); err != nil {
			return err
		}
		if c.Rotate {
			err = vault.ReplaceKeysetFile(c.File, was, content)
		} else {
			err = vault.CreateKeysetFile(c.File, content)
		}
		if err != nil {
			return err
		}
	}
	keys, err := vault.ReadPublicKeys(content)
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	for _, key := range keys {
		_, _ = fmt.Fprintln(con.out, key)
	}
	return nil
}

// readSigningFile says what to do where there is none.
func readSigningFile(path string, env environment) ([]byte, error) {
	content, err := env.readKeyset(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no file of signing keys %s; make one: tokenbroker audit key --create --file %s --kek env:NAME", path, path)
	}
	return content, err
}
