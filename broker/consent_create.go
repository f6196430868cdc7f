package broker

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// CreateConsent makes a consent link, always a new one. Errors are *Error.
func (s *Service) CreateConsent(ctx context.Context, caller Caller, req ConsentRequest) (ConsentView, ConsentLink, error) {
	undo, err := s.asserted(ctx, caller, req.Proofs, &req.Subject, &req.Actor)
	if err != nil {
		req.Subject = "" // whom it names is not proven
		return ConsentView{}, ConsentLink{}, s.consentRefused(ctx, caller, req, err)
	}
	view, link, err := s.createAsked(ctx, caller, req)
	if err != nil {
		undo()
	}
	return view, link, err
}

func (s *Service) createAsked(ctx context.Context, caller Caller, req ConsentRequest) (ConsentView, ConsentLink, error) {
	if req.ReturnTo != "" && !mayReturnTo(caller.Client, req.ReturnTo) {
		return ConsentView{}, ConsentLink{}, s.consentRefused(ctx, caller, req, errReturnTo())
	}
	asked, err := admit(caller.Client, s.connectorsOf(ctx, caller.Client.Tenant), req.Connector, req.Scopes)
	if err != nil {
		return ConsentView{}, ConsentLink{}, s.consentRefused(ctx, caller, req, err)
	}
	if err := s.mayGoOn(ctx, req.Subject, switched{tenant: caller.Client.Tenant, client: caller.Client.ID, connector: req.Connector, agent: req.Actor.Agent}); err != nil {
		return ConsentView{}, ConsentLink{}, s.consentRefused(ctx, caller, req, err)
	}
	if asked.connector.Direct() {
		return ConsentView{}, ConsentLink{}, s.consentRefused(ctx, caller, req,
			Errorf(CodeInvalidRequest, "connector %s obtains its tokens with its own credentials; nobody has to consent", asked.connector.ID))
	}
	create := s.createConsent
	if req.Device {
		create = func(ctx context.Context, caller Caller, req ConsentRequest, asked ask, _ string) (Consent, error) {
			return s.createDevice(ctx, caller, req, asked)
		}
	}
	consent, err := create(ctx, caller, req, asked, "")
	if err != nil {
		return ConsentView{}, ConsentLink{}, s.consentRefused(ctx, caller, req, err)
	}
	return s.view(consent), s.link(consent), nil
}

// consentRefused records that a request for a consent was refused, and returns the error to answer with.
func (s *Service) consentRefused(ctx context.Context, caller Caller, req ConsentRequest, cause error) error {
	entry := s.entry(caller, EventConsentFailed, req.Subject, req.Connector, req.Connection)
	entry.Actor = req.Actor
	return s.refusedWith(ctx, entry, req.Scopes, cause)
}

// ConsentStatus tells how far a consent is.
func (s *Service) ConsentStatus(ctx context.Context, caller Caller, id string) (ConsentView, error) {
	consent, err := s.consentOf(ctx, caller, id)
	if err != nil {
		return ConsentView{}, err
	}
	return s.viewOf(ctx, consent)
}

// accountOf is whose account a consent brought: of a running one as far as it is known, of a finished one that of its
// connection, while there is one.
func (s *Service) accountOf(ctx context.Context, consent Consent) (Account, error) {
	if consent.Result == "" {
		return consent.Account, nil
	}
	conn, err := s.reread(ctx, Connection{Tenant: consent.Tenant, ID: consent.Result})
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrIntegrity):
		return Account{}, nil
	case err != nil:
		return Account{}, storeError("read the connection", err)
	}
	return conn.Account, nil
}

// openConsentsRead bounds how many of a subject's consents are looked through for one that asks for the same. Somebody who
// makes more of them than that gets new links, and costs nobody else anything.
const openConsentsRead = 100

// pendingOrNew returns the pending consent that asks for the same, or a new one: while a link is pending, the same one
// comes back. Requests that come together here share one.
func (s *Service) pendingOrNew(ctx context.Context, caller Caller, req ConsentRequest, asked ask) (ConsentLink, error) {
	same := strings.Join([]string{
		caller.Client.Tenant, caller.Client.ID, req.Subject, req.Connector, req.Connection, asked.scopes.String(), req.ReturnTo, req.State,
	}, "\x00")
	// Shared by several callers, so no single one's leaving may end it; and none waits for longer than it can.
	found, err := detach(s, ctx, func(ctx context.Context) (Consent, error) {
		found, err, _ := s.links.Do(same, func() (any, error) { return s.pendingOrCreated(ctx, caller, req, asked, same) })
		consent, _ := found.(Consent)
		return consent, err
	})
	if err != nil {
		return ConsentLink{}, err
	}
	return s.link(found), nil
}

