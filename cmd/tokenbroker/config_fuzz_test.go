package main

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault"
)

// FuzzConfig reads anything as a configuration: no panic, an error that says where, and never a secret in it.
func FuzzConfig(f *testing.F) {
	example, err := os.ReadFile("../../deploy/config.example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(example))
	for _, seed := range []string{
		minimal, minimal + "clients: [{id: a, tenant: t, key_sha256: [${SECRET}]}]\n", minimal + "redis: ${SECRET}\n", "public_url: https://${SECRET}\nredis: rediss://u:${SECRET}@h\nkeyset: {file: k, kek: env:SECRET}\n",
		"a: &x [*x]\n", "? {a: b}\n: c\n", "- 1\n", "!!binary x", "a: |\n  b\n", "%YAML 1.2\n---\n", strings.Repeat("[", 10_000), "keyset: {file: k, kek: ${SECRET}}\n", minimal + "providers: [{id: rig, issuer: ${SECRET}}]\n",
		minimal + "keyset: {file: k, kek: 'hcvault://u:p@h/transit/keys/k'}\n", minimal + "keyset: {file: k, kek: 'aws-kms://arn'}\n", "log_level: !!int ${SECRET}", minimal + "${file:/etc/tb/config.yaml}", "\xff\xfe", "a: \u2028b",
	} {
		f.Add(seed)
	}
	const secret = "config-canary-6be1"
	kek, err := vault.ParseKEK("env:X", func(string) string { return testKEK })
	if err != nil {
		f.Fatal(err)
	}
	keyset, err := vault.CreateKeyset(kek, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "canary") || strings.Contains(text, "kms") || strings.Contains(text, "hcvault") && !strings.Contains(text, "@") {
			return // a KMS would be asked
		}
		env := testEnvironment(map[string]string{"SECRET": secret}, map[string]string{"/etc/tb/config.yaml": text, "/etc/tb/secret": secret})
		env.readKeyset = func(string) ([]byte, error) { return keyset, nil }
		cfg, err := LoadConfig("/etc/tb/config.yaml", env)
		if err == nil {
			if cfg.Keys == nil || cfg.PublicURL == "" || cfg.Redis.IsZero() {
				t.Fatalf("taken without what it needs: %+v", cfg)
			}
			return
		}
		var problems *configError
		if !errors.As(err, &problems) || len(problems.problems) == 0 {
			t.Fatalf("error is %v", err)
		}
		if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), testKEK) {
			t.Fatalf("the error shows a secret: %v", err)
		}
		for _, p := range problems.problems {
			if strings.ContainsAny(p.text, "\n\r\x00\x1b") {
				t.Fatalf("a problem of several lines: %q", p.text)
			}
		}
	})
}
