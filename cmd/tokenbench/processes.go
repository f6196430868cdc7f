package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child. It is in a process group of its own, so that Ctrl-C ends this program alone, which then ends its
// children in order; and it is killed should this program die.
type process struct {
	name  string
	cmd   *exec.Cmd
	since time.Time
	done  chan struct{}
	out   *lastBytes // what it printed last
	err   error      // of Wait; read after done
}

// stopPatience is how long a child may take to end by itself.
const stopPatience = 30 * time.Second

// startProcess starts a child whose output is read and, but for its end, thrown away. dir "" is this program's.
func startProcess(name, dir string, env []string, program string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(program, args...), done: make(chan struct{}), out: &lastBytes{}}
	p.cmd.Dir, p.cmd.Env = dir, env
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	enlargePipe(w)
	p.cmd.Stdout, p.cmd.Stderr = w, w
	var drained sync.WaitGroup
	drained.Go(func() { p.out.drain(r) })
	started := make(chan error, 1)
	go func() {
		// The signal at the parent's death comes when the thread that started the child ends, so it must stay.
		runtime.LockOSThread()
		p.since = time.Now()
		err := p.cmd.Start()
		_ = w.Close()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
		drained.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// enlargePipe gives a child's log room, so that it never waits for us.
func enlargePipe(w *os.File) {
	conn, err := w.SyscallConn()
	if err != nil {
		return
	}
	const setPipeSize = 1031 // F_SETPIPE_SZ, fcntl(2)
	_ = conn.Control(func(fd uintptr) { _, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, setPipeSize, 1<<20) })
}

// ended tells that the child does not run.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the child by its own way out, and by force if that takes too long.
func (p *process) stop() {
	if p.ended() {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// failure is an error with what the child printed last.
func (p *process) failure(what string, err error) error {
	return fmt.Errorf("%s: %s: %w; it printed last:\n%s", p.name, what, err, p.out.String())
}

// waitFor asks until the answer is yes. It gives up when the child ends, after a minute, or with ctx.
func (p *process) waitFor(ctx context.Context, what string, ask func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		once, end := context.WithTimeout(ctx, 2*time.Second)
		err := ask(once)
		end()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.failure("ended before "+what, errors.Join(p.err, err))
		case <-ctx.Done():
			return p.failure("not "+what, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// cpuTime is what the process has used of the processors, with the children that it waited for (proc(5), /proc/PID/stat).
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in brackets may hold anything, so fields count from behind it: state is the third.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 15 {
		return 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	var ticks int64
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture that Go runs on under Linux
	return time.Duration(ticks) * tick, nil
}

// residentBytes is the memory that the process has (proc(5), VmRSS).
func residentBytes(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no VmRSS", pid)
}

// freeAddress finds a free port of loopback.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	address := l.Addr().String()
	return address, l.Close()
}

// lastBytes keeps the end of what a child prints.
type lastBytes struct {
	mu   sync.Mutex
	kept []byte
}

const lastBytesKept = 16 << 10

// drain reads until the child closes its end. It rests between reads: the pipe has room for thousands of lines, and being
// woken by each of them would take processor time from what is measured.
func (l *lastBytes) drain(r *os.File) {
	defer func() { _ = r.Close() }()
	buffer := make([]byte, 256<<10)
	for {
		n, err := r.Read(buffer)
		l.mu.Lock()
		l.kept = append(l.kept, buffer[max(0, n-lastBytesKept):n]...)
		l.kept = append(l.kept[:0], l.kept[max(0, len(l.kept)-lastBytesKept):]...)
		l.mu.Unlock()
		if err != nil {
			return
		}
		if n > 32<<10 {
			continue
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// complaint is the last line of level ERROR or WARN that the child logged, "" without one.
func (p *process) complaint() string {
	found := ""
	for line := range strings.Lines(p.out.String()) {
		if strings.Contains(line, `"level":"ERROR"`) || strings.Contains(line, `"level":"WARN"`) {
			found = strings.TrimSpace(line)
		}
	}
	return found
}

func (l *lastBytes) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.kept)
}
