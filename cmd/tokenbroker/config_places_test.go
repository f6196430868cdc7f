package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault/vaulttest"
)

// TestConfigCheckPlaces: a place of the audit trail that can't be written to, or an address that can't be one, is a problem of the configuration, with its line;
// nothing is made to find out.
func TestConfigCheckPlaces(t *testing.T) {
	t.Parallel()
	s, _ := signedSite(t, "redis://127.0.0.1:1", "")
	text, err := os.ReadFile(filepath.Join(s.dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	plain := strings.Split(string(text), "audit:")[0]
	s.write("there.jsonl", "")
	if err := os.Mkdir(filepath.Join(s.dir, "there"), 0o700); err != nil {
		t.Fatal(err)
	}
	const signed = "audit: {signing_key: audit-key.json, publish: "
	for audit, want := range map[string]string{
		"audit: {retention: {age: 90d}, archive_dir: config.yaml/archive}": "audit.archive_dir: the directory can't be written to",
		"audit: {retention: {age: 90d}, archive_dir: /proc/archive}":       "audit.archive_dir: the directory can't be written to",
		"audit: {retention: {age: 90d}, archive_dir: there}":               "",
		"audit: {retention: {age: 90d}, archive_dir: archive/trail}":       "note: new.yaml:18: audit.archive_dir: the directory does not exist; it is made",
		signed + "{file: nowhere/checkpoints.jsonl}}":                      "audit.publish.file: the file can't be written to (the directory does not exist)",
		signed + "{file: there}}":                                          "audit.publish.file: the file can't be written to (it is a directory)",
		signed + "{file: there.jsonl}}":                                    "",
		signed + "{file: there/new.jsonl}}":                                "",
		"audit: {sinks: [{file: nowhere/events.jsonl}]}":                   "audit.sinks[0].file: the file can't be written to (the directory does not exist)",
		"audit: {sinks: [{file: there.jsonl/events.jsonl}]}":               "audit.sinks[0].file: the file can't be written to",
		"audit: {sinks: [{file: /proc/events.jsonl, required: true}]}":     "audit.sinks[0].file: the file can't be written to",
		signed + `{webhook: "https://:443/canary"}}`:                       "audit.publish.webhook must be a URL such as",
		signed + `{webhook: "https://canary..example/x"}}`:                 "audit.publish.webhook must be a URL such as",
		signed + `{webhook: "https://canary_host,x/x"}}`:                   "audit.publish.webhook must be a URL such as",
		signed + `{webhook: "https://canary.example:0/x"}}`:                "audit.publish.webhook must have a port from 1",
		signed + `{webhook: "https://canary.example:99999/x"}}`:            "audit.publish.webhook must have a port from 1",
		`audit: {sinks: [{webhook: "https://-canary.example/"}]}`:          "audit.sinks[0].webhook must be a URL such as",
		`audit: {sinks: [{otlp: "https://canary.example:/v1/logs"}]}`:      "audit.sinks[0].otlp must have a port from 1",
		`audit: {sinks: [{webhook: "https://bücher.example./x"}]}`:         "",
		`audit: {sinks: [{webhook: "http://[::1]:8080/x"}]}`:               "",
	} {
		s.write("new.yaml", plain+audit+"\n")
		status, stdout, stderr := s.run("config", "check", "--config", "new.yaml")
		code := exitFound
		if want == "" || strings.HasPrefix(want, "note") {
			code = exitFine
		}
		if status != code || !strings.Contains(stdout+stderr, want) || strings.Contains(stdout+stderr, "canary") {
			t.Errorf("%s: want %q, got %d %s%s", audit, want, status, stdout, stderr)
		}
	}
	var left []string
	for _, dir := range []string{".", "there"} {
		found, err := os.ReadDir(filepath.Join(s.dir, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			left = append(left, f.Name())
		}
	}
	if got := strings.Join(left, " "); got != "audit-key.json config.yaml keyset.json new.yaml there there.jsonl" {
		t.Errorf("there are: %s", got)
	}
}

// TestServeSaysPlaces: the broker serves without such a place, and says so as it starts.
func TestServeSaysPlaces(t *testing.T) {
	t.Parallel()
	s := newSite(t, vaulttest.StartRedis(t).URL(), "audit: {sinks: [{file: nowhere/events.jsonl}]}\n")
	p := s.serve()
	const want = "audit.sinks[0].file: the file can't be written to (the directory does not exist)"
	for end := time.Now().Add(patience); !strings.Contains(p.logged(), want); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the log lacks %q:\n%s", want, p.logged())
		}
	}
}
