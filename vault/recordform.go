package vault

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"

	"tokenbroker/broker"
)

// The second stored form of a connection's header and sealed part (broker/decisions/0024-compact-records.md). Each begins with a
// number of which every bit says that a field is there; the fields follow in the order of their bits, numbers as varints, texts
// behind their length. A field that is added takes the next bit and so comes last: a program that does not know it passes over it,
// as over an unknown key of the first form.

// Of the header: bits 0 and 1 are the flags themselves, bits 2 on are fields.
const (
	hasRenewable = 1 << iota
	hasDirect
	hasStatus
	hasClient
	hasError
	hasCreated // ms; other times are counted from it
	hasRefreshed
	hasLifetime
	hasFailing
	hasRetry
	hasFailures
	hasRefreshExpiry
	hasRefreshAt
	hasSharedGeneration
	hasClientGeneration
	hasRefreshEpoch
	hasScopes
	hasTokens
	hasNear    // the first scope is behind the connector, and RefreshAt counts from LastRefreshed; builds before the first release lack it
	hasSeconds // Lifetime is in s
)

// Of a token in the header.
const (
	tokenNever = 1 << iota
	tokenEnds
	tokenAllScopes // those of the connection
	tokenLives     // it ends Lifetime after LastRefreshed
)

// Of the sealed part.
const (
	hasAccountID = 1 << iota
	hasAccountName
	hasAccountEmail
	hasShared
	hasExtra
	hasVars
	hasOwner // a few bytes of whose it is in place of id and tenant, and the e-mail address behind the subject; builds before the first release lack it
)

// ownerBytes is how much of ownerDigest is kept. The seal names id and tenant in full: this is a second look.
const ownerBytes = 4

// ownerDigest tells the sealed part of one connection from another's.
func ownerDigest(tenant, id string) string {
	sum := sha256.Sum256(joined(tenant, id))
	return string(sum[:ownerBytes])
}

// shortStatus are the statuses that take a byte.
var shortStatus = [...]string{1: string(broker.ConnectionActive), 2: string(broker.ConnectionNeedsConsent), 3: string(broker.ConnectionRevoked)}

// binary is the header in the second form.
func (h *header) binary() []byte {
	var has uint64
	for _, f := range [...]struct {
		bit uint64
		is  bool
	}{
		{hasRenewable, h.Renewable}, {hasDirect, h.Direct}, {hasStatus, h.Status != ""}, {hasClient, h.Client != ""}, {hasError, h.Error != ""},
		{hasCreated, h.CreatedAt != 0}, {hasRefreshed, h.LastRefreshed != 0}, {hasLifetime, h.Lifetime != 0}, {hasFailing, h.FailingSince != 0},
		{hasRetry, h.RetryAt != 0}, {hasFailures, h.Failures != 0}, {hasRefreshExpiry, h.RefreshExpiry != 0}, {hasRefreshAt, h.RefreshAt != 0},
		{hasSharedGeneration, h.SharedGeneration != 0}, {hasClientGeneration, h.ClientGeneration != 0}, {hasRefreshEpoch, h.RefreshEpoch != 0},
		{hasScopes, len(h.Scopes) > 0}, {hasTokens, len(h.Tokens) > 0}, {hasNear, true}, {hasSeconds, h.Lifetime != 0 && h.Lifetime%1000 == 0},
	} {
		if f.is {
			has |= f.bit
		}
	}
	b := make([]byte, 0, 256)
	b = binary.AppendUvarint(b, has)
	b = appendText(b, h.Connector)
	if has&hasStatus != 0 {
		code := max(0, slices.Index(shortStatus[:], h.Status))
		if b = append(b, byte(code)); code == 0 {
			b = appendText(b, h.Status)
		}
	}
	if has&hasClient != 0 {
		b = appendText(b, h.Client)
	}
	if has&hasError != 0 {
		b = appendText(b, h.Error)
	}
	lifetime := h.Lifetime
	if has&hasSeconds != 0 {
		lifetime /= 1000
	}
	for _, n := range [...]struct {
		bit uint64
		n   int64
	}{
		{hasCreated, h.CreatedAt}, {hasRefreshed, h.LastRefreshed - h.CreatedAt}, {hasLifetime, lifetime}, {hasFailing, h.FailingSince - h.CreatedAt},
		{hasRetry, h.RetryAt - h.CreatedAt}, {hasFailures, int64(h.Failures)}, {hasRefreshExpiry, h.RefreshExpiry - h.CreatedAt},
		{hasRefreshAt, h.RefreshAt - h.LastRefreshed}, {hasSharedGeneration, h.SharedGeneration}, {hasClientGeneration, h.ClientGeneration},
		{hasRefreshEpoch, h.RefreshEpoch},
	} {
		if has&n.bit != 0 {
			b = binary.AppendVarint(b, n.n)
		}
	}
	if has&hasScopes != 0 {
		b = appendTexts(b, h.Connector, h.Scopes)
	}
	if has&hasTokens != 0 {
		b = binary.AppendUvarint(b, uint64(len(h.Tokens)))
		for i := range h.Tokens {
			b = h.appendToken(b, &h.Tokens[i])
		}
	}
	return b
}

