package providers

import (
	"slices"

	"tokenbroker/broker"
)

// Offer is a connector that an operator can name as provider: in the configuration, and what the catalogue knows of it.
type Offer struct {
	ID       string
	Name     string
	Category string
	// Scopes are asked where a connector's configuration has none; Described are all scopes that the definition explains.
	Scopes    []string
	Described []broker.ScopeInfo
	// Definition is its server's, as this product needs it and with every default.
	Definition *Definition
	// Custom: it comes from the operator's configuration.
	Custom bool
}

// Offers lists what the catalogue and the operator's own definitions offer, in the order of their servers. A server without
// products of its own is offered under its id.
func Offers(custom ...*Definition) ([]Offer, error) {
	builtin, err := Catalogue()
	if err != nil {
		return nil, err
	}
	var all []Offer
	for i, d := range slices.Concat(builtin, custom) {
		for p := range d.Connectors {
			all = append(all, d.offer(&d.Connectors[p], i >= len(builtin)))
		}
		if len(d.Connectors) == 0 {
			all = append(all, d.offer(nil, i >= len(builtin)))
		}
	}
	return all, nil
}

func (d *Definition) offer(p *Product, custom bool) Offer {
	o := Offer{Definition: d.as(p).withDefaults(), Custom: custom}
	o.ID, o.Name, o.Category = o.Definition.ID, o.Definition.Name, o.Definition.Category
	if p != nil {
		o.ID, o.Scopes = p.ID, p.Scopes
		if p.Name != "" {
			o.Name = p.Name
		}
		if p.Category != "" {
			o.Category = p.Category
		}
	}
	var names []string
	for name := range d.Scopes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		o.Described = append(o.Described, d.describe(name))
	}
	return o
}
