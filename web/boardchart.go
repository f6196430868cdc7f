package web

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Charts are drawn here, as SVG without a line of script or style: templates/board-chart.html has the elements, colours come from classes.
// Every chart says in words what it shows, and its numbers stand in a table beside it.

// chart is columns over time, of one or two series that stand on one another.
type chart struct {
	Label         string // what a screen reader reads
	Width, Height int
	Columns       []column
	Top           string // the value at the upper end
	First, Last   string // the times at both ends
}

// column is one bucket.
type column struct {
	Title string // when and how many
	X, W  int
	Parts []columnPart
}

type columnPart struct {
	Class string // chart-1 and so on
	Y, H  int
}

// The measures of a chart, in units of its viewBox.
const (
	chartWidth, chartHeight = 960, 120
	columnLeast             = 2 // what is there at all shows
)

// series is a line of numbers and how it looks.
type series struct {
	name, class string
	values      []int64
}

func (s series) total() (n int64) {
	for _, v := range s.values {
		n += v
	}
	return n
}

// newChart draws the series on one another, from the bottom up; times are the beginnings of the buckets, in layout.
func newChart(what string, times []time.Time, layout string, lines ...series) chart {
	c := chart{Width: chartWidth, Height: chartHeight}
	var highest int64
	for i := range times {
		var sum int64
		for _, line := range lines {
			sum += line.values[i]
		}
		highest = max(highest, sum)
	}
	var totals []string
	for _, line := range lines {
		totals = append(totals, fmt.Sprintf("%s %s", count(line.total()), line.name))
	}
	c.Label = what + ": " + strings.Join(totals, ", ")
	if len(times) == 0 {
		return c
	}
	c.Top = count(highest)
	c.First, c.Last = times[0].Format(layout), times[len(times)-1].Format(layout)
	if highest > 0 {
		c.Label += fmt.Sprintf("; at most %s at a time, from %s to %s UTC", count(highest), c.First, c.Last)
	}
	gap := 2
	if len(times) > 100 {
		gap = 1
	}
	for i, at := range times {
		left, right := chartWidth*i/len(times), chartWidth*(i+1)/len(times)
		col := column{X: left, W: max(1, right-left-gap)}
		var numbers []string
		y := chartHeight
		for _, line := range lines {
			n := line.values[i]
			numbers = append(numbers, fmt.Sprintf("%s %s", count(n), line.name))
			if n == 0 {
				continue
			}
			h := max(columnLeast, int(n*(chartHeight-4)/highest))
			y -= h
			col.Parts = append(col.Parts, columnPart{Class: line.class, Y: y, H: h})
		}
		if len(col.Parts) > 0 {
			col.Title = at.Format(layout) + ": " + strings.Join(numbers, ", ")
			c.Columns = append(c.Columns, col)
		}
	}
	return c
}

// bar is a line of parts beside one another, as long as their share.
type bar struct {
	Label  string
	Width  int
	Height int
	Parts  []barPart
}

type barPart struct {
	Class string
	X, W  int
}

const barWidth, barHeight = 200, 10

// newBar is as long as its sum has a part in all, which must not be less.
func newBar(label string, all int64, parts ...series) bar {
	b := bar{Label: label, Width: barWidth, Height: barHeight}
	if all <= 0 {
		return b
	}
	x := 0
	for _, part := range parts {
		n := part.total()
		if n == 0 {
			continue
		}
		w := min(max(columnLeast, int(n*barWidth/all)), barWidth-x)
		b.Parts = append(b.Parts, barPart{Class: part.class, X: x, W: w})
		x += w
	}
	return b
}

// count is a number with its thousands apart.
func count(n int64) string {
	text := strconv.FormatInt(n, 10)
	first := len(text) - len(strings.TrimPrefix(text, "-"))
	for at := len(text) - 3; at > first; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// took is a time that something took, as short as it says enough.
func took(d time.Duration, beyond bool) string {
	switch {
	case beyond:
		return "over " + took(d, false)
	case d <= 0:
		return "–"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	}
	return strconv.FormatInt(int64(d.Round(time.Second)/time.Second), 10) + " s"
}

// share is a part of a whole in percent; "–" of nothing.
func share(part, all int64) string {
	switch {
	case all == 0:
		return "–"
	case part > 0 && part < all && part*1000/all >= 990, part*1000/all < 10 && part > 0:
		return strconv.FormatFloat(float64(part)*100/float64(all), 'f', 2, 64) + " %"
	}
	return strconv.FormatInt((part*200+all)/(2*all), 10) + " %"
}
