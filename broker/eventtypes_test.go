package broker

import (
	"os"
	"regexp"
	"testing"
)

// TestEventTypes: every type that is declared can be asked for.
func TestEventTypes(t *testing.T) {
	source, err := os.ReadFile("audit.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^\tEvent\w+ +EventType = "([^"]+)"`).FindAllSubmatch(source, -1)
	if len(declared) < 30 || len(declared) != len(EventTypes()) {
		t.Errorf("%d types are declared, %d listed", len(declared), len(EventTypes()))
	}
	for _, m := range declared {
		if !EventType(m[1]).Known() {
			t.Errorf("%s is not known", m[1])
		}
	}
	if EventType("token.isued").Known() || EventType("").Known() {
		t.Error("a type that nobody writes is known")
	}
}
