package vault

import (
	"context"
	"fmt"
	"testing"
)

// Hashes gives the heads of the ledger's one stream.
func (l *ledger) Hashes(context.Context, []string) ([]map[string][]byte, error) {
	if l.mode != "" {
		return nil, errAway
	}
	heads := make(map[string][]byte)
	for writer, head := range l.heads {
		heads[writer] = []byte(head)
	}
	return []map[string][]byte{heads}, nil
}

// TestNewestHeads: of many chains the ends of those attest that were written to last, and no forged one.
func TestNewestHeads(t *testing.T) {
	heads := map[string]foundHead{
		"forged": {position: position{writer: "forged", seq: 1}, id: "99999-0", forged: true},
		"no id":  {position: position{writer: "no id", seq: 1}},
	}
	for i := range 2 * maxFound {
		name := fmt.Sprintf("w%02d", i)
		heads[name] = foundHead{position: position{writer: name, seq: uint64(i + 1)}, id: fmt.Sprintf("1000-%d", i)}
	}
	got := newest(heads)
	if len(got) != maxFound {
		t.Fatalf("%d ends", len(got))
	}
	for i, p := range got {
		if want := maxFound + i; p.writer != fmt.Sprintf("w%02d", want) || p.seq != uint64(want+1) {
			t.Errorf("end %d: %+v", i, p)
		}
	}
	delete(heads, "forged")
	for i := range 2*maxFound - 1 {
		delete(heads, fmt.Sprintf("w%02d", i))
	}
	if got := newest(heads); len(got) != 2 || got[0].writer != "no id" {
		t.Errorf("of few: %+v", got)
	}
}

func TestTrailKeys(t *testing.T) {
	for _, tenant := range []string{"", "acme", "}{:a:", "a b"} {
		for _, key := range []string{streamKey(200, tenant), headsKey(200, tenant)} {
			if name, ok := parseTrailKey(key); !ok || name != (trailName{shard: 200, tenant: tenant}) {
				t.Errorf("%q: %+v, %v", key, name, ok)
			}
		}
	}
	for _, key := range []string{"", "tb:{c8", "tb:{C8}:a:acme", "tb:{xx}:a:acme", "tb:{c8}:t", connectionKey(200, "a"), "xx:{c8}:a:acme"} {
		if name, ok := parseTrailKey(key); ok {
			t.Errorf("%q was taken for the key of %s", key, name)
		}
	}
}
