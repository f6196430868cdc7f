package redisstore

import (
	"errors"
	"strconv"

	"tokenbroker/vault"
)

// released has the fields that the script has built in.
var released = vault.ReleaseFields()

var errReleaseStep = errors.New("redis: a step that lets a token out has something else in it, or not one entry")

// encodeRelease lays a step with Release out as release.lua reads it.
func encodeRelease(step *vault.Step, echo string) (call, error) {
	r, t := step.Release, step.Trail
	if t == nil || len(t.Entries) != 1 || step.Settle != nil || step.Confirm || len(step.Checks)+len(step.Writes)+len(step.Reads) > 0 {
		return call{}, errReleaseStep
	}
	if len(r.Values) != len(released.Checks) {
		return call{}, errReleaseStep
	}
	c := newWhole(stepScript, 12+len(r.Values), t.Heads, t.Stream, r.Index, r.Record, r.Switches, r.UseKey)
	c.text(kindRelease, echo, t.Writer, t.Head, t.Next, t.Entries[0].Meta, t.Entries[0].Body, r.State, r.Mark, r.UseField, r.UseValue, rest(t, r.Instead))
	c.text(r.Values...)
	return c, nil
}

// rest is what the script seldom needs, in one argument: texts behind their lengths.
func rest(t *vault.TrailStep, q vault.IndexQuery) string {
	from, limit := lowerEnd(q)
	texts := [...]string{t.Index, t.Member, q.Index, from, strconv.Itoa(limit), q.Records, q.Extra, q.Beside}
	n := 4 * len(texts)
	for _, text := range texts {
		n += len(text)
	}
	b := make([]byte, 0, n)
	for _, text := range texts {
		b = append(append(strconv.AppendInt(b, int64(len(text)), 10), ':'), text...)
	}
	return string(b)
}

// decodeRelease reads what release.lua answers.
func decodeRelease(value any, step *vault.Step, echo string) (vault.Result, error) {
	parts, ok := value.([]any)
	if !ok || len(parts) < 4 || len(parts) > 5 {
		return vault.Result{}, errAnswer
	}
	var texts [3]string
	for i := range texts {
		if texts[i], ok = parts[i].(string); !ok {
			return vault.Result{}, errAnswer
		}
	}
	if texts[0] != echo {
		return vault.Result{}, errForeign
	}
	r := vault.Result{Verdict: vault.Verdict(texts[1]), HeadID: texts[2]}
	var err error
	switch r.Verdict {
	case vault.VerdictDone, vault.VerdictRepeated:
		r.Head = step.Trail.Next
		if r.Verdict == vault.VerdictDone {
			r.IDs = []string{r.HeadID}
		}
		var fields map[string][]byte
		fields, err = readOf(parts[3], r.Verdict == vault.VerdictDone, step.Release.Values)
		r.Reads = []map[string][]byte{fields}
	case vault.VerdictChain:
		r.Head, ok = parts[3].(string)
	case vault.VerdictRefused:
		r.Head = step.Trail.Head
		var number string
		if len(parts) != 5 {
			return vault.Result{}, errAnswer
		}
		if number, ok = parts[4].(string); ok {
			r.Refused, err = strconv.Atoi(number)
		}
		if err == nil {
			r.Instead, err = indexedItems(parts[3])
		}
	default:
		ok = false
	}
	if !ok || err != nil {
		return vault.Result{}, errAnswer
	}
	return r, nil
}

// readOf makes a map of the fields that were read; of those that were checked the values are known if they held.
func readOf(value any, held bool, values []string) (map[string][]byte, error) {
	list, ok := value.([]any)
	n := len(released.Fields)
	if !ok || held && len(list) != n || !held && len(list) != n+len(released.Checks) {
		return nil, errAnswer
	}
	fields := make(map[string][]byte, n+len(released.Checks))
	for i, one := range list {
		name := ""
		if i < n {
			name = released.Fields[i]
		} else {
			name = released.Checks[i-n]
		}
		switch one := one.(type) {
		case string:
			fields[name] = []byte(one)
		case nil:
		default:
			return nil, errAnswer
		}
	}
	for i := range values {
		if held {
			fields[released.Checks[i]] = []byte(values[i])
		}
	}
	return fields, nil
}
