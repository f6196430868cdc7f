package redisstore

import (
	"errors"
	"strings"
	"testing"
)

// What an old server can't do is said, with what is lost by it; nothing is made up about one that does not tell.
func TestLostByOldVersions(t *testing.T) {
	for _, c := range []struct {
		version string
		disk    bool
		says    []string
		refused bool
	}{
		{"8.2.2", true, nil, false},
		{"7.2.0", true, nil, false},
		{"7.0.15", false, nil, false},
		{"7.0.15", true, []string{"WAITAOF"}, false},
		{"6.2.20", false, []string{"what its user may do"}, false},
		{"6.2.20", true, []string{"what its user may do", "WAITAOF"}, false},
		{"5.0.14", false, []string{"what its user may do"}, false},
		{"4.0.14", false, nil, true},
		{"2.8", true, nil, true},
		{"", true, nil, false},
		{"255.255.255", true, nil, false},
		{"unstable", true, nil, false},
	} {
		lost, err := lostBy(c.version, c.disk)
		if errors.Is(err, ErrRefused) != c.refused || len(lost) != len(c.says) {
			t.Errorf("%s: %q, %v", c.version, lost, err)
			continue
		}
		for i, want := range c.says {
			if !strings.Contains(lost[i], want) || !strings.Contains(lost[i], c.version) {
				t.Errorf("%s: %q does not say %q", c.version, lost[i], want)
			}
		}
	}
}
