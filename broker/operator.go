package broker

import (
	"slices"
	"strings"
)

// This file says who may do what on the dashboard. The use cases of operators take the Operator first and ask Check before
// anything else; pages ask May, so that what is not allowed is not shown either.

// Role is what an operator was made by the configuration: by a group at the operators' OpenID Provider, or by the login token.
type Role string

// The roles.
const (
	// RoleViewer sees what is connected and whether it works, and changes nothing.
	RoleViewer Role = "viewer"
	// RoleOperator keeps things running: it acts on single connections and may stop a connector, a client or an actor.
	RoleOperator Role = "operator"
	// RoleAuditor reads, exports and verifies the audit trail, and changes nothing.
	RoleAuditor Role = "auditor"
	// RoleAdmin may do all.
	RoleAdmin Role = "admin"
)

// Roles are all of them.
func Roles() []Role { return []Role{RoleViewer, RoleOperator, RoleAuditor, RoleAdmin} }

// Permission is one thing that operators may be allowed to do.
type Permission string

// The permissions.
const (
	PermitOverview  Permission = "overview"  // counts and what needs attention
	PermitAccounts  Permission = "accounts"  // connections, one by one, with their events
	PermitActions   Permission = "actions"   // revoke, refresh now, new consent link
	PermitAudit     Permission = "audit"     // search the audit trail
	PermitExport    Permission = "export"    // take events away, and verify the trail
	PermitSwitch    Permission = "switch"    // stop and start a connector, a client or an actor
	PermitStopAll   Permission = "stop_all"  // stop a whole tenant; revoke all of a tenant or of a connector
	PermitHealth    Permission = "health"    // the broker itself; of the installation alone
	PermitOperators Permission = "operators" // end the sessions of other operators; of the installation alone
	PermitSignedIn  Permission = "signed_in" // what everybody may who is signed in at all: sign out
)

var permitted = map[Role][]Permission{
	RoleViewer:   {PermitOverview, PermitAccounts, PermitHealth},
	RoleOperator: {PermitOverview, PermitAccounts, PermitActions, PermitAudit, PermitSwitch, PermitHealth},
	RoleAuditor:  {PermitOverview, PermitAccounts, PermitAudit, PermitExport, PermitHealth},
	RoleAdmin:    {PermitOverview, PermitAccounts, PermitActions, PermitAudit, PermitExport, PermitSwitch, PermitStopAll, PermitHealth, PermitOperators},
}

// OperatorGrant gives an operator a role, in one tenant or in all of them.
type OperatorGrant struct {
	Role   Role
	Tenant string // "": all tenants, and the installation itself
}

// Operator is a person at the dashboard, after login. It is made only at the edge, from the session.
type Operator struct {
	ID        string // shown in operator.* events
	Grants    []OperatorGrant
	RequestID string
	TraceID   string
}

// Everywhere, in place of a tenant, stands for the whole installation.
const Everywhere = ""

// May tells whether the operator has the permission in that tenant; Everywhere: in all of them. What a role is permitted in
// one tenant it is not permitted Everywhere.
func (o Operator) May(p Permission, tenant string) bool {
	return slices.ContainsFunc(o.Grants, func(g OperatorGrant) bool {
		return (g.Tenant == Everywhere || g.Tenant == tenant) && (p == PermitSignedIn || slices.Contains(permitted[g.Role], p))
	})
}

// MaySomewhere tells whether the operator has the permission in any tenant at all.
func (o Operator) MaySomewhere(p Permission) bool {
	return slices.ContainsFunc(o.Grants, func(g OperatorGrant) bool { return o.May(p, g.Tenant) })
}

// Tenants are those of the given ones in which the operator has the permission.
func (o Operator) Tenants(p Permission, all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(tenant string) bool { return !o.May(p, tenant) })
}

// Check is the error that a use case answers an operator with who lacks the permission. Of a tenant that an operator may see
// nothing of, nothing is told, not even whether it exists.
func (o Operator) Check(p Permission, tenant string) error {
	switch {
	case o.May(p, tenant):
		return nil
	case tenant != Everywhere && !slices.ContainsFunc(o.Grants, func(g OperatorGrant) bool { return g.Tenant == Everywhere || g.Tenant == tenant }):
		return Errorf(CodeNotFound, "there is no such tenant")
	}
	return Errorf(CodeAccessDenied, "your role does not allow this")
}

// RoleNames are the operator's roles in words, for the page that shows who is signed in.
func (o Operator) RoleNames() string {
	var names []string
	for _, g := range o.Grants {
		name := string(g.Role)
		if g.Tenant != Everywhere {
			name += " of " + g.Tenant
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}
