package broker

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Attention is something that somebody should look at now.
type Attention struct {
	Severity Severity
	Kind     AttentionKind
	// Connector and Tenant are what it is about, where it is about one.
	Connector, Tenant string
	Job               string
	// What is wrong, and what to Do about it, in plain words. They may hold names of connectors and hosts, nothing of users.
	What, Do string
	Since    time.Time // zero: not known

	// Of AttentionProvider: whether it is our client that is refused, and what refreshes tell of it.
	refused   bool
	refreshes string
}

// Severity is how much of a hurry it is.
type Severity string

// The severities, the most urgent first.
const (
	SeverityCritical Severity = "critical" // users are refused, or grants may be lost
	SeverityWarning  Severity = "warning"  // it will be so, or it is for some
	SeverityNote     Severity = "note"     // good to know
)

// AttentionKind is what an Attention is about, so that a page knows where to lead.
type AttentionKind string

// The kinds.
const (
	AttentionProvider AttentionKind = "provider" // fails, or refuses our client
	AttentionConsents AttentionKind = "consents" // connections that need consent become more
	AttentionEnding   AttentionKind = "ending"   // grants that end soon
	AttentionHealth   AttentionKind = "health"   // the broker itself
	AttentionAudit    AttentionKind = "audit"    // the trail
	AttentionSwitch   AttentionKind = "switch"   // something is switched off
	AttentionJob      AttentionKind = "job"      // one is stuck
)

const (
	// failureWindow is what rates are taken over, lookBack how far the charts are looked through for a beginning.
	failureWindow, lookBack = 5 * time.Minute, 15 * time.Minute
	// failuresWorth are as many as say something: fewer may be anybody's bad luck.
	failuresWorth = 5
	// endedWorth are as many grants found to be over within lookBack as are no everyday.
	endedWorth = 10
	// spoolWorth is how long a token may wait in a spool: longer than a failover takes.
	spoolWorth = 30 * time.Second
	// refreshesWorth are as many as may be due at the same time before it is told: the next rounds take them.
	refreshesWorth = 1000
	// fullWorth is the part of the store's memory from which on it is told.
	fullWorth = 0.8
	// endingWithin is how soon an end is told, endingWorth as many as are a warning.
	endingWithin, endingWorth = 24 * time.Hour, 50
	// jobPatience is how long a job may show no progress.
	jobPatience = 10 * time.Minute
	// switchesNamed are as many of what is disabled as are told each by itself, attentionMost as many of all as are told.
	switchesNamed, attentionMost = 10, 100
	// keyWorth is the age from which on a key for sealing should be replaced.
	keyWorth = 366 * 24 * time.Hour
)

// attention is what the operator may know of: of the tenant, and of the broker itself where the operator may see that.
func (s *Service) attention(op Operator, tenant string, one glance, v Vitals) []Attention {
	now := s.cfg.Now().UTC()
	found := slices.Concat(
		s.oneOutage(s.circuitTrouble(v, tenant), refreshTrouble(one.minutes, now)), endedTrouble(one.minutes), s.jobTrouble(v, op, tenant, now),
		trailTrouble(v, op, tenant), switchedOff(v, op, tenant), endingSoon(one, tenant),
	)
	if op.May(PermitHealth, Everywhere) {
		found = append(found, vitalTrouble(v)...)
	}
	return ordered(found)
}

// oneOutage tells of an outage once: that refreshes fail is a part of what is told of the provider that replicas pause at for it.
func (s *Service) oneOutage(circuits, refreshes []Attention) []Attention {
	for _, r := range refreshes {
		i := slices.IndexFunc(circuits, func(c Attention) bool {
			return r.refused == c.refused && s.sameOutage(c.Connector, r.Connector, r.refused)
		})
		if i < 0 {
			circuits = append(circuits, r)
			continue
		}
		c := &circuits[i]
		if !r.Since.IsZero() && r.Since.Before(c.Since) {
			c.Since = r.Since
		}
		if c.refreshes == "" { // of one connector, where several have the provider in common
			c.refreshes = r.refreshes
			c.What = strings.TrimSuffix(c.What, ".") + ": " + r.refreshes + "."
		}
	}
	return circuits
}

