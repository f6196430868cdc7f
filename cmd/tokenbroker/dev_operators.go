package main

import (
	"tokenbroker/broker"
	"tokenbroker/providers/login"
	"tokenbroker/providers/sandbox"
)

const devDashboardID = "dashboard"

// devOperators are sample operators at the sandbox, one for each role; the viewer is one of the demo's tenant alone.
func devOperators() []sandbox.User {
	return []sandbox.User{
		{Login: "vera", Sub: "staff-vera-2001", Name: "Vera Viewer", Email: "vera@example.com", Groups: []string{"support"}},
		{Login: "otto", Sub: "staff-otto-2002", Name: "Otto Operator", Email: "otto@example.com", Groups: []string{"sre"}},
		{Login: "audra", Sub: "staff-audra-2003", Name: "Audra Auditor", Email: "audra@example.com", Groups: []string{"security"}},
		{Login: "adam", Sub: "staff-adam-2004", Name: "Adam Admin", Email: "adam@example.com", Groups: []string{"admins"}},
	}
}

func devRoles() []broker.OperatorRole {
	return []broker.OperatorRole{
		{Group: "support", OperatorGrant: broker.OperatorGrant{Role: broker.RoleViewer, Tenant: devTenant}},
		{Group: "sre", OperatorGrant: broker.OperatorGrant{Role: broker.RoleOperator}},
		{Group: "security", OperatorGrant: broker.OperatorGrant{Role: broker.RoleAuditor}},
		{Group: "admins", OperatorGrant: broker.OperatorGrant{Role: broker.RoleAdmin}},
	}
}

func devLogin(issuer, secret string) *login.OperatorConfig {
	return &login.OperatorConfig{ClientConfig: login.ClientConfig{
		Issuer: issuer, ClientID: devDashboardID, ClientSecret: broker.NewSecret(secret), Scopes: operatorScopes,
	}}
}

func logins(users []sandbox.User) []string {
	var out []string
	for _, u := range users {
		out = append(out, u.Login)
	}
	return out
}
