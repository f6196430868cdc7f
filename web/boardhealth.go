package web

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// healthPage is how the broker itself is.
type healthPage struct {
	*board
	At       moment
	Problems []string
	Replicas []replicaRow
	Versions []string
	Silent   int
	Store    storeView
	Work     []fact
	Keys     []keyRow
	Seals    string // how far records are sealed anew, in words
	Sealing  *bar
	Jobs     []jobRow
	Verified []verifiedRow
}

type replicaRow struct {
	Host, ID, Version   string
	State, StateLabel   string
	Started, Beat       moment
	Trouble             []string // of its checks
	Spool, Memory, Work string
	Circuits            []string
	Unreadable, Silent  bool
}

type storeView struct {
	Kind, Withheld string
	Problems       []string
	Accepted       []string // that it may lose what it was given
	Lost           []string // what its version can't do
	Nodes          []nodeView
	Slots          string
}

type nodeView struct {
	Address   string
	Facts     []fact
	Followers []followerRow
	Full      *bar
}

type followerRow struct{ Address, State, Lag, Behind string }

type keyRow struct {
	ID, Status string
	Primary    bool
	Created    moment
	Age        string
	Records    string
	Replicas   string
}

// verifiedRow is the last verification of an audit trail.
type verifiedRow struct {
	Tenant, Result, Address string
	At                      moment
	Bad                     bool
}

type jobRow struct {
	Kind, Address, State, Progress string
	Tenant                         string
	Updated                        moment
}

// health is GET /dashboard/health.
func (w *Web) health(c echo.Context, b *board) error {
	v, err := w.cfg.Service.Health(b.ctx, b.Op)
	if err != nil {
		return err
	}
	p := healthPage{board: b, At: clockOf(v.At), Silent: len(v.SilentReplicas())}
	p.Title = "Health of the broker"
	for _, part := range []string{"store", "replicas", "backlog", "seals", "jobs", "switches"} {
		if text := v.Errors[part]; text != "" {
			p.Problems = append(p.Problems, plainWhole(text))
		}
	}
	for _, one := range v.Versions() {
		p.Versions = append(p.Versions, plain(one))
	}
	for _, r := range v.Replicas {
		p.Replicas = append(p.Replicas, replicaRowOf(r, v.StoreNow))
	}
	p.Store = storeViewOf(v.Store)
	q := v.Backlog
	if v.Errors["backlog"] == "" {
		p.Work = []fact{
			{Name: "Refreshes that are due", Text: count(q.RefreshesDue)}, {Name: "Refreshes scheduled", Text: count(q.Refreshes)}, {Name: "Revocations to be finished", Text: count(q.RevocationsDue)},
			{Name: "Consents not finished", Text: count(q.Consents)}, {Name: "Consents overdue", Text: count(q.ConsentsOverdue)}, {Name: "Polls of devices overdue", Text: count(q.PollsOverdue)},
		}
	}
	if v.Errors["seals"] == "" {
		checked := "not yet"
		if !v.Seals.At.IsZero() {
			checked = momentOf(v.Seals.At).Shown
		}
		p.Work = append(p.Work, fact{Name: "Index of connections checked", Text: checked})
	}
	p.keys(v)
	for _, j := range v.Verified {
		row := verifiedRow{Tenant: plain(j.Tenant), Result: plainWhole(j.Result), At: momentOf(j.EndedAt), Bad: j.Progress.Failed > 0}
		if b.Op.May(broker.PermitExport, j.Tenant) {
			row.Address = "/dashboard/jobs/" + j.ID
		}
		p.Verified = append(p.Verified, row)
	}
	for _, j := range v.Jobs {
		row := jobRow{Kind: plain(string(j.Kind)), Address: "/dashboard/jobs/" + j.ID, State: string(j.State), Progress: count(j.Progress.Done), Tenant: plain(j.Tenant), Updated: momentOf(j.UpdatedAt)}
		if !w.cfg.Service.MayJob(b.Op, j) {
			row.Address = ""
		}
		if j.Progress.Total > 0 {
			row.Progress += " of " + count(j.Progress.Total)
		}
		p.Jobs = append(p.Jobs, row)
	}
	return w.render(c, http.StatusOK, "board-health", p)
}

