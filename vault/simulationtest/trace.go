package simulationtest

import (
	"fmt"
	"strings"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// about is the connection that steps are about, -1 if that is not one.
func (w *world) about(steps []vault.Step) int {
	for _, step := range steps {
		if step.Release != nil {
			if kind, id := keyParts(step.Release.Record); kind == "c" {
				return w.number(id)
			}
		}
		for _, c := range step.Checks {
			if kind, id := keyParts(c.Key); kind == "c" {
				return w.number(id)
			}
		}
	}
	return -1
}

// recorded are the types of events of which a trace tells.
var recorded = []broker.EventType{
	broker.EventConsentCreated, broker.EventConsentCompleted, broker.EventConsentFailed, broker.EventTokenIssued, broker.EventTokenRefused, broker.EventTokenRefreshed,
	broker.EventTokenRefreshFailed, broker.EventConnectionNeedsConsent, broker.EventConnectionRevoked, broker.EventIntegrityFailed,
}

// describe says what steps do.
func (w *world) describe(steps []vault.Step) string {
	var parts []string
	for _, step := range steps {
		parts = append(parts, w.describeStep(step))
	}
	return strings.Join(parts, " and ")
}

// namesIn are the names that a write sets, or all that it says.
func namesIn(write vault.Write) []string {
	if write.Kind != vault.WriteHashSet {
		return write.Args
	}
	var names []string
	for i := 0; i < len(write.Args); i += 2 {
		names = append(names, write.Args[i])
	}
	return names
}

func (w *world) describeStep(step vault.Step) string {
	var what []string
	if step.Trail != nil {
		for _, e := range step.Trail.Entries {
			for _, kind := range recorded {
				if strings.Contains(e.Meta, string(kind)) {
					what = append(what, string(kind))
				}
			}
		}
	}
	conn := w.about([]vault.Step{step})
	for _, write := range step.Writes {
		kind, _ := keyParts(write.Key)
		generation, moves := argument(write.Args, "gen")
		_, owner := argument(write.Args, "own")
		switch {
		case kind == "x" && write.Kind == vault.WriteHashSet:
			what = append(what, "put an alternate beside it")
		case kind == "g":
			what = append(what, "shared grant: "+string(write.Kind)+" "+strings.Join(namesIn(write), " "))
		case kind != "c":
		case owner && write.Kind == vault.WriteHashSet:
			what = append(what, "take the lease")
		case write.Kind == vault.WriteHashSet && moves:
			what = append(what, "write generation "+generation)
		case write.Kind == vault.WriteHashDelete && len(step.Writes) == 1:
			what = append(what, "give the lease back")
		case write.Kind == vault.WriteHashSet:
			what = append(what, "write")
		}
	}
	if len(what) == 0 {
		what = []string{fmt.Sprintf("%d writes", len(step.Writes))}
	}
	text := strings.Join(what, ", ")
	if conn >= 0 {
		text = fmt.Sprintf("connection %d: %s", conn, text)
	}
	return text
}