func (h *header) appendToken(b []byte, t *headerToken) []byte {
	var flags byte
	if t.Never {
		flags |= tokenNever
	}
	switch t.Expires {
	case 0:
	case h.LastRefreshed + h.Lifetime:
		flags |= tokenLives
	default:
		flags |= tokenEnds
	}
	all := slices.Equal(t.Scopes, h.Scopes)
	if all {
		flags |= tokenAllScopes
	}
	b = appendText(append(b, flags), t.Key)
	if flags&tokenEnds != 0 {
		b = binary.AppendVarint(b, t.Expires-h.CreatedAt)
	}
	if !all {
		b = appendTexts(b, "", t.Scopes)
	}
	return b
}

// parseHeader reads what binary made. false: that is not what it made.
func parseHeader(text string) (h header, ok bool) {
	r := scan{rest: text}
	has := r.uvarint()
	h.Renewable, h.Direct = has&hasRenewable != 0, has&hasDirect != 0
	h.Connector = r.text()
	if has&hasStatus != 0 {
		switch code := int(r.byte()); {
		case code == 0:
			h.Status = r.text()
		case code < len(shortStatus):
			h.Status = shortStatus[code]
		default:
			return header{}, false
		}
	}
	if has&hasClient != 0 {
		h.Client = r.text()
	}
	if has&hasError != 0 {
		h.Error = r.text()
	}
	number := func(bit uint64, from int64) int64 {
		if has&bit == 0 {
			return 0
		}
		return from + r.varint()
	}
	h.CreatedAt = number(hasCreated, 0)
	h.LastRefreshed = number(hasRefreshed, h.CreatedAt)
	if h.Lifetime = number(hasLifetime, 0); has&hasSeconds != 0 {
		h.Lifetime *= 1000
	}
	h.FailingSince = number(hasFailing, h.CreatedAt)
	h.RetryAt = number(hasRetry, h.CreatedAt)
	h.Failures = int(number(hasFailures, 0))
	h.RefreshExpiry = number(hasRefreshExpiry, h.CreatedAt)
	near, first := h.CreatedAt, ""
	if has&hasNear != 0 {
		near, first = h.LastRefreshed, h.Connector
	}
	h.RefreshAt = number(hasRefreshAt, near)
	h.SharedGeneration = number(hasSharedGeneration, 0)
	h.ClientGeneration = number(hasClientGeneration, 0)
	h.RefreshEpoch = number(hasRefreshEpoch, 0)
	if has&hasScopes != 0 {
		h.Scopes = r.texts(first)
	}
	if has&hasTokens != 0 {
		if n := r.count(2); n > 0 {
			h.Tokens = make([]headerToken, n)
		}
		for i := range h.Tokens {
			h.Tokens[i] = h.parseToken(&r)
		}
	}
	return h, !r.bad
}

