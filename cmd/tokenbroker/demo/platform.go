package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"tokenbroker/broker"
)

// platform calls the broker and the files API: everything that an integrator must write.
type platform struct{ cfg Config }

// refusal is an error answer of the broker; contract and meaning are in its API's description.
type refusal struct {
	Status      int      `json:"-"`
	Code        string   `json:"error"`
	Description string   `json:"error_description"`
	RequestID   string   `json:"request_id"`
	Reason      string   `json:"reason"`
	Missing     []string `json:"missing_scopes"`
	Consent     *struct {
		ID      string `json:"id"`
		URL     string `json:"url"`
		Binding string `json:"binding"`
	} `json:"consent"`
	Accounts []accountChoice `json:"accounts"`
}

func (r *refusal) Error() string { return fmt.Sprintf("the broker answers %d %s", r.Status, r.Code) }

type account struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

// Label is how people know the account.
func (a account) Label() string {
	switch {
	case a.Name != "" && a.Email != "":
		return a.Name + " (" + a.Email + ")"
	case a.Name != "":
		return a.Name
	case a.Email != "":
		return a.Email
	case a.ID != "":
		return a.ID
	}
	return "an unnamed account"
}

type accountChoice struct {
	Connection *string `json:"connection"`
	Account    account `json:"account"`
}

// token is an access token, for this backend only.
type token struct {
	access  broker.Secret
	scope   string
	account account
	life    time.Duration // that is left of it
}

// tokenRequest is the body of POST /v1/tokens.
type tokenRequest struct {
	Connector  string   `json:"connector"`
	Subject    string   `json:"subject"`
	Scopes     []string `json:"scopes"`
	Connection string   `json:"connection,omitempty"`
	Actor      actor    `json:"actor"`
	Reason     string   `json:"reason"`
	ReturnTo   string   `json:"return_to,omitempty"`
	State      string   `json:"state,omitempty"`
}

type actor struct {
	Agent string `json:"agent,omitempty"`
	Run   string `json:"run,omitempty"`
	Tool  string `json:"tool,omitempty"`
}

// token asks for an access token. The error is a *refusal where the broker answered.
func (p *platform) token(ctx context.Context, in tokenRequest) (token, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	var out struct {
		AccessToken string  `json:"access_token"`
		ExpiresIn   int     `json:"expires_in"`
		Scope       string  `json:"scope"`
		Account     account `json:"account"`
	}
	if err := p.call(ctx, http.MethodPost, "/v1/tokens", in, &out); err != nil {
		return token{}, err
	}
	if out.AccessToken == "" {
		return token{}, errors.New("read the broker's answer: it has no token")
	}
	return token{broker.NewSecret(out.AccessToken), out.Scope, out.Account, time.Duration(out.ExpiresIn) * time.Second}, nil
}

// consentStatus asks how a consent stands.
func (p *platform) consentStatus(ctx context.Context, id string) (status, problem string, err error) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	var out struct{ Status, Error string }
	err = p.call(ctx, http.MethodGet, "/v1/consents/"+url.PathEscape(id), nil, &out)
	return out.Status, out.Error, err
}

// complete tells the broker who is logged in here, and the code that shows that the consent was theirs.
func (p *platform) complete(ctx context.Context, id, subject string, code broker.Secret, replace bool) (account, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout) // the broker exchanges the provider's code now
	defer cancel()
	in := struct {
		Subject string `json:"subject"`
		Code    string `json:"code"`
		Replace bool   `json:"replace,omitempty"`
	}{subject, code.Reveal(), replace}
	var out struct {
		Account account `json:"account"`
	}
	err := p.call(ctx, http.MethodPost, "/v1/consents/"+url.PathEscape(id)+"/complete", in, &out)
	return out.Account, err
}

// connections lists those of a subject that could still give a token.
func (p *platform) connections(ctx context.Context, subject string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var out struct {
		Connections []struct{ ID, Status string }
	}
	query := url.Values{"subject": {subject}, "connector": {p.cfg.Connector}, "limit": {"50"}}
	if err := p.call(ctx, http.MethodGet, "/v1/connections?"+query.Encode(), nil, &out); err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range out.Connections {
		if c.Status != "revoked" {
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}

// disconnect ends a connection; revoked tells whether the provider was told.
func (p *platform) disconnect(ctx context.Context, id string) (revoked string, err error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	var out struct {
		RevokedUpstream string `json:"revoked_upstream"`
	}
	err = p.call(ctx, http.MethodDelete, "/v1/connections/"+url.PathEscape(id), nil, &out)
	return out.RevokedUpstream, err
}

// scopeWords are the connector's scopes in plain words.
func (p *platform) scopeWords(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	var out struct {
		Connectors []struct {
			ID     string
			Scopes []struct{ Name, Description string }
		}
	}
	if err := p.call(ctx, http.MethodGet, "/v1/connectors", nil, &out); err != nil {
		return nil, err
	}
	words := map[string]string{}
	for _, c := range out.Connectors {
		if c.ID != p.cfg.Connector {
			continue
		}
		for _, s := range c.Scopes {
			words[s.Name] = s.Description
		}
	}
	return words, nil
}

// events reads a page of the audit trail, oldest first.
func (p *platform) events(ctx context.Context, since time.Time, cursor string) (page []event, next string, err error) {
	query := url.Values{"since": {since.UTC().Format(time.RFC3339Nano)}, "limit": {"200"}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	var out struct {
		Events []event `json:"events"`
		Next   *string `json:"next_cursor"`
	}
	if err := p.call(ctx, http.MethodGet, "/v1/events?"+query.Encode(), nil, &out); err != nil {
		return nil, "", err
	}
	if out.Next != nil {
		next = *out.Next
	}
	return out.Events, next, nil
}

// call sends one request to the broker. in nil: no body.
func (p *platform) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("write request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	status, answer, err := p.send(ctx, method, p.cfg.BrokerURL+path, p.cfg.APIKey, body)
	if err != nil {
		return err
	}
	if status < 200 || status > 299 {
		refused := &refusal{Status: status}
		if err := json.Unmarshal(answer, refused); err != nil {
			return fmt.Errorf("the broker answers %d without an error code", status)
		}
		return refused
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("read the broker's answer: %w", err)
	}
	return nil
}

// file is one of the user's.
type file struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Size     int       `json:"size"`
	Modified time.Time `json:"modified"`
}

// filesError is the files API's status.
type filesError struct{ status int }

func (e *filesError) Error() string { return fmt.Sprintf("the files API answers %d", e.status) }

func (p *platform) listFiles(ctx context.Context, t token) ([]file, error) {
	var out struct{ Files []file }
	return out.Files, p.files(ctx, http.MethodGet, t, nil, &out)
}

func (p *platform) saveFile(ctx context.Context, t token, name, content string) (file, error) {
	var out file
	err := p.files(ctx, http.MethodPost, t, map[string]string{"name": name, "content": content}, &out)
	return out, err
}

func (p *platform) files(ctx context.Context, method string, t token, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("write request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	status, answer, err := p.send(ctx, method, p.cfg.FilesURL+"/files", t.access, body)
	if err != nil {
		return err
	}
	if status < 200 || status > 299 {
		return &filesError{status}
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("read the files API's answer: %w", err)
	}
	return nil
}

const maxAnswer = 1 << 20

func (p *platform) send(ctx context.Context, method, address string, bearer broker.Secret, body io.Reader) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return 0, nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer.Reveal())
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := p.cfg.HTTPClient.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("send request: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return 0, nil, fmt.Errorf("read answer: %w", err)
	}
	return res.StatusCode, answer, nil
}
