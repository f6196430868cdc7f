package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/providers"
	"tokenbroker/providers/trial"
)

type connectorCheckCommand struct {
	Connector      string        `arg:"" placeholder:"ID" help:"The connector's id in the configuration."`
	Config         string        `required:"" placeholder:"FILE" help:"The configuration file."`
	RedirectURI    string        `placeholder:"URL" help:"A loopback address that is registered at the provider; this command listens there. Default: the connector's own where public_url is on loopback, else http://127.0.0.1:8089/oauth2/callback/ID."`
	Paste          bool          `help:"Use the connector's own redirect URI, and paste the address at which the browser ends: where a provider takes no loopback address."`
	SkipPkce       bool          `help:"Leave out the second consent, which finds out whether the provider checks PKCE."`
	Wait           time.Duration `default:"10m" help:"How long to wait for each consent."`
	EndsLiveGrants bool          `help:"Go on although the trial ends what others have: see what it says without this."`
}

// loopbackCallback is where the default redirect URI lies.
const loopbackCallback = "http://127.0.0.1:8089"

// Run tries the connector at its provider. It exits 1 when the provider does otherwise than the definition says.
func (c *connectorCheckCommand) Run(ctx context.Context, con *console) error {
	cfg, err := LoadConfig(c.Config, con.env)
	if err != nil {
		return err
	}
	registry, err := providers.New(providers.Config{Custom: cfg.Providers, Connectors: cfg.Connectors, Now: time.Now, Log: newLogger(con.err, cfg.LogLevel)})
	if err != nil {
		return err
	}
	defer registry.Close()
	connector, ok := registry.Connector(c.Connector)
	definition, _ := registry.Definition(c.Connector)
	if !ok {
		return &usageError{fmt.Sprintf("there is no connector %q in %s; it has: %s", c.Connector, c.Config, configured(registry))}
	}
	if connector.Direct() {
		return &usageError{fmt.Sprintf("%s has grant: %s, in which nobody consents: ask for a token of it, POST /v1/tokens, and look at the log", connector.ID, connector.Grant)}
	}
	if (connector.SharedGrants != "" || connector.RevokesAll != "") && !c.EndsLiveGrants {
		return &usageError{fmt.Sprintf("%s gives everybody who connects one account with this OAuth client grants that end together, and the trial ends its own: "+
			"whoever has connected the account (with %s, all its people) must consent again. Use an account that nobody has connected, and call again with --ends-live-grants", connector.Provider, connector.Provider)}
	}
	redirect, err := c.redirect(cfg.PublicURL)
	if err != nil {
		return err
	}
	browser, end, err := c.browser(redirect, con)
	if err != nil {
		return err
	}
	defer end()
	var scopes broker.ScopeSet
	for _, s := range connector.Scopes {
		scopes = scopes.Union(broker.NewScopeSet(s.Name))
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(con.out, format+"\n", args...) }
	say("Trying %s at %s. Register this redirect URI there, if it is not yet: %s", connector.ID, connector.Provider, redirect)
	say("Consent with an account that may lose its grant: refresh tokens are used twice on purpose, and the grant is revoked at the end.")
	var verified []string
	fine, err := trial.Run(ctx, trial.Config{
		Upstream: registry, Connector: connector, Definition: definition, RedirectURI: redirect, Scopes: scopes, Consent: browser,
		SkipPKCE: c.SkipPkce, Random: rand.Reader, Now: time.Now,
		Found: func(f trial.Finding) {
			say("%s", findingLine(f))
			if f.Advice != "" {
				say("%27s%s", "", f.Advice)
			}
			if f.Verdict == trial.Agrees && f.Key != "" && slices.Contains(definition.Unverified, f.Key) {
				verified = append(verified, f.Key)
			}
		},
	})
	if err != nil {
		return err
	}
	if len(verified) > 0 {
		say("Stated as unverified, and seen just so: %s. Take them off the definition's list of unverified keys.", strings.Join(verified, ", "))
	}
	if !fine {
		return fmt.Errorf("%s does not work as its definition says: see DIFFERS and FAILED above", connector.ID)
	}
	say("%s works as its definition says.", connector.ID)
	return nil
}

