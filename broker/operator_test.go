package broker

import (
	"slices"
	"testing"
)

// What each role may do, written out: whoever changes permitted changes this too, and thinks twice.
func TestRolesMatrix(t *testing.T) {
	matrix := map[Permission][]Role{
		PermitOverview:  {RoleViewer, RoleOperator, RoleAuditor, RoleAdmin},
		PermitAccounts:  {RoleViewer, RoleOperator, RoleAuditor, RoleAdmin},
		PermitActions:   {RoleOperator, RoleAdmin},
		PermitAudit:     {RoleOperator, RoleAuditor, RoleAdmin},
		PermitExport:    {RoleAuditor, RoleAdmin},
		PermitSwitch:    {RoleOperator, RoleAdmin},
		PermitStopAll:   {RoleAdmin},
		PermitHealth:    {RoleViewer, RoleOperator, RoleAuditor, RoleAdmin},
		PermitOperators: {RoleAdmin},
		PermitSignedIn:  {RoleViewer, RoleOperator, RoleAuditor, RoleAdmin},
	}
	for p, allowed := range matrix {
		for _, role := range Roles() {
			everywhere := Operator{Grants: []OperatorGrant{{Role: role}}}
			of := Operator{Grants: []OperatorGrant{{Role: role, Tenant: "acme"}}}
			want := slices.Contains(allowed, role)
			for _, c := range []struct {
				op     Operator
				tenant string
				want   bool
			}{{everywhere, Everywhere, want}, {everywhere, "acme", want}, {of, "acme", want}, {of, "other", false}, {of, Everywhere, false}, {Operator{}, "acme", false}} {
				if got := c.op.May(p, c.tenant); got != c.want {
					t.Errorf("%s with %v in %q: %v, want %v", p, c.op.Grants, c.tenant, got, c.want)
				}
			}
		}
	}
}

// Threat 63: who may see nothing of a tenant does not learn that there is one; who may see some of it is told what is missing.
func TestOperatorCheck(t *testing.T) {
	op := Operator{Grants: []OperatorGrant{{Role: RoleViewer, Tenant: "acme"}, {Role: RoleAuditor, Tenant: "beta"}}}
	for _, c := range []struct {
		p      Permission
		tenant string
		want   Code
	}{{PermitAccounts, "acme", ""}, {PermitActions, "acme", CodeAccessDenied}, {PermitExport, "beta", ""}, {PermitAccounts, "gamma", CodeNotFound}, {PermitHealth, Everywhere, CodeAccessDenied}} {
		err := op.Check(c.p, c.tenant)
		if (err == nil) != (c.want == "") || err != nil && CodeOf(err) != c.want {
			t.Errorf("%s in %q: %v, want %q", c.p, c.tenant, err, c.want)
		}
	}
	if got := op.Tenants(PermitAccounts, []string{"gamma", "beta", "acme"}); !slices.Equal(got, []string{"beta", "acme"}) {
		t.Errorf("tenants %v", got)
	}
}
