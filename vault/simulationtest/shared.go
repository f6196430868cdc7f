package simulationtest

import (
	"slices"
	"strconv"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// In some schedules all connections hold one grant (broker/decisions/0009): what one of them is given ends what the others have, so
// what counts is what lies in the grant's own record. This file follows that one.

// sharedConns is how many connections hold it at most, sharedLease what its leases are called beside those of connections.
const (
	sharedConns = 3
	sharedLease = -2
	// sharedProvider is broker.Connector.SharedGrants.
	sharedProvider = "rig"
)

// sharedRecord is what the simulation knows of the grant's record in the store.
type sharedRecord struct {
	key        string
	around     int // what its seal holds beside the refresh token
	generation int64
	token      *token
	fence      int64
	states     map[string]sharedState // by the write that made them
}

// sharedState is what a write made of it.
type sharedState struct {
	token      *token
	generation int64
}

// group is which grants the connection's are among: its own, or those that all hold.
func (w *world) group(conn int) int {
	if w.shared != nil {
		return 0
	}
	return conn
}

// current is the refresh token that the next refresh of the connection sends.
func (w *world) current(conn int) *token {
	if w.shared != nil && w.shared.token != nil {
		return w.shared.token
	}
	return w.records[conn].token
}

// usableFor tells whether a refresh of the connection could succeed: with its own refresh token, or with the newest that a holder has.
func (w *world) usableFor(conn int) bool {
	return w.provider.usable(w.records[conn].token) || w.shared != nil && w.provider.usable(w.shared.token)
}

// sharedWritten follows the grant's record, and looks at what must hold of each write.
func (w *world) sharedWritten(p *process, step *vault.Step) {
	s := w.shared
	for _, write := range step.Writes {
		if kind, _ := keyParts(write.Key); kind != "g" {
			continue
		}
		switch write.Kind {
		case vault.WriteHashIncrement:
			if write.Args[0] == "fen" {
				s.fence++
				w.leased[leaseName{sharedLease, s.fence}] = time.Now()
			}
		case vault.WriteDelete:
			s.token, s.generation, s.fence = nil, 0, 0
		case vault.WriteHashSet:
			w.sharedFields(p, write.Args)
		}
	}
}

func (w *world) sharedFields(p *process, args []string) {
	s := w.shared
	sealed, ok := argument(args, "g")
	if !ok {
		return
	}
	text, _ := argument(args, "gen")
	generation, err := strconv.ParseInt(text, 10, 64)
	if err != nil || generation <= s.generation {
		w.violate("the shared grant: generation %s after %d", text, s.generation)
	}
	t := w.provider.numbered(len(sealed) - s.around)
	if t == nil {
		w.violate("what was stored as the shared grant is none")
		return
	}
	w.note("    the shared grant has %s", t.value)
	if t.made != nil && t.landed.IsZero() && p.disk != nil && t.spooled.IsZero() && !t.unkept {
		w.violate("%s was sent to the store before the disk had it", t.value)
	}
	s.token, s.generation = t, generation
	t.takenBack, t.holder, t.generation = time.Time{}, p, generation
	if t.landed.IsZero() {
		t.landed = time.Now()
	}
	if write, ok := argument(args, "wid"); ok {
		s.states[write] = sharedState{token: t, generation: generation}
	}
}

// rereadShared finds out what the grant's record is since the store went back.
func (w *world) rereadShared() {
	s := w.shared
	fields := w.memory.live(s.key, time.Now().UnixMilli()).hash
	was := s.states[fields["wid"]]
	s.token, s.generation = was.token, was.generation
	s.fence, _ = strconv.ParseInt(fields["fen"], 10, 64)
	for _, t := range w.provider.all {
		if !t.landed.IsZero() && t != s.token && t.generation > s.generation {
			w.lost(t)
		}
	}
}

// ends looks at a revocation at the provider: of a grant that several hold only the last one's ends it.
func (w *world) ends(g *grant) {
	if w.shared == nil {
		return
	}
	for conn := range w.plan.Conns {
		if rec := w.records[conn]; rec.grant == g && rec.status != broker.ConnectionRevoked {
			w.violate("grant %d was revoked, and connection %d holds it", g.n, conn)
		}
	}
}

// whileConsenting tells whether a refresh token was sent after a consent had ended it, under a lease from before the store had what
// that gave. Whoever sent it could not know.
func (w *world) whileConsenting(g *grant) bool {
	return slices.ContainsFunc(g.tokens, func(given *token) bool {
		if given.made != nil || w.shared == nil {
			return false
		}
		return slices.ContainsFunc(g.tokens, func(t *token) bool {
			return slices.ContainsFunc(t.sends, func(s *sending) bool {
				return t != given && s.lease != nil && !s.at.Before(given.born) && (given.landed.IsZero() || s.lease.at.Before(given.landed))
			})
		})
	})
}

// overlapsConsent tells whether the refresh token is of a refresh that was under way when a consent's code was exchanged. Which of
// the two tokens the provider gave later nobody here can know: the one that was asked for later counts.
func (w *world) overlapsConsent(t *token) bool {
	return w.shared != nil && t.made != nil && slices.ContainsFunc(t.grant.tokens, func(given *token) bool {
		return given.made == nil && t.made.lease.at.Before(given.born) && !t.made.at.Before(given.born)
	})
}
