package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// handler answers one call. It gets a caller that is authenticated and a query whose names are all known.
type handler func(ctx context.Context, in *request) (answer, error)

// answer is a success: a status and what is encoded as its JSON body; nil with 204.
type answer struct {
	status int
	body   any
	text   []byte // the body where it is encoded already
}

func ok(body any) (answer, error) { return answer{status: http.StatusOK, body: body}, nil }

// route is one call: a method, a path in the router's notation and the query parameters that it takes.
type route struct {
	method string
	path   string
	query  []string
	handle handler
	// stays: the call is let through for a client that is disabled. It ends access, or its use case looks by itself.
	stays bool
	// completes: the call ends what a user has agreed to already, so it is refused last (broker.Service.AdmitCompletion).
	completes bool
	// pattern is method and path, for logs and spans.
	pattern string
}

// routes finds the route for a request. It wraps echo's router and uses nothing else of echo.
type routes struct {
	echo  *echo.Echo
	table map[string]*route // by method and path
	// exact are those whose path has no parameters, by path and method: such a path fits no other route.
	exact map[string]map[string]*route
}

func newRoutes(table []route) routes {
	r := routes{echo: echo.New(), table: make(map[string]*route, len(table)), exact: map[string]map[string]*route{}}
	unused := func(echo.Context) error { return echo.ErrNotFound }
	for _, entry := range table {
		r.echo.Add(entry.method, entry.path, unused)
		entry.pattern = entry.method + " " + entry.path
		r.table[entry.pattern] = &entry
		if !strings.Contains(entry.path, ":") {
			if r.exact[entry.path] == nil {
				r.exact[entry.path] = map[string]*route{}
			}
			r.exact[entry.path][entry.method] = &entry
		}
	}
	return r
}

// match is what routing found.
type match struct {
	route *route
	path  string // the template, whatever the method; "" when no path fits
	allow string // the methods of the path, where the method is none of them
	names []string
	vals  []string // still percent-encoded
}

// find looks for the route of a method and a path that is still percent-encoded, so that %2F in a subject is not a
// separator and each value is decoded exactly once, by request.param.
func (r routes) find(method, escapedPath string) match {
	if found := r.exact[escapedPath][method]; found != nil {
		return match{route: found, path: found.path}
	}
	c := r.echo.AcquireContext()
	defer r.echo.ReleaseContext(c)
	c.Reset(nil, nil)
	r.echo.Router().Find(method, escapedPath, c)
	m := match{path: c.Path()}
	if found := r.table[method+" "+m.path]; found != nil {
		m.route = found
		m.names = append(m.names, c.ParamNames()...)
		m.vals = append(m.vals, c.ParamValues()...)
		return m
	}
	// The router puts OPTIONS first and answers it by itself; here it is a method like any other, as the API is not for
	// browsers.
	allow, _ := c.Get(echo.ContextKeyHeaderAllow).(string)
	m.allow = strings.TrimPrefix(allow, http.MethodOptions+", ")
	return m
}

// check turns a match without a route into its error.
func (m match) check() error {
	switch {
	case m.route != nil:
		return nil
	case m.allow != "":
		return &refusal{
			status: http.StatusMethodNotAllowed,
			header: http.Header{"Allow": {m.allow}},
			err:    broker.Errorf(broker.CodeInvalidRequest, "this path does not take this method; use %s", m.allow),
		}
	default:
		return broker.Errorf(broker.CodeNotFound, "there is no such path; openapi.yaml lists all of them")
	}
}

// unmatched is the route in logs and spans of what fits no path.
const unmatched = "unmatched"

func (m match) template() string {
	if m.path == "" {
		return unmatched
	}
	return m.path
}

// param returns the decoded value of a path parameter.
func (m match) param(name string) string {
	for i, n := range m.names {
		if n == name && i < len(m.vals) {
			return m.vals[i]
		}
	}
	return ""
}
