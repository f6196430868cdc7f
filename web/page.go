package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"strings"

	"github.com/labstack/echo/v4"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed static
var staticFiles embed.FS

// pages are the parsed templates, each with the layout around it.
type pages map[string]*template.Template

// loadPages parses all templates, so that a broken one is found at start.
func loadPages(a assets) (pages, error) {
	layout, err := template.New("layout.html").Funcs(template.FuncMap{
		"asset": a.address,
		"permissions": func(page speaker, groups []permissionGroup, isNew bool) permissionList {
			return permissionList{page, groups, isNew}
		},
		"whose": func(label template.HTML, account *accountView) labelled { return labelled{label, account} },
	}).ParseFS(templateFiles, "templates/layout.html", "templates/icons.html", "templates/permissions.html", "templates/board.html", "templates/board-chart.html")
	if err != nil {
		return nil, fmt.Errorf("parse layout: %w", err)
	}
	p := pages{}
	for _, name := range []string{"consent", "finish", "message", "board-message", "login", "off", "board-overview", "board-health", "board-accounts", "board-account", "board-account-ask", "board-account-link", "portal-link", "portal-wait", "portal", "portal-ask", "portal-end", "board-onward", "board-signin", "board-session", "board-operators", "board-switches", "board-switch-ask", "board-audit", "board-audit-reach", "board-audit-verify", "board-jobs", "board-job", "board-job-ask", "board-revoke-all"} {
		t, err := layout.Clone()
		if err == nil {
			t, err = t.ParseFS(templateFiles, "templates/"+name+".html")
		}
		if err != nil {
			return nil, fmt.Errorf("parse page %s: %w", name, err)
		}
		p[name] = t
	}
	return p, nil
}

// render answers with a page. It is made whole first, so that an error on the way never leaves half of one.
func (w *Web) render(c echo.Context, status int, page string, data any) error {
	var b bytes.Buffer
	if err := w.pages[page].ExecuteTemplate(&b, "layout.html", data); err != nil {
		return fmt.Errorf("render page %s: %w", page, err)
	}
	return c.HTMLBlob(status, b.Bytes())
}

// assets are the files beside the pages, by name.
type assets map[string]asset

type asset struct {
	body        []byte
	contentType string
	version     string // a part of the digest: the address changes with the content
}

func loadAssets() (assets, error) {
	entries, err := staticFiles.ReadDir("static")
	if err != nil {
		return nil, fmt.Errorf("list static files: %w", err)
	}
	types := map[string]string{
		".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
	}
	a := assets{}
	for _, e := range entries {
		body, err := staticFiles.ReadFile("static/" + e.Name())
		if err != nil {
			return nil, fmt.Errorf("read static file: %w", err)
		}
		kind, ok := types[path.Ext(e.Name())]
		if !ok {
			return nil, fmt.Errorf("static file %s has no content type", e.Name())
		}
		sum := sha256.Sum256(body)
		a[e.Name()] = asset{body: body, contentType: kind, version: hex.EncodeToString(sum[:6])}
	}
	return a, nil
}

// address is where a page finds the file. An unknown name is an error of the template, found by every test that
// renders it.
func (a assets) address(name string) (string, error) {
	f, ok := a[name]
	if !ok {
		return "", fmt.Errorf("no static file %s", name)
	}
	return "/static/" + name + "?v=" + f.version, nil
}

// asset is GET /static/FILE. Under its versioned address a file may be kept for good.
func (w *Web) asset(c echo.Context) error {
	f, ok := w.assets[c.Param("file")]
	if !ok {
		return w.show(c, areaStatic, noSuchPage)
	}
	h := c.Response().Header()
	h.Set("Cache-Control", "no-cache")
	if c.QueryParam("v") == f.version {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	h.Set("ETag", `"`+f.version+`"`)
	if strings.Contains(c.Request().Header.Get("If-None-Match"), `"`+f.version+`"`) {
		return c.NoContent(http.StatusNotModified)
	}
	return c.Blob(http.StatusOK, f.contentType, f.body)
}
