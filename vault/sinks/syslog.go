package sinks

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// logAudit is facility 13 (log audit), severity 6 (informational), as RFC 5424 counts.
const logAudit = 13*8 + 6

// Syslog sends lines as messages of RFC 5424, one each: a datagram, or on a stream with its length before it (RFC 6587, octet counting).
// Syslog acknowledges nothing: without an error the system has taken the messages for sending, and whoever is to receive them may
// still lose them. It is safe for concurrent use.
type Syslog struct {
	network, address string
	from             string // host, program and process, as the header has them

	turn chan struct{} // holds a value while somebody sends; what is below is his
	conn net.Conn
	gone chan struct{} // closed when the other side of a stream has ended it
}

// NewSyslog makes one. network is "udp", "tcp" or "unix"; a Unix socket may be of datagrams or a stream. It dials with the first line.
func NewSyslog(network, address string) *Syslog {
	host, err := os.Hostname()
	if host = headerText(host, 255); err != nil {
		host = "-"
	}
	return &Syslog{network: network, address: address, from: host + " tokenbroker " + strconv.Itoa(os.Getpid()), turn: make(chan struct{}, 1)}
}

// Name is for operators.
func (s *Syslog) Name() string {
	if s.network == "unix" {
		return "syslog on a unix socket"
	}
	return "syslog " + s.network + " " + s.address
}

// Append sends lines that are events. After an error some may have been sent.
func (s *Syslog) Append(ctx context.Context, lines [][]byte) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return fmt.Errorf("send to %s: a message before it hangs: %w", s.Name(), ctx.Err())
	}
	if err := s.send(ctx, lines); err != nil {
		s.hangUp()
		return fmt.Errorf("send to %s: %w", s.Name(), withoutAddress(err))
	}
	return nil
}

func (s *Syslog) send(ctx context.Context, lines [][]byte) error {
	if err := s.dial(ctx); err != nil {
		return err
	}
	until, _ := ctx.Deadline()
	if err := s.conn.SetWriteDeadline(until); err != nil {
		return err
	}
	var b []byte
	for _, line := range lines {
		m := s.message(line)
		if s.gone == nil { // a datagram
			if _, err := s.conn.Write(m); err != nil {
				return err
			}
			continue
		}
		b = append(append(strconv.AppendInt(b, int64(len(m)), 10), ' '), m...)
	}
	if len(b) == 0 {
		return nil
	}
	_, err := s.conn.Write(b)
	return err
}

// dial makes a connection where there is none that is good.
func (s *Syslog) dial(ctx context.Context) (err error) {
	if s.conn != nil {
		select {
		case <-s.gone: // nil for datagrams, which have no end
			s.hangUp()
		default:
			return nil
		}
	}
	var d net.Dialer
	stream := s.network != "udp"
	if s.network == "unix" {
		if s.conn, err = d.DialContext(ctx, "unixgram", s.address); err == nil {
			return nil
		}
	}
	if s.conn, err = d.DialContext(ctx, s.network, s.address); err != nil {
		s.conn = nil
		return err
	}
	if stream {
		gone, conn := make(chan struct{}), s.conn
		s.gone = gone
		go func() { // ends with the connection, for which hangUp waits
			_, _ = io.Copy(io.Discard, conn) // nobody says anything here: it ends when the other side has ended it
			close(gone)
		}()
	}
	return nil
}

func (s *Syslog) hangUp() {
	if s.conn != nil {
		_ = s.conn.Close()
	}
	if s.gone != nil {
		<-s.gone
	}
	s.conn, s.gone = nil, nil
}

// told is what of an event's line goes into headers too.
type told struct {
	Time  time.Time `json:"time"`
	Type  string    `json:"type"`
	Trace string    `json:"trace_id"`
}

func (s *Syslog) message(line []byte) []byte {
	var of told
	at, kind := "-", "-"
	if json.Unmarshal(line, &of) == nil {
		at, kind = of.Time.UTC().Format("2006-01-02T15:04:05.000Z"), headerText(of.Type, 32)
	}
	return append(fmt.Appendf(nil, "<%d>1 %s %s %s - ", logAudit, at, s.from, kind), line...)
}

// headerText is the text as a field of the header may be: printable ASCII without spaces, and not empty.
func headerText(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, text)
	if text == "" {
		return "-"
	}
	return text[:min(len(text), most)]
}

// withoutAddress is the error without the path of a socket, which is the machine's own business.
func withoutAddress(err error) error {
	if op, ok := err.(*net.OpError); ok {
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return err
}

// Close ends the connection, when a message that is under way has ended.
func (s *Syslog) Close() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.hangUp()
	return nil
}
