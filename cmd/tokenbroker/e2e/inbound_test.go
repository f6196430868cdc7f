package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// exchange sends bytes as they are and reads the answer.
func exchange(t *testing.T, address, request string) (*http.Response, string, error) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	// A server that refuses early may close before all of it was written: what it said is what counts.
	_, _ = io.WriteString(conn, request)
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: strings.SplitN(request, " ", 2)[0]})
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return resp, string(body), nil
}

// What a stranger without a key can try at the real program: threats 14, 45, 51 and 77, and the limits of HTTP.
func TestInboundThreats(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.start()
	c := p.api(r.key)
	c.connect(newBrowser(t), "alice")
	t.Run("paths", func(t *testing.T) { routingTricks(t, p) })
	t.Run("headers", func(t *testing.T) { headersEverywhere(t, p, r.key) })
	t.Run("limits", func(t *testing.T) { httpLimits(t, p) })
	t.Run("profiles", func(t *testing.T) { noProfiles(t, p) })
	c.token("alice") // and it serves as before
}

// Threat 51: spellings of protected paths, and headers that other programs have believed.
func routingTricks(t *testing.T, p *brokerProcess) {
	body := `{"connector":"files","subject":"alice"}`
	for _, target := range []string{
		"/v1/tokens", "//v1/tokens", "/v1//tokens", "/./v1/tokens", "/v1/./tokens", "/x/../v1/tokens", "/v1/../v1/tokens", "/static/../v1/tokens", "/%2e/v1/tokens", "/static/%2e%2e/v1/tokens", "/v1/%2e/tokens",
		"/%76%31/tokens", "/v1%2ftokens", "/v1/%74okens", "/v1/tokens%00", "/v1/tokens%20", "/v1/tokens/", "/v1/tokens;x=y", "/v1;x/tokens", "/v1\\tokens", "/V1/tokens", "/v1/Tokens", "/v1/tokens%2f",
		"/v1/tokens?access_token=x", "/v1/tokens?/healthz", "/v1/tokens%3f/healthz", "/v1/tokens#/healthz", "/v1/tokens.css", "/healthz/..%2fv1/tokens", "/dashboard/..;/v1/tokens", "http://127.0.0.1/v1/tokens", "http://evil.example/v1/tokens", "/v1/*",
	} {
		for _, header := range []string{"", "User-Agent: kube-probe/1.30\r\n", "X-Forwarded-Uri: /healthz\r\n", "X-Original-Url: /static/x\r\n", "X-Http-Method-Override: GET\r\n", "Authorization: Bearer \r\n", "X_Authorization: Bearer x\r\n"} {
			resp, answer, err := exchange(p.rig.t, p.url, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", target, header, len(body), body))
			if err != nil || resp.StatusCode < 400 || resp.StatusCode > 405 || strings.Contains(answer, "access_token\"") {
				t.Errorf("%s with %q: %v, %v %s", target, header, err, resp, answer)
				continue
			}
			if strings.HasPrefix(target, "/v1") && resp.StatusCode != 401 && resp.StatusCode != 400 {
				t.Errorf("%s with %q: %d, want 401", target, header, resp.StatusCode)
			}
		}
	}
	// Requests that two servers may read differently (request smuggling) are refused as a whole.
	for name, request := range map[string]string{
		"two lengths":          "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello",
		"length and chunks":    "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
		"odd encoding":         "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
		"line folding":         "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"space before a colon": "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\nConnection: close\r\n\r\nhello",
		"no host":              "POST /v1/tokens HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"two hosts":            "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nHost: y\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"negative length":      "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\nConnection: close\r\n\r\n",
	} {
		if resp, answer, err := exchange(t, p.url, request); err == nil && (resp.StatusCode < 400 || resp.StatusCode > 501) {
			t.Errorf("%s: %d %s", name, resp.StatusCode, answer)
		}
	}
}

// Threats 14, 17, 45: what every answer says, whatever became of the request.
func headersEverywhere(t *testing.T, p *brokerProcess, key string) {
	for _, request := range []struct{ method, path, key string }{
		{"GET", "/", ""}, {"GET", "/nowhere", ""}, {"GET", "/connect/nope", ""}, {"PUT", "/connect/nope", ""}, {"DELETE", "/dashboard", ""}, {"GET", "/dashboard", ""}, {"GET", "/dashboard/login", ""}, {"GET", "/dashboard/nowhere", ""},
		{"GET", "/oauth2/callback/files", ""}, {"POST", "/oauth2/callback/files", ""}, {"GET", "/consent/nope", ""}, {"GET", "/static/nope.css", ""}, {"GET", "/sdk/nope", ""}, {"TRACE", "/", ""}, {"BREW", "/connect/x", ""}, {"GET", "/%zz", ""},
		{"GET", "/v1/connectors", ""}, {"GET", "/v1/connectors", key}, {"GET", "/v1/tokens", key}, {"POST", "/v1/tokens", key}, {"GET", "/v1/nowhere", key}, {"DELETE", "/v1/connectors", key}, {"GET", "/v1/connections?limit=x", key}, {"POST", "/notices/nope", ""},
	} {
		authorization := ""
		if request.key != "" {
			authorization = "Authorization: Bearer " + request.key + "\r\n"
		}
		resp, answer, err := exchange(t, p.url, request.method+" "+request.path+" HTTP/1.1\r\nHost: x\r\n"+authorization+"Content-Length: 0\r\nConnection: close\r\n\r\n")
		if err != nil {
			t.Errorf("%s %s: %v", request.method, request.path, err)
			continue
		}
		if request.path == "/%zz" {
			continue // net/http refuses it before anybody of ours sees it: 400 and a text of its own
		}
		h := resp.Header
		html := strings.HasPrefix(h.Get("Content-Type"), "text/html")
		if h.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(h.Get("Cache-Control"), "no-store") {
			t.Errorf("%s %s (%d): %v", request.method, request.path, resp.StatusCode, h)
		}
		if csp := h.Get("Content-Security-Policy"); html && (!strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "default-src 'none'") || h.Get("X-Frame-Options") != "DENY" || h.Get("Referrer-Policy") != "no-referrer") {
			t.Errorf("%s %s (%d): a page with %v", request.method, request.path, resp.StatusCode, h)
		}
		for _, name := range []string{"Server", "X-Powered-By", "Access-Control-Allow-Origin", "Etag"} {
			if h.Get(name) != "" {
				t.Errorf("%s %s (%d): %s is %q", request.method, request.path, resp.StatusCode, name, h.Get(name))
			}
		}
		if strings.Contains(answer, "goroutine ") {
			t.Errorf("%s %s: a trace in the answer", request.method, request.path)
		}
	}
}

