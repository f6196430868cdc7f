package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// The stored form of a visit to "My connections": one hash with a TTL.
//
//	v format version   ver version of the visit   wid id of the last write   b the rest, sealed
//
// One that the store loses costs its user a new link: nothing is remembered of it, and nothing has to be found again.
const portalFormat = "1"

type storedPortal struct {
	ID             string       `json:"id"`
	Tenant         string       `json:"t"`
	Client         string       `json:"cl"`
	Subject        string       `json:"sub"`
	Binding        string       `json:"bd"`
	ReturnTo       string       `json:"rt,omitempty"`
	State          string       `json:"cs,omitempty"`
	Link           string       `json:"lk"`
	Status         string       `json:"st"`
	Deadline       int64        `json:"dl"`
	CreatedAt      int64        `json:"ca"`
	BrowserDigest  string       `json:"bw,omitempty"`
	CompletionCode string       `json:"cc,omitempty"`
	Attempts       int          `json:"at,omitempty"`
	TicketDigest   string       `json:"td,omitempty"`
	Login          *storedLogin `json:"lg,omitempty"`
	Claim          string       `json:"cm,omitempty"`
	RequestID      string       `json:"rq,omitempty"`
	TraceID        string       `json:"tr,omitempty"`
}

func storePortal(p broker.Portal) storedPortal {
	return storedPortal{
		ID: p.ID, Tenant: p.Tenant, Client: p.Client, Subject: p.Subject, Binding: string(p.Binding), ReturnTo: p.ReturnTo, State: p.State,
		Link: p.Link.Reveal(), Status: string(p.Status), Deadline: millis(p.Deadline), CreatedAt: millis(p.CreatedAt), BrowserDigest: p.BrowserDigest,
		CompletionCode: p.CompletionCode.Reveal(), Attempts: p.Attempts, TicketDigest: p.TicketDigest, Login: storeLogin(p.Login), Claim: p.Claim,
		RequestID: p.RequestID, TraceID: p.TraceID,
	}
}

func (p storedPortal) portal(version int64) broker.Portal {
	return broker.Portal{
		ID: p.ID, Tenant: p.Tenant, Client: p.Client, Subject: p.Subject, Binding: broker.Binding(p.Binding), ReturnTo: p.ReturnTo, State: p.State,
		Link: broker.NewSecret(p.Link), Status: broker.PortalStatus(p.Status), Deadline: fromMillis(p.Deadline), CreatedAt: fromMillis(p.CreatedAt), BrowserDigest: p.BrowserDigest,
		CompletionCode: broker.NewSecret(p.CompletionCode), Attempts: p.Attempts, TicketDigest: p.TicketDigest, Login: p.Login.login(), Claim: p.Claim,
		RequestID: p.RequestID, TraceID: p.TraceID, Version: version,
	}
}

// portalPlace names the version, as consentPlace does. The tenant is inside the seal: who opens a link does not know it yet.
func portalPlace(id string, version int64) []byte {
	return place("portal", "", id, fieldBody, portalFormat, strconv.FormatInt(version, 10))
}

// CreatePortal implements broker.Portals.
func (s *Store) CreatePortal(ctx context.Context, p broker.Portal, entries []broker.Entry) (broker.Portal, error) {
	return s.writePortal(ctx, "create visit", p, entries)
}

// UpdatePortal implements broker.Portals.
func (s *Store) UpdatePortal(ctx context.Context, p broker.Portal, entries []broker.Entry) (broker.Portal, error) {
	return s.writePortal(ctx, "update visit", p, entries)
}

func (s *Store) writePortal(ctx context.Context, what string, p broker.Portal, entries []broker.Entry) (broker.Portal, error) {
	shard, err := shardOf(p.ID)
	if err != nil {
		return broker.Portal{}, err
	}
	if shard != s.Shard(p.Tenant, p.Subject) {
		return broker.Portal{}, fmt.Errorf("%s: its id was not made for its subject", what)
	}
	drafts, err := s.drafts(p.Tenant, entries)
	if err != nil {
		return broker.Portal{}, err
	}
	id, err := s.contentID(what, p.Version, entries, storePortal(p))
	if err != nil {
		return broker.Portal{}, err
	}
	body, err := json.Marshal(storePortal(p))
	if err != nil {
		return broker.Portal{}, fmt.Errorf("encode visit: %w", err)
	}
	version := p.Version + 1
	sealed, err := s.seals.sealFor(p.Tenant, body, portalPlace(p.ID, version))
	if err != nil {
		return broker.Portal{}, err
	}
	key := portalKey(shard, p.ID)
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	r, err := s.trails.do(ctx, trailName{shard: shard, tenant: p.Tenant}, id, Step{
		Checks: versionChecks(key, portalFormat, p.Version, id),
		Writes: []Write{
			{Kind: WriteHashSet, Key: key, Args: []string{
				fieldFormat, portalFormat, fieldVersion, strconv.FormatInt(version, 10), fieldWrite, id, fieldBody, sealed,
			}},
			{Kind: WriteExpireAt, Key: key, Args: []string{strconv.FormatInt(s.endOfVisit(p).UnixMilli(), 10)}},
		},
	}, drafts)
	if err != nil {
		return broker.Portal{}, fmt.Errorf("%s: %w", what, err)
	}
	if r.Verdict == VerdictRefused {
		return broker.Portal{}, fmt.Errorf("%s: %w", what, broker.ErrConflict)
	}
	return storePortal(p).portal(version), nil
}

// endOfVisit is when the store drops the record.
func (s *Store) endOfVisit(p broker.Portal) time.Time {
	if p.Status == broker.PortalEnded {
		return s.cfg.Now().Add(broker.ConsentKept)
	}
	return p.Deadline.Add(broker.ConsentKept)
}

// Portal implements broker.Portals.
func (s *Store) Portal(ctx context.Context, id string) (broker.Portal, error) {
	shard, err := shardOf(id)
	if err != nil {
		return broker.Portal{}, err
	}
	found, err := s.hashes(ctx, portalKey(shard, id))
	if err != nil {
		return broker.Portal{}, err
	}
	body, version, err := openVersioned(s.seals, found[0], portalFormat, func(version int64) []byte { return portalPlace(id, version) },
		func(p storedPortal) (string, bool) { return p.Tenant, p.ID == id })
	if err != nil {
		return broker.Portal{}, fmt.Errorf("visit: %w", err)
	}
	return body.portal(version), nil
}
