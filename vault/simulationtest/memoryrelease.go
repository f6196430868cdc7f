package simulationtest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"tokenbroker/vault"
)

var errReleaseStep = errors.New("memory: a step that lets a token out has something else in it, or not one entry")

// release carries out Step.Release, as release.lua does.
func (a *application) release() vault.Result {
	r, trail := a.step.Release, a.step.Trail
	if trail == nil || len(trail.Entries) != 1 || a.step.Settle != nil || a.step.Confirm || len(a.step.Checks)+len(a.step.Writes)+len(a.step.Reads) > 0 || len(r.Values) != len(vault.ReleaseFields().Checks) {
		return vault.Result{Err: errReleaseStep}
	}
	a.head, _ = a.field(trail.Heads, trail.Writer)
	a.headID, _ = a.field(trail.Heads, trail.Writer+vault.HeadIDSuffix)
	switch a.head {
	case trail.Next:
		return a.released(vault.VerdictRepeated)
	case trail.Head:
	default:
		return a.unreleased(vault.VerdictChain, 0)
	}
	refuse := func(number int) vault.Result {
		result := a.unreleased(vault.VerdictRefused, number)
		result.Instead = a.m.indexed(r.Instead, a.now)
		return result
	}
	var members []string
	for _, item := range a.m.indexed(vault.IndexQuery{Index: r.Index}, a.now) {
		members = append(members, item.Member)
	}
	shape := vault.ReleaseFields()
	version, _ := a.field(r.Record, shape.Version)
	if len(r.State) < 12 || !strings.HasPrefix(vault.StateDigest(members, version), r.State) {
		return refuse(0)
	}
	for i, field := range shape.Checks {
		if have, there := a.field(r.Record, field); !there || have != r.Values[i] {
			return refuse(1 + i)
		}
	}
	if mark, _ := a.field(r.Switches, shape.SwitchesField); mark != r.Mark {
		return refuse(1 + len(shape.Checks))
	}
	a.set(r.UseKey, r.UseField, r.UseValue)
	a.append(trail)
	return a.released(vault.VerdictDone)
}

func (a *application) released(verdict vault.Verdict) vault.Result {
	result := a.unreleased(verdict, 0)
	fields := make(map[string][]byte)
	shape := vault.ReleaseFields()
	for _, f := range slices.Concat(shape.Fields, shape.Checks) {
		if text, ok := a.field(a.step.Release.Record, f); ok {
			fields[f] = []byte(text)
		}
	}
	result.IDs, result.Reads = a.ids, []map[string][]byte{fields}
	return result
}

func (a *application) unreleased(verdict vault.Verdict, refused int) vault.Result {
	r := a.answer(verdict, refused)
	r.Now = time.Time{} // release.lua does not ask for it
	return r
}
