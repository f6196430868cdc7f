package e2e

import (
	"bytes"
	bigendian "encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// keysetRig is a rig whose replicas may have a keyset file each: KEYSET names it, for commands keyset.json.
func keysetRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.edit("file: keyset.json", "file: ${KEYSET}")
	r.env = append(r.env, "KEYSET=keyset.json")
	return r
}

// place puts the content of a file of the rig in the place of another one, at once.
func (r *rig) place(from, to string) {
	r.t.Helper()
	content, err := os.ReadFile(filepath.Join(r.dir, from))
	if err == nil {
		err = os.WriteFile(filepath.Join(r.dir, to+".new"), content, 0o600)
	}
	if err == nil {
		err = os.Rename(filepath.Join(r.dir, to+".new"), filepath.Join(r.dir, to))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// recordKeys are the ids of the keys for records, oldest first.
func (r *rig) recordKeys() (ids []string) {
	r.t.Helper()
	for _, line := range strings.Split(r.run("keyset", "list", "--config", r.config), "\n")[1:] {
		if id, _, ok := strings.Cut(line, " "); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// refusal is a command that must be refused, saying so.
func (r *rig) refusal(says string, args ...string) string {
	r.t.Helper()
	out, code := r.try(append(args, "--config", r.config)...)
	if code != 1 || !strings.Contains(out, says) {
		r.t.Errorf("%v: exit %d, wanted %q:\n%s", args, code, says, out)
	}
	return out
}

// comes is a command that must succeed before long.
func (r *rig) comes(args ...string) {
	r.t.Helper()
	r.eventually(60*time.Second, strings.Join(args, " "), func() error {
		if out, code := r.try(append(args, "--config", r.config)...); code != 0 {
			time.Sleep(500 * time.Millisecond)
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})
}

// Threat 35: one replica's keyset file lags. Every command that changes the keyset asks the replicas, whichever it is; promote waits for
// them if it is told to, and can be interrupted.
func TestThreat35ReplicaLags(t *testing.T) {
	t.Parallel()
	r := keysetRig(t)
	r.place("keyset.json", "other.json")
	r.start()
	r.start("KEYSET=other.json", "SPOOL=spool2")
	r.comes("keyset", "add")
	keys := r.recordKeys()
	const lags = "has not loaded the keyset as it is"
	before := r.refusal(lags, "keyset", "promote", keys[1])
	r.refusal("a key is not to be added and promoted: ", "keyset", "rotate")
	r.refusal(lags, "keyset", "tenant", "create", "--tenant", "acme")
	if out, code := r.try("keyset", "promote", keys[1], "--wait", "1s", "--file", "keyset.json", "--kek", "env:TOKENBROKER_KEK"); code != 2 || !strings.Contains(out, "--wait needs --config") {
		t.Errorf("--wait with nobody to ask: exit %d, %s", code, out)
	}

	waiting := func() (*exec.Cmd, *lockedBuffer) {
		cmd, out := exec.Command(binary, "keyset", "promote", keys[1], "--wait", "50s", "--config", r.config), &lockedBuffer{}
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = r.dir, r.environment("LISTEN="+r.main, "OPS_LISTEN=127.0.0.1:0"), out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r.eventually(20*time.Second, "it tells what it waits for", func() error {
			if text := out.String(); !strings.Contains(text, "waiting, until ") || !strings.Contains(text, lags) {
				return fmt.Errorf("it says %q", text)
			}
			return nil
		})
		return cmd, out
	}
	file, err := os.ReadFile(filepath.Join(r.dir, "keyset.json"))
	if err != nil {
		t.Fatal(err)
	}
	cmd, out := waiting()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(out.String(), "interrupted, and nothing was changed") {
		t.Errorf("interrupted: %v, %s", err, out.String())
	}
	if now, err := os.ReadFile(filepath.Join(r.dir, "keyset.json")); err != nil || !bytes.Equal(now, file) {
		t.Errorf("the file was changed all the same, %v", err)
	}
	cmd, out = waiting()
	r.place("keyset.json", "other.json")
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "key "+keys[1]+" was promoted") {
		t.Errorf("once the replica has the key: %v, %s (at first: %s)", err, out.String(), before)
	}

	r.place("keyset.json", "other.json")
	r.comes("keyset", "tenant", "create", "--tenant", "acme")
	status := r.run("keyset", "status", "--config", r.config)
	if lines := regexp.MustCompile(`(?m)^\d+ +acme +(records|audit) +enabled +yes `).FindAllString(status, -1); len(lines) != 2 || !regexp.MustCompile(`(?m)^`+keys[1]+` +- +records +enabled +yes `).MatchString(status) {
		t.Errorf("status does not name the tenant's keys:\n%s", status)
	}
	r.refusal(lags, "keyset", "tenant", "rotate", "--tenant", "acme")
	r.refusal(lags, "keyset", "tenant", "destroy", "--tenant", "acme", "--confirm", "acme")
	r.place("keyset.json", "other.json")
	r.comes("keyset", "tenant", "rotate", "--tenant", "acme")
	r.place("keyset.json", "other.json")
	r.eventually(30*time.Second, "the replicas agree", func() error {
		if out, code := r.try("keyset", "tenant", "destroy", "--tenant", "acme", "--confirm", "acme", "--config", r.config); code != 1 || strings.Contains(out, lags) || !strings.Contains(out, "twice") {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})
	r.run("keyset", "tenant", "destroy", "--tenant", "acme", "--confirm", "acme", "--config", r.config, "--force")
	if status := r.run("keyset", "status", "--config", r.config); !strings.Contains(status, "the keyset of tenant acme was destroyed at ") {
		t.Errorf("status does not name the erased tenant:\n%s", status)
	}
}

// Threats 35 and 78: a key is deleted only when nothing can bring back what it has sealed: not before the records had nothing of it for
// long enough, and not while a replica that ended has something in its spool.
func TestThreat35DeleteWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, q := r.start(), r.start("SPOOL=spool2")
	p.api(r.key).connect(newBrowser(t), "alice")
	r.comes("keyset", "add")
	keys := r.recordKeys()
	old, fresh := keys[0], keys[1]
	r.run("keyset", "promote", fresh, "--wait", "30s", "--config", r.config)
	r.eventually(60*time.Second, "the records are sealed anew", func() error {
		if out, code := r.try("keyset", "status", "--config", r.config); code != 0 || !strings.Contains(out, "sealing anew: done") {
			time.Sleep(500 * time.Millisecond)
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})

	// A replica that ends in order, and has a file of the old key in its spool that can't be stored.
	var id uint32
	if _, err := fmt.Sscan(old, &id); err != nil {
		t.Fatal(err)
	}
	waits := filepath.Join(r.dir, "spool2", "waits.spool")
	if err := os.WriteFile(waits, append(bigendian.BigEndian.AppendUint32([]byte{1}, id), make([]byte, 64)...), 0o600); err != nil {
		t.Fatal(err)
	}
	q.stop()
	const left = "left 1 thing sealed with it in its spool_dir"
	r.refusal(left, "keyset", "disable", old)
	if status := r.run("keyset", "status", "--config", r.config); !strings.Contains(status, "left 1 thing in its spool_dir") {
		t.Errorf("status does not tell of what a replica left:\n%s", status)
	}
	q.exec()
	q.waitReady(http.StatusOK)
	r.eventually(30*time.Second, "who has the spool now tells of it", func() error {
		if out, code := r.try("keyset", "disable", old, "--config", r.config); code != 1 || strings.Contains(out, left) || !strings.Contains(out, "keeps 1 thing sealed with it") {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})
	if err := os.Remove(waits); err != nil {
		t.Fatal(err)
	}
	r.comes("keyset", "disable", old)
	q.stop()
	if out, _ := r.try("keyset", "delete", old, "--config", r.config); strings.Contains(out, "ended at") {
		t.Errorf("a replica that left nothing is held against it: %s", out)
	}

	// Nothing is sealed with it; but not for long.
	r.eventually(30*time.Second, "the replica has the file", func() error {
		if out, code := r.try("keyset", "delete", old, "--config", r.config); code != 1 || strings.Contains(out, "has not loaded") {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})
	passed := func(passes int, ago time.Duration) {
		t.Helper()
		at := time.Now().Add(-ago).UnixMilli()
		text, err := json.Marshal(map[string]any{"t": fresh, "p": passes, "c": map[string]any{"b": at - 1, "e": at, "n": 1, "k": map[string]int{fresh: 1}}})
		if err != nil {
			t.Fatal(err)
		}
		cli := r.redisCLI()
		if err := cli.rdb.HSet(t.Context(), "tb:{00}:rs", "done", text).Err(); err != nil {
			t.Fatal(err)
		}
	}
	passed(1, 0) // a minute before the next pass
	r.refusal("have not yet gone through all records twice", "keyset", "delete", old, "--after", "0s")
	passed(2, 23*time.Hour)
	out := r.refusal("a failover of Redis can still bring back records under it", "keyset", "delete", old)
	until := regexp.MustCompile(`wait until (\S+)`).FindStringSubmatch(out)
	if len(until) < 2 {
		t.Fatalf("it does not say until when: %s", out)
	}
	if at, err := time.Parse(time.RFC3339, until[1]); err != nil || (time.Until(at)-time.Hour).Abs() > time.Minute {
		t.Errorf("until %s, %v", until[1], err)
	}
	passed(2, 25*time.Hour)
	r.run("keyset", "delete", old, "--config", r.config)
	if now := r.recordKeys(); len(now) != 1 || now[0] != fresh {
		t.Errorf("keys: %v", now)
	}
	p.api(r.key).token("alice")
}