// sameOutage tells whether one provider's trouble, or where it refuses us one client's, is that of both connectors.
func (s *Service) sameOutage(a, b string, client bool) bool {
	if a == b {
		return true
	}
	one, known := s.cfg.Connectors.Connector(a)
	other, too := s.cfg.Connectors.Connector(b)
	return known && too && cmp.Or(one.ProviderID, one.ID) == cmp.Or(other.ProviderID, other.ID) && (!client || cmp.Or(one.ClientKey, one.ID) == cmp.Or(other.ClientKey, other.ID))
}

// endingSoon tells of grants that nobody can renew and that are over within a day.
func endingSoon(one glance, tenant string) []Attention {
	if one.ends == 0 || len(one.ending) == 0 {
		return nil
	}
	first := one.ending[0]
	a := Attention{
		Severity: SeverityNote, Kind: AttentionEnding, Tenant: tenant,
		What: fmt.Sprintf("About %s within a day, the first at %s (%s), and can't be renewed.", times(int64(one.ends), "grant ends", "grants end"), first.ExpiresAt().UTC().Format("2006-01-02 15:04"), first.Connector),
		Do:   "Their users must consent again: give them a link before it is too late. Where the provider can give refresh tokens, ask for them.",
	}
	if one.ends >= endingWorth {
		a.Severity = SeverityWarning
	}
	return []Attention{a}
}

// switchedOff tells what is disabled, so that nobody looks for another reason. Whoever sees one tenant alone hears of what is
// disabled there, or for all: by whom and why stands on the page of switches.
func switchedOff(v Vitals, op Operator, tenant string) (found []Attention) {
	for _, off := range v.Off {
		if off.Tenant != Everywhere && (tenant != Everywhere && off.Tenant != tenant || !op.May(PermitOverview, off.Tenant)) {
			continue
		}
		what := fmt.Sprintf("The %s %s is disabled", off.Kind, off.Name)
		if off.Kind == SwitchTenant {
			what = "Disabled: the tenant " + off.Tenant
		} else if off.Tenant != Everywhere {
			what += " in " + off.Tenant
		}
		a := Attention{Severity: SeverityNote, Kind: AttentionSwitch, Tenant: off.Tenant, Since: off.Since, What: what + ".", Do: "What it could get is refused. Enable it when the reason is gone."}
		if off.Kind == SwitchConnector {
			a.Connector = off.Name
		}
		found = append(found, a)
	}
	if more := len(found) - switchesNamed; more > 0 {
		found = append(found[:switchesNamed], Attention{
			Severity: SeverityNote, Kind: AttentionSwitch, What: fmt.Sprintf("Disabled: %s more.", times(int64(more), "thing", "things")), Do: "The page of switches has all.",
		})
	}
	return found
}

// trailTrouble tells of an audit trail that was bad when it was last verified.
func trailTrouble(v Vitals, op Operator, tenant string) (found []Attention) {
	for _, j := range v.Verified {
		if j.Progress.Failed == 0 || tenant != Everywhere && j.Tenant != tenant || !op.May(PermitAudit, j.Tenant) {
			continue
		}
		of := ""
		if j.Tenant != Everywhere {
			of = " of " + j.Tenant
		}
		found = append(found, Attention{
			Severity: SeverityCritical, Kind: AttentionAudit, Job: j.ID, Tenant: j.Tenant, Since: j.EndedAt,
			What: fmt.Sprintf("The audit trail%s was bad when it was last verified, in %s.", of, times(j.Progress.Failed, "place", "places")),
			Do:   "Read the result, and keep a copy of Redis' files: a crash or a failover loses an end, everything else is somebody's doing.",
		})
	}
	return found
}

