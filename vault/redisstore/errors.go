package redisstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// ErrUnavailable: the server answers, but can't do it at present: read-only, loading, out of memory, its disk full.
var ErrUnavailable = errors.New("store unavailable")

// ErrRefused: who answers will not serve this process however long it waits: a wrong password, a user without rights, a
// sentinel that does not know the master. Trouble with TLS is none: a certificate is also replaced while clients wait.
var ErrRefused = errors.New("the server refuses")

// ErrStore is in every error of a server, of the way there and of waiting for it.
var ErrStore = errors.New("redis failed")

// failure is such an error, clean.
type failure struct {
	text string // "": the error's
	err  error
}

// Error implements error.
func (f *failure) Error() string {
	if f.text != "" {
		return f.text
	}
	return f.err.Error()
}

// Unwrap implements errors.Is.
func (f *failure) Unwrap() []error { return []error{f.err, ErrStore} }

// unavailable are the answers by which a server says that it can't do it at present.
var unavailable = []string{"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "MISCONF", "OOM", "TRYAGAIN", "BUSY"}

// clean makes an error that can be logged: a server's error may quote the arguments, so only its code stays, and the name
// of a command that the user may not run.
func clean(err error) error {
	var answer redis.Error
	if errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &answer) {
		return &failure{err: err, text: "redis does not answer in time"}
	}
	return &failure{err: codeOf(err)}
}

func codeOf(err error) error {
	var answer redis.Error
	if errors.Is(err, redis.Nil) || !errors.As(err, &answer) {
		return fmt.Errorf("redis: %w", err)
	}
	for _, code := range unavailable {
		if redis.HasErrorPrefix(err, code) {
			return fmt.Errorf("redis answered %s: %w", code, ErrUnavailable)
		}
	}
	if denied := denialOf(answer); denied != nil {
		return denied
	}
	for _, code := range []string{"WRONGTYPE", "NOAUTH", "WRONGPASS", "NOSCRIPT", "CROSSSLOT", "MOVED", "ASK"} {
		if redis.HasErrorPrefix(err, code) {
			return fmt.Errorf("redis answered %s", code)
		}
	}
	return errors.New("redis answered an error")
}

// denial is an answer by which a server says that the user may not do something.
type denial struct {
	command string // "": it does not say which
	keys    bool   // the command is allowed, the keys are not
}

// Error keeps the code in front, as the server has it.
func (d *denial) Error() string {
	switch {
	case d.command != "":
		return "redis answered NOPERM: the user may not run " + d.command
	case d.keys:
		return "redis answered NOPERM: the user may not use the broker's keys"
	}
	return "redis answered NOPERM"
}

// Unwrap implements errors.Is.
func (d *denial) Unwrap() error { return ErrRefused }

// deniedCommand is how servers name a command in an answer with NOPERM; keys and arguments that they may quote are not
// of this form.
var deniedCommand = regexp.MustCompile(`permissions to run the '([a-z|_-]{1,32})' command`)

// denialOf reads such an answer; nil if it is another one. Within a script there is no code (7.0), or it is part of a
// sentence (7.2 and later).
func denialOf(answer redis.Error) *denial {
	text := answer.Error()
	inScript := strings.HasPrefix(text, "ERR The user executing the script") || strings.HasPrefix(text, "ERR ACL failure in script")
	if !inScript && !strings.HasPrefix(text, "NOPERM") {
		return nil
	}
	d := &denial{}
	if match := deniedCommand.FindStringSubmatch(text); match != nil {
		d.command = match[1]
	} else {
		d.keys = strings.Contains(text, "access one of the keys") || strings.Contains(text, "access the '")
	}
	return d
}

// advice is an error and what to do about it.
type advice struct {
	text    string
	err     error // clean
	refused bool  // ErrRefused
	alone   bool  // the text says all that the error says
}

// Error implements error.
func (a *advice) Error() string {
	if a.alone {
		return a.text
	}
	return fmt.Sprintf("%s (%v)", a.text, a.err)
}

// Unwrap implements errors.Is.
func (a *advice) Unwrap() []error {
	if a.refused {
		return []error{a.err, ErrRefused}
	}
	return []error{a.err}
}

