package broker

import (
	"context"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxReason bounds the reason that an operator gives, in bytes.
const maxReason = 500

// operatorReason is the reason that an operator gave for an action, as it is recorded: an action without one is refused.
func operatorReason(reason string) (string, error) {
	reason = strings.TrimSpace(reason)
	switch {
	case reason == "":
		return "", Errorf(CodeInvalidRequest, "say why: the reason is kept in the audit trail")
	case len(reason) > maxReason, !utf8.ValidString(reason), strings.ContainsFunc(reason, unicode.IsControl):
		return "", Errorf(CodeInvalidRequest, "the reason must be one line of text, of at most %d bytes", maxReason)
	}
	return reason, nil
}

// ValidateReason is the error that an operator gets who states no reason, or no usable one.
func ValidateReason(reason string) error {
	_, err := operatorReason(reason)
	return err
}

// recordOperator records what an operator is about to do: entry says what, and of which tenant, connector, connection and subject.
// Not recorded means not done: use cases go on only without an error.
func (s *Service) recordOperator(ctx context.Context, op Operator, entry Entry) error {
	entry.Time, entry.Actor, entry.RequestID, entry.TraceID = s.cfg.Now().UTC(), Actor{Agent: op.ID}, op.RequestID, op.TraceID
	if entry.Outcome == "" {
		entry.Outcome = "ok"
	}
	if err := s.knownTenant(ctx, entry.Tenant); err != nil {
		return err
	}
	var err error
	if entry.Scopes, err = s.eventScopes(ScopeSet{}, ScopeSet{}); err != nil {
		return serverError(err)
	}
	return s.append(ctx, entry)
}

// knownTenant is the error for a tenant that there is not, neither in the configuration nor in the store: one that is not configured any
// more has its connections and its trail.
func (s *Service) knownTenant(ctx context.Context, tenant string) error {
	if tenant == Everywhere || s.cfg.Tenant == nil || s.cfg.Tenant(tenant) {
		return nil
	}
	if _, met := s.tenantsMet.Load(tenant); met {
		return nil // a trail stays; and whoever ends all connections of such a tenant asks for each
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	all, err := s.cfg.Connections.Tenants(ctx)
	switch {
	case err != nil:
		return storeError("look for the tenant", err)
	case !slices.Contains(all, tenant):
		return Errorf(CodeNotFound, "there is no such tenant")
	}
	s.tenantsMet.Store(tenant, struct{}{}) // only of those that there are: they are bounded by them
	return nil
}

// firstBytes cuts a text, between characters.
func firstBytes(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "")
}