// jobTrouble finds jobs that do not get on, of those that the operator may see.
func (s *Service) jobTrouble(v Vitals, op Operator, tenant string, now time.Time) (found []Attention) {
	for _, j := range v.Jobs {
		switch stuck := now.Sub(j.UpdatedAt) > jobPatience; {
		case tenant != Everywhere && j.Tenant != tenant, s.mayJob(op, j) != nil:
		case j.State != JobQueued && j.State != JobRunning:
		case stuck || j.Troubles >= 3:
			found = append(found, Attention{
				Severity: SeverityWarning, Kind: AttentionJob, Job: j.ID, Tenant: j.Tenant, Since: j.UpdatedAt,
				What: fmt.Sprintf("A job does not get on: %s, %d done.", j.Kind, j.Progress.Done),
				Do:   "Any replica takes it up again by itself. If it stays, look in the log for what stops its steps, or cancel it.",
			})
		}
	}
	return found
}

func ordered(found []Attention) []Attention {
	rank := []Severity{SeverityCritical, SeverityWarning, SeverityNote}
	slices.SortStableFunc(found, func(a, b Attention) int {
		return cmp.Or(cmp.Compare(slices.Index(rank, a.Severity), slices.Index(rank, b.Severity)), cmp.Compare(a.What, b.What))
	})
	return found[:min(len(found), attentionMost)]
}

// refreshTrouble looks at the refreshes of the last minutes, connector by connector.
func refreshTrouble(buckets []BucketCounts, now time.Time) (found []Attention) {
	type sum struct {
		good, bad, refused int64
		since, refusedAt   time.Time
		codes              map[string]int64
	}
	sums := map[string]*sum{}
	for _, b := range buckets {
		recent := b.Start.After(now.Add(-failureWindow - time.Minute))
		for what, n := range b.Counts {
			failed := what.Measure == MeasureRefreshFailed && what.Code != string(ConnectionNeedsConsent)
			if what.Measure != MeasureRefreshed && !failed {
				continue
			}
			one := sums[what.Connector]
			if one == nil {
				one = &sum{codes: map[string]int64{}}
				sums[what.Connector] = one
			}
			if failed && one.since.IsZero() {
				one.since = b.Start
			}
			if failed && what.Code == string(CodeProviderMisconfigured) && one.refusedAt.IsZero() {
				one.refusedAt = b.Start
			}
			switch {
			case !recent:
			case !failed:
				one.good += n
			case what.Code == string(CodeProviderMisconfigured):
				one.refused += n
			default:
				one.bad += n
				one.codes[what.Code] += n
			}
		}
	}
	for connector, one := range sums {
		if one.refused > 0 {
			found = append(found, Attention{
				refused: true, refreshes: times(one.refused, "refresh", "refreshes") + " in the last 5 minutes",
				Severity: SeverityCritical, Kind: AttentionProvider, Connector: linked(connector), Since: one.refusedAt,
				What: fmt.Sprintf("The provider of %s refuses our OAuth client: %s in the last 5 minutes.", nameOf(connector), times(one.refused, "refresh", "refreshes")),
				Do:   "Look whether the client_secret was replaced or has expired at the provider, and put the new one into the configuration with the one before as previous_client_secret. Grants are kept meanwhile.",
			})
		}
		if all := one.good + one.bad; one.bad >= failuresWorth && 5*one.bad >= all {
			severity := SeverityWarning
			if 2*one.bad >= all {
				severity = SeverityCritical
			}
			found = append(found, Attention{
				refreshes: fmt.Sprintf("%d of %d refreshes of %s failed in the last 5 minutes (%s)", one.bad, all, nameOf(connector), codeNames(one.codes)),
				Severity:  severity, Kind: AttentionProvider, Connector: linked(connector), Since: one.since,
				What: fmt.Sprintf("Refreshes of %s fail: %d of %d in the last 5 minutes (%s).", nameOf(connector), one.bad, all, codeNames(one.codes)),
				Do:   "Look at the provider's status page. Tokens that still live are served, the others as soon as the provider answers again; nobody has to consent anew.",
			})
		}
	}
	return found
}

