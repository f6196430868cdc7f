package e2e

import (
	"bytes"
	"flag"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"
)

var keepShots = flag.Bool("shots", false, "write the screenshots to shots/")

// shoot keeps what the page looks like as shots/NAME-LOOK.png, with -shots.
func (b *tab) shoot(t *testing.T, name string, l look) {
	t.Helper()
	b.with(t, l)
	b.keep(t, name+"-"+l.name)
}

// keep is shoot for a look that is set already.
func (b *tab) keep(t *testing.T, name string) {
	t.Helper()
	shot := ask(t, b, chromedp.FullScreenshot(100))
	if !*keepShots {
		return
	}
	small, err := shrink(shot)
	if err != nil {
		t.Fatalf("shrink %s: %v", name, err)
	}
	if err := os.MkdirAll("shots", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("shots", name+".png"), small, 0o644); err != nil {
		t.Fatal(err)
	}
}

// shrink gives a PNG a palette of 256 colours, a third of the size: pages have few, the rest are edges of letters. Each is the most
// frequent one among its close relatives, so that a small drawing in a colour of its own keeps it.
func shrink(shot []byte) ([]byte, error) {
	full, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		return nil, err
	}
	count := map[color.RGBA]int{}
	for y := full.Bounds().Min.Y; y < full.Bounds().Max.Y; y++ {
		for x := full.Bounds().Min.X; x < full.Bounds().Max.X; x++ {
			count[color.RGBAModel.Convert(full.At(x, y)).(color.RGBA)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int {
		if d := count[b] - count[a]; d != 0 {
			return d
		}
		return bytes.Compare([]byte{a.R, a.G, a.B, a.A}, []byte{b.R, b.G, b.B, b.A}) // the same picture is the same file
	})
	var palette color.Palette
	related := map[color.RGBA]bool{}
	for i, c := range colours {
		kin := color.RGBA{R: c.R >> 4, G: c.G >> 4, B: c.B >> 4}
		if len(palette) < 256 && (i < 32 || !related[kin]) {
			palette, related[kin] = append(palette, c), true
		}
	}
	few := image.NewPaletted(full.Bounds(), palette)
	nearest := map[color.RGBA]uint8{}
	for c := range count {
		nearest[c] = uint8(palette.Index(c)) //nolint:gosec // of at most 256
	}
	for y := full.Bounds().Min.Y; y < full.Bounds().Max.Y; y++ {
		for x := full.Bounds().Min.X; x < full.Bounds().Max.X; x++ {
			few.SetColorIndex(x, y, nearest[color.RGBAModel.Convert(full.At(x, y)).(color.RGBA)])
		}
	}
	var out bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, few)
	return out.Bytes(), err
}
