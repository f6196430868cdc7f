package redisstore

import (
	"context"
	"strings"
	"testing"

	"tokenbroker/vault"
)

// TestReleaseAllocations: every request for a token lays such a step out and reads what comes of it.
func TestReleaseAllocations(t *testing.T) {
	step := vault.Step{
		Trail: &vault.TrailStep{Stream: "s", Heads: "h", Index: "t", Member: "m", Writer: "w", Next: "n", Entries: []vault.TrailEntry{{Meta: "m", Body: "b"}}},
		Release: &vault.ReleaseStep{
			Index: "i", State: "0123456789abcdef", Record: "c", Values: []string{"acme", "active"},
			Switches: "sw", UseKey: "u", UseField: "is", UseValue: "1", Instead: vault.IndexQuery{Index: "i", Records: "c:"},
		},
	}
	echoes := newEchoes()
	echo := echoes.next()
	answer := []any{echo, "done", "1-1", []any{"2", "7", "h", strings.Repeat("b", 300), strings.Repeat("a", 700)}}
	ctx := context.Background()
	if n := testing.AllocsPerRun(100, func() {
		c, err := encode(&step, echoes.next())
		if err != nil || len(c.command(ctx, false).Args()) != 3+6+12+2 {
			t.Fatalf("%+v, %v", c, err)
		}
	}); n > 7 { // the arguments, what they point to, the echo, what is seldom needed, the call, the command
		t.Errorf("%v allocations to lay out a step", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		if r, err := decode(answer, &step, echo); err != nil || len(r.Reads[0]["at:"]) != 700 {
			t.Fatalf("%+v, %v", r, err)
		}
	}); n > 12 { // the id's list, the reads, their map and its values
		t.Errorf("%v allocations to read what comes of it", n)
	}
}

// TestEchoes: no two are the same, not those of two stores.
func TestEchoes(t *testing.T) {
	seen := make(map[string]bool)
	for range 3 {
		for e, n := newEchoes(), 0; n < 100; n++ {
			echo := e.next()
			if seen[echo] {
				t.Fatalf("%s comes twice", echo)
			}
			seen[echo] = true
		}
	}
}
