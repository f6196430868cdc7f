package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// Some pages stay up to date while they are open: a stream of server-sent events brings the moving part whenever that has changed. Each turn asks for the session and the permission again, and does not count as using the session: a page
// that nobody looks at must not keep anybody signed in.

const (
	liveEvery = 3 * time.Second
	// liveLife is how long a stream lasts: the page asks for another one then.
	liveLife = 15 * time.Minute
	// liveStreams are as many as a process serves, liveEach those of one operator.
	liveStreams, liveEach = 128, 12
	// liveWrite bounds one turn, the sending included: a browser that does not read ends its stream.
	liveWrite = 15 * time.Second
)

// liveStream counts the streams that are open, and ends them.
type liveStream struct {
	mu   sync.Mutex
	open int
	each map[string]int

	serving context.Context // until the process is told to end
	over    func()
}

func newLiveStream() *liveStream {
	l := &liveStream{each: map[string]int{}}
	l.serving, l.over = context.WithCancel(context.Background())
	return l
}

func (l *liveStream) enter(operator string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.serving.Err() != nil || l.open >= liveStreams || l.each[operator] >= liveEach {
		return false
	}
	l.open++
	l.each[operator]++
	return true
}

func (l *liveStream) leave(operator string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.each[operator]--; l.each[operator] <= 0 {
		delete(l.each, operator)
	}
}

// EndLive ends all streams of the dashboard and all exports, and lets none begin: before a shutdown, which would wait for them, in the
// time that refreshes under way may need. The pages say that they are no longer up to date, and come again elsewhere; an export that
// broke off shows as one.
func (w *Web) EndLive() { w.streams.over() }

// whileServing is ctx, which ends with EndLive too.
func (l *liveStream) whileServing(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	unbind := context.AfterFunc(l.serving, cancel)
	return ctx, func() { unbind(); cancel() }
}

// liveLook looks once at what a stream shows; again: the page is open already, and its first look is on record where looks are.
type liveLook func(ctx context.Context, op broker.Operator, again bool) (liveTurn, error)

// liveTurn is what was seen: the data of the template part of page, without the time of day, which is at.
type liveTurn struct {
	page, part string
	view       any
	at         moment
	ended      bool // nothing more becomes of it
}

// live answers with a stream for whoever has the permission somewhere; begin reads what is asked for. It is no page, so it asks for
// session and permission without counting as use of the session.
func (w *Web) live(p broker.Permission, begin func(c echo.Context, b *board) (liveLook, error)) handler {
	return func(c echo.Context) error {
		if w.sessions == nil {
			return w.dashboardOff(c)
		}
		asking, stop := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
		defer stop()
		session, err := w.sessions.peek(c.Request().WithContext(asking))
		if err != nil {
			return err
		}
		op, ok := w.operator(c, session)
		switch {
		case !ok, w.stale(session):
			return w.askToSignIn(c)
		case !op.MaySomewhere(p):
			return broker.Errorf(broker.CodeAccessDenied, "your role does not allow this page")
		}
		look, err := begin(c, w.board(c, asking, session, op))
		if err != nil {
			return err
		}
		if !w.streams.enter(op.ID) {
			return &broker.Error{Code: broker.CodeSlowDown, Description: "too many pages are open", RetryAfter: time.Minute, Cause: errGuessing}
		}
		defer w.streams.leave(op.ID)
		// A look of its own: whoever asks for the stream need not have seen the page.
		turn, err := look(asking, op, false)
		if err != nil {
			return err
		}
		return w.stream(c, look, turn)
	}
}

// stream sends that turn, and others every few seconds.
func (w *Web) stream(c echo.Context, look liveLook, turn liveTurn) error {
	h := c.Response().Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("X-Accel-Buffering", "no") // proxies of the nginx family would keep it back
	c.Response().WriteHeader(http.StatusOK)
	s := &liveTurns{w: w, c: c, control: http.NewResponseController(c.Response())}
	ctx, cancel := context.WithTimeout(c.Request().Context(), liveLife)
	defer cancel()
	if err := s.send("hello", "", liveEvery); err != nil {
		return nil // whoever asked is gone
	}
	ticker := time.NewTicker(liveEvery)
	defer ticker.Stop()
	for {
		if err := s.show(turn); err != nil {
			return s.end(ctx, err)
		}
		if turn.ended {
			_ = s.send("ended", "", 0)
			return nil
		}
		if !strings.Contains(c.Request().Header.Get("Accept"), "text/event-stream") {
			return nil // no browser's EventSource: what a stream begins with is all that it gets
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.streams.serving.Done():
			return nil
		case <-ticker.C:
		}
		var err error
		if turn, err = s.look(ctx, look); err != nil {
			return s.end(ctx, err)
		}
	}
}

