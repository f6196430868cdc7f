package web

import (
	"os"
	"regexp"
	"testing"

	"tokenbroker/broker"
)

// Every type of event has words: a row of the audit trail that says its type twice tells nobody what happened.
func TestEventsHaveWords(t *testing.T) {
	source, err := os.ReadFile("../broker/audit.go")
	if err != nil {
		t.Fatal(err)
	}
	types := regexp.MustCompile(`EventType = "([^"]+)"`).FindAllSubmatch(source, -1)
	if len(types) < 30 {
		t.Fatalf("only %d types found", len(types))
	}
	for _, m := range types {
		if name := string(m[1]); eventWord(broker.EventType(name)) == name {
			t.Errorf("%s has no words", name)
		}
	}
}
