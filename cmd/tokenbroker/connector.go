package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"tokenbroker/broker"
	"tokenbroker/providers"
)

type connectorCommand struct {
	List  connectorListCommand  `cmd:"" help:"Print every connector that can be configured, and how well its facts are known."`
	Check connectorCheckCommand `cmd:"" help:"Try a configured connector at its live provider with one consent of yours, and print what it really does."`
	Show  connectorShowCommand  `cmd:"" help:"Print what is known of one connector: its scopes, habits, what is unverified, and the sources."`
}

type connectorListCommand struct {
	Config string `placeholder:"FILE" help:"Also list the providers of this configuration file."`
	JSON   bool   `help:"Print JSON."`
}

type connectorShowCommand struct {
	Connector string `arg:"" placeholder:"ID" help:"The connector's id in the catalogue, such as google-drive, or a provider's."`
	Config    string `placeholder:"FILE" help:"Also look among the providers of this configuration file."`
	JSON      bool   `help:"Print JSON."`
}

// offers are the catalogue's and, with a configuration file, the operator's own.
func offers(file string, con *console) ([]providers.Offer, error) {
	if file == "" {
		return providers.Offers()
	}
	cfg, err := LoadConfig(file, con.env)
	if err != nil {
		return nil, err
	}
	return providers.Offers(cfg.Providers...)
}

// connectorFacts is an offer as JSON output has it.
type connectorFacts struct {
	Connector         string      `json:"connector"`
	Name              string      `json:"name"`
	Category          string      `json:"category"`
	Provider          string      `json:"provider"`
	Confidence        string      `json:"confidence"`
	Unverified        []string    `json:"unverified"`
	PKCE              string      `json:"pkce"`
	Rotation          string      `json:"rotation"`
	RefreshIdle       int64       `json:"refresh_token_idle,omitempty"`
	RefreshLife       int64       `json:"refresh_token_lifetime,omitempty"`
	Revocation        string      `json:"revocation"`
	AdminConsent      bool        `json:"admin_consent"`
	Vars              []string    `json:"vars"`
	Scopes            []string    `json:"scopes"`
	DescribedScopes   []scopeFact `json:"described_scopes"`
	APIHosts          []string    `json:"api_hosts"`
	Notes             []string    `json:"notes"`
	Sources           []string    `json:"sources"`
	FromConfiguration bool        `json:"from_configuration"`
}

type scopeFact struct {
	Scope       string `json:"scope"`
	Description string `json:"description"`
	Access      string `json:"access"`
	Sensitive   bool   `json:"sensitive"`
}

func factsOf(o providers.Offer) connectorFacts {
	d := o.Definition
	f := connectorFacts{
		Connector: o.ID, Name: o.Name, Category: o.Category, Provider: d.ID, Confidence: d.Confidence, Unverified: sliced(d.Unverified),
		PKCE: d.PKCE, Rotation: d.Rotation, RefreshIdle: d.RefreshTokenIdle, RefreshLife: d.RefreshTokenLifetime, Revocation: revocationOf(d),
		AdminConsent: d.AdminConsent, Vars: needed(d), Scopes: sliced(o.Scopes), DescribedScopes: []scopeFact{}, APIHosts: sliced(d.API.Hosts),
		Notes: sliced(d.Notes), Sources: sliced(d.Sources), FromConfiguration: o.Custom,
	}
	if o.Custom && len(d.Sources) == 0 {
		f.Confidence = "yours"
	}
	for _, s := range o.Described {
		f.DescribedScopes = append(f.DescribedScopes, scopeFact{s.Name, s.Description, accessOf(s), s.Sensitive})
	}
	return f
}

// sliced is an empty list rather than null.
func sliced(list []string) []string { return append([]string{}, list...) }

func accessOf(s broker.ScopeInfo) string { return cmp.Or(string(s.Access), "other") }

func revocationOf(d *providers.Definition) string {
	switch {
	case d.Revocation.Unsupported, d.RevocationEndpoint == "" && (d.Issuer == "" || d.Discovery == "none"):
		return "unsupported"
	}
	return d.Revocation.Ends
}

// needed are the placeholders that a connector's configuration must fill.
func needed(d *providers.Definition) []string {
	names := []string{}
	for _, name := range slices.Sorted(maps.Keys(d.Vars)) {
		if v := d.Vars[name]; v.Default == "" && (v.From == "" || v.From == "config") {
			names = append(names, name)
		}
	}
	return names
}

