package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// openedTrail is the trail that a configuration names, for commands that read it.
type openedTrail struct {
	cfg     *Config
	backend *redisstore.Store
	store   *vault.Store
}

func openTrail(file string, con *console) (*openedTrail, error) {
	cfg, err := LoadConfig(file, con.env)
	if err != nil {
		return nil, err
	}
	log := newLogger(con.err, cfg.LogLevel)
	adoptLibraryLogs(log)
	backend, err := redisstore.New(cfg.redisStore())
	if err != nil {
		return nil, err
	}
	// Without a spool, and without what signs: those belong to the broker that runs.
	store, err := vault.New(vault.Config{Backend: backend, Keyset: cfg.Keys, Now: time.Now, Random: rand.Reader, Log: log})
	if err != nil {
		_ = backend.Close()
		return nil, err
	}
	return &openedTrail{cfg: cfg, backend: backend, store: store}, nil
}

func (t *openedTrail) close() {
	t.store.Close()
	_ = t.backend.Close()
}

// signers are those who may have signed checkpoints. Keys that were given are the only ones: whoever gives some does not want to trust the
// broker's machine, and what its configuration has in their place. Installations are given beside the configuration's own.
func (t *openedTrail) signers(given, installations []string) (vault.Signers, error) {
	by := vault.Signers{Installations: append([]string{t.cfg.Audit.Installation}, installations...)}
	var err error
	if by.Keys, err = publicKeys(given); err != nil {
		return by, err
	}
	signing := t.cfg.Audit.Signing
	switch {
	case signing == nil:
	case len(by.Keys) == 0:
		by.Keys = signing.Public()
	default:
		own := signing.Public()
		if now := own[len(own)-1]; !slices.ContainsFunc(by.Keys, func(k vault.PublicKey) bool { return k.String() == now.String() }) {
			return by, fmt.Errorf("the broker signs with another key than those given with --key, and only those count: its key is %s; give it too if it is right, or find out who changed audit.signing_key", now)
		}
	}
	return by, nil
}

// maxKeyFile bounds a file of public keys.
const maxKeyFile = 1 << 16

// publicKeys reads keys as they are, or from files with one in each line.
func publicKeys(given []string) ([]vault.PublicKey, error) {
	var keys []vault.PublicKey
	for _, text := range given {
		content := text
		if !strings.HasPrefix(text, "ed25519:") {
			read, err := readBounded(text, maxKeyFile)
			if err != nil {
				return nil, fmt.Errorf("the public key %s can't be read: %s; give the key itself, or a file that holds it", text, withoutPath(err))
			}
			content = string(read)
		}
		for _, line := range strings.Fields(content) {
			key, err := vault.ParsePublicKey(line)
			if err != nil {
				return nil, err
			}
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// maxCheckpoints bounds a file of checkpoints: a year of one that is busy has less.
const maxCheckpoints = 8 << 30

// checkpoints reads the published files: what the configuration names, if it is there, and what is given.
func (t *openedTrail) checkpoints(given []string, con *console) ([]vault.CheckpointSource, error) {
	own := t.cfg.Audit.PublishFile
	if own != "" {
		given = append([]string{own}, given...)
	}
	return publishedCheckpoints(own, given, con)
}

// publishedCheckpoints reads the files; the one named own need not be there.
func publishedCheckpoints(own string, given []string, con *console) ([]vault.CheckpointSource, error) {
	var sources []vault.CheckpointSource
	for _, file := range given {
		src, torn, err := readCheckpoints(file)
		if errors.Is(err, os.ErrNotExist) && file == own {
			continue // nothing was published yet, or this is not the broker's machine
		}
		if err != nil {
			return nil, fmt.Errorf("the checkpoints in %s can't be read: %s", file, withoutPath(err))
		}
		if torn > 0 {
			_, _ = fmt.Fprintf(con.out, "note: %s of %s can't be read, as after a crash or a full disk; if a checkpoint is missing for it, that is told\n", counted(torn, "line", "lines"), file)
		}
		sources = append(sources, src)
	}
	return sources, nil
}

func readCheckpoints(file string) (src vault.CheckpointSource, torn int, err error) {
	content, err := readBounded(file, maxCheckpoints)
	if err != nil {
		return src, 0, err
	}
	src.Name = filepath.Base(file)
	for _, line := range bytes.Split(content, []byte{'\n'}) {
		switch line = bytes.TrimSpace(line); {
		case len(line) == 0:
		case line[0] != '{' || line[len(line)-1] != '}':
			torn++
		default:
			src.Lines = append(src.Lines, line)
		}
	}
	return src, torn, nil
}
