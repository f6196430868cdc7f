package reference

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/redis/go-redis/v9"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// Config is what a Server needs.
type Config struct {
	// Redis is HOST:PORT.
	Redis string
	// KeySHA256 is the digest of the one API key.
	KeySHA256 [sha256.Size]byte
	Tenant    string
	Client    string
	// EventBytes is how large an event shall be; it is filled up to that. 0: as it is.
	EventBytes int
	// AutoPipeline lets concurrent requests share their writes to Redis. It is no part of the reference; it shows what that gains.
	AutoPipeline bool
}

// Server is the reference server.
type Server struct {
	cfg   Config
	redis *redis.Client
	auto  *redis.AutoPipeliner // nil without
	seal  tink.AEAD
	echo  *echo.Echo
}

// Record is what is kept of a connection, as JSON within the seal.
type Record struct {
	ID           string    `json:"id"`
	Tenant       string    `json:"tenant"`
	Subject      string    `json:"subject"`
	Connector    string    `json:"connector"`
	Client       string    `json:"client"`
	Status       string    `json:"status"`
	Scopes       []string  `json:"scopes"`
	AccessToken  string    `json:"access_token"`
	RefreshToken string    `json:"refresh_token"`
	ExpiresAt    time.Time `json:"expires_at"`
	CreatedAt    time.Time `json:"created_at"`
	RefreshedAt  time.Time `json:"refreshed_at"`
	Account      Account   `json:"account"`
}

// Account is the user's at the provider.
type Account struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