// advised makes an error that says what to do, where that is known.
func (s *Store) advised(err error) error {
	var answer redis.Error
	a := &advice{err: clean(err)}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, redis.Nil) && s.target.scheme == schemeSentinel:
		a.refused, a.alone = true, true
		a.text = fmt.Sprintf("a sentinel answers that it knows no master of the name %q: correct the name behind the last / of redis:, or let the sentinels watch it (SENTINEL MASTERS lists what they know)", s.target.master)
	case errors.As(err, &answer):
		if d := denialOf(answer); d != nil {
			a.refused, a.alone, a.text = true, true, s.allow(d)
			break
		}
		a.text, a.refused = s.answered(err)
	default:
		a.text, a.alone = s.unanswered(err)
	}
	if a.text == "" {
		return a.err
	}
	return a
}

// answered is what to do about a server's answer; refused as ErrRefused has it.
func (s *Store) answered(err error) (text string, refused bool) {
	who := "the user or the password of the URL"
	if s.target.scheme == schemeSentinel {
		who += " (for the servers) or of redis_sentinel (for the sentinels)"
	}
	for code, text := range map[string]string{
		"LOADING":     "it is reading its data from disk: wait until it has",
		"MASTERDOWN":  "it is a replica without a master: start the master, or make this one the master",
		"READONLY":    "it is a replica and takes no writes: let the address lead to the master, or make this one the master (REPLICAOF NO ONE)",
		"MISCONF":     "it can't write to its disk, so it refuses writes: free or mend its disk",
		"OOM":         "its memory is full, so it refuses writes: raise maxmemory, or delete what does not belong to the broker",
		"NOREPLICAS":  "it has too few replicas that follow, so it refuses writes: start them, or lower min-replicas-to-write",
		"CLUSTERDOWN": "the cluster does not serve all slots: start the masters that are missing, or let their replicas take over",
	} {
		if redis.HasErrorPrefix(err, code) {
			return text, false
		}
	}
	switch {
	case redis.HasErrorPrefix(err, "NOAUTH"):
		return "it wants a user and a password: put them into " + strings.TrimPrefix(who, "the user or the password of "), true
	case redis.HasErrorPrefix(err, "WRONGPASS"):
		return "it refuses " + who + ": mend them there, or on the server (ACL SETUSER)", true
	case redis.HasErrorPrefix(err, "DB index is out of range"):
		return "it has no database of that number: correct the number behind the last / of redis:, or raise databases on the server", true
	case redis.HasErrorPrefix(err, "This instance has cluster support disabled"):
		return "it is no cluster: write redis:// in place of redis-cluster:// (rediss:// with TLS)", true
	case redis.HasErrorPrefix(err, "SELECT is not allowed in cluster mode"):
		return "it is a cluster, which has one database: write redis-cluster:// in place of redis://, without a number", true
	case redis.HasErrorPrefix(err, "MOVED"), redis.HasErrorPrefix(err, "CROSSSLOT"):
		return "it is part of a cluster: write redis-cluster:// in place of redis:// (redis-cluster://HOST:PORT?tls=true with TLS)", true
	case redis.HasErrorPrefix(err, "AUTH <password> called"):
		return "it has no password, and the URL gives one: leave it out, or set it on the server (ACL SETUSER)", true
	}
	return "", false
}

// unanswered is what to do where no answer came; alone if nothing more needs to be said.
func (s *Store) unanswered(err error) (text string, alone bool) {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var certificate x509.CertificateInvalidError
	var alert tls.AlertError
	var record tls.RecordHeaderError
	var network net.Error
	var resolving *net.DNSError
	switch {
	case errors.As(err, &authority):
		return "name the file with the certificate of its CA (redis_tls)", false
	case errors.As(err, &name), errors.As(err, &certificate):
		return "its certificate is not good for this address or this time: replace it, or correct the address", false
	case errors.As(err, &record):
		return "what answers there speaks no TLS: correct the port, or write redis:// in place of rediss:// (and leave out ?tls=true)", false
	case errors.As(err, &alert):
		return "it ends the TLS handshake: it may want a client's certificate (redis_tls: cert_file, key_file), or another version of TLS", false
	case errors.As(err, &resolving), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return fmt.Sprintf("it can't be reached (%s): start it, or correct redis: in the configuration", strings.Join(s.target.addrs, ", ")), false
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		text := "it does not answer in time: it hangs, is overloaded, or the network on the way drops what is sent"
		if s.target.tls {
			text += "; or this port speaks no TLS (then write redis:// or leave out ?tls=true)"
		}
		return text, true
	case !s.target.tls && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)):
		return "it closes the connection: if this port speaks TLS, write rediss:// (or ?tls=true); else look into its log", false
	}
	return "", false
}