// endedTrouble finds connectors of which many grants were found to be over.
func endedTrouble(buckets []BucketCounts) (found []Attention) {
	ended, codes, since := map[string]int64{}, map[string]map[string]int64{}, map[string]time.Time{}
	for _, b := range buckets {
		for what, n := range b.Counts {
			if what.Measure != MeasureEnded {
				continue
			}
			if codes[what.Connector] == nil {
				codes[what.Connector], since[what.Connector] = map[string]int64{}, b.Start
			}
			ended[what.Connector] += n
			codes[what.Connector][what.Code] += n
		}
	}
	for connector, n := range ended {
		if n >= endedWorth {
			found = append(found, Attention{
				Severity: SeverityWarning, Kind: AttentionConsents, Connector: linked(connector), Since: since[connector],
				What: fmt.Sprintf("%d grants of %s ended in the last 15 minutes (%s): their users must consent again.", n, nameOf(connector), codeNames(codes[connector])),
				Do:   "Ask whether somebody revoked the application or changed its scopes at the provider, or ended the sessions of many users. If two replicas of another system use the same OAuth client, they end each other's grants.",
			})
		}
	}
	return found
}

// circuitTrouble finds what replicas send no refreshes for. The same trouble at several replicas is one.
func (s *Service) circuitTrouble(v Vitals, tenant string) (found []Attention) {
	type trouble struct {
		OpenCircuit
		replicas int
	}
	var all []trouble
	for _, r := range v.Replicas {
		if r.Silent(v.StoreNow) {
			continue
		}
		for _, c := range r.Circuits {
			i := slices.IndexFunc(all, func(t trouble) bool { return t.Connector == c.Connector && t.Trouble == c.Trouble })
			if i < 0 {
				all = append(all, trouble{OpenCircuit: c})
				i = len(all) - 1
			}
			all[i].replicas++
			if c.Since.Before(all[i].Since) {
				all[i].Since = c.Since
			}
		}
	}
	for _, t := range all {
		c, known := s.cfg.Connectors.Connector(t.Connector)
		if tenant != Everywhere && (!known || !ofTenant(c, tenant)) {
			continue
		}
		a := Attention{Severity: SeverityCritical, Kind: AttentionProvider, Connector: t.Connector, Since: t.Since}
		whose := t.Connector
		if t.Others > 0 {
			whose += fmt.Sprintf(" and %s more", times(int64(t.Others), "connector", "connectors"))
		}
		at := times(int64(t.replicas), "replica", "replicas")
		switch t.Trouble {
		case troubles[troubleRefused].name:
			a.refused = true
			a.What = fmt.Sprintf("The provider of %s does not take our OAuth client; %s pause there.", whose, at)
			a.Do = "Look whether the client_secret was replaced or has expired at the provider, or the application was disabled. Grants are kept meanwhile."
		case troubles[troubleThrottled].name:
			a.Severity = SeverityWarning
			a.What = fmt.Sprintf("The provider of %s throttles us; %s pause there.", whose, at)
			a.Do = "Look at the rate limits of the application at the provider. Refreshes go on by themselves, one at a time at first."
		default:
			a.What = fmt.Sprintf("The provider of %s does not answer; %s pause there.", whose, at)
			a.Do = "Look at the provider's status page and at the network's way out. Refreshes go on by themselves as soon as it answers."
		}
		found = append(found, a)
	}
	return found
}

// linked is the connector for a link; what is counted together has none.
func linked(connector string) string {
	if strings.HasPrefix(connector, "*") {
		return ""
	}
	return connector
}

// nameOf is what to call it.
func nameOf(connector string) string {
	switch connector {
	case TalliedTenants:
		return "connectors that tenants made"
	case TalliedOthers:
		return "other connectors of the tenant's own"
	case TalliedUnknown:
		return "connectors that are gone"
	}
	return connector
}

func times(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func codeNames(codes map[string]int64) string {
	var names []string
	for _, c := range codeCounts(codes) {
		names = append(names, fmt.Sprintf("%s %d", c.Code, c.Count))
	}
	return strings.Join(names[:min(3, len(names))], ", ")
}
