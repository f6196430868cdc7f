package vault

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Of changes at the same time each is in the file afterwards, or its command was told that it is not.
func TestKeysetChangesAtOnce(t *testing.T) {
	kek, path := testKEK(t, 1), filepath.Join(t.TempDir(), "keyset.json")
	file, err := CreateKeyset(kek, time.Now())
	if err == nil {
		err = CreateKeysetFile(path, file)
	}
	if err != nil {
		t.Fatal(err)
	}
	var told atomic.Int64
	var mu sync.Mutex
	var added []uint32
	for range 20 {
		begin := make(chan struct{})
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				was, err := ReadKeysetFile(path)
				if err != nil {
					t.Error(err)
					return
				}
				next, key, err := EditKeyset(was, kek, KeysetEdit{Do: KeysetAdd}, time.Now())
				if err != nil {
					t.Error(err)
					return
				}
				<-begin
				switch err := ReplaceKeysetFile(path, was, next); {
				case err == nil:
					mu.Lock()
					added = append(added, key)
					mu.Unlock()
				case strings.Contains(err.Error(), "changed by somebody else meanwhile"), strings.Contains(err.Error(), "another command is changing"):
					told.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		close(begin)
		all.Wait()
	}
	now, err := ReadKeysetFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := ListKeyset(now, kek)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range added {
		if _, ok := (KeyList{Records: list}).Find(key); !ok {
			t.Errorf("key %d was added, and is not there", key)
		}
	}
	if len(added) < 20 || len(added)+int(told.Load()) != 80 {
		t.Errorf("%d were added, %d were told that they were not", len(added), told.Load())
	}

	// What a command left that was killed is named.
	lock := path + ".lock"
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceKeysetFile(path, now, now); err == nil || !strings.Contains(err.Error(), "remove "+lock) {
		t.Errorf("with a lock: %v", err)
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceKeysetFile(path, now, file); err != nil {
		t.Error(err)
	}
	if err := ReplaceKeysetFile(path, now, now); err == nil || !strings.Contains(err.Error(), "changed by somebody else") {
		t.Errorf("a change of what is there no more: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, file) {
		t.Errorf("the file was overwritten: %v", err)
	}
}