// httpLimits: headers that are too long, and connections that never say what they want.
func httpLimits(t *testing.T, p *brokerProcess) {
	for name, request := range map[string]string{
		"one long header":  "GET /v1/connectors HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("a", 64<<10) + "\r\nConnection: close\r\n\r\n",
		"many headers":     "GET /v1/connectors HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Many: abcdefgh\r\n", 4000) + "Connection: close\r\n\r\n",
		"a long address":   "GET /v1/" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"no end of a line": "GET " + strings.Repeat("/", 64<<10),
	} {
		if resp, _, err := exchange(t, p.url, request); err == nil && resp.StatusCode != 431 && resp.StatusCode != 414 && resp.StatusCode != 400 {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
	}
	// A hundred connections whose headers drip: each is closed after 5 seconds, and others are served meanwhile.
	var slow []net.Conn
	defer func() {
		for _, conn := range slow {
			_ = conn.Close()
		}
	}()
	for range 100 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		slow = append(slow, conn)
		_, _ = io.WriteString(conn, "GET /v1/connectors HTTP/1.1\r\nHost: x\r\n")
	}
	began := time.Now()
	open := len(slow)
	for open > 0 && time.Since(began) < 10*time.Second {
		began := time.Now()
		if resp, err := http.Get(p.url + "/dashboard"); err != nil || time.Since(began) > 2*time.Second {
			t.Fatalf("others wait: %v, %s", err, time.Since(began))
		} else {
			_ = resp.Body.Close()
		}
		open = 0
		for _, conn := range slow {
			_, _ = io.WriteString(conn, "X-Drip: a\r\n")
			_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := conn.Read(make([]byte, 512))
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				open++
			}
		}
	}
	if open > 0 {
		t.Errorf("%d of %d connections are still open after %s", open, len(slow), time.Since(began))
	}
}

