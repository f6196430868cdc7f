package demo

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"tokenbroker/broker"
)

//go:embed static templates
var assets embed.FS

// Config is what a Demo needs. All fields without a default are required.
type Config struct {
	// PublicURL is the demo's own origin, BrokerURL the broker's and FilesURL that of the files API (which serves /files):
	// scheme and host.
	PublicURL string
	BrokerURL string
	FilesURL  string
	// APIKey of the client as which the demo calls the broker.
	APIKey broker.Secret
	// Connector that gives access to the files API.
	Connector string
	// ReadScope and WriteScope of the files API. Default files.read and files.write.
	ReadScope  string
	WriteScope string
	// Users to choose from. Default alice and bob.
	Users []User

	// HTTPClient calls the broker and the files API. Default: a client of its own; every call has a deadline in any case.
	HTTPClient *http.Client
	Now        func() time.Time
	Random     io.Reader
	Log        *slog.Logger
}

// User is somebody who can chat. Subject is the id under which the broker knows them.
type User struct {
	Subject string
	Name    string
}

// How long calls may take. A token may have to wait for the provider, and the broker gives that one 35 s.
const (
	tokenTimeout = 60 * time.Second
	callTimeout  = 10 * time.Second
	eventTimeout = 2 * time.Second
)

// Demo is the chat platform: an http.Handler.
type Demo struct {
	cfg      Config
	handler  http.Handler
	pages    *template.Template
	platform *platform
	sessions *sessions
	feed     *feed
	host     string
}

// New checks the config and makes a Demo.
func New(cfg Config) (*Demo, error) {
	for name, address := range map[string]*string{"PublicURL": &cfg.PublicURL, "BrokerURL": &cfg.BrokerURL, "FilesURL": &cfg.FilesURL} {
		u, err := url.Parse(*address)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") != "" {
			return nil, fmt.Errorf("demo: %s must be scheme://host[:port]", name)
		}
		*address = u.Scheme + "://" + u.Host
	}
	if cfg.APIKey.IsZero() || cfg.Connector == "" || cfg.Now == nil || cfg.Random == nil || cfg.Log == nil {
		return nil, errors.New("demo: APIKey, Connector, Now, Random and Log are required")
	}
	if cfg.ReadScope == "" {
		cfg.ReadScope = "files.read"
	}
	if cfg.WriteScope == "" {
		cfg.WriteScope = "files.write"
	}
	if cfg.Users == nil {
		cfg.Users = []User{{"alice", "Alice"}, {"bob", "Bob"}}
	}
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = &http.Client{
			Transport:     &http.Transport{MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	d := &Demo{cfg: cfg, sessions: newSessions(cfg)}
	d.platform = &platform{cfg: cfg}
	d.feed = newFeed(cfg, d.platform)
	u, _ := url.Parse(cfg.PublicURL)
	d.host = u.Host
	var err error
	d.pages, err = template.New("").Funcs(template.FuncMap{
		"clock": func(t time.Time) string { return t.Local().Format("15:04:05") },
		"bytes": sizeWords,
		"left":  func(until time.Time) string { return left(cfg.Now(), until) },
		"join":  func(words []string) string { return strings.Join(words, " ") },
		"initial": func(name string) string {
			for _, r := range name {
				return string(r)
			}
			return ""
		},
	}).ParseFS(assets, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("demo: read templates: %w", err)
	}
	d.handler = d.routes()
	return d, nil
}

func (d *Demo) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /{$}", d.home)
	m.HandleFunc("POST /session", d.signIn)
	m.HandleFunc("POST /session/leave", d.signOut)
	m.HandleFunc("POST /messages", d.withSession(d.say))
	m.HandleFunc("POST /binding", d.withSession(d.setBinding))
	m.HandleFunc("POST /account", d.withSession(d.chooseAccount))
	m.HandleFunc("POST /code", d.withSession(d.enterCode))
	m.HandleFunc("POST /again", d.withSession(d.askAgain))
	m.HandleFunc("POST /replace", d.withSession(d.replaceAccount))
	m.HandleFunc("POST /forward", d.withSession(d.forward))
	m.HandleFunc("POST /connections", d.withSession(d.myConnections))
	m.HandleFunc("GET "+portalPath, d.portalReturned)
	m.HandleFunc("GET /updates", d.withSession(d.updates))
	m.HandleFunc("GET /done", d.consentReturned)
	m.HandleFunc("GET /finished", d.withSession(d.finished))
	m.Handle("GET /static/", http.FileServerFS(assets))
	// The session cookie is SameSite=Lax and every change a POST; this closes what those leave open.
	return http.NewCrossOriginProtection().Handler(m)
}

// ServeHTTP answers one request.
func (d *Demo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "+
		"base-uri 'none'; form-action 'self' "+d.cfg.BrokerURL+"; frame-ancestors 'none'") // "My connections" leads there
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	if r.Host != d.host { // a page of elsewhere whose name points here (DNS rebinding)
		http.Error(w, "this is "+d.cfg.PublicURL, http.StatusMisdirectedRequest)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	d.handler.ServeHTTP(w, r)
}

// render writes a page.
func (d *Demo) render(w http.ResponseWriter, status int, name string, data any) {
	html, err := d.fragment(name, data)
	if err != nil {
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, html)
}

func (d *Demo) fragment(name string, data any) (string, error) {
	var b bytes.Buffer
	if err := d.pages.ExecuteTemplate(&b, name, data); err != nil {
		d.cfg.Log.Error("make page", "page", name, "error", err)
		return "", err
	}
	return b.String(), nil
}

// changed ends a POST: the script wants nothing more and asks for updates, a page without script is shown anew.
func changed(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Accept") == "application/json" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func sizeWords(n int) string {
	if n < 1024 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f KB", float64(n)/1024)
}
