//go:build scale

package e2e

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestFloodAtFullSize is threats 68 and 69 with FLOOD_CONSENTS consents and FLOOD_CALLBACKS callbacks (100,000 and a million) by one
// client, and the limits that the program has by default. make flood runs it; the report goes to FLOOD_REPORT.
func TestFloodAtFullSize(t *testing.T) {
	began := time.Now()
	size := floodSize{
		consents: int(setting(t, "FLOOD_CONSENTS", 100_000)), callbacks: int(setting(t, "FLOOD_CALLBACKS", 1_000_000)), pending: 20_000,
		consentRate: int(setting(t, "FLOOD_CONSENT_RATE", 500)), callbackRate: int(setting(t, "FLOOD_CALLBACK_RATE", 2500)), samples: 1000, floor: 20 * time.Millisecond, resident: 192 << 20, perConsent: 8 << 10,
	}
	report := flood(t, size)
	neighbour := noisyNeighbour(t, floodSize{samples: 500, floor: 20 * time.Millisecond}, 80_000)
	text := fmt.Sprintf("# Floods, %s\n\nOne process with the limits of its defaults, one Redis, and the senders, whose processes get what the others leave (nice 19), on %d processors over loopback; %s in all. "+
		"Consents came at %d a second, callbacks with states that nobody gave out at %d a second from one address with an X-Forwarded-For that changed each time.\n\n%s\n## A noisy neighbour\n\n%s",
		began.UTC().Format("2006-01-02"), runtime.NumCPU(), time.Since(began).Round(time.Second), size.consentRate, size.callbackRate, report, neighbour)
	t.Log(text)
	if file := os.Getenv("FLOOD_REPORT"); file != "" {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
}
