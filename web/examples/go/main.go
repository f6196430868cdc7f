// Command go is the backend of a web chat whose users connect an account: it asks the broker for a link, and completes the consent
// when the browser comes back. README.md beside this folder says how to run it.
package main

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"
)

var broker, key, public = os.Getenv("BROKER_URL"), os.Getenv("BROKER_KEY"), os.Getenv("PUBLIC_URL")

// session stands for your own: what your server knows of the browser that sends this cookie.
type session struct {
	user  string
	state string // of the consent that is under way
}

var mu sync.Mutex
var sessions = map[string]*session{}

// login stands for your own login, and believes whatever it is told: replace it.
func login(w http.ResponseWriter, r *http.Request) {
	id := rand.Text()
	mu.Lock()
	defer mu.Unlock()
	sessions[id] = &session{user: r.FormValue("user")}
	http.SetCookie(w, &http.Cookie{Name: "chat", Value: id, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}) // and Secure, with https
}

// current changes the session of the request; the user comes from there and from nowhere else.
func current(r *http.Request, change func(*session)) (session, bool) {
	mu.Lock()
	defer mu.Unlock()
	cookie, err := r.Cookie("chat")
	if err != nil || sessions[cookie.Value] == nil {
		return session{}, false
	}
	was := *sessions[cookie.Value]
	change(sessions[cookie.Value])
	return was, true
}

func link(w http.ResponseWriter, r *http.Request) {
	state := rand.Text()
	s, ok := current(r, func(s *session) { s.state = state })
	if !ok {
		http.Error(w, "log in first", http.StatusUnauthorized)
		return
	}
	var consent struct{ URL string }
	if err := call("/v1/consents", map[string]string{"connector": "files", "subject": s.user, "return_to": public + "/done", "state": state}, &consent); err != nil {
		log.Print(err)
		http.Error(w, "no link can be had now", http.StatusBadGateway)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"url": consent.URL})
}

func done(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s, ok := current(r, func(s *session) { s.state = "" }) // works once, whatever comes of it
	switch {
	case !ok, s.state == "", subtle.ConstantTimeCompare([]byte(s.state), []byte(q.Get("state"))) != 1:
		http.Error(w, "This was not begun here. Nothing was connected.", http.StatusBadRequest)
	case q.Get("code") == "":
		_, _ = w.Write([]byte("Nothing was connected. You can close this window."))
	default:
		err := call("/v1/consents/"+url.PathEscape(q.Get("consent"))+"/complete", map[string]string{"subject": s.user, "code": q.Get("code")}, new(struct{}))
		if err != nil { // subject_mismatch among others: the link was somebody else's
			log.Print(err)
			http.Error(w, "Nothing was connected.", http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte("Connected. You can close this window."))
	}
}

// call asks the broker.
func call(path string, body map[string]string, answer any) error {
	text, _ := json.Marshal(body)
	req, err := http.NewRequest(http.MethodPost, broker+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header = http.Header{"Authorization": {"Bearer " + key}, "Content-Type": {"application/json"}}
	res, err := (&http.Client{Timeout: time.Minute}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		var e struct{ Error string }
		_ = json.NewDecoder(res.Body).Decode(&e)
		return errors.New("broker: " + res.Status + " " + e.Error)
	}
	return json.NewDecoder(res.Body).Decode(answer)
}

func main() {
	http.HandleFunc("POST /login", login)
	http.HandleFunc("POST /link", link)
	http.HandleFunc("GET /done", done)
	http.Handle("GET /", http.FileServer(http.Dir(os.Getenv("PAGES"))))
	server := &http.Server{Addr: "127.0.0.1:" + os.Getenv("LISTEN"), ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServe())
}
