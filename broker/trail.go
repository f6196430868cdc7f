package broker

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
)

// This file makes audit entries; audit.go says what they are.

// entry begins one for the caller.
func (s *Service) entry(caller Caller, t EventType, subject, connector, connection string) Entry {
	return Entry{
		Type: t, Time: s.cfg.Now().UTC(), Tenant: caller.Client.Tenant, Client: caller.Client.ID, Subject: subject,
		Connector: connector, Connection: connection, RequestID: caller.RequestID, TraceID: caller.TraceID, Portal: caller.Portal,
	}
}

// eventScopes makes one event for each scope; requested are those that the caller asked for. Without any scope there is
// one event, about none.
func (s *Service) eventScopes(scopes, requested ScopeSet) ([]EventScope, error) {
	names := scopes.All()
	if len(names) == 0 {
		names = []string{""}
	}
	// All ids by one read of randomness: so many bytes make a whole number of characters, with no padding between.
	raw := make([]byte, len(names)*idBytes)
	if _, err := io.ReadFull(s.cfg.Random, raw); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	text, each := base64.RawURLEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodedLen(idBytes)
	events := make([]EventScope, len(names))
	for i, name := range names {
		events[i] = EventScope{ID: text[i*each : (i+1)*each], Scope: name, Requested: requested.Has(name)}
	}
	return events, nil
}

// refused records that a token request was refused, and why, and returns the error to answer with: cause, or, if the
// refusal can't be recorded, that.
func (s *Service) refused(ctx context.Context, caller Caller, req TokenRequest, scopes ScopeSet, cause error) error {
	entry := s.entry(caller, EventTokenRefused, req.Subject, req.Connector, req.Connection)
	entry.Actor, entry.Reason = req.Actor, req.Reason
	return s.refusedWith(ctx, entry, scopes, cause)
}

// refusedWith records the refusal that the entry is about.
func (s *Service) refusedWith(ctx context.Context, entry Entry, scopes ScopeSet, cause error) error {
	var public *Error
	if !errors.As(cause, &public) {
		public = serverError(cause)
	}
	if public.Limited {
		return public // counted where it was refused
	}
	if public.Code == CodeTemporarilyUnavailable {
		return public // the store is not well: a second write would only make the caller wait longer
	}
	entry.Outcome = string(public.Code)
	if public.Consent != nil {
		entry.Outcome += ":" + string(public.Consent.Reason)
	}
	var err error
	if entry.Scopes, err = s.eventScopes(scopes, scopes); err != nil {
		return serverError(err)
	}
	if err := s.append(ctx, entry); err != nil {
		return err
	}
	return public
}

// consentTrouble records that something about a running consent was refused which leaves the consent as it is, and
// returns the error to answer with.
func (s *Service) consentTrouble(ctx context.Context, consent Consent, reason string, cause error) error {
	entry, err := s.consentEntry(ctx, consent, EventConsentFailed, ScopeSet{}, "", reason)
	if err != nil {
		return serverError(err)
	}
	return s.refusedWith(context.WithoutCancel(ctx), entry, consent.Scopes, cause)
}

// What whoever has a link can write with it, cookie or none, in this process: so many refusals of strange browsers are on record for
// each consent and each visit, of each kind, as cheap ones must not use up the room of those that tell of an attack; and so often it can
// be started or decided on. All that goes into the trail for good, and a page of "My connections"
// looks back over so many entries: who may write without end could bury there what an assistant did.
const (
	strangersRecorded = 5
	startsMost        = 50
	linkForgotten     = FlowLife + ProvisionalLife
)

// strangeBrowser is consentTrouble for a browser that the consent does not belong to.
func (s *Service) strangeBrowser(ctx context.Context, consent Consent, reason string, cause error) error {
	if !s.strangers.allow(consent.ID+"\x00"+reason, s.cfg.Now(), strangersRecorded, linkForgotten) {
		return cause
	}
	return s.consentTrouble(ctx, consent, reason, cause)
}

// strangeVisitor is portalRefused for a browser that the visit does not belong to.
func (s *Service) strangeVisitor(ctx context.Context, p Portal, reason string, cause error) error {
	if !s.strangers.allow(p.ID+"\x00"+reason, s.cfg.Now(), strangersRecorded, linkForgotten) {
		return cause
	}
	return s.portalRefused(ctx, p, reason, cause)
}

// mayStart tells whether a consent or a visit may be started once more, or decided on. One that may not is as good as dead, and a consent
// that can't be started is over: what helps is a new link.
func (s *Service) mayStart(id string) bool {
	return s.starts.allow(id, s.cfg.Now(), startsMost, linkForgotten)
}

// append records entries beside any other write, within the time that a caller waits for them.
func (s *Service) append(ctx context.Context, entries ...Entry) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AuditTimeout)
	defer cancel()
	if err := s.cfg.Audit.Append(ctx, entries...); err != nil {
		return storeError("record the events of this request", err)
	}
	return nil
}

// integrityFailed records that a sealed value did not open where it lay, and returns the error to answer with. The value
// is never used, and never deleted: it is evidence.
func (s *Service) integrityFailed(ctx context.Context, caller Caller, conn Connection, what string, cause error) error {
	s.cfg.Log.ErrorContext(ctx, "a sealed value does not belong where it lies or was changed: someone may have written to the store",
		"what", what, "tenant", conn.Tenant, "connector", conn.Connector, "connection", conn.ID, "request_id", caller.RequestID, "error", cause)
	entry := s.entry(caller, EventIntegrityFailed, conn.Subject, conn.Connector, conn.ID)
	entry.Tenant = conn.Tenant
	entry.Outcome, entry.Reason = "integrity_failed", what+" does not open"
	var err error
	if entry.Scopes, err = s.eventScopes(ScopeSet{}, ScopeSet{}); err != nil {
		return serverError(err)
	}
	// The caller may be gone; this must be on record all the same. Nobody waits for it beyond the caller's time.
	recorded := make(chan error, 1)
	record := func() { recorded <- s.append(context.WithoutCancel(ctx), entry) }
	if s.enter() {
		go func() {
			defer s.leave()
			record()
		}()
	} else {
		record()
	}
	select {
	case err = <-recorded:
	case <-ctx.Done():
	}
	if err != nil {
		return err
	}
	return serverError(cause)
}

func (s *Service) ids() ids { return ids{random: s.cfg.Random, placement: s.cfg.Placement} }
