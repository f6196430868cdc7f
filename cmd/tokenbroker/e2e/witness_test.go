package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// witness is the provider's token endpoint with somebody who watches whether answers arrive. It knows of every answer which
// user's it is, which connection it went to, and when it lay in the kernel of whoever asked.
type witness struct {
	t    *testing.T
	next http.Handler
	url  string
	port int

	mu     sync.Mutex
	owner  map[string]string      // refresh token: user
	open   map[int]bool           // client ports of open connections
	calls  map[int][]*refreshCall // by client port, of its present connection
	gone   []*refreshCall         // the provider did it, and whoever asked had hung up
	late   []*refreshCall         // the provider did it, so late that whoever asked may have given up before it read the answer
	before func(user string) (generation int64, epoch int)
}

// refreshCall is one refresh that the provider did.
type refreshCall struct {
	user       string
	generation int64 // of the user's record as the request came
	epoch      int   // how many grants the user had lost by then
	came       time.Time
	answered   time.Time
	rotated    bool // the provider did it: the refresh token that was sent is over
	written    bool // the answer lies in the receiver's kernel
}

// newWitness starts the token endpoint before the handler; before tells the generation of a user's record, and how many
// grants the user has lost.
func newWitness(t *testing.T, next http.Handler, before func(user string) (generation int64, epoch int)) *witness {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{
		t: t, next: next, url: "http://" + l.Addr().String(), port: l.Addr().(*net.TCPAddr).Port,
		owner: map[string]string{}, open: map[int]bool{}, calls: map[int][]*refreshCall{}, before: before,
	}
	server := &http.Server{Handler: w, ReadHeaderTimeout: 5 * time.Second, ConnState: w.state}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return w
}

func portOf(address string) int {
	_, text, _ := net.SplitHostPort(address)
	port, _ := strconv.Atoi(text)
	return port
}

func (w *witness) state(c net.Conn, s http.ConnState) {
	port := portOf(c.RemoteAddr().String())
	w.mu.Lock()
	defer w.mu.Unlock()
	switch s {
	case http.StateNew:
		w.open[port], w.calls[port] = true, nil
	case http.StateClosed:
		delete(w.open, port)
	}
}

func (w *witness) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	if err := req.ParseForm(); err != nil {
		http.Error(rw, "form", http.StatusBadRequest)
		return
	}
	refresh := req.PostForm.Get("grant_type") == "refresh_token"
	call := &refreshCall{came: time.Now()}
	port := portOf(req.RemoteAddr)
	if refresh {
		w.mu.Lock()
		call.user = w.owner[req.PostForm.Get("refresh_token")]
		w.calls[port] = append(w.calls[port], call)
		w.mu.Unlock()
		call.generation, call.epoch = w.before(call.user)
	}
	// The provider does its work whether or not somebody still waits for it.
	recorded := httptest.NewRecorder()
	w.next.ServeHTTP(recorded, req.WithContext(context.WithoutCancel(req.Context())))
	body := recorded.Body.Bytes()
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	if recorded.Code == http.StatusOK && json.Unmarshal(body, &tokens) == nil && tokens.Refresh != "" {
		if !refresh {
			call.user = w.whose(tokens.Access)
		}
		w.mu.Lock()
		w.owner[tokens.Refresh] = call.user
		call.rotated = refresh
		w.mu.Unlock()
	}
	for name, values := range recorded.Header() {
		rw.Header()[name] = values
	}
	rw.Header().Set("Content-Length", strconv.Itoa(len(body)))
	rw.WriteHeader(recorded.Code)
	_, err := rw.Write(body)
	if err == nil {
		err = http.NewResponseController(rw).Flush()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	call.answered, call.written = time.Now(), err == nil
	switch {
	case call.rotated && req.Context().Err() != nil:
		w.gone = append(w.gone, call)
	case call.rotated && call.answered.Sub(call.came) > tooLate:
		w.late = append(w.late, call)
	}
}

// whose asks the provider itself whose token it is.
func (w *witness) whose(access string) string {
	req := httptest.NewRequest("GET", "/userinfo", nil)
	req.Header.Set("Authorization", "Bearer "+access)
	recorded := httptest.NewRecorder()
	w.next.ServeHTTP(recorded, req)
	var who struct {
		Sub string `json:"sub"`
	}
	_ = json.Unmarshal(recorded.Body.Bytes(), &who)
	return strings.TrimPrefix(who.Sub, "acct-")
}

// fate is what became of the refreshes that a process had under way when it was killed.
type fate struct {
	undelivered []*refreshCall // the provider did it, and the process never read the answer
	unread      int            // of these, how many lay unread in the process's kernel
	// unkept: the process had read the answer, and its record did not change any more. The spool decides about these.
	unkept []*refreshCall
	stored int // answers read in the last seconds before the end, and stored
	spool  int // files in its spool
	at     time.Time
}

// tooLate is when an answer comes so late that a busy machine may not let anybody read it in time.
const tooLate = 2 * time.Second

// longStored is after which time an answer that was read has long been stored: no lease lasts so long.
const longStored = 20 * time.Second

