package sandbox

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// The scopes of the files API.
const (
	ScopeFilesRead  = "files.read"
	ScopeFilesWrite = "files.write"
)

const (
	maxFiles    = 100 // a user
	maxFileName = 200
	maxFileSize = 64 << 10
)

// File is one file of a user.
type File struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Size     int       `json:"size"` // bytes
	Modified time.Time `json:"modified"`
	Content  string    `json:"content,omitempty"` // only of a single file
}

// files are the users' files, by sub.
type files struct {
	now func() time.Time

	mu   sync.Mutex
	of   map[string][]File
	next int
}

func newFiles(cfg Config) *files {
	f := &files{now: cfg.Now, of: map[string][]File{}, next: 1}
	for _, u := range cfg.Users {
		for _, sample := range []struct{ name, content string }{
			{"Welcome, " + strings.Fields(u.Name + " ")[0] + ".txt", "These files live in the sandbox. They are gone when it stops."},
			{"Quarterly plan.md", "# Quarterly plan\n\n- ship the broker\n- sleep\n"},
			{"Invoice 2026-10.csv", "item,price\nlicence,120.00\nsupport,80.00\n"},
		} {
			f.add(u.Sub, sample.name, sample.content)
		}
	}
	return f
}

func (f *files) add(sub, name, content string) (File, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.of[sub]) >= maxFiles {
		return File{}, false
	}
	file := File{ID: fmt.Sprintf("file-%d", f.next), Name: name, Size: len(content), Modified: f.now().UTC(), Content: content}
	f.next++
	f.of[sub] = append(f.of[sub], file)
	return file, true
}

func (f *files) list(sub string) []File {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.of[sub])
}

// me tells whose token it is: OpenID Connect's userinfo (Core section 5.3), except that openid is not asked for.
func (s *Server) me(w http.ResponseWriter, r *http.Request) {
	s.stats.add(func(c *Stats) { c.UserinfoCalls++ })
	strikes := s.faults.strike(TargetUserinfo)
	if strikes.run(s, w, Before) {
		return
	}
	sub, ok := s.bearer(w, r, "")
	if !ok || strikes.run(s, w, After) {
		return
	}
	u, _ := s.userBySub(sub)
	about := map[string]any{
		"sub": u.Sub, "name": u.Name, "preferred_username": u.Login, "email": u.Email, "email_verified": true,
	}
	if len(u.Groups) > 0 {
		about["groups"] = u.Groups
	}
	writeJSON(w, http.StatusOK, about)
}

func (s *Server) listFiles(w http.ResponseWriter, r *http.Request) {
	s.fileCall(w, r, ScopeFilesRead, func(sub string) (int, any) {
		list := s.files.list(sub)
		for i := range list {
			list[i].Content = ""
		}
		return http.StatusOK, map[string]any{"files": list}
	})
}

func (s *Server) readFile(w http.ResponseWriter, r *http.Request) {
	s.fileCall(w, r, ScopeFilesRead, func(sub string) (int, any) {
		for _, file := range s.files.list(sub) {
			if file.ID == r.PathValue("id") {
				return http.StatusOK, file
			}
		}
		return http.StatusNotFound, map[string]string{"error": "not_found"}
	})
}

func (s *Server) createFile(w http.ResponseWriter, r *http.Request) {
	s.fileCall(w, r, ScopeFilesWrite, func(sub string) (int, any) {
		var in struct{ Name, Content string }
		body, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(body, &in) != nil {
			return http.StatusBadRequest, map[string]string{"error": "the body must be JSON with name and content"}
		}
		if in.Name == "" || len(in.Name) > maxFileName || len(in.Content) > maxFileSize || !utf8.ValidString(in.Name) {
			return http.StatusBadRequest, map[string]string{"error": "name must have 1 to 200 bytes, content at most 64 KiB"}
		}
		file, ok := s.files.add(sub, in.Name, in.Content)
		if !ok {
			return http.StatusInsufficientStorage, map[string]string{"error": "the sandbox keeps 100 files a user"}
		}
		return http.StatusCreated, file
	})
}

func (s *Server) fileCall(w http.ResponseWriter, r *http.Request, scope string, answer func(sub string) (int, any)) {
	s.stats.add(func(c *Stats) { c.FilesCalls++ })
	strikes := s.faults.strike(TargetFiles)
	if strikes.run(s, w, Before) {
		return
	}
	sub, ok := s.bearer(w, r, scope)
	if !ok {
		return
	}
	status, body := answer(sub)
	if strikes.run(s, w, After) {
		return
	}
	writeJSON(w, status, body)
}

// bearer checks the access token and, where scope is given, that it carries it; refusals are those of RFC 6750 section 3.
// Only the Authorization header is read.
func (s *Server) bearer(w http.ResponseWriter, r *http.Request, scope string) (sub string, ok bool) {
	refuse := func(status int, challenge, code string) (string, bool) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="sandbox"`+challenge)
		writeJSON(w, status, map[string]string{"error": code})
		return "", false
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return refuse(http.StatusUnauthorized, "", "unauthorized")
	}
	sub, scopes, good := s.store.check(token)
	if !good {
		return refuse(http.StatusUnauthorized, `, error="invalid_token"`, "invalid_token")
	}
	if scope != "" && !slices.Contains(scopes, scope) {
		return refuse(http.StatusForbidden, fmt.Sprintf(`, error="insufficient_scope", scope=%q`, scope), "insufficient_scope")
	}
	return sub, true
}