// Threat 77: nothing on either address shows what is in memory.
func noProfiles(t *testing.T, p *brokerProcess) {
	for _, address := range []string{p.url, p.ops} {
		for _, path := range []string{"/debug/pprof", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine?debug=2", "/debug/vars", "/debug/requests", "/debug/fgprof"} {
			resp, err := http.Get(address + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s%s: %d", address, path, resp.StatusCode)
			}
		}
	}
}

// runAsNobody has the brokers of this rig run as a user without rights, who has their files.
func (r *rig) runAsNobody() {
	r.t.Helper()
	const nobody = 65534
	r.user = &syscall.Credential{Uid: nobody, Gid: nobody}
	for _, dir := range []string{filepath.Dir(binary), r.dir, filepath.Dir(r.dir)} {
		// What is above is everybody's.
		if info, err := os.Stat(dir); err != nil || info.Mode()&os.ModeSticky == 0 && os.Chmod(dir, 0o755) != nil {
			r.t.Fatalf("open %s to others: %v", dir, err)
		}
	}
	err := filepath.WalkDir(r.dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, nobody, nobody))
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// opens tells whether another process of the brokers' user can open the memory of that one, and what it says if not.
func (r *rig) opens(process string) (opened bool, said string) {
	r.t.Helper()
	cmd := exec.Command("sh", "-c", `exec 3<"/proc/$0/mem"`, process)
	if r.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: r.user}
	}
	out, err := cmd.CombinedOutput()
	return err == nil, string(out)
}

// Threat 77: a process that is aborted leaves no core, others of its user can't read its memory, and the trace that it prints
// holds no secret.
func TestThreat77NoCoreDump(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if os.Getuid() == 0 {
		r.runAsNobody() // root may read whatever it likes
	}
	if _, said := r.opens("self"); said != "" {
		t.Fatalf("who is to find the memory of others closed can't open its own: %s", said)
	}
	p := r.start("GOTRACEBACK=crash") // which asks for a core
	c := p.api(r.key)
	c.connect(newBrowser(t), "alice")
	for _, signal := range []syscall.Signal{syscall.SIGABRT, syscall.SIGQUIT, syscall.SIGSEGV} {
		token := c.token("alice").str("access_token")
		of := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
		limits, err := os.ReadFile(of + "limits")
		if err != nil {
			t.Skip("no /proc here")
		}
		for line := range bytes.Lines(limits) {
			if bytes.HasPrefix(line, []byte("Max core file size")) && !slices.Equal(strings.Fields(string(line))[4:6], []string{"0", "0"}) {
				t.Errorf("%s", line)
			}
		}
		// Of a process that is not dumpable it is root's (proc(5)).
		if opened, said := r.opens(strconv.Itoa(p.cmd.Process.Pid)); opened || !strings.Contains(said, "ermission denied") {
			t.Errorf("another process of its user opens its memory: %t, %s", opened, said)
		}
		before := p.log.String()
		if err := p.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		<-p.done
		said := strings.TrimPrefix(p.log.String(), before)
		if !strings.Contains(said, "goroutine ") {
			t.Errorf("%s: no trace", signal)
		}
		for _, canary := range []string{token, r.key, "canary", "alice"} {
			if strings.Contains(said, canary) {
				t.Errorf("%s: %q is in the trace", signal, canary)
			}
		}
		if p.state.Sys().(syscall.WaitStatus).CoreDump() {
			t.Errorf("%s: a core was dumped", signal)
		}
		p.exec()
		p.waitReady(http.StatusOK)
	}
	err := filepath.WalkDir(r.dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(entry.Name(), "core") {
			t.Errorf("%s is there", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