// kill kills the process with SIGKILL and finds out what it had read by then. It is stopped first, so that what the kernel
// says of its connections stays true until it is dead; a stopped process is killed like any other.
func (w *witness) kill(p *brokerProcess, spool string) fate {
	w.t.Helper()
	p.freeze()
	// Which answers were written is looked up before what of them is unread: whoever writes meanwhile finds nobody.
	ports := w.portsOf(p.cmd.Process.Pid)
	frozen := time.Now()
	read, last := map[*refreshCall]bool{}, map[int]*refreshCall{}
	var answered []int
	w.mu.Lock()
	for _, port := range ports {
		calls := w.calls[port]
		for i, c := range calls {
			// The next request on a connection shows that the answer before was read.
			if i < len(calls)-1 {
				read[c] = true
			} else if c.written {
				last[port] = c
				answered = append(answered, port)
			}
		}
	}
	w.mu.Unlock()
	unread := w.unread(answered)
	for _, port := range answered {
		read[last[port]] = !unread[port]
	}
	files, err := filepath.Glob(filepath.Join(spool, "*.spool"))
	if err != nil {
		w.t.Fatal(err)
	}
	own := 0 // files that this process wrote, not one before it
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.ModTime().After(p.since) {
			own++
		}
	}
	p.kill()
	w.closed(ports)

	out := fate{spool: own, at: frozen}
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := func(c *refreshCall) bool {
		generation, _ := w.before(c.user)
		return generation != c.generation
	}
	for _, port := range ports {
		for _, c := range w.calls[port] {
			switch {
			case !c.rotated || read[c] && frozen.Sub(c.answered) > longStored:
			case !read[c]:
				out.undelivered = append(out.undelivered, c)
				if last[port] == c {
					out.unread++
				}
			case !changed(c):
				out.unkept = append(out.unkept, c)
			case frozen.Sub(c.answered) < 5*time.Second:
				out.stored++
			}
		}
		delete(w.calls, port)
	}
	return out
}

// freeze stops the process and waits until every thread of it stands.
func (p *brokerProcess) freeze() {
	p.rig.t.Helper()
	p.pause()
	p.rig.eventually(20*time.Second, "the process stands", func() error {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		if err != nil || len(tasks) == 0 {
			return fmt.Errorf("no threads: %v", err)
		}
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			if err != nil {
				continue // that thread ended
			}
			// proc(5): the state follows the program's name, which is in parentheses.
			if _, rest, ok := strings.Cut(string(text), ") "); !ok || rest[0] != 'T' {
				return fmt.Errorf("a thread is in state %c", rest[0])
			}
		}
		return nil
	})
}

// socket is a line of /proc/net/tcp (proc(5)).
type socket struct {
	local, remote int
	state         string
	sending       uint64 // bytes that the other side's kernel has not confirmed
	waiting       uint64 // bytes received and not yet read
	inode         string
}

func sockets(t *testing.T) []socket {
	t.Helper()
	file, err := os.Open("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out []socket
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[0] == "sl" {
			continue
		}
		port := func(text string) int {
			_, hex, _ := strings.Cut(text, ":")
			n, _ := strconv.ParseUint(hex, 16, 32)
			return int(n)
		}
		tx, rx, _ := strings.Cut(f[4], ":")
		s := socket{local: port(f[1]), remote: port(f[2]), state: f[3], inode: f[9]}
		s.sending, _ = strconv.ParseUint(tx, 16, 64)
		s.waiting, _ = strconv.ParseUint(rx, 16, 64)
		out = append(out, s)
	}
	return out
}

// portsOf are the local ports from which the process talks to the witness.
func (w *witness) portsOf(pid int) []int {
	w.t.Helper()
	mine := map[string]bool{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, "socket:[") {
			mine[strings.Trim(target, "socket:[]")] = true
		}
	}
	var ports []int
	for _, s := range sockets(w.t) {
		if s.remote == w.port && mine[s.inode] {
			ports = append(ports, s.local)
		}
	}
	return ports
}

// unread tells for each of these ports whether its process left something unread. What was written and is still on its way
// is waited for.
func (w *witness) unread(ports []int) map[int]bool {
	w.t.Helper()
	want := map[int]bool{}
	for _, p := range ports {
		want[p] = true
	}
	var out map[int]bool
	w.poll("what was sent to a stopped process arrives", func() error {
		out = map[int]bool{}
		for _, s := range sockets(w.t) {
			switch {
			case s.local == w.port && want[s.remote] && s.sending > 0:
				return fmt.Errorf("%d bytes are on their way", s.sending)
			case s.remote == w.port && want[s.local] && s.waiting > 0:
				out[s.local] = true
			}
		}
		return nil
	})
	return out
}

// closed waits until the provider is done with the connections of a process that is dead.
func (w *witness) closed(ports []int) {
	w.t.Helper()
	gone := map[int]bool{}
	for _, p := range ports {
		gone[p] = true
	}
	w.poll("the provider ends its work for a dead process", func() error {
		const established, closeWait = "01", "08"
		for _, s := range sockets(w.t) {
			if s.local == w.port && gone[s.remote] && (s.state == established || s.state == closeWait) {
				return fmt.Errorf("a connection is in state %s", s.state)
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, p := range ports {
			if w.open[p] {
				return fmt.Errorf("a connection is still served")
			}
		}
		return nil
	})
}

func (w *witness) poll(what string, condition func() error) {
	w.t.Helper()
	eventually(w.t, 20*time.Second, what, condition)
}
