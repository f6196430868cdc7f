package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"tokenbroker/vault"
)

// reloadPause is the least time between two attempts to open a changed keyset file that did not open: its KEK may be at a
// service that is away.
const reloadPause = 5 * time.Second

// keysetFile is what is known of the keyset file. The KEK is asked only when the file holds something new, so that what somebody wrote
// into the store can't make the process ask a key management service; and such a service is asked by watchKeyset alone, so that no
// request waits for it (threat 37).
type keysetFile struct {
	loading sync.Mutex    // held by whoever opens the file
	wanted  chan struct{} // tells watchKeyset that somebody met a key that may be in it

	mu     sync.Mutex
	loaded [sha256.Size]byte // of the content in use
	failed [sha256.Size]byte // of one that did not open
	again  time.Time         // when that is tried next
	unused string            // why the file as it is now is not in use; "": it is
}

var (
	// errKeysNotYet stands for the error of the last attempt, which was told already.
	errKeysNotYet = errors.New("the changed keyset file could not be opened a moment ago; it is tried again soon")
	// errKeysAsked: the file holds something new.
	errKeysAsked = errors.New("the keyset file has changed, and the key management service is being asked to open it")
)

// reloadKeyset reads the keyset file again, for the store, on the way of a request.
func (a *app) reloadKeyset() error {
	if a.cfg.KeysetFile == "" {
		return nil
	}
	if !remoteKEK(a.cfg.Config.Keyset.KEK) {
		_, err := a.takeKeyset()
		return err
	}
	content, err := vault.ReadKeysetFile(a.cfg.KeysetFile)
	if err != nil {
		return err
	}
	if a.keysetFile.has(sha256.Sum256(content)) {
		return nil
	}
	select {
	case a.keysetFile.wanted <- struct{}{}:
	default: // it is on its way
	}
	return errKeysAsked
}

// has tells that this is the content in use.
func (f *keysetFile) has(sum [sha256.Size]byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sum == f.loaded
}

// waits tells that the content did not open a moment ago.
func (f *keysetFile) waits(sum [sha256.Size]byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sum == f.failed && time.Now().Before(f.again)
}

// took notes what came of opening the content.
func (f *keysetFile) took(sum [sha256.Size]byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.failed, f.again = sum, time.Now().Add(reloadPause)
		return
	}
	f.loaded = sum
}

// note keeps why the file is not in use, for checkKeyset.
func (f *keysetFile) note(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unused = why
}

// checkKeyset tells that the keyset file is another one than that in use. The process serves all the same, with the keys in memory.
func (a *app) checkKeyset(context.Context) trouble {
	a.keysetFile.mu.Lock()
	defer a.keysetFile.mu.Unlock()
	if a.keysetFile.unused == "" {
		return trouble{}
	}
	return trouble{serves: true, text: "the keyset file can't be used as it is now, and this process goes on with the keys in memory; it would not start with that file, so mend that before you restart it: " + a.keysetFile.unused}
}

// takeKeyset reads the keyset file; fresh tells that it was changed and is in use now.
func (a *app) takeKeyset() (fresh bool, err error) {
	f := &a.keysetFile
	f.loading.Lock()
	defer f.loading.Unlock()
	content, err := vault.ReadKeysetFile(a.cfg.KeysetFile)
	if err != nil {
		return false, err
	}
	sum := sha256.Sum256(content)
	switch {
	case f.has(sum):
		return false, nil
	case f.waits(sum):
		return false, errKeysNotYet
	}
	err = a.cfg.Keyset.Reload(content)
	var other *vault.OtherKEKError
	if errors.As(err, &other) {
		err = fmt.Errorf("%s does not open with the KEK of this process, %s: %s", a.cfg.KeysetFile, a.cfg.Config.Keyset.KEK, sinceChanged(other))
	}
	f.took(sum, err)
	return err == nil, err
}

// watchKeyset takes up a rotated keyset without a restart, at the latest when a request meets one of its keys. A file that does not
// open is tried again until it does: what it takes may be a service that is away.
func (a *app) watchKeyset(ctx context.Context) error {
	if a.cfg.KeysetFile == "" {
		return nil
	}
	told := ""
	look := func() {
		fresh, err := a.takeKeyset()
		switch {
		case errors.Is(err, errKeysNotYet):
		case err != nil && err.Error() != told:
			told = err.Error()
			a.keysetFile.note(told)
			a.cfg.Log.ErrorContext(ctx, "the changed keyset file is not used; the keys in memory still are", "error", err)
		case err == nil && (fresh || told != ""):
			told = ""
			a.keysetFile.note("")
			a.cfg.Log.InfoContext(ctx, "keyset read again")
		}
	}
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-a.keysetFile.wanted:
		}
		look()
	}
}
