package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"tokenbroker/vault"
)

// reloadPause is the least time between two attempts to open a changed keyset file that did not open: its KEK may be at a
// service that is away, and the store asks for newer keys on the way of requests.
const reloadPause = 5 * time.Second

// keysetFile is what is known of the keyset file. The KEK is asked only when the file holds something new, so that neither a
// request nor what somebody wrote into the store can make the process ask a key management service (threat 37).
type keysetFile struct {
	mu     sync.Mutex
	loaded [sha256.Size]byte // of the content in use
	failed [sha256.Size]byte // of one that did not open
	again  time.Time         // when that is tried next
}

// errKeysNotYet stands for the error of the last attempt, which was told already.
var errKeysNotYet = errors.New("the changed keyset file could not be opened a moment ago; it is tried again soon")

// reloadKeyset reads the keyset file again, for the store.
func (a *app) reloadKeyset() error {
	_, err := a.takeKeyset()
	return err
}

// takeKeyset reads the keyset file; fresh tells that it was changed and is in use now.
func (a *app) takeKeyset() (fresh bool, err error) {
	if a.cfg.KeysetFile == "" {
		return false, nil
	}
	content, err := vault.ReadKeysetFile(a.cfg.KeysetFile)
	if err != nil {
		return false, err
	}
	sum := sha256.Sum256(content)
	f := &a.keysetFile
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case sum == f.loaded:
		return false, nil
	case sum == f.failed && time.Now().Before(f.again):
		return false, errKeysNotYet
	}
	if err := a.cfg.Keyset.Reload(content); err != nil {
		f.failed, f.again = sum, time.Now().Add(reloadPause)
		return false, err
	}
	f.loaded = sum
	return true, nil
}

// watchKeyset takes up a rotated keyset without a restart. A file that does not open is tried again until it does: what it
// takes may be a service that is away.
func (a *app) watchKeyset(ctx context.Context) error {
	if a.cfg.KeysetFile == "" {
		return nil
	}
	told := ""
	every(ctx, watchEvery, func() {
		fresh, err := a.takeKeyset()
		switch {
		case errors.Is(err, errKeysNotYet):
		case err != nil && err.Error() != told:
			told = err.Error()
			a.cfg.Log.ErrorContext(ctx, "the changed keyset file is not used; the keys in memory still are", "error", err)
		case err == nil && (fresh || told != ""):
			told = ""
			a.cfg.Log.InfoContext(ctx, "keyset read again")
		}
	})
	return nil
}
