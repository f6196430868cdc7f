package broker

import (
	"context"
	"time"
)

// lookAgain is how long further looks of an operator at the same thing are one with the first: pages of what is under way load
// themselves anew every few seconds, and the trail would be about nothing else.
const lookAgain = 10 * time.Minute

// RecordLook records that the operator looks at something of the tenant which is neither an account nor the trail; Everywhere: at what
// concerns the installation, or for operators of single tenants at what concerns each of those. what says at what, without names of
// persons. Not recorded means not shown. Whether the operator may see it is the caller's to know.
func (s *Service) RecordLook(ctx context.Context, op Operator, tenant, what string) error {
	for _, tenant := range op.looksFrom(tenant) {
		key := op.ID + "\x00" + tenant + "\x00" + what
		if !s.looked.allow(key, s.cfg.Now(), 1, lookAgain) {
			continue
		}
		if err := s.recordOperator(ctx, op, operatorEntry(EventOperatorViewed, Connection{Tenant: tenant}, what)); err != nil {
			s.looked.forget(key)
			return err
		}
	}
	return nil
}

// looksFrom are the tenants in whose trails a look is recorded.
func (o Operator) looksFrom(tenant string) []string {
	if tenant != Everywhere || o.May(PermitSignedIn, Everywhere) {
		return []string{tenant}
	}
	var all []string
	for _, g := range o.Grants {
		all = append(all, g.Tenant)
	}
	return all
}
