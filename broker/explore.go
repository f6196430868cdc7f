package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// This file is how operators look through the audit trail. Each use case asks what the operator may do, then records what is about
// to be seen, and only then reads.

// maxFilterText bounds each text that an operator looks for, in bytes.
const maxFilterText = 512

// TrailPage is a page of events.
type TrailPage struct {
	Events []Event // newest first
	Next   string  // the cursor of the next page; "": that was all
	// Reached is up to which time everything was looked at, where there is a next page. A page may have few events, or none,
	// because looking took its time.
	Reached time.Time
	// KeptSince is from when on events of the tenant are kept, and what was written before is dropped; zero: since ever.
	KeptSince time.Time
}

// SearchTrail pages through the events of a tenant (Everywhere: those that concern no tenant), newest first. limit is 1 to 500.
func (s *Service) SearchTrail(ctx context.Context, op Operator, tenant string, f EventFilter, cursor string, limit int) (TrailPage, error) {
	if err := op.Check(PermitAudit, tenant); err != nil {
		return TrailPage{}, err
	}
	if err := f.check(); err != nil {
		return TrailPage{}, err
	}
	p := purpose("trail", append([]string{tenant}, f.parts()...)...)
	position, err := s.openCursor(p, cursor)
	if err != nil {
		return TrailPage{}, err
	}
	if err := s.recordOperator(ctx, op, f.entry(EventOperatorViewed, tenant, "audit events")); err != nil {
		return TrailPage{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	found, err := s.cfg.Search.SearchEvents(ctx, tenant, EventSearch{Filter: s.narrowed(ctx, tenant, f), Position: position, Limit: limit})
	if err != nil {
		return TrailPage{}, storeError("search the audit trail", err)
	}
	page := TrailPage{Events: found.Events, Reached: found.Reached}
	if page.KeptSince, err = s.keptSince(ctx, tenant); err != nil {
		return TrailPage{}, err
	}
	page.Next, err = s.sealCursor(p, found.Next)
	return page, err
}

// keptSince is from when on events of the tenant are kept.
func (s *Service) keptSince(ctx context.Context, tenant string) (time.Time, error) {
	if s.cfg.Retention == nil {
		return time.Time{}, nil
	}
	since, err := s.cfg.Retention.KeptSince(ctx, tenant)
	if errors.Is(err, ErrIntegrity) {
		// Somebody wrote it who is not us. It must not hide the events.
		s.cfg.Log.WarnContext(ctx, "from when on events are kept can't be told", "tenant", tenant, "error", err)
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, storeError("read from when on events are kept", err)
	}
	return since, nil
}

// TrailKeptSince is from when on events of the tenant are kept, for who may export them; zero: since ever.
func (s *Service) TrailKeptSince(ctx context.Context, op Operator, tenant string) (time.Time, error) {
	if err := op.Check(PermitAudit, tenant); err != nil {
		return time.Time{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	return s.keptSince(ctx, tenant)
}

// narrowed adds the subject of the connection that is looked for: then what is of others need not be opened.
func (s *Service) narrowed(ctx context.Context, tenant string, f EventFilter) EventFilter {
	if _, ok := ShardOfID(f.Connection); !ok || f.Subject != "" {
		return f
	}
	if conn, err := s.reread(ctx, Connection{Tenant: tenant, ID: f.Connection}); err == nil {
		f.Subject = conn.Subject
	}
	return f
}

const (
	exportPage = 500
	// exportTime bounds the reading of one page: what a busy store takes, and some more.
	exportTime = 10 * time.Second
)

// ExportTrail gives all events of a tenant that the filter selects to each, oldest first, some hundred at a time, and returns how many.
// It ends with the first error of each, with ctx, or with the store: then what was given is not all. What was appended after it
// began is not in it.
func (s *Service) ExportTrail(ctx context.Context, op Operator, tenant string, f EventFilter, each func([]Event) error) (int, error) {
	if err := op.Check(PermitExport, tenant); err != nil {
		return 0, err
	}
	if err := f.check(); err != nil {
		return 0, err
	}
	if err := s.recordOperator(ctx, op, f.entry(EventOperatorExported, tenant, "audit events")); err != nil {
		return 0, err
	}
	if now := s.cfg.Now(); f.Until.IsZero() || f.Until.After(now) {
		f.Until = now.Add(time.Millisecond) // or what goes on beside it would never let it end
	}
	q := EventSearch{Filter: s.narrowed(ctx, tenant, f), Oldest: true, Limit: exportPage}
	n := 0
	for {
		pageCtx, cancel := context.WithTimeout(ctx, exportTime)
		page, err := s.cfg.Search.SearchEvents(pageCtx, tenant, q)
		cancel()
		if err != nil {
			return n, storeError("read the audit trail", err)
		}
		if len(page.Events) > 0 {
			if err := each(page.Events); err != nil {
				return n, err
			}
		}
		n += len(page.Events)
		if q.Position = page.Next; q.Position == "" {
			return n, nil
		}
		if err := ctx.Err(); err != nil {
			return n, err
		}
	}
}

// Reached is one thing that an agent had a token for.
type Reached struct {
	Connector, Subject, Connection, Scope string
	First, Last                           time.Time
	Count                                 int
}

// Reach is what an agent could reach.
type Reach struct {
	Rows   []Reached // by connector, subject, connection and scope
	Events int       // that they were made of
	// Cut, if it is not zero, says that there was too much: what was issued before that time is not in it.
	Cut time.Time
}

// What one question for a reach may cost.
const (
	reachRows   = 2000
	reachEvents = 500_000
	reachTime   = 8 * time.Second
)

// TrailReach is everything that the actor got tokens for in that time: each permission of each subject's connection. f has the agent or
// the run, and the time; what else it says narrows it down.
func (s *Service) TrailReach(ctx context.Context, op Operator, tenant string, f EventFilter) (Reach, error) {
	if err := op.Check(PermitAudit, tenant); err != nil {
		return Reach{}, err
	}
	if err := f.check(); err != nil {
		return Reach{}, err
	}
	if f.Agent == "" && f.Run == "" {
		return Reach{}, Errorf(CodeInvalidRequest, "name the agent, or one of its runs")
	}
	f.Type = EventTokenIssued
	if err := s.recordOperator(ctx, op, f.entry(EventOperatorViewed, tenant, "reach of an actor")); err != nil {
		return Reach{}, err
	}
	type key struct{ connector, subject, connection, scope string }
	rows := make(map[key]*Reached)
	var reach Reach
	q := EventSearch{Filter: s.narrowed(ctx, tenant, f), Limit: exportPage}
	until := s.cfg.Now().Add(reachTime)
	for {
		pageCtx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
		page, err := s.cfg.Search.SearchEvents(pageCtx, tenant, q)
		cancel()
		if err != nil {
			return Reach{}, storeError("search the audit trail", err)
		}
		for _, e := range page.Events {
			k := key{e.Connector, e.Subject, e.Connection, e.Scope}
			row := rows[k]
			if row == nil && len(rows) == reachRows {
				reach.Cut = e.Time
				break
			}
			if row == nil {
				row = &Reached{Connector: e.Connector, Subject: e.Subject, Connection: e.Connection, Scope: e.Scope, First: e.Time, Last: e.Time}
				rows[k] = row
			}
			if e.Time.Before(row.First) {
				row.First = e.Time
			}
			if e.Time.After(row.Last) {
				row.Last = e.Time
			}
			row.Count++
			reach.Events++
		}
		if q.Position = page.Next; q.Position == "" || !reach.Cut.IsZero() {
			break
		}
		if reach.Events >= reachEvents || !s.cfg.Now().Before(until) {
			reach.Cut = page.Reached
			break
		}
	}
	for _, row := range slices.Collect(maps.Values(rows)) {
		reach.Rows = append(reach.Rows, *row)
	}
	slices.SortFunc(reach.Rows, func(a, b Reached) int {
		return cmp.Or(strings.Compare(a.Connector, b.Connector), strings.Compare(a.Subject, b.Subject), strings.Compare(a.Connection, b.Connection), strings.Compare(a.Scope, b.Scope))
	})
	return reach, nil
}

// parts are what a cursor is bound to.
func (f EventFilter) parts() []string {
	return []string{
		f.Subject, f.Connector, f.Connection, string(f.Type), f.Scope, f.Client, f.Agent, f.Run, f.Outcome, f.Since.UTC().Format(time.RFC3339Nano), f.Until.UTC().Format(time.RFC3339Nano),
	}
}

// check refuses what nothing can be found by.
func (f EventFilter) check() error {
	for _, text := range f.parts() {
		if len(text) > maxFilterText || !utf8.ValidString(text) || strings.ContainsFunc(text, isControl) {
			return Errorf(CodeInvalidRequest, "what is looked for must be text of at most %d bytes, without control characters", maxFilterText)
		}
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		return Errorf(CodeInvalidRequest, "the time to look at ends before it begins")
	}
	return nil
}

// entry is the event that somebody looks for this. The subject stands where it stands in every event, and nowhere else.
func (f EventFilter) entry(t EventType, tenant, what string) Entry {
	words := what
	for _, part := range [][2]string{
		{"client", f.Client}, {"agent", f.Agent}, {"run", f.Run}, {"connector", f.Connector}, {"connection", f.Connection}, {"type", string(f.Type)}, {"scope", f.Scope},
		{"outcome", f.Outcome}, {"since", dateWord(f.Since)}, {"until", dateWord(f.Until)},
	} {
		if part[1] != "" {
			words += fmt.Sprintf(", %s %s", part[0], part[1])
		}
	}
	if f.Subject != "" {
		words += ", of one subject"
	}
	return Entry{Type: t, Tenant: tenant, Subject: f.Subject, Connector: f.Connector, Connection: f.Connection, Reason: firstBytes(words, maxReason)}
}

// maxSealed is how long what an address carries sealed may be.
const maxSealed = 2048

// SealPersonal makes a form of a subject, or of another name of a person, that may stand in an address: only this broker can read it,
// for the same purpose and tenant.
func (s *Service) SealPersonal(what, tenant, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	return s.sealCursor(purpose("personal", what, tenant), text)
}

// OpenPersonal reads what SealPersonal made.
func (s *Service) OpenPersonal(what, tenant, sealed string) (string, error) {
	if sealed == "" {
		return "", nil
	}
	if len(sealed) > maxSealed {
		return "", Errorf(CodeInvalidRequest, "this address is not one of ours")
	}
	text, err := s.cfg.Cursors.OpenCursor(purpose("personal", what, tenant), sealed)
	if err != nil {
		return "", Errorf(CodeInvalidRequest, "this address is not one of ours, or was made for another tenant; search again").Because(err)
	}
	return text, nil
}

var errNoVerifier = errors.New("this program has nothing that verifies the trail")
