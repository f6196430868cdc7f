package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// TestAlerts: every rule of deploy/alerts.yaml has a section in RUNBOOK.md, and the metrics and labels that both name are in
// what a broker serves that has refreshed a token.
func TestAlerts(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	rules, runbook := read("alerts.yaml"), read("RUNBOOK.md")
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations struct{ Summary, Runbook string }
			}
		}
	}
	if err := yaml.Unmarshal([]byte(rules), &file); err != nil {
		t.Fatal(err)
	}
	var all string
	alerts := make(map[string]bool)
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			alerts[rule.Alert] = true
			all += rule.Expr + "\n"
			if !strings.Contains(runbook, "\n## "+rule.Alert+"\n") || rule.Annotations.Runbook != "deploy/RUNBOOK.md#"+strings.ToLower(rule.Alert) || rule.Annotations.Summary == "" {
				t.Errorf("%s has no section in the runbook, no link to it or no summary", rule.Alert)
			}
		}
	}
	for _, heading := range regexp.MustCompile(`(?m)^## (Tokenbroker\w+)$`).FindAllStringSubmatch(runbook, -1) {
		if !alerts[heading[1]] {
			t.Errorf("the runbook has %s, which is no alert", heading[1])
		}
	}
	headings := make(map[string]bool)
	for _, heading := range regexp.MustCompile(`(?m)^##? (.+)$`).FindAllStringSubmatch(runbook, -1) {
		headings[strings.ReplaceAll(strings.ToLower(heading[1]), " ", "-")] = true
	}
	for _, link := range regexp.MustCompile(`\]\(#([^)]+)\)`).FindAllStringSubmatch(runbook, -1) {
		if !headings[link[1]] {
			t.Errorf("the runbook leads to #%s, which it has not", link[1])
		}
	}

	r := newRig(t, shortLived(2*time.Second))
	r.run("audit", "key", "--create", "--file", filepath.Join(r.dir, "audit-key.json"), "--kek", "env:TOKENBROKER_KEK")
	r.writeConfig("audit: {signing_key: audit-key.json, checkpoint_every: 1s, retention: {age: 90d}, sinks: [{file: some.jsonl}, {file: all.jsonl, required: true}]}\n")
	p := r.start()
	c := p.api(r.key)
	c.connect(newBrowser(t), "alice")
	r.expired(c, "alice")
	r.settings(time.Hour)
	c.token("alice")
	var metrics string
	r.eventually(20*time.Second, "the sink has had its first events, and the first checkpoint is made", func() error {
		metrics = string(p.get(p.ops + "/metrics"))
		for _, name := range []string{"tokenbroker_audit_sink_lag_seconds", "tokenbroker_audit_checkpoint_age_seconds", "tokenbroker_audit_retention_behind_seconds"} {
			if !strings.Contains(metrics, "\n"+name) {
				return errors.New("no " + name)
			}
		}
		return nil
	})
	names := regexp.MustCompile(`tokenbroker_[a-z_]*[a-z]`).FindAllString(all+runbook, -1)
	if len(alerts) < 10 || len(names) < 20 {
		t.Fatalf("%d alerts and %d names of metrics", len(alerts), len(names))
	}
	for _, name := range names {
		if !strings.Contains(metrics, "\n"+name+"{") && !strings.Contains(metrics, "\n"+name+" ") {
			t.Errorf("/metrics has no %s", name)
		}
	}
	for _, selector := range regexp.MustCompile(`(tokenbroker_\w+)\{(\w+)=~?"([^"]+)"`).FindAllStringSubmatch(all, -1) {
		if !regexp.MustCompile(`(?m)^` + selector[1] + `\{[^}]*` + selector[2] + `="`).MatchString(metrics) {
			t.Errorf("%s has no label %s", selector[1], selector[2])
		}
		if selector[2] == "outcome" {
			continue // those that never came have no series
		}
		for _, value := range strings.Split(selector[3], "|") {
			if !strings.Contains(metrics, selector[2]+`="`+value+`"`) {
				t.Errorf("%s has no %s %s", selector[1], selector[2], value)
			}
		}
	}
}
