package main

import (
	"bufio"
	"os"
	"strings"
	"testing"
	"time"
)

func TestMedians(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3, 1, 2}, spread{2, 1, 3}}, {[]float64{4, 1, 2, 3}, spread{2.5, 1, 4}}, {[]float64{7}, spread{7, 7, 7}}, {nil, spread{}},
	} {
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("%v: %+v", c.values, got)
		}
	}
}

// TestRatiosArePerRound: what slows a whole round must not show in the ratio.
func TestRatiosArePerRound(t *testing.T) {
	round := func(n int64) loadResult { return loadResult{Requests: n, Span: time.Second} }
	a := measured{rounds: []loadResult{round(1000), round(100), round(1000)}}
	b := measured{rounds: []loadResult{round(1500), round(150), round(1500)}}
	if got := ratio(a, b, perSecond); got != (spread{1.5, 1.5, 1.5}) {
		t.Errorf("%+v", got)
	}
}

func TestDemands(t *testing.T) {
	for _, c := range []struct {
		d     demand
		holds bool
		word  string
	}{
		{demand{have: 1, want: 1}, true, "holds"},
		{demand{have: 0.99, want: 1}, false, "**FAILS**"},
		{demand{have: 0.99, want: 1.3, aim: true}, false, "missed"},
		{demand{have: 1.31, want: 1.3, most: true}, false, "**FAILS**"},
		{demand{have: 0, want: 0, most: true}, true, "holds"},
	} {
		if c.d.holds() != c.holds || c.d.verdict() != c.word {
			t.Errorf("%+v: %v %s", c.d, c.d.holds(), c.d.verdict())
		}
	}
	r := report{sections: []section{{demands: []demand{{have: 0, want: 1}, {have: 0, want: 1, aim: true}, {have: 1, want: 1}}}}}
	if n := len(r.failed()); n != 1 {
		t.Errorf("%d demands fail", n)
	}
}

func TestReportReads(t *testing.T) {
	s := section{title: "Tokens", text: []string{"Words."}, demands: []demand{{what: "throughput", have: 1.26, want: 1}, {what: "p99", have: 3, want: 150, unit: " ms", most: true}}}
	tbl := table{caption: "Figures.", head: []string{"a", "b"}}
	tbl.add("1|2", "3")
	s.tables = append(s.tables, tbl)
	r := report{date: time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC), how: "make bench", took: 90 * time.Second, sections: []section{s}}
	text := r.markdown()
	for _, want := range []string{
		"# How fast, 2026-11-30\n", "| throughput | must | at least 1.00 | 1.26 | holds |\n", "| p99 | must | at most 150 ms | 3.00 ms | holds |\n",
		"\n## Tokens\n\nWords.\n\nFigures.\n\n| a | b |\n| --- | --- |\n| 1\\|2 | 3 |\n", "`make bench`", "took 1m30s",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "quick") {
		t.Error("it says that it was a quick run")
	}
	// Nothing of the machine but what is said of it on purpose.
	host, err := os.Hostname()
	if dir, _ := os.Getwd(); err == nil && strings.Contains(text, host) || strings.Contains(text, dir) {
		t.Error("it names the host or the folder")
	}
}

func TestFigures(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 0.994: "0.99", 12.34: "12.3", 123.4: "123", 1234.5: "1,235", 1234567: "1,234,567"} {
		if got := figure(v); got != want {
			t.Errorf("%v is %s, want %s", v, got, want)
		}
	}
}

func TestReadReply(t *testing.T) {
	for text, want := range map[string]int{"*2\r\n$3\r\nabc\r\n*2\r\n:7\r\n$2\r\nxy\r\n": 5, "+OK\r\n": 2, "$-1\r\n": 0, ":12\r\n": 0} {
		got, err := readAnswer(bufio.NewReader(strings.NewReader(text)))
		if err != nil || textBytes(got) != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if _, err := readAnswer(bufio.NewReader(strings.NewReader("-NOPERM no\r\n"))); err == nil {
		t.Error("an error is no error")
	}
}

func TestScenariosAreFound(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range scenarios() {
		if seen[s.name()] || s.name() == "" || s.about() == "" || strings.ContainsAny(s.name(), " -ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
			t.Errorf("scenario %q", s.name())
		}
		seen[s.name()] = true
	}
	if _, err := chosenScenarios([]string{"none"}); err == nil {
		t.Error("one that is not there is found")
	}
	if got, err := chosenScenarios([]string{"tokens"}); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}
