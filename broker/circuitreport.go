package broker

import (
	"cmp"
	"slices"
)

// maxOpenCircuits bounds what a replica tells of its circuits.
const maxOpenCircuits = 50

// OpenCircuits are the troubles with providers for which this process sends no refreshes, those that last longest first, at most
// 50. Each names a connector that has it, and how many others do.
func (s *Service) OpenCircuits() []OpenCircuit {
	since := s.refresher.circuits.opened()
	if len(since) == 0 {
		return nil
	}
	byKey := map[circuitKey]*OpenCircuit{}
	for _, c := range s.cfg.Connectors.All() {
		to := line{provider: cmp.Or(c.ProviderID, c.ID), client: cmp.Or(c.ClientKey, c.ID)}
		for t := range troubles {
			key := to.key(trouble(t))
			circuit, open := since[key]
			switch found := byKey[key]; {
			case !open:
			case found == nil:
				byKey[key] = &OpenCircuit{Connector: c.ID, Trouble: troubles[t].name, Since: circuit.UTC()}
			default:
				found.Others++
				// One of the configuration says more to whoever reads it than one that a tenant made.
				if madeByTenant(found.Connector) && !madeByTenant(c.ID) || madeByTenant(found.Connector) == madeByTenant(c.ID) && c.ID < found.Connector {
					found.Connector = c.ID
				}
			}
		}
	}
	all := make([]OpenCircuit, 0, len(byKey))
	for _, c := range byKey {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b OpenCircuit) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Connector, b.Connector), cmp.Compare(a.Trouble, b.Trouble))
	})
	return all[:min(len(all), maxOpenCircuits)]
}

// EarlyRunning is how many refreshes are under way here that nobody waits for.
func (s *Service) EarlyRunning() int {
	s.early.mu.Lock()
	defer s.early.mu.Unlock()
	return len(s.early.running)
}
