package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"tokenbroker/broker"
)

const (
	// maxWait is how long a call may wait for another status, in seconds.
	maxWait = 60
	// maxStream bounds a stream of events: longer than any consent may take.
	maxStream = time.Hour
	// eventPatience bounds the writing of one event: a caller that takes nothing any more has gone.
	eventPatience = 10 * time.Second
)

// statuses are those of a consent.
var statuses = []broker.ConsentStatus{
	broker.ConsentPending, broker.ConsentStarted, broker.ConsentAwaitingCompletion, broker.ConsentCompleted, broker.ConsentDenied, broker.ConsentFailed, broker.ConsentExpired,
}

// status returns the status that a text names; false: none.
func status(text string) (broker.ConsentStatus, bool) {
	for _, s := range statuses {
		if string(s) == text {
			return s, true
		}
	}
	return "", false
}

// waitFor reads what a call waits for: another status than that one, for that long.
func (in *request) waitFor(f *fields) (known broker.ConsentStatus, wait time.Duration) {
	if text, given := in.query["wait"]; given {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > maxWait {
			f.refuse("wait must be an integer from 0 to %d, in seconds", maxWait)
		}
		wait = time.Duration(n) * time.Second
	}
	if text, given := in.query["status"]; given {
		if known, given = status(text); !given {
			f.refuse("status must be the status that you know: one of %v", statuses)
		}
	}
	return known, wait
}

// writeUntil gives the answer that much time from now, whatever the server gives to others. It is the network's, so it is on the
// real clock. A writer that knows no deadlines is a test's.
func (in *request) writeUntil(d time.Duration) {
	_ = http.NewResponseController(in.writer).SetWriteDeadline(time.Now().Add(d))
}

// consentEvents streams the status of a consent as server-sent events (HTML, section "Server-sent events"): one at once, one
// with each change, and the end of the stream with the end of the consent. An event's id is its status, so that whoever comes
// again with Last-Event-ID, to whichever replica, hears what is new since; one who has heard the end is told by 204 not to come
// again.
func (a *API) consentEvents(_ context.Context, in *request) (answer, error) {
	id, err := in.pathID("consent")
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(in.http.Context(), maxStream)
	defer cancel()
	known, _ := status(in.http.Header.Get("Last-Event-ID")) // what is none of ours tells nothing
	err = a.cfg.Service.FollowConsent(ctx, in.caller, id, broker.Following{
		Known: known, Every: a.cfg.Heartbeat,
		Tell: func(view broker.ConsentView) error {
			data, err := encode(showConsent(view))
			if err != nil {
				return fmt.Errorf("encode event: %w", err)
			}
			return in.event("id: %s\nevent: status\ndata: %s\n\n", view.Status, data)
		},
		Still: func() error { return in.event(": still here\n\n") },
	})
	if in.began != 0 {
		return answer{}, nil // an error by now is that the caller has gone
	}
	return answer{status: http.StatusNoContent}, err
}

// event writes a part of the stream; the first one begins it.
func (in *request) event(format string, args ...any) error {
	var b bytes.Buffer
	in.writeUntil(eventPatience)
	if in.began == 0 {
		header := in.header("text/event-stream")
		header.Set("X-Accel-Buffering", "no") // proxies that know it hand on each event at once
		in.began = http.StatusOK
		in.writer.WriteHeader(in.began)
		b.WriteString("retry: 1000\n\n") // milliseconds
	}
	fmt.Fprintf(&b, format, args...)
	if _, err := in.writer.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	if err := http.NewResponseController(in.writer).Flush(); err != nil {
		return fmt.Errorf("send event: %w", err)
	}
	return nil
}
