package simulationtest

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// This file knows how the vault lays its records out (vault/record.go, vault/alternates.go): it reads what is in clear.

// keyParts splits "tb:{5f}:c:ID".
func keyParts(key string) (kind, id string) {
	const before = len("tb:{5f}:")
	if len(key) <= before {
		return "", ""
	}
	kind, id, _ = strings.Cut(key[before:], ":")
	return kind, id
}

// argument returns what a HSET sets a field to.
func argument(args []string, field string) (string, bool) {
	for i := 0; i+1 < len(args); i += 2 {
		if args[i] == field {
			return args[i+1], true
		}
	}
	return "", false
}

// applied looks at a step that the store has carried out.
func (w *world) applied(p *process, step *vault.Step, r vault.Result) {
	if r.Err != nil {
		w.violate("the model of the store: %v", r.Err)
		return
	}
	if r.Verdict != vault.VerdictDone {
		w.note("    refused: %s %d", r.Verdict, r.Refused)
		return
	}
	if step.Trail != nil {
		for _, e := range step.Trail.Entries {
			if !strings.Contains(e.Meta, string(broker.EventTokenIssued)) {
				continue
			}
			w.issued++
			if n := w.about([]vault.Step{*step}); n < 0 || n < len(w.records) && w.records[n].status != broker.ConnectionActive {
				w.violate("connection %d: a token was let out, and the record is not active", n)
			}
		}
	}
	conn := -1
	consent, shared := "", false
	for _, write := range step.Writes {
		switch kind, id := keyParts(write.Key); kind {
		case "c":
			conn = w.number(id)
		case "x":
			w.alternateWritten(w.number(id), write)
		case "o":
			consent = id
		case "g":
			shared = true
		}
	}
	if shared && w.shared != nil {
		w.sharedWritten(p, step)
	}
	if conn >= 0 && conn < len(w.records) {
		w.recordWritten(p, conn, consent, step)
		w.keepState(w.records[conn])
	}
}

// alternateWritten follows what lies beside a record.
func (w *world) alternateWritten(conn int, write vault.Write) {
	if conn < 0 || conn >= len(w.records) || write.Kind != vault.WriteHashSet {
		return
	}
	const end = 8 // bytes, before the seal
	t := w.provider.sealedIn(write.Args[1][end:])
	if t == nil || t.grant.conn != w.group(conn) {
		w.violate("connection %d: what lies beside its record is no refresh token of it", conn)
		return
	}
	w.beside[write.Args[0]] = t
	w.note("    %s lies beside the record", t.value)
}

// alternates are the refresh tokens that lie beside a record now.
func (w *world) alternates(conn int) []*token {
	var all []*token
	for field := range w.memory.live(w.records[conn].beside, time.Now().UnixMilli()).hash {
		if t := w.beside[field]; t != nil {
			all = append(all, t)
		}
	}
	return all
}

// removed looks at what leaves the spool: what the store has decided about.
func (w *world) removed(name string) {
	c := w.spooledFiles[fileID(name)]
	if c == nil || c.token == nil || !strings.HasSuffix(name, ".spool") || w.failedOver {
		return
	}
	t := c.token
	rec := w.records[c.conn]
	// Of a shared grant the connection's own record may have had it: a consent can have moved the grant on meanwhile.
	if t.landed.IsZero() && t.settled.IsZero() && rec.revoked == 0 && w.beside[fileID(name)] == nil && !t.recorded {
		w.violate("%s left the spool, and the store has it neither as the record's nor beside it", t.value)
	}
}

// fileID is what a file of the spool is named after.
func fileID(name string) string {
	id, _, _ := strings.Cut(name, ".")
	return id
}