func findingLine(f trial.Finding) string {
	line := fmt.Sprintf("  %-10s %-44s %s", f.Verdict, f.Fact, f.Seen)
	if f.Stated != "" {
		line += fmt.Sprintf("  [%s: %s]", f.Key, f.Stated)
	}
	return line
}

func configured(registry *providers.Registry) string {
	var ids []string
	for _, c := range registry.All() {
		ids = append(ids, c.ID)
	}
	return strings.Join(ids, ", ")
}

// redirect settles the redirect URI.
func (c *connectorCheckCommand) redirect(public string) (string, error) {
	path := "/oauth2/callback/" + c.Connector
	own := public + path
	switch {
	case c.Paste && c.RedirectURI != "":
		return "", &usageError{"--paste uses the connector's own redirect URI: leave out --redirect-uri"}
	case c.Paste:
		return own, nil
	case c.RedirectURI == "" && listenable(public):
		return own, nil
	case c.RedirectURI == "":
		return loopbackCallback + path, nil
	case !listenable(c.RedirectURI):
		return "", &usageError{"--redirect-uri must be http://127.0.0.1:PORT/... or http://[::1]:PORT/...; with --paste any registered one will do"}
	}
	return c.RedirectURI, nil
}

// listenable tells whether this command can listen at the address, and nobody else can reach it.
func listenable(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" || u.Port() == "" {
		return false
	}
	return isLoopback(u.Hostname())
}

type askForConsent = func(ctx context.Context, authorization broker.Secret, why string) (url.Values, error)

// browser is how the operator's browser is asked and answers; end must be called.
func (c *connectorCheckCommand) browser(redirect string, con *console) (ask askForConsent, end func(), err error) {
	prompt := func(authorization broker.Secret, why string) {
		_, _ = fmt.Fprintf(con.out, "\nOpen this in a browser, %s:\n%s\n", why, authorization.Reveal())
	}
	if c.Paste {
		lines := bufio.NewReader(con.in)
		return func(_ context.Context, authorization broker.Secret, why string) (url.Values, error) {
			prompt(authorization, why)
			_, _ = fmt.Fprintf(con.out, "Then paste the address at which it ended (it begins with %s):\n", redirect)
			line, err := lines.ReadString('\n')
			u, parsed := url.Parse(strings.TrimSpace(line))
			if err != nil && line == "" || parsed != nil || !strings.HasPrefix(strings.TrimSpace(line), redirect+"?") {
				return nil, fmt.Errorf("that is not an address that begins with %s?", redirect)
			}
			return u.Query(), nil
		}, func() {}, nil
	}
	u, err := url.Parse(redirect)
	if err != nil {
		return nil, nil, &usageError{"--redirect-uri is no URL"}
	}
	listener, err := net.Listen("tcp", u.Host)
	if err != nil {
		return nil, nil, fmt.Errorf("nothing can listen at %s: %w; end what does, or name another address with --redirect-uri", u.Host, errors.Unwrap(err))
	}
	answers := make(chan url.Values, 1)
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		q := r.URL.Query()
		if r.Method != http.MethodGet || r.URL.Path != u.Path || !q.Has("code") && !q.Has("error") {
			http.NotFound(w, r)
			return
		}
		select {
		case answers <- q:
		default: // a reload: the first one counts
		}
		_, _ = fmt.Fprintln(w, "tokenbroker has the answer. You can close this page; the result is where the command runs.")
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	end = func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
		<-served
	}
	return func(ctx context.Context, authorization broker.Secret, why string) (url.Values, error) {
		prompt(authorization, why)
		select {
		case q := <-answers:
			return q, nil
		case <-ctx.Done():
			return nil, fmt.Errorf("ended before the consent: %w", ctx.Err())
		case <-time.After(c.Wait):
			return nil, fmt.Errorf("nobody consented within %s; --wait gives more time", c.Wait)
		}
	}, end, nil
}