func replicaRowOf(r broker.Replica, now time.Time) replicaRow {
	row := replicaRow{
		Host: plain(r.Host), ID: plain(r.ID[:min(8, len(r.ID))]), Version: plain(r.Version + " (" + r.Commit[:min(12, len(r.Commit))] + ", " + r.Go + ")"),
		Started: momentOf(r.Started), Beat: clockOf(r.Beat), Unreadable: r.Unreadable, Silent: r.Silent(now), State: "active", StateLabel: "ready",
		Memory: bytesOf(int64(min(r.MemoryBytes, 1<<62))) + ", " + strconv.Itoa(r.Goroutines) + " goroutines", Work: count(int64(r.EarlyRunning)),
	}
	for _, name := range slices.Sorted(maps.Keys(r.Checks)) {
		if text := r.Checks[name]; text != "ok" {
			row.Trouble = append(row.Trouble, plainWhole(name+": "+text))
		}
	}
	switch {
	case row.Silent:
		row.State, row.StateLabel = "bad", "silent"
	case r.Unreadable:
		row.State, row.StateLabel = "bad", "unreadable"
	case !r.Ready:
		row.State, row.StateLabel = "bad", "not ready"
	case len(row.Trouble) > 0:
		row.State, row.StateLabel = "needs_consent", "serves, with trouble"
	}
	s := r.Spool
	switch {
	case s.Off:
		row.Spool = "none: what a provider rotated while Redis is away is lost if the process ends"
	case !s.Writable:
		row.Spool = "can't be written to"
	case s.Waiting == 0 && s.Unreadable == 0:
		row.Spool = "empty"
	default:
		row.Spool = fmt.Sprintf("%s waiting, %s unreadable", count(int64(s.Waiting)), count(int64(s.Unreadable)))
		if !s.Oldest.IsZero() {
			row.Spool += ", the oldest since " + momentOf(s.Oldest).Shown
		}
	}
	for _, c := range r.Circuits {
		text := c.Connector + ": " + circuitWords[c.Trouble]
		if c.Others > 0 {
			text += fmt.Sprintf(" (and %d connectors more)", c.Others)
		}
		row.Circuits = append(row.Circuits, plain(text+", since "+momentOf(c.Since).Shown))
	}
	return row
}

var circuitWords = map[string]string{"down": "the provider does not answer", "throttled": "the provider throttles us", "client_refused": "the provider refuses our OAuth client"}

func storeViewOf(r broker.StoreReport) storeView {
	v := storeView{Kind: r.Kind, Withheld: plainWhole(r.Withheld)}
	if r.SlotsServed > 0 {
		v.Slots = count(int64(r.SlotsServed)) + " of 16,384 slots are served"
	}
	for _, problem := range r.Problems {
		v.Problems = append(v.Problems, plainWhole(problem))
	}
	for _, problem := range r.Volatile {
		if problem = plainWhole(problem); r.Accepted {
			v.Accepted = append(v.Accepted, problem)
		} else {
			v.Problems = append(v.Problems, problem)
		}
	}
	for _, lost := range r.Lost {
		v.Lost = append(v.Lost, plainWhole(lost))
	}
	for _, n := range r.Nodes {
		node := nodeView{Address: plain(n.Address)}
		add := func(name, value string) {
			if value != "" {
				node.Facts = append(node.Facts, fact{Name: name, Text: plain(value)})
			}
		}
		add("Version", n.Version)
		add("Slots", n.Slots)
		if n.Uptime > 0 {
			add("Up for", ageOf(n.Uptime))
		}
		if n.AppendOnly != "" {
			add("Append-only file", n.AppendOnly)
			add("Append-only state", n.AppendState)
		}
		add("Last snapshot", n.SaveStatus)
		if !n.LastSave.IsZero() {
			add("Snapshot taken", momentOf(n.LastSave).Shown)
		}
		if n.UsedBytes > 0 {
			limit := "no limit (set maxmemory)"
			if n.MaxBytes > 0 {
				limit = bytesOf(n.MaxBytes)
				full := newBar(share(n.UsedBytes, n.MaxBytes)+" of its memory is used", n.MaxBytes, series{class: "chart-1", values: []int64{min(n.UsedBytes, n.MaxBytes)}})
				node.Full = &full
			}
			add("Memory used", bytesOf(n.UsedBytes))
			add("Memory allowed", limit)
		}
		add("When full", n.Policy)
		if n.Clients > 0 {
			add("Clients", count(int64(n.Clients)))
			add("Operations a second", count(n.Operations))
		}
		for _, f := range n.Replicas {
			node.Followers = append(node.Followers, followerRow{plain(f.Address), plain(f.State), took(f.Lag, false), bytesOf(f.Behind)})
		}
		v.Nodes = append(v.Nodes, node)
	}
	return v
}

