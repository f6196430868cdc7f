package main

import (
	"fmt"
	"time"

	"tokenbroker/broker"
	"tokenbroker/providers/login"
)

// operatorLogin joins the operators' OpenID Provider; nil, without a type, where there is none.
func (a *app) operatorLogin() (broker.OperatorLogins, error) {
	cfg := a.cfg.Config.Dashboard.Login
	if cfg == nil {
		return nil, nil
	}
	var err error
	if a.operators, err = login.NewOperators(login.Config{Now: time.Now}, *cfg); err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	return a.operators, nil
}
