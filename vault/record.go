package vault

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// The stored form of a connection: one hash.
//
//	v     form                     gen   generation        wid  id of the last write
//	t     tenant                   s     status
//	h     header, in clear: what decides without a key and can't hurt anybody
//	p     sealed: whose it is. Its seal names the header, so that nobody can change that either
//	rt    sealed refresh token; its seal names the write that put it there, as the header does
//	at:K  sealed access token of key K; its seal names its scopes and expiry
//	own, fen, dl                   the lease: owner, fence, end in ms by the store's clock
//	ru    of a revoked connection: what became of the grant upstream, once the secrets are erased
//	cg    generation that the last consent made: every refresh token after it is of the same account
//
// Of form 1 header and sealed part are JSON, of form 2 they are as in recordform.go. A newer program may write a higher v; such a
// record is refused and left as it is.
const (
	formatJSON       = "1"
	formatBinary     = "2"
	connectionFormat = formatBinary // the highest that is known

	fieldFormat     = "v"
	fieldGeneration = "gen"
	fieldWrite      = "wid"
	fieldTenant     = "t"
	fieldStatus     = "s"
	fieldHeader     = "h"
	fieldPrivate    = "p"
	fieldRefresh    = "rt"
	fieldAccess     = "at:" // and the token's key
	fieldOwner      = "own"
	fieldFence      = "fen"
	fieldDeadline   = "dl"
	fieldConsented  = "cg"
	fieldOutcome    = "ru"

	fieldConfirm = "c" // of Settle.Key: the connection whose write was confirmed last

	fieldIssued = "t" // of the volatile hash beside the record: ms
)

// header is the clear part. Times are in ms since 1970, 0: none; durations in ms.
type header struct {
	Client        string        `json:"cl,omitempty"`
	Connector     string        `json:"cn"`
	Error         string        `json:"er,omitempty"`
	Scopes        []string      `json:"sc,omitempty"`
	Renewable     bool          `json:"rn,omitempty"`
	Tokens        []headerToken `json:"tk,omitempty"`
	Lifetime      int64         `json:"lf,omitempty"`
	FailingSince  int64         `json:"fs,omitempty"`
	RetryAt       int64         `json:"ra,omitempty"`
	Failures      int           `json:"fl,omitempty"`
	CreatedAt     int64         `json:"ca,omitempty"`
	LastRefreshed int64         `json:"lr,omitempty"`
	RefreshExpiry int64         `json:"re,omitempty"`
	// RefreshAt is what the schedule got with this write; it may have been moved there since.
	RefreshAt int64 `json:"rf,omitempty"`
	// SharedGeneration is the generation of the shared grant that the tokens are of.
	SharedGeneration int64 `json:"sq,omitempty"`
	ClientGeneration int64 `json:"gn,omitempty"`
	// Status as of the last write that sealed: a revocation does not.
	Status string `json:"st,omitempty"`
	// RefreshEpoch is the generation whose write put the refresh token there: an older token under this header does not open.
	// For a provider that rotates strictly its use would end the grant (RFC 9700 section 4.14.2).
	RefreshEpoch int64 `json:"rg,omitempty"`
	// Direct: no consent made the connection, and its connector's own credentials obtain its tokens.
	Direct bool `json:"di,omitempty"`
}

type headerToken struct {
	Key     string   `json:"k,omitempty"`
	Scopes  []string `json:"s,omitempty"`
	Expires int64    `json:"e,omitempty"`
	Never   bool     `json:"n,omitempty"`
}

// private is the sealed part. ID and tenant are in it to be compared with what was asked for: a store that answers with
// another's record (threats.md, row 76) is noticed even if that record opens.
type private struct {
	ID      string            `json:"id"`
	Tenant  string            `json:"t"`
	Subject string            `json:"sub"`
	Account storedAccount     `json:"acc,omitzero"`
	Shared  string            `json:"sg,omitempty"` // the grant that others hold too
	Extra   map[string]string `json:"ext,omitempty"`
	Vars    map[string]string `json:"var,omitempty"`
}

func privateOf(c broker.Connection) private {
	return private{
		ID: c.ID, Tenant: c.Tenant, Subject: c.Subject, Account: storeAccount(c.Account), Shared: c.SharedGrant, Extra: c.Extra, Vars: c.Vars,
	}
}

func (p private) fill(c *broker.Connection) {
	c.Subject, c.Account, c.SharedGrant, c.Extra, c.Vars = p.Subject, p.Account.account(), p.Shared, p.Extra, p.Vars
}

