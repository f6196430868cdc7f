package broker

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// vitalTrouble finds what is wrong with the broker itself.
func vitalTrouble(v Vitals) (found []Attention) {
	add := func(severity Severity, since time.Time, what, do string) {
		found = append(found, Attention{Severity: severity, Kind: AttentionHealth, Since: since, What: what, Do: do})
	}
	for _, part := range []string{"store", "replicas", "backlog", "seals", "jobs", "switches"} {
		if text := v.Errors[part]; text != "" {
			add(SeverityWarning, time.Time{}, "Not known: "+text+".", "Look at /readyz and at the log of the replicas.")
		}
	}
	alive := 0
	for _, r := range v.Replicas {
		if r.Silent(v.StoreNow) {
			add(SeverityWarning, r.Beat, fmt.Sprintf("The replica on %s is silent.", cmp.Or(r.Host, "an unknown host")),
				"Start it again on the same spool_dir: what it could not store waits there. It leaves this list an hour after its last word.")
			continue
		}
		alive++
		found = append(found, replicaTrouble(r, v)...)
	}
	if alive == 1 && len(v.Replicas) == 1 && v.Store.Kind != "" && v.Store.Kind != "standalone" {
		add(SeverityNote, time.Time{}, "Only one replica runs, on a Redis that survives a failure.", "Run two or more, so that the broker does too.")
	}
	if versions := v.Versions(); len(versions) > 1 {
		add(SeverityNote, time.Time{}, "Replicas run different versions: "+strings.Join(versions, ", ")+".", "Finish the roll-out, or undo it.")
	}
	found = append(found, storeTrouble(v.Store)...)
	found = append(found, backlogTrouble(v.Backlog)...)
	return append(found, keyTrouble(v)...)
}

func replicaTrouble(r Replica, v Vitals) (found []Attention) {
	add := func(severity Severity, since time.Time, what, do string) {
		found = append(found, Attention{Severity: severity, Kind: AttentionHealth, Since: since, What: what, Do: do})
	}
	if r.Unreadable {
		add(SeverityWarning, time.Time{}, "A heartbeat does not open.", "A replica has another keyset than this one, or somebody else writes to Redis.")
		return found
	}
	var wrong []string
	for name, text := range r.Checks {
		// When it serves, these have words of their own below.
		if text != "ok" && (!r.Ready || name != "spool" && name != "durability" && name != "memory") {
			wrong = append(wrong, name+": "+text)
		}
	}
	slices.Sort(wrong)
	switch {
	case r.Checks["draining"] != "" && r.Checks["draining"] != "ok":
	case !r.Ready:
		add(SeverityCritical, time.Time{}, fmt.Sprintf("The replica on %s is not ready: %s.", r.Host, strings.Join(wrong, "; ")), "It takes no work until that is mended; the others do.")
	case len(wrong) > 0:
		add(SeverityWarning, time.Time{}, fmt.Sprintf("The replica on %s serves, but: %s.", r.Host, strings.Join(wrong, "; ")), "Mend it before it matters.")
	}
	s := r.Spool
	if s.Unreadable > 0 {
		add(SeverityWarning, time.Time{}, fmt.Sprintf("%s in the spool of %s can't be read.", times(int64(s.Unreadable), "file", "files"), r.Host), "Keep them: they are damaged, or sealed with a key that the keyset lacks.")
	}
	if s.Waiting > 0 && (s.Oldest.IsZero() || v.StoreNow.Sub(s.Oldest) > spoolWorth) {
		add(SeverityCritical, s.Oldest, fmt.Sprintf("%s in the spool of %s until Redis takes them.", times(int64(s.Waiting), "refreshed token waits", "refreshed tokens wait"), r.Host), "Keep its spool_dir, and the process on it: nobody else has these tokens.")
	}
	if !s.Off && !s.Writable {
		add(SeverityWarning, time.Time{}, fmt.Sprintf("The spool of %s can't be written to.", r.Host), "Make room, or mend its rights: until then a refreshed token is lost if Redis is away and the process ends.")
	}
	return found
}

