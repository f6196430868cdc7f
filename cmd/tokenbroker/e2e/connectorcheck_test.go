package e2e

import (
	"bufio"
	"context"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// trialRun is one run of connector check, with a browser that consents whenever it is asked to.
type trialRun struct {
	out  string
	code int
}

var browserAddress = regexp.MustCompile(`^http://[^ ]+/authorize\?`)

// try runs connector check on the connector. paste: the browser's last address goes to the command by hand.
func (r *rig) tryConnector(paste bool, args ...string) trialRun {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"connector", "check", "--config", r.config}, args...)...)
	cmd.Dir, cmd.Env = r.dir, append(r.environment(), "LISTEN="+r.main, "OPS_LISTEN=127.0.0.1:0")
	in, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		_ = write.Close()
	}()
	var out strings.Builder
	lines := bufio.NewScanner(read)
	for lines.Scan() {
		out.WriteString(lines.Text() + "\n")
		if !browserAddress.MatchString(lines.Text()) {
			continue
		}
		b := newBrowser(r.t)
		callback := b.atProvider(lines.Text())
		if paste {
			_, _ = io.WriteString(in, callback+"\n")
			continue
		}
		if got := b.get(callback); got.status != 200 {
			r.t.Errorf("the callback answered %d", got.status)
		}
	}
	return trialRun{out.String(), cmd.ProcessState.ExitCode()}
}

// An operator tries a connector: the command finds out what the provider really does, says where the definition is wrong,
// and leaves no grant behind.
func TestConnectorCheck(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		really sandbox.Rotation
		stated string // rotation in the definition
		paste  bool
		code   int
		wants  []string
	}{
		{"as stated", sandbox.RotationStrict, "strict", false, 0, []string{
			`as stated +OAuth client at the token endpoint +accepted`, `as stated +scopes +files.read files.write`, `as stated +refresh token after its use +strict`,
			`grant after a used refresh token came again +ends`, `write down reuse_ends_grant: true`, `as stated +revocation +the refresh token is over`, `as stated +PKCE +a wrong verifier is refused`,
			`files works as its definition says\.`,
		}},
		{"pasted", sandbox.RotationStrict, "strict", true, 0, []string{`files works as its definition says\.`}},
		{"stricter than stated", sandbox.RotationStrict, "none", false, 1, []string{`DIFFERS +refresh token after its use +strict +\[rotation: none\]`, `write down rotation: strict`, `does not work as its definition says`}},
		{"milder than stated", sandbox.RotationGrace, "strict", false, 0, []string{`refresh token after its use +grace +\[rotation: strict\]`, `files works as its definition says\.`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, func(c *sandbox.Config) { c.Rotation = tc.really })
			r.rotation = tc.stated
			r.writeConfig("")
			args := []string{"files"}
			if tc.paste {
				args = append(args, "--paste")
			}
			got := r.tryConnector(tc.paste, args...)
			if got.code != tc.code {
				t.Errorf("exit status %d, want %d\n%s", got.code, tc.code, got.out)
			}
			for _, want := range tc.wants {
				if !regexp.MustCompile(want).MatchString(got.out) {
					t.Errorf("it does not say %q:\n%s", want, got.out)
				}
			}
			for id, g := range r.provider.Stats().Grants {
				if g.Revoked == "" {
					t.Errorf("grant %v is left at the provider: %+v", id, g)
				}
			}
			secrets := []string{"secret-canary-1b7e44"}
			for _, req := range r.provider.Requests() {
				for _, name := range []string{"refresh_token", "code", "token", "code_verifier"} {
					secrets = append(secrets, req.Form[name]...)
				}
			}
			for _, secret := range secrets {
				if strings.Contains(got.out, secret) {
					t.Errorf("a secret was printed:\n%s", got.out)
				}
			}
		})
	}
}

// A wrong client secret shows before anybody is asked to consent.
func TestConnectorCheckNamesARefusedClient(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.env = append(r.env, "FILES_SECRET=another-one")
	got := r.tryConnector(false, "files", "--skip-pkce")
	if got.code != 1 || !regexp.MustCompile(`FAILED +OAuth client at the token endpoint`).MatchString(got.out) {
		t.Errorf("exit status %d\n%s", got.code, got.out)
	}
	if out, code := r.try("connector", "check", "--config", r.config, "nowhere"); code != 2 || !strings.Contains(out, `there is no connector "nowhere"`) || !strings.Contains(out, "files, other") {
		t.Errorf("exit status %d: %s", code, out)
	}
}