// keys are those that any replica has, with what is still sealed by each.
func (p *healthPage) keys(v broker.Vitals) {
	type known struct {
		broker.SealingKey
		replicas int
		audit    bool // of the audit trail, not of records
	}
	var all []known
	for _, r := range v.Replicas {
		if r.Silent(v.StoreNow) {
			continue
		}
		for _, k := range slices.Concat(r.Keys, r.AuditKeys) {
			i := slices.IndexFunc(all, func(one known) bool { return one.ID == k.ID })
			if i < 0 {
				i, all = len(all), append(all, known{SealingKey: k})
			}
			all[i].replicas++
			all[i].audit = slices.ContainsFunc(r.AuditKeys, func(one broker.SealingKey) bool { return one.ID == k.ID })
		}
	}
	s := latestSeals(v.Seals)
	for _, k := range all {
		row := keyRow{
			ID: strconv.FormatUint(uint64(k.ID), 10), Status: plain(k.Status), Primary: k.Primary, Created: momentOf(k.Created),
			Records: "not known yet", Replicas: count(int64(k.replicas)),
		}
		if !k.Created.IsZero() {
			row.Age = ageOf(v.StoreNow.Sub(k.Created))
		}
		switch {
		case k.audit:
			row.Records = "the audit trail"
		case !s.At.IsZero():
			row.Records = count(int64(s.ByKey[k.ID]))
		}
		p.Keys = append(p.Keys, row)
	}
	if s.At.IsZero() {
		p.Seals = "The slow check has not been through all records yet."
		return
	}
	older := int64(0)
	for _, n := range s.older {
		older = max(older, int64(n))
	}
	all64 := int64(s.Records)
	p.Seals = fmt.Sprintf("Of %s records, %s are sealed with the primary key alone, when they were last looked at (%s).", count(all64), share(all64-min(older, all64), all64), momentOf(s.At).Shown)
	sealing := newBar(p.Seals, all64, series{class: "chart-good", values: []int64{all64 - min(older, all64)}}, series{class: "chart-care", values: []int64{min(older, all64)}})
	p.Sealing = &sealing
	if s.Unreadable > 0 {
		p.Seals += fmt.Sprintf(" %s are of a form that this version does not know.", count(int64(s.Unreadable)))
	}
	switch now := s.Resealing; {
	case now.Running:
		p.Seals += fmt.Sprintf(" The others are being sealed anew: %s looked at since %s, %s sealed anew.", count(int64(now.Current.Records)), momentOf(now.Current.Began).Shown, count(int64(now.Current.Resealed)))
	case now.Needed && older > 0:
		p.Seals += " The others are sealed anew once all replicas have loaded the same keys."
	}
}

// seals are what was counted last, by whoever it was, and of it what another key than the one that seals now has sealed.
type seals struct {
	broker.Seals
	older map[uint32]int
}

func latestSeals(s broker.Seals) seals {
	if last := s.Resealing.Last; last.Ended.After(s.At) {
		s.Records, s.At, s.ByKey, s.Unreadable = last.Records, last.Ended, last.ByKey, 0
		return seals{s, last.Left}
	}
	older := map[uint32]int{}
	for id, n := range s.ByKey {
		if id != s.Primary {
			older[id] = n
		}
	}
	return seals{s, older}
}

// bytesOf is a size for people.
func bytesOf(n int64) string {
	const unit = 1024
	value, names := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for value >= unit && i < len(names)-1 {
		value, i = value/unit, i+1
	}
	if i == 0 || value >= 100 {
		return strconv.FormatFloat(value, 'f', 0, 64) + " " + names[i]
	}
	return strconv.FormatFloat(value, 'f', 1, 64) + " " + names[i]
}

// ageOf is a long time for people.
func ageOf(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "less than a minute"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + " days"
}