// Run prints a table, or JSON.
func (c *connectorListCommand) Run(con *console) error {
	all, err := offers(c.Config, con)
	if err != nil {
		return err
	}
	var facts []connectorFacts
	servers, marks := map[string]bool{}, map[string]int{}
	for _, o := range all {
		f := factsOf(o)
		if !servers[f.Provider] {
			servers[f.Provider] = true
			marks[f.Confidence]++
		}
		facts = append(facts, f)
	}
	if c.JSON {
		return printJSON(con.out, facts)
	}
	table := tabwriter.NewWriter(con.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "CONNECTOR\tNAME\tPROVIDER\tCONFIDENCE\tUNVERIFIED\tREFRESH TOKEN\tPKCE\tREVOCATION ENDS")
	for _, f := range facts {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Connector, f.Name, f.Provider, f.Confidence, unverifiedOf(f), rotationWords[f.Rotation], f.PKCE, revocationWords[f.Revocation])
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print the list: %w", err)
	}
	var counts []string
	for _, mark := range []string{"documented", "code", "uncertain", "yours"} {
		if n := marks[mark]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, mark))
		}
	}
	_, err = fmt.Fprintf(con.out, `
%s at %s: %s.
documented: the provider's own pages say so. code: read in other people's clients alone. uncertain: sources are thin or disagree.
UNVERIFIED counts facts that nobody tried with the live provider, each with the cautious value: connector show ID names them.
`, count(len(facts), "connector"), count(len(servers), "provider"), strings.Join(counts, ", "))
	if err != nil {
		return fmt.Errorf("print the list: %w", err)
	}
	return nil
}

func unverifiedOf(f connectorFacts) string {
	if len(f.Unverified) == 0 {
		return "-"
	}
	return fmt.Sprint(len(f.Unverified))
}

var rotationWords = map[string]string{"none": "stays", "grace": "changes, old one passes for a while", "strict": "works once"}

var revocationWords = map[string]string{"unsupported": "nothing (unsupported)", "grant": "the grant", "client": "all the account gave the client", "app": "the app's installation"}

func printJSON(out io.Writer, value any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}

// Run prints one connector, or says which ids are near.
func (c *connectorShowCommand) Run(con *console) error {
	all, err := offers(c.Config, con)
	if err != nil {
		return err
	}
	var found []connectorFacts
	for _, o := range all {
		if f := factsOf(o); f.Connector == c.Connector || f.Provider == c.Connector {
			found = append(found, f)
		}
	}
	// A product that is called like its server is what that name means, as in the configuration.
	if i := slices.IndexFunc(found, func(f connectorFacts) bool { return f.Connector == c.Connector }); i >= 0 {
		found = found[i : i+1]
	}
	if len(found) == 0 {
		if c.Config != "" {
			return &usageError{fmt.Sprintf("%q is neither in the catalogue nor under providers in %s; of a connector there, show its provider", c.Connector, c.Config)}
		}
		return &usageError{fmt.Sprintf("%q is no connector of the catalogue; connector list prints them, and --config FILE adds your own", c.Connector)}
	}
	if c.JSON {
		return printJSON(con.out, found)
	}
	for i, f := range found {
		if i > 0 {
			_, _ = fmt.Fprintln(con.out)
		}
		if _, err := io.WriteString(con.out, describe(f)); err != nil {
			return fmt.Errorf("print the connector: %w", err)
		}
	}
	return nil
}

// describe is a connector in words.
func describe(f connectorFacts) string {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		_, _ = fmt.Fprintf(&b, "  %-14s %s\n", key, fmt.Sprintf(format, args...))
	}
	mark := func(key string) string {
		if slices.ContainsFunc(f.Unverified, func(u string) bool { return u == key || strings.HasPrefix(u, key+".") }) {
			return " (unverified)"
		}
		return ""
	}
	_, _ = fmt.Fprintf(&b, "%s: %s\n", f.Connector, f.Name)
	line("provider", "%s", f.Provider)
	line("confidence", "%s", f.Confidence)
	line("pkce", "%s%s", f.PKCE, mark("pkce"))
	line("refresh token", "%s%s", rotationWords[f.Rotation], mark("rotation"))
	if f.RefreshIdle > 0 {
		line("", "ends when unused for %s%s", days(f.RefreshIdle), mark("refresh_token_idle"))
	}
	if f.RefreshLife > 0 {
		line("", "ends %s after the consent, used or not%s", days(f.RefreshLife), mark("refresh_token_lifetime"))
	}
	line("revocation", "ends %s%s", revocationWords[f.Revocation], mark("revocation"))
	if f.AdminConsent {
		line("consent", "by an administrator of the account alone%s", mark("admin_consent"))
	}
	if len(f.Vars) > 0 {
		line("vars", "%s: to be set at the connector", strings.Join(f.Vars, ", "))
	}
	if len(f.APIHosts) > 0 {
		line("api hosts", "%s%s", strings.Join(f.APIHosts, ", "), mark("api"))
	}
	for i, s := range f.DescribedScopes {
		key, sensitive, suggested := "", "", ""
		if i == 0 {
			key = "scopes"
		}
		if s.Sensitive {
			sensitive = ", sensitive"
		}
		if slices.Contains(f.Scopes, s.Scope) {
			suggested = ", asked by default"
		}
		line(key, "%s: %s (%s%s%s)", s.Scope, s.Description, s.Access, sensitive, suggested)
	}
	for _, list := range []struct {
		key   string
		lines []string
	}{{"notes", f.Notes}, {"unverified", f.Unverified}, {"sources", f.Sources}} {
		for i, text := range list.lines {
			key := ""
			if i == 0 {
				key = list.key
			}
			line(key, "%s", text)
		}
	}
	return b.String()
}

// days writes seconds as people do.
func days(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	if d >= 48*time.Hour && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.String()
}
