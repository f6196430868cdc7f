package main

import (
	"fmt"
	"strings"
	"time"
)

// section is what one scenario found.
type section struct {
	title   string
	text    []string // paragraphs of Markdown, before the tables
	tables  []table
	demands []demand
}

// table is one of a section.
type table struct {
	caption string
	head    []string
	rows    [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// demand is something that the issue asks for, and what was found.
type demand struct {
	what string // such as "throughput, 32 connections, AOF everysec, broker / reference"
	have float64
	want float64
	unit string // behind the figures, such as " ms"; "" for ratios
	most bool   // have must be at most want; otherwise at least
	aim  bool   // missed, it is told and nothing more; otherwise it must hold
}

func (d demand) holds() bool {
	if d.most {
		return d.have <= d.want
	}
	return d.have >= d.want
}

// verdict is a word for the table.
func (d demand) verdict() string {
	switch {
	case d.holds():
		return "holds"
	case d.aim:
		return "missed"
	}
	return "**FAILS**"
}

// report is the whole of it.
type report struct {
	date     time.Time
	machine  machine
	how      string // the command line, as somebody else would type it
	took     time.Duration
	quick    bool
	sections []section
}

// failed are the demands that must hold and don't.
func (r *report) failed() []demand {
	var out []demand
	for _, s := range r.sections {
		for _, d := range s.demands {
			if !d.aim && !d.holds() {
				out = append(out, d)
			}
		}
	}
	return out
}

// markdown writes the report. It names no host and no path of the machine.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# How fast, %s\n\n", r.date.Format(time.DateOnly))
	fmt.Fprintf(&b, "%s.\n", r.machine)
	fmt.Fprintf(&b, "Absolute figures change with the machine and the hour; the ratios of one run are what counts. The whole run took %s.\n", r.took.Round(time.Second))
	if r.quick {
		b.WriteString("\n**A quick run: too short for figures that mean anything. It shows that everything works.**\n")
	}
	var all []demand
	for _, s := range r.sections {
		all = append(all, s.demands...)
	}
	if len(all) > 0 {
		b.WriteString("\n## What is demanded\n\n")
		t := table{head: []string{"demand", "kind", "bound", "found", ""}}
		for _, d := range all {
			kind, bound := "must", "at least "
			if d.aim {
				kind = "aim"
			}
			if d.most {
				bound = "at most "
			}
			t.add(d.what, kind, bound+figure(d.want)+d.unit, figure(d.have)+d.unit, d.verdict())
		}
		t.write(&b)
	}
	for _, s := range r.sections {
		fmt.Fprintf(&b, "\n## %s\n", s.title)
		for _, p := range s.text {
			fmt.Fprintf(&b, "\n%s\n", p)
		}
		for _, t := range s.tables {
			b.WriteByte('\n')
			if t.caption != "" {
				fmt.Fprintf(&b, "%s\n\n", t.caption)
			}
			t.write(&b)
		}
	}
	fmt.Fprintf(&b, "\n## How to repeat\n\n`%s` in the repository, on a machine that does nothing else. It needs Go and redis-server. How it is measured, and why so: `broker/decisions/0022-how-we-measure.md`.\n", r.how)
	return b.String()
}

func (t *table) write(b *strings.Builder) {
	line := func(cells []string) {
		b.WriteByte('|')
		for _, c := range cells {
			b.WriteString(" " + strings.ReplaceAll(c, "|", `\|`) + " |")
		}
		b.WriteByte('\n')
	}
	line(t.head)
	b.WriteString(strings.Repeat("| --- ", len(t.head)) + "|\n")
	for _, row := range t.rows {
		line(row)
	}
}

// figure writes a number with as many digits as mean something.
func figure(v float64) string {
	switch {
	case v >= 1000:
		return thousands(int64(v + 0.5))
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// thousands writes a number with commas.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for at := len(s) - 3; at > 0 && s[at-1] != '-'; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}