func (s *Service) pendingOrCreated(ctx context.Context, caller Caller, req ConsentRequest, asked ask, same string) (Consent, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*s.cfg.StoreTimeout)
	defer cancel()
	if pending, ok, err := s.findPending(ctx, caller, req, asked); ok || err != nil {
		return pending, err
	}
	created, err := s.createConsent(ctx, caller, req, asked, same)
	if !errors.Is(err, ErrConflict) {
		return created, err
	}
	// Another replica was first. Its link is the one to show; if that is used already, there must be a new one.
	if pending, ok, err := s.findPending(ctx, caller, req, asked); ok || err != nil {
		return pending, err
	}
	return s.createConsent(ctx, caller, req, asked, "")
}

// findPending looks for a consent that nobody has opened yet and that asks for the same.
func (s *Service) findPending(ctx context.Context, caller Caller, req ConsentRequest, asked ask) (Consent, bool, error) {
	open, err := s.openConsents(ctx, caller, req.Subject)
	if err != nil {
		return Consent{}, false, err
	}
	for _, c := range open {
		if s.statusOf(c) == ConsentPending && c.Client == caller.Client.ID && c.Connector == req.Connector && c.Connection == req.Connection &&
			c.Binding == bindingOf(caller.Client, req.ReturnTo) && c.ReturnTo == req.ReturnTo && c.State == req.State && c.Scopes.Covers(asked.scopes) && asked.scopes.Union(c.Scopes.Minus(c.Added)).Covers(c.Scopes) {
			return c, true, nil
		}
	}
	return Consent{}, false, nil
}

// createConsent makes one; once is as in Consents.CreateConsent, whose ErrConflict comes through.
func (s *Service) createConsent(ctx context.Context, caller Caller, req ConsentRequest, asked ask, once string) (Consent, error) {
	ctx, end := s.telemetry.begin(ctx, "broker.createConsent", req.Connector)
	consent, err := s.newConsent(ctx, caller, req, asked, once)
	end(err)
	if err == nil {
		s.telemetry.consent(ctx, consent.Connector, consent.Status)
		s.pulse.consent(consent.Tenant, consent.Connector, consent.Status)
	}
	return consent, err
}

func (s *Service) newConsent(ctx context.Context, caller Caller, req ConsentRequest, asked ask, once string) (Consent, error) {
	consent, err := s.draftConsent(ctx, caller, req, asked)
	if err != nil {
		return Consent{}, err
	}
	if err := s.admitConsent(ctx, caller, consent); err != nil {
		return Consent{}, err
	}
	entry, err := s.consentEntry(ctx, consent, EventConsentCreated, consent.Scopes, "ok", "")
	if err != nil {
		return Consent{}, serverError(err)
	}
	return s.storeNew(ctx, consent, once, []Entry{entry})
}

// hasRoom refuses what begins anew while the store has little room left.
func (s *Service) hasRoom() error {
	if s.cfg.StoreFull == nil || !s.cfg.StoreFull() {
		return nil
	}
	return &Error{Code: CodeTemporarilyUnavailable, RetryAfter: 30 * time.Second,
		Description: "the broker's store is nearly full, so no new consent begins; connections that there are go on working"}
}

// draftConsent is a consent that is not stored yet.
func (s *Service) draftConsent(ctx context.Context, caller Caller, req ConsentRequest, asked ask) (Consent, error) {
	if err := s.hasRoom(); err != nil {
		return Consent{}, err
	}
	now := s.cfg.Now().UTC()
	consent := Consent{
		Tenant: caller.Client.Tenant, Client: caller.Client.ID, Subject: req.Subject, Actor: req.Actor, Connector: asked.connector.ID,
		Scopes: asked.scopes, Added: asked.scopes, Connection: req.Connection, Binding: bindingOf(caller.Client, req.ReturnTo), ReturnTo: req.ReturnTo, State: req.State,
		Status: ConsentPending, Deadline: now.Add(LinkLife), CreatedAt: now, RequestID: caller.RequestID, TraceID: caller.TraceID,
		From: caller.from(),
	}
	if req.Connection != "" {
		conn, err := s.namedConnection(ctx, caller, req)
		if err != nil {
			return Consent{}, err
		}
		// Its scopes are kept, as far as the operator still offers them, and more are added.
		consent.Scopes = asked.scopes.Union(conn.Scopes.Intersect(offeredScopes(asked.connector)))
		consent.Added = consent.Scopes.Minus(conn.Scopes)
	}
	var err error
	if consent.ID, err = s.ids().record(consent.Tenant, consent.Subject); err != nil {
		return Consent{}, serverError(err)
	}
	if consent.Link, err = s.ids().bound(consent.ID); err != nil {
		return Consent{}, serverError(err)
	}
	return consent, nil
}