// liveOverview is GET /dashboard/live.
func (w *Web) liveOverview(c echo.Context, b *board) (liveLook, error) {
	page, err := w.overviewPage(c, b)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, op broker.Operator, again bool) (liveTurn, error) {
		ask := w.cfg.Service.Overview
		if again {
			ask = w.cfg.Service.OverviewAgain
		}
		o, err := ask(ctx, op, page.Tenant, broker.Span(page.Span))
		if err != nil {
			return liveTurn{}, err
		}
		view := w.overviewView(op, o)
		turn := liveTurn{page: "board-overview", part: "overview-live", at: view.At}
		view.At = moment{}
		turn.view = view
		return turn, nil
	}, nil
}

// liveTurns is one stream.
type liveTurns struct {
	w       *Web
	c       echo.Context
	control *http.ResponseController
	shown   uint64 // a digest of what was sent last
}

// errSignedOut ends a stream whose session is over.
var errSignedOut = errors.New("the session is over")

// errStale ends a stream whose operator's groups must be asked for anew: that takes a page.
var errStale = errors.New("the groups are to be looked up anew")

// look is a turn: who asks is looked at first.
func (s *liveTurns) look(ctx context.Context, look liveLook) (liveTurn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.w.cfg.PageTimeout)
	defer cancel()
	session, err := s.w.sessions.peek(s.c.Request().WithContext(ctx))
	if err != nil {
		return liveTurn{}, err
	}
	op, ok := s.w.operator(s.c, session)
	if !ok {
		return liveTurn{}, errSignedOut
	}
	if s.w.stale(session) {
		return liveTurn{}, errStale
	}
	return look(ctx, op, true)
}

// show sends the part anew if it differs from what was sent last in more than the time of day, else just that.
func (s *liveTurns) show(turn liveTurn) error {
	var part bytes.Buffer
	if err := s.w.pages[turn.page].ExecuteTemplate(&part, turn.part, turn.view); err != nil {
		return fmt.Errorf("render %s: %w", turn.part, err)
	}
	digest := fnv.New64a()
	_, _ = digest.Write(part.Bytes())
	if sum := digest.Sum64(); sum != s.shown {
		s.shown = sum
		if err := s.send("part", part.String(), 0); err != nil {
			return err
		}
	}
	return s.send("at", turn.at.Shown, 0)
}

// send writes an event, and how long to wait before asking again when the stream breaks.
func (s *liveTurns) send(event, data string, retry time.Duration) error {
	// The network's, so it is on the real clock; a writer without deadlines is a test's.
	_ = s.control.SetWriteDeadline(time.Now().Add(liveWrite))
	var text strings.Builder
	if retry > 0 {
		fmt.Fprintf(&text, "retry: %d\n", retry.Milliseconds())
	}
	fmt.Fprintf(&text, "event: %s\n", event)
	for line := range strings.SplitSeq(data, "\n") {
		fmt.Fprintf(&text, "data: %s\n", strings.TrimSuffix(line, "\r"))
	}
	text.WriteString("\n")
	if _, err := s.c.Response().Write([]byte(text.String())); err != nil {
		return errGone
	}
	if err := s.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errGone
	}
	return nil
}

// errGone ends a stream that nobody reads.
var errGone = errors.New("the browser is gone")

// end tells the page why, where it can't find out by coming again.
func (s *liveTurns) end(ctx context.Context, err error) error {
	if errors.Is(err, errGone) || ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, errStale) {
		_ = s.send("stale", "", 0)
		return nil
	}
	if code := broker.CodeOf(err); errors.Is(err, errSignedOut) || code == broker.CodeAccessDenied || code == broker.CodeNotFound {
		_ = s.send("over", "", 0)
		return nil
	}
	s.w.cfg.Log.WarnContext(ctx, "a live page of the dashboard ended", "error", err)
	return nil // the page comes again
}
