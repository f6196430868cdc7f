package web

import (
	"bytes"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

const (
	// latePatience is how long a page waits for its answer before its beginning is sent alone.
	latePatience = 100 * time.Millisecond
	// lateMark parts a page: what is before it does not depend on the answer.
	lateMark = `<hr class="late" hidden>`
)

// renderLate answers with a page of which the part behind the template "late" takes its time: fill gets what that part shows. The
// part before is sent first, so that whoever asks sees that something is under way. An error that comes in time makes the page that
// every error makes; one that comes later is said where the answer would have been.
func (w *Web) renderLate(c echo.Context, page string, data any, fill func() error) error {
	var begun bytes.Buffer // before fill changes data
	if err := w.pages[page].ExecuteTemplate(&begun, "layout.html", data); err != nil {
		return fmt.Errorf("render page %s: %w", page, err)
	}
	first, _, parted := bytes.Cut(begun.Bytes(), []byte(lateMark))
	if !parted {
		return fmt.Errorf("render page %s: nothing of it comes late", page)
	}
	filled := make(chan error, 1)
	go func() { filled <- w.filled(c, fill) }()
	patience := time.NewTimer(latePatience)
	defer patience.Stop()
	select {
	case err := <-filled:
		if err != nil {
			return err
		}
		return w.render(c, http.StatusOK, page, data)
	case <-patience.C:
	}
	response := c.Response()
	response.Header().Set(echo.HeaderContentType, echo.MIMETextHTMLCharsetUTF8)
	response.WriteHeader(http.StatusOK)
	_, sent := response.Write(first)
	if sent == nil {
		response.Flush()
	}
	err := <-filled // also where nobody reads any more: the goroutine is ours
	if sent != nil {
		return nil
	}
	if err != nil {
		w.cfg.Log.ErrorContext(c.Request().Context(), "page failed behind its beginning", "route", c.Path(), "code", string(broker.CodeOf(err)), "error", err)
		_, _ = response.Write([]byte(`<p class="alert" role="alert">This could not be read to its end. Load the page anew in a moment.</p></main></body></html>`))
		return nil
	}
	var whole bytes.Buffer
	if err := w.pages[page].ExecuteTemplate(&whole, "layout.html", data); err != nil {
		return fmt.Errorf("render page %s: %w", page, err)
	}
	_, rest, _ := bytes.Cut(whole.Bytes(), []byte(lateMark))
	_, _ = response.Write(rest)
	return nil
}

// filled calls fill; a panic in it becomes an error, as one in the handler itself becomes a page.
func (w *Web) filled(c echo.Context, fill func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.cfg.Log.ErrorContext(c.Request().Context(), "page panicked", "route", c.Path(), "type", fmt.Sprintf("%T", p))
			err = broker.Errorf(broker.CodeServerError, "the page panicked")
		}
	}()
	return fill()
}
