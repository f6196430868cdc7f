package broker

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// This file is how a tenant manages connectors of its own. What is given as a client secret never comes out again: no type
// that leaves this file can hold one.

const (
	// DefaultOverlap is how long an earlier client secret is still tried, and MaxOverlap the most that can be asked for.
	DefaultOverlap = 7 * 24 * time.Hour
	MaxOverlap     = 30 * 24 * time.Hour
	// MaxTenantConnectors bounds how many connectors a tenant can have: every replica knows all of them.
	MaxTenantConnectors = 100

	// deleteTime bounds one call that ends a connector's connections; what is left is for the next call.
	deleteTime = 40 * time.Second
	// deletePage is how many connections are read and ended at a time.
	deletePage = 100
)

// connectorWish is what may stand before the random part of an id.
var connectorWish = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// NewConnector is what a tenant says about a connector that it makes.
type NewConnector struct {
	Wish          string // how its id shall begin; empty: with the provider's
	Provider      string
	Name          string
	ClientID      string
	ClientSecret  Secret
	Scopes        []string
	DefaultScopes []string
	Vars          map[string]string
	PKCE          string
}

// ConnectorChange is what shall be otherwise; nil and zero fields stay.
type ConnectorChange struct {
	Name          *string
	Scopes        *[]string
	DefaultScopes *[]string
	ClientSecret  Secret
	// Overlap is how long the earlier client secret is still tried: of the change to ClientSecret, or, without one, of the last.
	Overlap *time.Duration
}