type storedAccount struct {
	ID    string `json:"id,omitempty"`
	Name  string `json:"n,omitempty"`
	Email string `json:"e,omitempty"`
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func storeAccount(a broker.Account) storedAccount {
	return storedAccount{ID: a.ID, Name: a.Name, Email: a.Email}
}

func (a storedAccount) account() broker.Account {
	return broker.Account{ID: a.ID, Name: a.Name, Email: a.Email}
}

func headerOf(c broker.Connection) header {
	h := header{
		Client: c.Client, Connector: c.Connector, Error: c.Error, Scopes: c.Scopes.All(), Renewable: c.Renewable, Direct: c.Direct,
		Lifetime: c.Lifetime.Milliseconds(), FailingSince: millis(c.FailingSince), RetryAt: millis(c.RetryAt), Failures: c.Failures,
		CreatedAt: millis(c.CreatedAt), LastRefreshed: millis(c.LastRefreshed), RefreshExpiry: millis(c.RefreshExpiry),
		RefreshAt: millis(c.RefreshAt), SharedGeneration: c.SharedGeneration, ClientGeneration: c.ClientGeneration,
	}
	for _, t := range c.Tokens {
		h.Tokens = append(h.Tokens, headerToken{Key: t.Key, Scopes: t.Scopes.All(), Expires: millis(t.ExpiresAt), Never: t.Never})
	}
	return h
}

// stored brings what a caller gave to the precision of the stored form, so that what a write returns is what a read finds.
func stored(c broker.Connection) broker.Connection {
	h := headerOf(c)
	out := c
	h.fill(&out)
	return out
}

func (h header) fill(c *broker.Connection) {
	c.Client, c.Connector, c.Error, c.Renewable, c.Direct, c.Failures = h.Client, h.Connector, h.Error, h.Renewable, h.Direct, h.Failures
	c.Scopes = broker.NewScopeSet(h.Scopes...)
	c.Lifetime = time.Duration(h.Lifetime) * time.Millisecond
	c.FailingSince, c.RetryAt = fromMillis(h.FailingSince), fromMillis(h.RetryAt)
	c.CreatedAt, c.LastRefreshed, c.RefreshExpiry = fromMillis(h.CreatedAt), fromMillis(h.LastRefreshed), fromMillis(h.RefreshExpiry)
	c.RefreshAt, c.SharedGeneration, c.ClientGeneration = fromMillis(h.RefreshAt), h.SharedGeneration, h.ClientGeneration
	c.Tokens = nil
	for _, t := range h.Tokens {
		c.Tokens = append(c.Tokens, broker.AccessTokenInfo{Key: t.Key, Scopes: broker.NewScopeSet(t.Scopes...), ExpiresAt: fromMillis(t.Expires), Never: t.Never})
	}
}

// What the seals of a connection name.

func privatePlace(format, tenant, id string, header []byte) []byte {
	sum := sha256.Sum256(header)
	return place("connection", tenant, id, fieldPrivate, format, string(sum[:]))
}

// alternatePlace pins the account too: an alternate must never serve the account that replaced its own.
func alternatePlace(tenant, id, account, until string) []byte {
	return place("connection", tenant, id, "alternate", "1", account, until)
}

// connectionFields makes the fields that every write of a connection sets, at generation gen. epoch is the refresh token's.
func (s *Store) connectionFields(c broker.Connection, gen, epoch int64, wid string) ([]string, error) {
	h, p := headerOf(c), privateOf(c)
	h.Status, h.RefreshEpoch = string(c.Status), epoch
	format, head, priv := formatBinary, []byte(nil), []byte(nil)
	if s.compact() {
		head, priv = h.binary(), p.binary()
	} else {
		format = formatJSON
		var err error
		if head, err = json.Marshal(h); err != nil {
			return nil, fmt.Errorf("encode connection: %w", err)
		}
		if priv, err = json.Marshal(p); err != nil {
			return nil, fmt.Errorf("encode connection: %w", err)
		}
	}
	sealed, err := s.seals.sealFor(c.Tenant, priv, privatePlace(format, c.Tenant, c.ID, head))
	if err != nil {
		return nil, err
	}
	return []string{
		fieldFormat, format, fieldGeneration, strconv.FormatInt(gen, 10), fieldWrite, wid,
		fieldTenant, c.Tenant, fieldStatus, string(c.Status), fieldHeader, string(head), fieldPrivate, sealed,
	}, nil
}

// compact tells whether to write what older programs can't read. One record that is written so is enough: whoever wrote it knew.
func (s *Store) compact() bool {
	return s.compactSeen.Load() || s.cfg.Compact == nil || s.cfg.Compact()
}

// checkFormat refuses what a newer program wrote.
func checkFormat(have, known string) error {
	if have == known {
		return nil
	}
	n, err := strconv.Atoi(have)
	k, _ := strconv.Atoi(known)
	switch {
	case err == nil && n > k:
		return broker.ErrNewerFormat
	case err == nil && n > 0 && strconv.Itoa(n) == have:
		return nil // an older one
	}
	return fmt.Errorf("unknown format of record: %w", broker.ErrIntegrity)
}

// openConnection reads a record. ErrNotFound when there is none of this tenant, ErrNewerFormat, ErrIntegrity.
func (s *Store) openConnection(tenant, id string, record, issued map[string][]byte) (broker.Connection, error) {
	c, h, err := s.openRecord(tenant, id, record, issued)
	if err != nil {
		return broker.Connection{}, err
	}
	s.epochs.put(epochKey{id: id, generation: c.Generation}, h.RefreshEpoch)
	if c.Status == broker.ConnectionActive {
		for _, t := range c.Tokens {
			if sealed := record[fieldAccess+t.Key]; len(sealed) > 0 {
				s.ready.put(readyKey{id: id, generation: c.Generation, token: t.Key}, string(sealed))
			}
		}
	}
	return c, nil
}

// openRecord is openConnection for who needs nothing of it later.
func (s *Store) openRecord(tenant, id string, record, issued map[string][]byte) (broker.Connection, header, error) {
	if len(record) == 0 || string(record[fieldTenant]) != tenant || s.seals.keyset.Erased(tenant) {
		return broker.Connection{}, header{}, broker.ErrNotFound
	}
	c, h, err := s.clearRecord(tenant, id, record, issued)
	if err != nil {
		return broker.Connection{}, header{}, err
	}
	p, err := s.openPrivate(tenant, id, c.Status, h, record)
	if err != nil {
		return broker.Connection{}, header{}, fmt.Errorf("connection: %w", err)
	}
	p.fill(&c)
	return c, h, nil
}

// openPrivate opens the sealed part; the header, which was read of the record, is genuine then, and so is the status.
func (s *Store) openPrivate(tenant, id string, status broker.ConnectionStatus, h header, record map[string][]byte) (p private, err error) {
	format := string(record[fieldFormat])
	plain, err := s.seals.openFor(tenant, record[fieldPrivate], privatePlace(format, tenant, id, record[fieldHeader]))
	if err != nil {
		return p, err
	}
	ok := true
	if format == formatBinary {
		p, ok = parsePrivate(string(plain), tenant, id)
	} else {
		ok = json.Unmarshal(plain, &p) == nil
	}
	if !ok {
		return p, fmt.Errorf("sealed part: %w", broker.ErrIntegrity)
	}
	if p.ID != id || p.Tenant != tenant {
		return p, fmt.Errorf("another's record: %w", broker.ErrIntegrity)
	}
	// A revocation takes no time to seal, and nobody gains a token by making it up.
	if status != broker.ConnectionRevoked && string(status) != h.Status {
		return p, fmt.Errorf("status: %w", broker.ErrIntegrity)
	}
	return p, nil
}

// clearConnection reads what is in clear: all that is left of a record whose sealed part does not open.
func (s *Store) clearConnection(tenant, id string, record, issued map[string][]byte) (broker.Connection, error) {
	c, _, err := s.clearRecord(tenant, id, record, issued)
	return c, err
}

func (s *Store) clearRecord(tenant, id string, record, issued map[string][]byte) (broker.Connection, header, error) {
	if err := checkFormat(string(record[fieldFormat]), connectionFormat); err != nil {
		return broker.Connection{}, header{}, fmt.Errorf("connection: %w", err)
	}
	gen, err := strconv.ParseInt(string(record[fieldGeneration]), 10, 64)
	if err != nil {
		return broker.Connection{}, header{}, fmt.Errorf("connection: generation: %w", broker.ErrIntegrity)
	}
	h, ok := readHeader(record)
	if !ok {
		return broker.Connection{}, header{}, fmt.Errorf("connection: header: %w", broker.ErrIntegrity)
	}
	if string(record[fieldFormat]) == formatBinary && !s.compactSeen.Load() {
		s.compactSeen.Store(true)
	}
	c := broker.Connection{ID: id, Tenant: tenant, Generation: gen, Status: broker.ConnectionStatus(record[fieldStatus])}
	h.fill(&c)
	if ms, err := strconv.ParseInt(string(issued[fieldIssued]), 10, 64); err == nil {
		c.LastIssued = fromMillis(ms)
	}
	return c, h, nil
}
