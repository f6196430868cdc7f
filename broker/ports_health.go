package broker

import (
	"context"
	"slices"
	"time"
)

// Replicas keeps what each process of the broker says of itself.
type Replicas interface {
	// Beat keeps what the replica says, in place of what it said before, and stamps it with the store's time. It is kept for
	// ReplicaKept.
	Beat(ctx context.Context, replica Replica) error
	// EndReplica forgets the replica: it has ended in order.
	EndReplica(ctx context.Context, id string) error
	// AllReplicas returns the replicas that beat within ReplicaKept, at most MaxReplicas, by host and start, and the store's time.
	// Of one that can't be read only the id is told, and when it beat (Unreadable).
	AllReplicas(ctx context.Context) ([]Replica, time.Time, error)
}

const (
	// BeatEvery is how often each replica beats; one that missed three is silent.
	BeatEvery  = 5 * time.Second
	beatSilent = 3*BeatEvery + time.Second
	// ReplicaKept is how long one that fell silent is remembered.
	ReplicaKept = time.Hour
	// MaxReplicas bounds how many are shown.
	MaxReplicas = 100
)

// Replica is what a process of the broker says of itself. It holds nothing secret, and of tenants no more than the names of
// their connectors that fail.
type Replica struct {
	ID      string
	Host    string
	Version string
	Commit  string
	Go      string
	Started time.Time
	Forms   int       // the highest stored form that it reads; 0 of a version that does not say: the first
	Beat    time.Time // by the store's clock

	Ready  bool
	Checks map[string]string // of /readyz: "ok" or what is wrong

	Spool    SpoolReport
	Circuits []OpenCircuit
	Keys     []SealingKey // for records
	// AuditKeys are those for the audit trail, and Keyset names all keys there are, those of tenants too, with their states; "" of a
	// version that does not say.
	AuditKeys []SealingKey
	Keyset    string
	// KEK names the KEK that opened the keyset file, and KeysetForms is the highest form of that file which the replica reads; "" and 0 of
	// a version that does not say.
	KEK         string
	KeysetForms int
	// OldSeals are how many things the replica keeps for itself that the key of that id has sealed, and another one would now.
	OldSeals map[uint32]int
	// EarlyRunning are refreshes under way that nobody waits for.
	EarlyRunning int
	MemoryBytes  uint64 // obtained from the system by the runtime
	Goroutines   int

	Unreadable bool
}

// Silent tells that it missed several beats.
func (r Replica) Silent(now time.Time) bool { return now.Sub(r.Beat) > beatSilent }

// Name is how messages name it.
func (r Replica) Name() string {
	host := r.Host
	if host == "" {
		host = "unknown host"
	}
	return host + "/" + r.ID[:min(8, len(r.ID))]
}

// SealsWith tells that the replica has the keyset of that name, or, where it does not say so, that key as its primary one.
func (r Replica) SealsWith(primary uint32, keyset string) bool {
	if r.Keyset != "" {
		return r.Keyset == keyset
	}
	return slices.ContainsFunc(r.Keys, func(k SealingKey) bool { return k.ID == primary && k.Primary })
}

// SpoolReport is how a replica's spool is.
type SpoolReport struct {
	Waiting    int
	Oldest     time.Time // zero: not known, or nothing waits
	Unreadable int
	Writable   bool
	Off        bool // it has none
}

// SealingKey is a key of the keyset, without its material.
type SealingKey struct {
	ID      uint32
	Status  string // enabled, disabled, destroyed
	Primary bool
	Created time.Time // zero: made before this was kept
}

// OpenCircuit is a trouble with a provider for which a replica sends no refreshes there.
type OpenCircuit struct {
	Connector string // one of those that have it together, the first by id
	Others    int    // how many more do
	Trouble   string // down, throttled, client_refused
	Since     time.Time
}

// StoreHealth tells how the store is, as far as it says so.
type StoreHealth interface {
	// StoreReport asks every node that serves us. An error only where nothing at all could be found out.
	StoreReport(ctx context.Context) (StoreReport, error)
}

// StoreReport is what the store says of itself.
type StoreReport struct {
	Kind  string // standalone, sentinel or cluster
	Nodes []StoreNode
	// Problems are what makes it refuse work, each with what to do about it, Volatile what makes it lose what it acknowledged;
	// Accepted says that this is meant so (allow_volatile_redis).
	Problems []string
	Volatile []string
	Accepted bool
	// Lost is what its version can't do, each with what that costs.
	Lost []string
	// Withheld, if set, says what our user must be allowed so that it tells more.
	Withheld string
	// SlotsServed of 16384, of a cluster; 0: it does not tell.
	SlotsServed int
}

// StoreNode is a master and those who follow it.
type StoreNode struct {
	Address     string
	Version     string
	Uptime      time.Duration
	Slots       string // of a cluster: "0-5460"
	Replicas    []StoreFollower
	AppendOnly  string // on, off; "": it does not tell
	AppendState string // of its append-only file: ok, or what is with it
	SaveStatus  string // of its last snapshot: ok or err
	LastSave    time.Time
	Policy      string // when its memory is full
	UsedBytes   int64
	MaxBytes    int64 // 0: no limit
	Clients     int
	Operations  int64 // each second
}

// StoreFollower is a replica of a master.
type StoreFollower struct {
	Address string
	State   string        // online, or what it is doing
	Lag     time.Duration // since it last said what it has
	Behind  int64         // bytes
}

// Backlogs counts what waits for the background work. All are counts that the store keeps: nothing is walked through.
type Backlogs interface {
	Backlog(ctx context.Context, now time.Time) (Backlog, error)
}

// Backlog is what waits.
type Backlog struct {
	RefreshesDue    int64 // whose time has come
	Refreshes       int64 // scheduled in all
	RevocationsDue  int64 // begun more than a minute ago and not ended
	Consents        int64 // not finished
	ConsentsOverdue int64 // of those, past their end for a minute
	PollsOverdue    int64 // of consents on other devices, due for a minute
}