func storeTrouble(report StoreReport) (found []Attention) {
	problems := report.Problems
	if !report.Accepted {
		problems = slices.Concat(problems, report.Volatile)
	}
	for _, problem := range problems {
		found = append(found, Attention{Severity: SeverityCritical, Kind: AttentionHealth, What: "Redis: " + problem + ".", Do: "Mend it on the server and in its configuration file, so that it stays so."})
	}
	for _, lost := range report.Lost {
		found = append(found, Attention{Severity: SeverityNote, Kind: AttentionHealth, What: "Redis: " + lost + ".", Do: "Plan an upgrade."})
	}
	for _, n := range report.Nodes {
		if n.MaxBytes > 0 && float64(n.UsedBytes) >= fullWorth*float64(n.MaxBytes) {
			found = append(found, Attention{
				Severity: SeverityWarning, Kind: AttentionHealth,
				What: fmt.Sprintf("Redis at %s uses %d %% of its memory.", n.Address, n.UsedBytes*100/n.MaxBytes),
				Do:   "Give it more (CONFIG SET maxmemory): from 90 % on no new consent begins, and at its end no token is handed out.",
			})
		}
		if n.SaveStatus == "err" {
			found = append(found, Attention{Severity: SeverityWarning, Kind: AttentionHealth, What: fmt.Sprintf("The last snapshot of Redis at %s failed.", n.Address), Do: "Look at the log of the server, and at the room on its disk."})
		}
		for _, f := range n.Replicas {
			if f.State != "online" {
				found = append(found, Attention{Severity: SeverityWarning, Kind: AttentionHealth, What: fmt.Sprintf("The Redis replica %s is not in step (%s).", f.Address, f.State), Do: "Wait until it is: a failover to it now would lose what was written since."})
			}
		}
		if len(n.Replicas) == 0 && report.Kind != "standalone" && n.AppendOnly != "" {
			found = append(found, Attention{Severity: SeverityWarning, Kind: AttentionHealth, What: fmt.Sprintf("The Redis master %s has no replica.", n.Address), Do: "Start one: if it fails now, nothing takes its place."})
		}
	}
	return found
}

func backlogTrouble(b Backlog) (found []Attention) {
	for _, one := range []struct {
		n         int64
		worth     int64
		what, why string
	}{
		{b.RefreshesDue, refreshesWorth, "%d early refreshes are due and not done.", "Providers may be slow or early_refreshes too low; whoever asks for a token is served first all the same."},
		{b.RevocationsDue, 1, "%d revocations were begun and did not end.", "They are taken up again every few seconds. If the number stays, look in the log for the provider that does not take them."},
		{b.ConsentsOverdue, 100, "%d consents are over and not ended.", "They are ended every few seconds. If the number grows, look at the replicas' log."},
	} {
		if one.n >= one.worth {
			found = append(found, Attention{Severity: SeverityWarning, Kind: AttentionHealth, What: fmt.Sprintf(one.what, one.n), Do: one.why})
		}
	}
	return found
}

// keyTrouble looks whether all replicas seal with the same key, and whether it is old.
func keyTrouble(v Vitals) (found []Attention) {
	primaries := map[uint32]time.Time{}
	for _, r := range v.Replicas {
		for _, k := range r.Keys {
			if k.Primary && !r.Silent(v.StoreNow) {
				primaries[k.ID] = k.Created
			}
		}
	}
	if len(primaries) > 1 {
		found = append(found, Attention{Severity: SeverityWarning, Kind: AttentionHealth, What: "Replicas seal with different keys.", Do: "Copy the rotated keyset file to the replicas that have their own."})
	}
	for id, created := range primaries {
		if !created.IsZero() && v.StoreNow.Sub(created) > keyWorth {
			found = append(found, Attention{
				Severity: SeverityNote, Kind: AttentionHealth, Since: created, What: fmt.Sprintf("The key %d that seals everything new is more than a year old.", id), Do: "Run tokenbroker keyset rotate.",
			})
		}
	}
	return found
}
