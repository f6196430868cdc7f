package vault

import "slices"

// maxDoubts is how many steps in doubt a chain remembers before it looks for some to forget.
const maxDoubts = 4096

// doubt is a step that was sent at this place without an answer. It may still land as long as the head is prev.
type doubt struct {
	id    string
	prev  string
	next  position
	links []link // chainOp.links
	round uint64 // the failed round in which it was last sent
}

// adopt takes the head that the store reports, if it is one that a step in doubt would have left.
func (t *chains) adopt(c *chain, r Result) bool {
	next := c.doubts[r.Head].next
	if _, known := c.doubts[r.Head]; !known {
		// Perhaps a step that boundDoubts has forgotten. Only this process writes this chain, so a genuine head beyond the
		// confirmed end is the end of what it sent; one from before it means that the store lost something.
		p, genuine := t.seals.parseHead(c.name, c.at.writer, r.Head)
		if !genuine || p.seq <= c.at.seq {
			return false
		}
		next = p
	}
	c.land(r.Head)
	// Which ids the doubtful entries attested is not looked up again: attesting an id twice does no harm.
	c.at, c.head, c.resumes = next, r.Head, nil
	c.learn(next.seq, r.HeadID)
	c.forget()
	return true
}

func (c *chain) learn(seq uint64, text string) {
	if id, err := parseStreamID(text); err == nil {
		c.known = append(c.known, attestation{seq: seq, id: id})
	}
}

// land notes that the steps in doubt that lead to the head, one behind the other from the confirmed end, were applied.
func (c *chain) land(head string) {
	var landed []doubt
	for head != c.head {
		d, found := c.doubts[head]
		if !found {
			break
		}
		c.landed[d.id] = true
		delete(c.doubts, head)
		head = d.prev
		landed = append(landed, d)
	}
	for _, d := range slices.Backward(landed) {
		c.leave(d.links, d.next)
	}
}

// leave leaves the links of a step that the store has for the signer.
func (c *chain) leave(links []link, last position) {
	if c.unsigned == nil {
		return
	}
	for i, l := range links {
		c.unsigned.add(last.writer, last.seq-uint64(len(links)-i), l)
	}
	c.unsigned.add(last.writer, last.seq, last.link)
}

// forget drops the doubts whose place is taken: they can't land any more.
func (c *chain) forget() {
	for head, d := range c.doubts {
		if d.next.seq <= c.at.seq {
			delete(c.doubts, head)
		}
	}
}

// boundDoubts forgets what nobody waits for any more, the older half, once there are many: in a long outage every step
// that was ever sent is in doubt until the store answers. Those stay that tell whether a step in waiting has landed: its own,
// and those that were sent behind them, for one of their heads may be what the store reports. A forgotten step that did
// land is still found by its head (adopt); only a caller that repeats it so much later has to rely on the step's checks.
func (c *chain) boundDoubts(waiting []*chainOp) {
	if len(c.doubts) <= maxDoubts {
		return
	}
	ids := make(map[string]bool, len(waiting))
	for _, op := range waiting {
		ids[op.id] = true
	}
	rounds := make([]uint64, 0, len(c.doubts))
	for _, d := range c.doubts {
		rounds = append(rounds, d.round)
	}
	slices.Sort(rounds)
	recent := rounds[len(rounds)/2]
	for head, d := range c.doubts {
		if d.round < recent && !c.leadsThrough(head, ids) {
			delete(c.doubts, head)
		}
	}
}

// leadsThrough tells whether one of the steps lies on the way from the confirmed end to the head.
func (c *chain) leadsThrough(head string, ids map[string]bool) bool {
	for head != c.head {
		d, found := c.doubts[head]
		if !found {
			return false
		}
		if ids[d.id] {
			return true
		}
		head = d.prev
	}
	return false
}
