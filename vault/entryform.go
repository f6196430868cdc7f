package vault

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"

	"tokenbroker/broker"
)

// The second stored form of an entry's sealed part (broker/decisions/0024-compact-records.md): a byte 2, a number of which every
// bit says that a field is there, and the fields in the order of their bits. What the clear part beside it says, and the stream,
// is not said again: both are in the place that the seal names. A field that is added takes the next bit and comes last: an older
// program passes over it. The first form is JSON, and begins with a brace.
const (
	entryBinary = 2

	hasEntryClient = 1 << (iota - 1)
	hasEntrySubject
	hasEntryAgent
	hasEntryRun
	hasEntryTool
	hasEntryConnection
	hasEntryOutcome
	hasEntryReason
	hasEntryRequest
	hasEntryTrace
	hasEntryPortal
	hasEntryEvents
)

// Of an event in an entry: flags in its first byte.
const (
	eventRequested = 1 << iota
	eventScoped
	eventNamed
)

// entryFields are the texts of an entry in the order of their bits.
func entryFields(e *broker.Entry) [11]string {
	return [11]string{e.Client, e.Subject, e.Actor.Agent, e.Actor.Run, e.Actor.Tool, e.Connection, e.Outcome, e.Reason, e.RequestID, e.TraceID, e.Portal}
}

// appendEntry writes an entry in the second form.
func appendEntry(b []byte, e *broker.Entry) []byte {
	texts := entryFields(e)
	var has uint64
	for i := range texts {
		if texts[i] != "" {
			has |= hasEntryClient << i
		}
	}
	if len(e.Scopes) > 0 {
		has |= hasEntryEvents
	}
	b = binary.AppendUvarint(append(b, entryBinary), has)
	for i := range texts {
		if texts[i] != "" {
			b = appendShort(b, texts[i])
		}
	}
	if len(e.Scopes) == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(e.Scopes)))
	before := ""
	for i := range e.Scopes {
		one := &e.Scopes[i]
		var flags byte
		if one.Requested {
			flags |= eventRequested
		}
		if one.Scope != "" {
			flags |= eventScoped
		}
		if one.ID != "" {
			flags |= eventNamed
		}
		if b = append(b, flags); one.ID != "" {
			b = appendShort(b, one.ID)
		}
		if one.Scope != "" {
			b = appendBehind(b, before, one.Scope)
			before = one.Scope
		}
	}
	return b
}

// parseEntry reads an entry of the second form; clear is what stands beside it. false: it is none.
func parseEntry(payload []byte, tenant string, clear meta) (e storedEntry, ok bool) {
	r := scan{rest: string(payload)}
	if r.byte() != entryBinary {
		return storedEntry{}, false
	}
	e.Type, e.Time, e.Tenant, e.Connector = clear.kind, clear.time, tenant, clear.connector
	has := r.uvarint()
	for i, to := range [...]*string{
		&e.Client, &e.Subject, &e.Actor.Agent, &e.Actor.Run, &e.Actor.Tool, &e.Connection, &e.Outcome, &e.Reason, &e.RequestID, &e.TraceID, &e.Portal,
	} {
		if has&(hasEntryClient<<i) != 0 {
			*to = r.short()
		}
	}
	if has&hasEntryEvents == 0 {
		return e, !r.bad
	}
	n := r.count(1)
	e.Events = make([]entryEvent, n)
	before := ""
	for i := range e.Events {
		one := &e.Events[i]
		flags := r.byte()
		one.Requested = flags&eventRequested != 0
		if flags&eventNamed != 0 {
			one.ID = r.short()
		}
		if flags&eventScoped != 0 {
			one.Scope = r.behind(before)
			before = one.Scope
		}
	}
	return e, !r.bad
}

// How a text is written behind a number that is its length and, in the two lowest bits, one of these.
const (
	shortAsIs  = 0
	shortSixes = 1 // of the characters of base64url: as that is decoded, filled up with A
	shortHex   = 2 // of an even number of digits 0 to 9 and a to f: as that is decoded
)

// appendShort writes a text in the shortest of the ways.
func appendShort(b []byte, text string) []byte {
	way := shortHex
	if len(text)%2 != 0 {
		way = shortSixes
	}
	for i := range len(text) {
		switch c := text[i]; {
		case '0' <= c && c <= '9' || 'a' <= c && c <= 'f':
		case isSix(c):
			way = shortSixes
		default:
			return append(binary.AppendUvarint(b, uint64(len(text))<<2|shortAsIs), text...)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(text))<<2|uint64(way))
	if way == shortHex {
		b, _ = hex.AppendDecode(b, []byte(text)) // they are digits
		return b
	}
	whole := len(text) / 4 * 4
	b, _ = base64.RawURLEncoding.AppendDecode(b, []byte(text[:whole])) // they are of its alphabet
	if rest := text[whole:]; rest != "" {
		var last [4]byte
		copy(last[copy(last[:], rest):], "AAA")
		b, _ = base64.RawURLEncoding.AppendDecode(b, last[:])
	}
	return b
}

// short reads what appendShort wrote.
func (r *scan) short() string {
	n := r.uvarint()
	way, length := n&3, n>>2
	if length > 2*uint64(len(r.rest)) {
		r.fail()
		return ""
	}
	switch way {
	case shortAsIs:
		return r.next(length)
	case shortHex:
		return hex.EncodeToString([]byte(r.next(length / 2)))
	case shortSixes:
		text := base64.RawURLEncoding.EncodeToString([]byte(r.next((length + 3) / 4 * 3)))
		if uint64(len(text)) < length {
			r.fail()
			return ""
		}
		return text[:length]
	}
	r.fail()
	return ""
}
