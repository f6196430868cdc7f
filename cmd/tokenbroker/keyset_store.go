package main

import (
	"context"
	"crypto/rand"
	"time"

	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// keysetSource names a keyset: by its file, or by the configuration of the brokers that use it.
type keysetSource struct {
	File   string `placeholder:"FILE" help:"The keyset file; or give --config."`
	Kek    string `name:"kek" placeholder:"KEK" help:"The key that encrypts the keyset: ${kek_forms}."`
	Config string `placeholder:"FILE" help:"In place of both, the configuration file that names them. Whoever changes the keyset then asks its Redis first what replicas and records need."`
}

// keysetTarget is one that is changed.
type keysetTarget struct {
	keysetSource
	Force bool `help:"Go on although a replica or a record still needs something else. What can't be read then is lost."`
}

// openedKeyset is a keyset file, with the store that it belongs to where that was named.
type openedKeyset struct {
	File, Kek string
	content   []byte
	kek       vault.KEK
	cfg       *Config      // nil: only the file was named
	store     *vault.Store // nil: likewise
	close     func()
}

// read reads the file, and asks nobody.
func (t keysetSource) read(con *console) (*openedKeyset, error) {
	switch {
	case t.Config != "" && t.File+t.Kek != "":
		return nil, &usageError{"--config names the keyset file and its KEK: leave --file and --kek out"}
	case t.Config == "" && (t.File == "" || t.Kek == ""):
		return nil, &usageError{"needs --config FILE, or --file FILE and --kek KEK"}
	}
	o := &openedKeyset{File: t.File, Kek: t.Kek, close: func() {}}
	if t.Config != "" {
		cfg, err := LoadConfig(t.Config, con.env)
		if err != nil {
			return nil, err
		}
		o.cfg, o.File, o.Kek = cfg, cfg.Keyset.File, cfg.Keyset.KEK
	}
	var err error
	if o.kek, err = parseKEK(o.Kek, con.env); err != nil {
		return nil, err
	}
	o.content, err = readKeysetFile(o.File, o.Kek, con.env)
	return o, err
}

// open reads the file, and opens the store where the configuration was named.
func (t keysetSource) open(ctx context.Context, con *console) (*openedKeyset, error) {
	o, err := t.read(con)
	if err != nil || o.cfg == nil {
		return o, err
	}
	log := newLogger(con.err, o.cfg.LogLevel)
	adoptLibraryLogs(log)
	backend, err := redisstore.New(o.cfg.redisStore())
	if err != nil {
		return nil, err
	}
	// Without a spool: that belongs to the broker that runs.
	if o.store, err = vault.New(vault.Config{Backend: backend, Keyset: o.cfg.Keys, Now: time.Now, Random: rand.Reader, Log: log}); err != nil {
		_ = backend.Close()
		return nil, err
	}
	o.close = func() { o.store.Close(); _ = backend.Close() }
	if err := firstAnswer(ctx, backend); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

// replace writes the new content, unless somebody else changed the file meanwhile: one of both changes would be lost.
func (o *openedKeyset) replace(content []byte) error {
	return vault.ReplaceKeysetFile(o.File, o.content, content)
}