// bindingOf is how a consent or a visit that the client asks for is tied to its user.
func bindingOf(client Client, returnTo string) Binding {
	switch {
	case client.Login:
		return BindingLogin
	case returnTo != "":
		return BindingReturn
	}
	return BindingCode
}

// storeNew stores a drafted consent.
func (s *Service) storeNew(ctx context.Context, consent Consent, once string, entries []Entry) (Consent, error) {
	storeCtx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	stored, err := s.cfg.Consents.CreateConsent(storeCtx, consent, once, entries)
	if errors.Is(err, ErrConflict) {
		s.leavePlaces(ctx, consent)
		return Consent{}, ErrConflict
	}
	if err != nil {
		s.doubtPlaces(consent, true) // it may be there
		return Consent{}, storeError("store the consent", err)
	}
	return stored, nil
}

func (s *Service) namedConnection(ctx context.Context, caller Caller, req ConsentRequest) (Connection, error) {
	all, err := s.ofSubject(ctx, caller, req.Subject, req.Connector)
	if err != nil {
		return Connection{}, err
	}
	conn, _, err := pick(all, req.Connection)
	return conn, err
}

// statusOf is the status with the deadline applied: the sweeper may not have been there yet.
func (s *Service) statusOf(c Consent) ConsentStatus {
	switch c.Status {
	case ConsentPending, ConsentStarted, ConsentAwaitingCompletion:
		if !s.cfg.Now().Before(c.Deadline) {
			return ConsentExpired
		}
	}
	return c.Status
}

// consentOf reads a consent of the caller's tenant.
func (s *Service) consentOf(ctx context.Context, caller Caller, id string) (Consent, error) {
	consent, err := s.loadConsent(ctx, id)
	if err != nil {
		return Consent{}, err
	}
	if consent.Tenant != caller.Client.Tenant {
		return Consent{}, errNoConsent()
	}
	if !mayUse(caller.Client, consent.Connector) {
		return Consent{}, errConnectorDenied(consent.Connector)
	}
	return consent, nil
}

func errNoConsent() *Error {
	return Errorf(CodeNotFound, "there is no such consent; a finished one can be read for an hour")
}

// loadConsent reads a consent by id; a malformed id is one that does not exist.
func (s *Service) loadConsent(ctx context.Context, id string) (Consent, error) {
	if _, ok := ShardOfID(id); !ok {
		return Consent{}, errNoConsent()
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	consent, err := s.cfg.Consents.Consent(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return Consent{}, errNoConsent()
	}
	if err != nil {
		return Consent{}, storeError("read the consent", err)
	}
	s.know(ctx, consent.Tenant, consent.Connector)
	return consent, nil
}

// consentEntry begins an audit entry about the consent, one event a scope.
func (s *Service) consentEntry(ctx context.Context, c Consent, t EventType, scopes ScopeSet, outcome, reason string) (Entry, error) {
	entry := named(ctx, Entry{
		Type: t, Time: s.cfg.Now().UTC(), Tenant: c.Tenant, Client: c.Client, Subject: c.Subject, Actor: c.Actor, Connector: c.Connector,
		Connection: c.Connection, Outcome: outcome, Reason: reason, RequestID: c.RequestID, TraceID: c.TraceID,
	})
	if c.Result != "" {
		entry.Connection = c.Result
	}
	var err error
	entry.Scopes, err = s.eventScopes(scopes, c.Scopes)
	return entry, err
}

// named is the entry with the request that is being served, where there is one.
func named(ctx context.Context, entry Entry) Entry {
	if id := requestIDOf(ctx); id != "" {
		entry.RequestID = id
	}
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		entry.TraceID = span.TraceID().String()
	}
	return entry
}

func (s *Service) link(c Consent) ConsentLink {
	return ConsentLink{ID: c.ID, URL: NewSecret(s.cfg.PublicURL + "/connect/" + c.Link.Reveal()), Binding: c.Binding, ExpiresAt: c.CreatedAt.Add(LinkLife)}
}

func (s *Service) view(c Consent) ConsentView {
	v := ConsentView{
		ID: c.ID, Status: s.statusOf(c), Connector: c.Connector, Subject: c.Subject, Scopes: c.Scopes, Binding: c.Binding,
		Connection: c.Result, Error: c.Error, ExpiresAt: c.Deadline, Device: s.deviceView(c),
	}
	if v.Connection == "" {
		v.Connection = c.Connection
	}
	if c.Account != (Account{}) {
		account := c.Account
		v.Account = &account
	}
	if v.Status == ConsentPending {
		v.ExpiresAt = c.CreatedAt.Add(LinkLife)
	}
	return v
}