// recordWritten follows a record, and looks at what must hold of each write.
func (w *world) recordWritten(p *process, conn int, consent string, step *vault.Step) {
	rec := w.records[conn]
	for _, write := range step.Writes {
		kind, _ := keyParts(write.Key)
		if kind != "c" {
			continue
		}
		switch write.Kind {
		case vault.WriteHashIncrement:
			switch write.Args[0] {
			case "fen":
				by, err := strconv.ParseInt(write.Args[1], 10, 64)
				if err != nil {
					w.violate("connection %d: fence raised by %s", conn, write.Args[1])
				}
				rec.fence += by
				w.leased[leaseName{conn, rec.fence}] = time.Now()
			case "gen":
				rec.generation++
			}
		case vault.WriteHashDelete:
			if slices.Contains(write.Args, "rt") {
				rec.token = nil
			}
		case vault.WriteHashSet:
			w.fieldsWritten(p, conn, consent, write.Args)
		}
	}
}

func (w *world) fieldsWritten(p *process, conn int, consent string, args []string) {
	rec := w.records[conn]
	if text, ok := argument(args, "gen"); ok {
		generation, err := strconv.ParseInt(text, 10, 64)
		if err != nil || generation <= rec.generation {
			w.violate("connection %d: generation %s after %d", conn, text, rec.generation)
		}
		rec.generation = generation
	}
	if sealed, ok := argument(args, "rt"); ok {
		w.tokenWritten(p, conn, sealed)
	}
	status, ok := argument(args, "s")
	if !ok || broker.ConnectionStatus(status) == rec.status {
		return
	}
	was := rec.status
	rec.status = broker.ConnectionStatus(status)
	w.note("    connection %d is %s at generation %d", conn, status, rec.generation)
	switch {
	case was == broker.ConnectionRevoked && consent == "" && !w.failedOver:
		w.violate("connection %d: revoked, and %s again without a consent", conn, status)
	case rec.status == broker.ConnectionRevoked:
		rec.revoked++
	case rec.status == broker.ConnectionNeedsConsent:
		w.verdict(p, conn)
	case was == broker.ConnectionNeedsConsent && consent == "":
		w.result.Tally.Saved++
	}
}

// tokenWritten looks at the refresh token that a write put into the record.
func (w *world) tokenWritten(p *process, conn int, sealed string) {
	rec := w.records[conn]
	rec.token = w.provider.sealedIn(sealed)
	if rec.token == nil || rec.token.grant.conn != w.group(conn) {
		w.violate("connection %d: what was stored is no refresh token of it", conn)
		return
	}
	w.note("    connection %d has %s at generation %d", conn, rec.token.value, rec.generation)
	t := rec.token
	if t.made != nil && t.landed.IsZero() && p.disk != nil && t.spooled.IsZero() && !t.unkept {
		w.violate("%s was sent to the store before the disk had it", t.value)
	}
	rec.grant = t.grant
	if w.shared != nil {
		t.recorded = true
		return // what counts is the grant's record
	}
	t.takenBack, t.holder = time.Time{}, p
	t.generation = rec.generation
	if t.landed.IsZero() {
		t.landed = time.Now()
	}
}

// verdict is looked at when a record comes to say that the user must consent: not while a usable refresh token is where the
// process that says so could have found it.
func (w *world) verdict(p *process, conn int) {
	elsewhere := false
	for _, g := range w.provider.grants {
		if g.conn != w.group(conn) {
			continue
		}
		for _, t := range g.tokens {
			if !w.provider.usable(t) {
				continue
			}
			if w.shared != nil && w.shared.token == t || w.overlapsConsent(t) {
				continue // it came behind the last look at the grant: the connection goes on with it when it is next asked
			}
			// What another holder's refresh is storing brings this connection back once the store has it.
			// A disk that does not let itself be read is no place to find anything.
			if where := w.held(p, conn, t); where != "" && (where != inSpool || w.plan.DiskFaults == 0) && (where != inProcess || w.shared == nil) {
				w.violate("connection %d: consent is asked for while %s is usable and lies in %s", conn, t.value, where)
			}
			elsewhere = elsewhere || w.reachable(t)
		}
	}
	if elsewhere {
		w.result.Tally.Hasty++
	}
}

const inSpool, inProcess = "its spool", "this very process"

