package vaulttest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func must(t testing.TB, addr string, args ...string) string {
	t.Helper()
	reply, err := Command(addr, args...)
	if err != nil {
		t.Fatalf("%s: %v", args[0], err)
	}
	return reply
}

// ask sends the server one command, over TLS if it speaks that, and as whom it wants.
func (r *Redis) ask(args ...string) (string, error) {
	commands := [][]string{args}
	if r.password != "" {
		commands = [][]string{{"AUTH", r.password}, args}
	}
	return command(r.Addr, r.tls, commands)
}

func (r *Redis) must(args ...string) string {
	r.t.Helper()
	reply, err := r.ask(args...)
	if err != nil {
		r.t.Fatalf("%s: %v", args[0], err)
	}
	return reply
}

// Refusal is a server's answer that it does not do what it was asked.
type Refusal string

func (r Refusal) Error() string { return string(r) }

// refusedAs tells whether the error is a refusal of that kind, such as MOVED.
func refusedAs(err error, kind string) bool {
	var refusal Refusal
	return errors.As(err, &refusal) && strings.HasPrefix(string(refusal), kind)
}

// Command sends one command over a connection of its own and returns its answer, of whatever type, as text: what an
// operator does with redis-cli. Lists come a line for each element. A server's refusal is a Refusal.
func Command(addr string, args ...string) (string, error) {
	return command(addr, nil, [][]string{args})
}

// command sends commands over one connection and returns the answer to the last; all before it must succeed.
func command(addr string, secure *tls.Config, commands [][]string) (answer string, err error) {
	dialer := &net.Dialer{Timeout: 2 * time.Second}
	var conn net.Conn
	network := "tcp"
	if filepath.IsAbs(addr) {
		network = "unix"
	}
	if secure != nil {
		conn, err = tls.DialWithDialer(dialer, network, addr, secure)
	} else {
		conn, err = dialer.Dial(network, addr)
	}
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	read := bufio.NewReader(conn)
	for _, args := range commands {
		var request strings.Builder
		fmt.Fprintf(&request, "*%d\r\n", len(args))
		for _, a := range args {
			fmt.Fprintf(&request, "$%d\r\n%s\r\n", len(a), a)
		}
		if _, err := conn.Write([]byte(request.String())); err != nil {
			return "", err
		}
		if answer, err = reply(read); err != nil {
			return "", err
		}
	}
	return answer, nil
}

// reply reads one RESP2 answer.
func reply(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return "", errors.New("empty answer")
	}
	switch line[0] {
	case '-':
		return "", Refusal(line[1:])
	case '$':
		n, err := strconv.Atoi(line[1:])
		if err != nil || n < 0 {
			return "", err
		}
		value := make([]byte, n+2)
		if _, err := io.ReadFull(r, value); err != nil {
			return "", err
		}
		return string(value[:n]), nil
	case '*':
		n, err := strconv.Atoi(line[1:])
		if err != nil {
			return "", err
		}
		var parts []string
		for range n {
			part, err := reply(r)
			if err != nil {
				return "", err
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, "\n"), nil
	default:
		return line[1:], nil
	}
}
