package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
)

// pageLog gives every page request an id, its route and a line in the log. The API does the same for its own requests,
// which never come here.
type pageLog struct {
	log    *slog.Logger
	random io.Reader
}

type requestIDKey struct{}

// requestID returns the id that the middleware gave to a request.
func requestID(r *http.Request) string {
	id, _ := r.Context().Value(requestIDKey{}).(string)
	return id
}

// middleware logs the route's template, never the path or query: those hold links, states and codes (threats.md, 23).
func (p pageLog) middleware(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := time.Now()
		var raw [16]byte
		if _, err := io.ReadFull(p.random, raw[:]); err != nil {
			return err
		}
		id := base64.RawURLEncoding.EncodeToString(raw[:])
		c.Response().Header().Set("Request-Id", id)

		r, route := c.Request(), c.Path()
		method := "OTHER"
		if r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodPost {
			method = r.Method
		}
		// the telemetry around us reads the pattern after the call for its span and its metrics.
		r.Pattern = method + " " + route
		c.SetRequest(r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id)))
		if err := next(c); err != nil {
			c.Error(err)
		}
		level := slog.LevelInfo
		if strings.HasPrefix(route, "/static/") {
			level = slog.LevelDebug
		}
		p.log.LogAttrs(r.Context(), level, "page",
			slog.String("method", method), slog.String("route", route), slog.Int("status", c.Response().Status),
			slog.Int64("duration_us", time.Since(began).Microseconds()), slog.String("request_id", id))
		return nil
	}
}

// newRouter makes the router without its own ideas of logging, client addresses and error texts.
func newRouter(log *slog.Logger, address func(*http.Request) string) *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.Logger.SetOutput(io.Discard)
	e.IPExtractor = address
	e.HTTPErrorHandler = func(err error, c echo.Context) {
		log.ErrorContext(c.Request().Context(), "request failed", "route", c.Path(), "request_id", requestID(c.Request()), "error", err)
		if !c.Response().Committed {
			_ = c.NoContent(http.StatusInternalServerError)
		}
	}
	e.Use(pageLog{log: log, random: rand.Reader}.middleware)
	return e
}
