package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// NoticeService takes what providers send by themselves; *broker.Service satisfies it.
type NoticeService interface {
	// HandleNotice verifies a notice and looks at the grants that it is about. Errors: broker.ErrNoNotices,
	// broker.ErrNoticeRefused; anything else means that the provider should send it again.
	HandleNotice(ctx context.Context, connector string, req broker.NoticeRequest) (broker.Notice, error)
}

// Notices answers the providers' notices. They have no API key: each is signed, or refused.
type Notices struct {
	Service   NoticeService
	PublicURL string
	Now       func() time.Time
	Log       *slog.Logger
}

const (
	noticesPath  = "/notices/"
	callbackPath = "/oauth2/callback/"
	// maxNotice bounds a notice, in bytes.
	maxNotice = 256 << 10
	// noticeTimeout bounds reading and verifying one: providers wait three to five seconds.
	noticeTimeout = 5 * time.Second
)

// Register adds the addresses of notices to e.
func (n *Notices) Register(e *echo.Echo) {
	// Pipedrive sends its notices as DELETE to the redirect URI; a browser never sends one.
	e.Pre(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if u := c.Request().URL; c.Request().Method == http.MethodDelete && u.RawPath == "" {
				if connector, ok := strings.CutPrefix(u.Path, callbackPath); ok {
					u.Path = noticesPath + connector
				}
			}
			return next(c)
		}
	})
	e.POST(noticesPath+":connector", n.take)
	e.DELETE(noticesPath+":connector", n.take)
}

func (n *Notices) take(c echo.Context) error {
	r, w := c.Request(), c.Response()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	ctx, cancel := context.WithTimeout(r.Context(), noticeTimeout)
	defer cancel()
	// A deadline for whoever sends byte by byte; where the connection has none, the server's own counts.
	_ = http.NewResponseController(w).SetReadDeadline(n.Now().Add(noticeTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxNotice))
	if err != nil {
		var big *http.MaxBytesError
		if errors.As(err, &big) {
			return c.NoContent(http.StatusRequestEntityTooLarge)
		}
		return c.NoContent(http.StatusBadRequest)
	}
	connector := c.Param("connector")
	notice, err := n.Service.HandleNotice(ctx, connector, broker.NoticeRequest{
		Method: r.Method, URL: n.PublicURL + noticesPath + connector, Header: r.Header.Get, Body: body,
	})
	switch {
	case errors.Is(err, broker.ErrNoNotices):
		return c.NoContent(http.StatusNotFound)
	case errors.Is(err, broker.ErrNoticeRefused):
		n.Log.WarnContext(ctx, "a notice was refused: is notice_secret the one that the provider signs with?", "connector", connector, "error", err)
		return c.NoContent(http.StatusUnauthorized)
	case err != nil:
		n.Log.WarnContext(ctx, "a notice could not be handled; the provider sends it again", "connector", connector, "error", err)
		w.Header().Set("Retry-After", "5")
		return c.NoContent(http.StatusServiceUnavailable)
	case len(notice.Answer) > 0:
		return c.JSONBlob(notice.Status, notice.Answer)
	}
	return c.NoContent(notice.Status)
}