// held tells where the process could find the token, "" if nowhere.
func (w *world) held(p *process, conn int, t *token) string {
	rec := w.records[conn]
	switch {
	case rec.token == t && (w.shared == nil || rec.status != broker.ConnectionRevoked): // of one that is gone no other holder has anything
		return "the record"
	case slices.Contains(w.alternates(conn), t):
		return "the alternates"
	}
	switch {
	case !p.dead && t.made != nil && t.made.proc == p && t.given && t.settled.IsZero():
		return inProcess
	case p.disk != nil && slices.ContainsFunc(p.disk.names, func(name string) bool { return w.waits(name, t) }):
		return inSpool
	}
	return ""
}

// waits tells whether that file keeps the token for the store. One of a settled commit does if a failover took it back.
func (w *world) waits(name string, t *token) bool {
	c := w.spooledFiles[fileID(name)]
	settled := strings.HasSuffix(name, ".settled")
	return c != nil && c.token == t && (!settled || !t.takenBack.IsZero() && t.grant == w.records[c.conn].grant)
}

// reachable tells whether the token is anywhere from where it can still come: the store, a disk, the memory of a process.
func (w *world) reachable(t *token) bool {
	if w.shared != nil && w.shared.token == t {
		return true
	}
	for conn := range w.plan.Conns {
		if w.group(conn) != t.grant.conn {
			continue
		}
		for _, p := range w.live {
			if w.held(p, conn, t) != "" {
				return true
			}
		}
	}
	return false
}

// arrives looks at the use of a refresh token before the provider does: not a second one, unless the outcome of the first is
// in doubt.
func (w *world) arrives(s *sending) {
	now := time.Now()
	if s.lease != nil && s.lease.at.Before(w.failed) {
		return // the store may have forgotten who has the lease
	}
	for _, first := range s.token.sends {
		if first.lease != nil && first.lease.at.Before(w.failed) {
			continue
		}
		if first.dropped || first.dead || first.lease == nil {
			continue
		}
		inFlight := first.answer.IsZero()
		if w.provider.rotation == rotationNone && !inFlight {
			continue
		}
		next := first.gave
		switch {
		case first.proc.stoppedBetween(first.lease.at, now), !now.Before(first.lease.at.Add(leaseLasts)) && (next == nil || next.landed.IsZero()):
		case next != nil && w.shared != nil && s.lease != nil && s.lease.at.Before(next.landed) && !s.lease.at.Before(first.lease.at.Add(leaseLasts)):
			// In doubt when this lease was taken; the record of a grant that several hold takes a late commit under it.
		case next != nil && !next.landed.IsZero():
			// Where the record's own token is dead, there is nothing to lose.
			if !w.failedOver && w.provider.usable(w.current(s.token.grant.conn)) {
				w.violate("%s was sent again although its successor %s had been stored", s.token.value, next.value)
			}
		default:
			w.violate("%s was sent again while its first use, by %s, was neither over nor in doubt", s.token.value, first.proc.name)
		}
	}
}

// told looks at what a caller was answered.
func (w *world) told(c *caller) {
	outcome := "a token"
	if c.err != nil {
		outcome = string(broker.CodeOf(c.err))
	}
	if c.proc.dead {
		return // nobody hears of it
	}
	w.note("%s: %s is answered: %s", c.proc.name, c.name, outcome)
	if late := c.ended.Sub(c.deadline); late > time.Millisecond && !c.proc.stoppedBetween(c.deadline, c.ended) {
		w.violate("%s was answered %v after its deadline", c.name, late)
	}
	if c.err != nil {
		return
	}
	w.answered++
	w.result.Tally.Tokens++
	if w.answered > w.issued && !w.failedOver {
		w.violate("%d tokens were answered and %d recorded", w.answered, w.issued)
	}
	if g := w.provider.access[c.token.AccessToken.Reveal()]; g == nil || g.conn != w.group(c.conn) {
		w.violate("%s got another one's token", c.name)
	}
}