// ConnectorView is a tenant's connector as its tenant reads it.
type ConnectorView struct {
	ID               string
	Provider         string
	Name             string
	ClientID         string
	Confidential     bool // there is a client secret
	ClientGeneration int64
	// PreviousUntil is how long the earlier client secret is still tried; zero: there is none.
	PreviousUntil time.Time
	Scopes        []string
	DefaultScopes []string
	Vars          map[string]string
	PKCE          string
	RedirectURI   string // to be registered at the provider
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// CreateConnector makes a connector for the caller's tenant. Its id is unique in the installation: nobody can take one before
// another, or find out by it what others have.
func (s *Service) CreateConnector(ctx context.Context, caller Caller, n NewConnector) (ConnectorView, error) {
	view, err := s.createConnector(ctx, caller, n)
	if err != nil {
		return ConnectorView{}, s.connectorRefused(ctx, caller, EventConnectorCreated, "", err)
	}
	return view, nil
}

func (s *Service) createConnector(ctx context.Context, caller Caller, n NewConnector) (ConnectorView, error) {
	if err := s.mayManage(caller.Client); err != nil {
		return ConnectorView{}, err
	}
	now := s.cfg.Now().UTC()
	c := TenantConnector{
		Tenant: caller.Client.Tenant, Client: caller.Client.ID, Provider: n.Provider, Name: n.Name, ClientID: n.ClientID, ClientSecret: n.ClientSecret,
		ClientGeneration: 1, Scopes: n.Scopes, DefaultScopes: n.DefaultScopes, Vars: n.Vars, PKCE: n.PKCE, CreatedAt: now, UpdatedAt: now,
	}
	if err := s.cfg.Registry.CheckTenantConnector(c); err != nil {
		return ConnectorView{}, err
	}
	wish := n.Wish
	if wish == "" {
		wish = n.Provider[:min(len(n.Provider), 40)]
	}
	if !connectorWish.MatchString(wish) {
		return ConnectorView{}, Errorf(CodeInvalidRequest, "id must be 1 to 40 lower-case letters, digits and hyphens, the first a letter or digit; a random part is added to it")
	}
	var err error
	if c.ID, err = s.ids().connector(wish); err != nil {
		return ConnectorView{}, serverError(err)
	}
	return detach(s, ctx, func(ctx context.Context) (ConnectorView, error) {
		// One at a time: many at once would all find room. Each replica by itself, so that theirs may come to one more each.
		s.creating <- struct{}{}
		defer func() { <-s.creating }()
		mine, err := s.tenantConnectors(ctx, caller)
		if err != nil {
			return ConnectorView{}, err
		}
		if len(mine) >= MaxTenantConnectors {
			return ConnectorView{}, Errorf(CodeInvalidRequest, "your tenant has %d connectors already, and can have no more; delete one that is not needed", len(mine))
		}
		return s.saveConnector(ctx, caller, c, EventConnectorCreated, "")
	})
}

// UpdateConnector changes a connector of the caller's tenant. A new client secret is a new generation of its OAuth client; the
// one before it is still tried during the overlap. Repeating the same call changes nothing.
func (s *Service) UpdateConnector(ctx context.Context, caller Caller, id string, change ConnectorChange) (ConnectorView, error) {
	view, err := detach(s, ctx, func(ctx context.Context) (ConnectorView, error) { return s.updateConnector(ctx, caller, id, change) })
	if err != nil {
		return ConnectorView{}, s.connectorRefused(ctx, caller, EventConnectorUpdated, id, err)
	}
	return view, nil
}

func (s *Service) updateConnector(ctx context.Context, caller Caller, id string, change ConnectorChange) (ConnectorView, error) {
	for range releaseAttempts {
		c, err := s.ownTenantConnector(ctx, caller, id)
		if err != nil {
			return ConnectorView{}, err
		}
		next, what, err := change.apply(c, s.cfg.Now().UTC())
		if err != nil {
			return ConnectorView{}, err
		}
		if len(what) == 0 {
			return s.connectorView(c), nil
		}
		if err := s.cfg.Registry.CheckTenantConnector(next); err != nil {
			return ConnectorView{}, err
		}
		view, err := s.saveConnector(ctx, caller, next, EventConnectorUpdated, "changed: "+strings.Join(what, ", "))
		if errors.Is(err, ErrConflict) {
			continue // somebody else changed it meanwhile
		}
		return view, err
	}
	return ConnectorView{}, &Error{Code: CodeTemporarilyUnavailable, Description: "the connector keeps changing; try again", RetryAfter: time.Second}
}

// apply makes the changed connector, and names what is otherwise.
func (change ConnectorChange) apply(c TenantConnector, now time.Time) (TenantConnector, []string, error) {
	var what []string
	if change.Name != nil && *change.Name != c.Name {
		c.Name, what = *change.Name, append(what, "name")
	}
	if change.Scopes != nil && !slices.Equal(*change.Scopes, c.Scopes) {
		c.Scopes, what = *change.Scopes, append(what, "scopes")
	}
	if change.DefaultScopes != nil && !slices.Equal(*change.DefaultScopes, c.DefaultScopes) {
		c.DefaultScopes, what = *change.DefaultScopes, append(what, "default_scopes")
	}
	overlap := DefaultOverlap
	if change.Overlap != nil {
		overlap = *change.Overlap
	}
	switch renewed := !change.ClientSecret.IsZero() && !change.ClientSecret.Equal(c.ClientSecret); {
	case renewed:
		c.Previous, c.PreviousUntil = c.ClientSecret, now.Add(overlap)
		c.ClientSecret, c.ClientGeneration = change.ClientSecret, c.ClientGeneration+1
		what = append(what, fmt.Sprintf("client_secret (generation %d)", c.ClientGeneration))
	case change.Overlap == nil:
	case c.Previous.IsZero():
		if change.ClientSecret.IsZero() {
			return c, nil, Errorf(CodeInvalidRequest, "overlap has no effect: there is no earlier client secret; send it with client_secret")
		}
	case change.ClientSecret.IsZero():
		c.PreviousUntil, what = now.Add(overlap), append(what, "overlap")
	}
	if !c.PreviousUntil.After(now) {
		c.Previous, c.PreviousUntil = Secret{}, time.Time{}
	}
	c.UpdatedAt = now
	return c, what, nil
}

// saveConnector stores it with its event, and makes it known here; the other replicas learn of it when they are asked for an
// id that they don't know, or within followEvery.
func (s *Service) saveConnector(ctx context.Context, caller Caller, c TenantConnector, t EventType, reason string) (ConnectorView, error) {
	entry, err := s.connectorEntry(caller, t, c.ID, "ok", reason)
	if err != nil {
		return ConnectorView{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	release, err := s.holdConnectors(ctx)
	if err != nil {
		return ConnectorView{}, err
	}
	defer release()
	// A crash behind this write leaves a connector that every replica takes up.
	stored, err := s.cfg.TenantConnectors.SaveTenantConnector(ctx, c, []Entry{entry})
	if err != nil {
		return ConnectorView{}, storeError("store the connector", err)
	}
	s.cfg.Registry.PutTenantConnector(stored)
	return s.connectorView(stored), nil
}

// OwnConnectors lists the connectors that the caller's tenant made, oldest first.
func (s *Service) OwnConnectors(ctx context.Context, caller Caller) ([]ConnectorView, error) {
	if err := s.mayManage(caller.Client); err != nil {
		return nil, err
	}
	mine, err := s.tenantConnectors(ctx, caller)
	if err != nil {
		return nil, err
	}
	views := make([]ConnectorView, 0, len(mine))
	for _, c := range mine {
		views = append(views, s.connectorView(c))
	}
	return views, nil
}

// OwnConnector returns one of those.
func (s *Service) OwnConnector(ctx context.Context, caller Caller, id string) (ConnectorView, error) {
	c, err := s.ownTenantConnector(ctx, caller, id)
	if err != nil {
		return ConnectorView{}, err
	}
	return s.connectorView(c), nil
}

// DeleteConnector erases a connector of the caller's tenant, its client secrets with it. While users are connected it is
// refused; with revoke their connections are ended first, and the result counts them.
func (s *Service) DeleteConnector(ctx context.Context, caller Caller, id string, revoke bool) (Erased, error) {
	erased, err := detach(s, ctx, func(ctx context.Context) (Erased, error) { return s.deleteConnector(ctx, caller, id, revoke) })
	if err != nil {
		return erased, s.connectorRefused(ctx, caller, EventConnectorDeleted, id, err)
	}
	return erased, nil
}

func (s *Service) deleteConnector(ctx context.Context, caller Caller, id string, revoke bool) (Erased, error) {
	erased := Erased{RevokedUpstream: map[RevokedUpstream]int{}}
	ctx, cancel := context.WithTimeout(ctx, deleteTime)
	defer cancel()
	c, err := s.ownTenantConnector(ctx, caller, id)
	if err != nil {
		return erased, err
	}
	if err := s.endConnectionsOf(ctx, caller, id, revoke, &erased); err != nil {
		return erased, err
	}
	entry, err := s.connectorEntry(caller, EventConnectorDeleted, id, "ok", "")
	if err != nil {
		return erased, err
	}
	release, err := s.holdConnectors(ctx)
	if err != nil {
		return erased, err
	}
	defer release()
	storeCtx, cancelStore := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancelStore()
	// A crash behind this write leaves a connector that other replicas go on with for followEvery at most.
	if err := s.cfg.TenantConnectors.DeleteTenantConnector(storeCtx, c, []Entry{entry}); err != nil {
		return erased, storeError("delete the connector", err)
	}
	s.cfg.Registry.DropTenantConnector(id)
	return erased, nil
}

// endConnectionsOf ends the connector's connections, or refuses if there are any.
func (s *Service) endConnectionsOf(ctx context.Context, caller Caller, id string, revoke bool, erased *Erased) error {
	position := ""
	for {
		readCtx, cancel := context.WithTimeout(ctx, 4*s.cfg.StoreTimeout)
		page, next, err := s.cfg.Connections.List(readCtx, caller.Client.Tenant, ConnectionFilter{Connector: id}, position, deletePage)
		cancel()
		if err != nil {
			return storeError("list the connector's connections", err)
		}
		live := slices.DeleteFunc(page, func(c Connection) bool { return c.Status == ConnectionRevoked })
		if len(live) > 0 && !revoke {
			return Errorf(CodeConnectorInUse, "users are connected through this connector; disconnect them (GET /v1/connections?connector=ID lists them), or add ?revoke=true to end their connections with it")
		}
		outcomes := make([]RevokedUpstream, len(live))
		var group errgroup.Group
		group.SetLimit(4)
		for i, conn := range live {
			group.Go(func() (err error) {
				outcomes[i], err = s.revoke(ctx, caller, conn, "its connector was deleted", false)
				return err
			})
		}
		err = group.Wait()
		for _, outcome := range outcomes {
			if outcome != "" {
				erased.Connections++
				erased.RevokedUpstream[outcome]++
			}
		}
		if err != nil {
			return err
		}
		if position = next; position == "" {
			return nil
		}
		if ctx.Err() != nil {
			return &Error{Code: CodeTemporarilyUnavailable, Description: "the connector has very many connections; call again to go on ending them", RetryAfter: time.Second}
		}
	}
}

// tenantConnectors reads the connectors of the caller's tenant. One that does not open keeps nobody from the others.
func (s *Service) tenantConnectors(ctx context.Context, caller Caller) ([]TenantConnector, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	mine, err := s.cfg.TenantConnectors.TenantConnectorsOf(ctx, caller.Client.Tenant)
	var unreadable *UnreadableError
	if errors.As(err, &unreadable) {
		s.cfg.Log.ErrorContext(ctx, "connectors of a tenant do not open: someone may have written to the store", "tenant", caller.Client.Tenant, "connectors", unreadable.IDs, "error", err)
		err = nil
	}
	if err != nil {
		return nil, storeError("read the tenant's connectors", err)
	}
	return mine, nil
}

// ownTenantConnector reads one of the caller's tenant. An unknown one and another tenant's look the same.
func (s *Service) ownTenantConnector(ctx context.Context, caller Caller, id string) (TenantConnector, error) {
	if err := s.mayManage(caller.Client); err != nil {
		return TenantConnector{}, err
	}
	missing := Errorf(CodeNotFound, "your tenant has no connector of that id; those in the broker's configuration are the operator's")
	if !madeByTenant(id) {
		return TenantConnector{}, missing
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	c, err := s.cfg.TenantConnectors.TenantConnector(ctx, caller.Client.Tenant, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return TenantConnector{}, missing
	case errors.Is(err, ErrIntegrity):
		return TenantConnector{}, s.integrityFailed(ctx, caller, Connection{Tenant: caller.Client.Tenant, Connector: id}, "connector record", err)
	case err != nil:
		return TenantConnector{}, storeError("read the connector", err)
	}
	return c, nil
}

// connectorView shows what holds: what the provider's definition adds, too.
func (s *Service) connectorView(c TenantConnector) ConnectorView {
	v := ConnectorView{
		ID: c.ID, Provider: c.Provider, Name: c.Name, ClientID: c.ClientID, Confidential: !c.ClientSecret.IsZero(), ClientGeneration: c.ClientGeneration,
		Scopes: c.Scopes, DefaultScopes: c.DefaultScopes, Vars: c.Vars, PKCE: c.PKCE, RedirectURI: s.redirectURI(c.ID), CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt,
	}
	if !c.Previous.IsZero() && s.cfg.Now().Before(c.PreviousUntil) {
		v.PreviousUntil = c.PreviousUntil
	}
	if known, ok := s.cfg.Connectors.Connector(c.ID); ok {
		v.Name, v.Scopes, v.DefaultScopes = known.Name, offeredScopes(known).All(), known.Default.All()
	}
	return v
}

func (s *Service) connectorEntry(caller Caller, t EventType, id, outcome, reason string) (Entry, error) {
	entry := s.entry(caller, t, "", id, "")
	entry.Outcome, entry.Reason = outcome, reason
	var err error
	if entry.Scopes, err = s.eventScopes(ScopeSet{}, ScopeSet{}); err != nil {
		return Entry{}, serverError(err)
	}
	return entry, nil
}

// connectorRefused records that a change of connectors was refused, and returns the error to answer with.
func (s *Service) connectorRefused(ctx context.Context, caller Caller, t EventType, id string, cause error) error {
	return s.refusedWith(context.WithoutCancel(ctx), s.entry(caller, t, "", id, ""), ScopeSet{}, cause)
}
