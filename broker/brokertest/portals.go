package brokertest

import (
	"context"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tokenbroker/broker"
)

// portalWrite is what one write of a visit was asked to do: the same again is the same write.
type portalWrite struct {
	portal  broker.Portal
	entries []broker.Entry
}

// CreatePortal is part of broker.Portals.
func (s *Store) CreatePortal(ctx context.Context, p broker.Portal, entries []broker.Entry) (broker.Portal, error) {
	return s.putPortal(ctx, "CreatePortal", p, entries)
}

// UpdatePortal is part of broker.Portals.
func (s *Store) UpdatePortal(ctx context.Context, p broker.Portal, entries []broker.Entry) (broker.Portal, error) {
	stored, err := s.putPortal(ctx, "UpdatePortal", p, entries)
	if lost := s.lost(ctx, "UpdatePortal"); err == nil && lost != nil {
		return broker.Portal{}, lost
	}
	return stored, err
}

func (s *Store) putPortal(ctx context.Context, operation string, p broker.Portal, entries []broker.Entry) (broker.Portal, error) {
	done, err := s.enter(ctx, operation)
	if err != nil {
		return broker.Portal{}, err
	}
	defer done()
	write := portalWrite{portal: p, entries: entries}
	again := reflect.DeepEqual(s.visited[p.ID], write)
	if !again && s.portals[p.ID].Version != p.Version {
		return broker.Portal{}, broker.ErrConflict
	}
	p.Version++
	if !again {
		s.portals[p.ID], s.visited[p.ID] = p, write
		s.Trail = append(s.Trail, entries...)
	}
	return p, nil
}

// Portal is part of broker.Portals.
func (s *Store) Portal(ctx context.Context, id string) (broker.Portal, error) {
	done, err := s.enter(ctx, "Portal")
	if err != nil {
		return broker.Portal{}, err
	}
	defer done()
	p, ok := s.portals[id]
	if !ok {
		return broker.Portal{}, broker.ErrNotFound
	}
	return p, nil
}

// Recent is part of broker.Audit.
func (s *Store) Recent(ctx context.Context, tenant, subject string, types []broker.EventType, position string, limit int) ([]broker.Entry, string, error) {
	done, err := s.enter(ctx, "Recent")
	if err != nil {
		return nil, "", err
	}
	defer done()
	end := len(s.Trail)
	if position != "" {
		if end, err = strconv.Atoi(position); err != nil {
			return nil, "", err
		}
	}
	var found []broker.Entry
	for i := end - 1; i >= 0; i-- {
		e := s.Trail[i]
		if e.Tenant != tenant || e.Subject != subject || !slices.Contains(types, e.Type) {
			continue
		}
		if len(found) == limit {
			return found, strconv.Itoa(i + 1), nil
		}
		found = append(found, e)
	}
	return found, "", nil
}

// PortalSecret takes the secret out of a visit's link, as the page behind it gets it.
func PortalSecret(link broker.PortalLink) broker.Secret {
	text := link.URL.Reveal()
	return broker.NewSecret(text[strings.LastIndex(text, "/")+1:])
}

// StartPortal opens the link in the browser.
func (h *Harness) StartPortal(t testing.TB, b Browser, link broker.PortalLink) broker.PortalStart {
	t.Helper()
	start, err := h.Service.StartPortal(t.Context(), PortalSecret(link), b.Cookie)
	if err != nil {
		t.Fatalf("start the visit: %v", err)
	}
	b[start.CookieName] = start.Cookie
	return start
}