func (h *header) parseToken(r *scan) (t headerToken) {
	flags := r.byte()
	t.Never, t.Key = flags&tokenNever != 0, r.text()
	switch {
	case flags&tokenLives != 0:
		t.Expires = h.LastRefreshed + h.Lifetime
	case flags&tokenEnds != 0:
		t.Expires = h.CreatedAt + r.varint()
	}
	if flags&tokenAllScopes != 0 {
		t.Scopes = h.Scopes
	} else {
		t.Scopes = r.texts("")
	}
	return t
}

// readHeader reads the header of a record. false: it is none.
func readHeader(record map[string][]byte) (header, bool) {
	return parseHeaderOf(string(record[fieldFormat]), string(record[fieldHeader]))
}

// parseHeaderOf reads a header of that form. One of a later form is read as far as it is as the last one that is known.
func parseHeaderOf(format, text string) (h header, ok bool) {
	if format != formatJSON {
		return parseHeader(text)
	}
	err := json.Unmarshal([]byte(text), &h)
	return h, err == nil
}

// binary is the sealed part in the second form.
func (p *private) binary() []byte {
	var has uint64 = hasOwner
	for i, is := range [...]bool{p.Account.ID != "", p.Account.Name != "", p.Account.Email != "", p.Shared != "", len(p.Extra) > 0, len(p.Vars) > 0} {
		if is {
			has |= 1 << i
		}
	}
	b := make([]byte, 0, 256)
	b = binary.AppendUvarint(b, has)
	b = append(b, ownerDigest(p.Tenant, p.ID)...)
	b = appendText(b, p.Subject)
	for i, text := range [...]string{p.Account.ID, p.Account.Name, p.Account.Email, p.Shared} {
		switch {
		case has&(1<<i) == 0:
		case 1<<i == hasAccountEmail:
			b = appendBehind(b, p.Subject, text) // often they are the same
		default:
			b = appendText(b, text)
		}
	}
	if has&hasExtra != 0 {
		b = appendMap(b, p.Extra)
	}
	if has&hasVars != 0 {
		b = appendMap(b, p.Vars)
	}
	return b
}

// parsePrivate is binary backwards, of the connection with this id: of another's, id and tenant are missing. false: that is not what
// it made.
func parsePrivate(text, tenant, id string) (p private, ok bool) {
	r := scan{rest: text}
	has := r.uvarint()
	if has&hasOwner == 0 {
		packed, ok := unpackToken([]byte(r.text()))
		if !ok {
			return private{}, false
		}
		p.ID, p.Tenant = packed, r.text()
	} else if r.next(ownerBytes) == ownerDigest(tenant, id) {
		p.ID, p.Tenant = id, tenant
	}
	p.Subject = r.text()
	for _, f := range [...]struct {
		bit uint64
		to  *string
	}{{hasAccountID, &p.Account.ID}, {hasAccountName, &p.Account.Name}, {hasAccountEmail, &p.Account.Email}, {hasShared, &p.Shared}} {
		switch {
		case has&f.bit == 0:
		case f.bit == hasAccountEmail && has&hasOwner != 0:
			*f.to = r.behind(p.Subject)
		default:
			*f.to = r.text()
		}
	}
	if has&hasExtra != 0 {
		p.Extra = r.texted()
	}
	if has&hasVars != 0 {
		p.Vars = r.texted()
	}
	return p, !r.bad
}

// appendTexts writes texts, each as what it shares with the one before and the rest; before is before the first.
func appendTexts(b []byte, before string, texts []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(texts)))
	for _, text := range texts {
		b = appendBehind(b, before, text)
		before = text
	}
	return b
}

// appendBehind writes a text as how much of it is the same as of the one before, and the rest.
func appendBehind(b []byte, before, text string) []byte {
	same := 0
	for same < len(before) && same < len(text) && before[same] == text[same] {
		same++
	}
	return appendText(binary.AppendUvarint(b, uint64(same)), text[same:])
}

func appendMap(b []byte, m map[string]string) []byte {
	b = binary.AppendUvarint(b, uint64(len(m)))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		b = appendText(appendText(b, key), m[key])
	}
	return b
}