// New connects to Redis and makes a key; records of another Server don't open.
func New(cfg Config) (*Server, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	s := &Server{cfg: cfg, redis: redis.NewClient(&redis.Options{Addr: cfg.Redis}), echo: echo.New()}
	if s.seal, err = aead.New(handle); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	if cfg.AutoPipeline {
		if s.auto, err = s.redis.AsyncAutoPipeline(); err != nil {
			return nil, fmt.Errorf("automatic pipelining: %w", err)
		}
	}
	s.echo.POST("/v1/tokens", s.token)
	s.echo.GET("/readyz", func(c echo.Context) error { return c.NoContent(http.StatusOK) })
	s.echo.GET("/metrics", func(c echo.Context) error { // what was allocated so far; asked between loads only
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return c.String(http.StatusOK, fmt.Sprintf("go_memstats_mallocs_total %d\ngo_memstats_alloc_bytes_total %d\n", m.Mallocs, m.TotalAlloc))
	})
	return s, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// Close ends the connections to Redis.
func (s *Server) Close() error {
	if s.auto != nil {
		return errors.Join(s.auto.Close(), s.redis.Close())
	}
	return s.redis.Close()
}

func key(tenant, subject, connector string) string {
	return "record:" + tenant + ":" + subject + ":" + connector
}

// Put keeps records.
func (s *Server) Put(ctx context.Context, records []Record) error {
	pipe := s.redis.Pipeline()
	for _, r := range records {
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		name := key(r.Tenant, r.Subject, r.Connector)
		sealed, err := s.seal.Encrypt(text, []byte(name))
		if err != nil {
			return err
		}
		pipe.Set(ctx, name, sealed, 0)
	}
	_, err := pipe.Exec(ctx)
	return err
}

// request is the body of POST /v1/tokens, as far as it is needed here.
type request struct {
	Connector string   `json:"connector"`
	Subject   string   `json:"subject"`
	Scopes    []string `json:"scopes"`
	MinTTL    *int64   `json:"min_ttl"`
	Actor     struct {
		Agent string `json:"agent"`
		Run   string `json:"run"`
		Tool  string `json:"tool"`
	} `json:"actor"`
	Reason string `json:"reason"`
}

// answer is the token.
type answer struct {
	AccessToken string  `json:"access_token"`
	TokenType   string  `json:"token_type"`
	ExpiresIn   int64   `json:"expires_in"`
	ExpiresAt   string  `json:"expires_at"`
	Scope       string  `json:"scope"`
	Connector   string  `json:"connector"`
	Connection  string  `json:"connection"`
	Account     Account `json:"account"`
}

// event is what is appended before the answer leaves: one entry for all scopes.
type event struct {
	Type      string       `json:"type"`
	Time      time.Time    `json:"time"`
	Tenant    string       `json:"tenant"`
	Client    string       `json:"client"`
	Subject   string       `json:"subject"`
	Connector string       `json:"connector"`
	Agent     string       `json:"agent"`
	Run       string       `json:"run"`
	Tool      string       `json:"tool"`
	Reason    string       `json:"reason"`
	Outcome   string       `json:"outcome"`
	RequestID string       `json:"request_id"`
	Scopes    []eventScope `json:"scopes"`
}

type eventScope struct {
	ID    string `json:"id"`
	Scope string `json:"scope"`
}

func (s *Server) token(c echo.Context) error {
	scheme, secret, _ := strings.Cut(c.Request().Header.Get("Authorization"), " ")
	digest := sha256.Sum256([]byte(secret))
	if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(digest[:], s.cfg.KeySHA256[:]) != 1 {
		return c.JSON(http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
	}
	text, err := io.ReadAll(io.LimitReader(c.Request().Body, 64<<10))
	if err != nil {
		return err
	}
	var req request
	if err := json.Unmarshal(text, &req); err != nil || req.Connector == "" || req.Subject == "" {
		return c.JSON(http.StatusBadRequest, map[string]string{"error": "invalid_request"})
	}
	record, err := s.release(c.Request().Context(), req)
	switch {
	case errors.Is(err, redis.Nil):
		return c.JSON(http.StatusConflict, map[string]string{"error": "consent_required"})
	case err != nil:
		return err
	}
	now := time.Now()
	covered := !slices.ContainsFunc(req.Scopes, func(scope string) bool { return !slices.Contains(record.Scopes, scope) })
	if record.Status != "active" || !record.ExpiresAt.After(now) || !covered {
		return c.JSON(http.StatusConflict, map[string]string{"error": "consent_required"})
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.JSON(http.StatusOK, answer{
		AccessToken: record.AccessToken, TokenType: "Bearer", ExpiresIn: int64(record.ExpiresAt.Sub(now).Seconds()), ExpiresAt: record.ExpiresAt.Format(time.RFC3339),
		Scope: strings.Join(record.Scopes, " "), Connector: record.Connector, Connection: record.ID, Account: record.Account,
	})
}

// release gets the record and appends the event in one round trip, and opens the record.
func (s *Server) release(ctx context.Context, req request) (Record, error) {
	e := event{
		Type: "token.issued", Time: time.Now(), Tenant: s.cfg.Tenant, Client: s.cfg.Client, Subject: req.Subject, Connector: req.Connector,
		Agent: req.Actor.Agent, Run: req.Actor.Run, Tool: req.Actor.Tool, Reason: req.Reason, Outcome: "ok", RequestID: rand.Text(),
	}
	for _, scope := range req.Scopes {
		e.Scopes = append(e.Scopes, eventScope{ID: rand.Text(), Scope: scope})
	}
	text, err := json.Marshal(e)
	if err != nil {
		return Record{}, err
	}
	for len(text) < s.cfg.EventBytes {
		text = append(text, ' ') // white space behind it: still JSON
	}
	name := key(s.cfg.Tenant, req.Subject, req.Connector)
	sealed, err := s.exchange(ctx, name, text)
	if err != nil {
		return Record{}, err
	}
	plain, err := s.seal.Decrypt(sealed, []byte(name))
	if err != nil {
		return Record{}, err
	}
	var record Record
	err = json.Unmarshal(plain, &record)
	return record, err
}

func (s *Server) exchange(ctx context.Context, name string, event []byte) ([]byte, error) {
	entry := &redis.XAddArgs{Stream: "events", Values: []any{"event", event}}
	if s.auto != nil {
		got, appended := s.auto.Get(ctx, name), s.auto.XAdd(ctx, entry)
		sealed, err := got.Bytes()
		return sealed, errors.Join(err, appended.Err())
	}
	pipe := s.redis.Pipeline()
	got := pipe.Get(ctx, name)
	pipe.XAdd(ctx, entry)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	return got.Bytes()
}
