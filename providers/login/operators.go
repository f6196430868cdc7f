package login

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"tokenbroker/broker"
	"tokenbroker/providers"
)

// maxGroups bounds how many groups of a person are read, maxText a group and a name, in bytes.
const maxGroups, maxText = 2000, 256

// operatorsID names the operators' client among Clients; no client of the API can have such an id.
const operatorsID = "dashboard login"

// OperatorConfig is the OAuth client by which the operators of the dashboard sign in.
type OperatorConfig struct {
	ClientConfig // ID and SubjectClaim don't count: operators are known by sub
	// GroupsClaim holds the person's groups, a list of texts or one text. It is the name of a claim; where there is none of that
	// name, and it has dots, it leads through objects: realm_access.roles. Default: groups.
	GroupsClaim string
	// NameClaim is how the person is called. Default: name, then preferred_username.
	NameClaim string
	// SignOutHere: whoever signs out of the dashboard stays signed in at the provider, also where that could be ended.
	SignOutHere bool
}

// Operators sign operators in. They implement broker.OperatorLogins, are safe for concurrent use and do nothing in the background.
type Operators struct {
	clients *Clients
	groups  string
	names   []string
	stay    bool // SignOutHere
}

var _ broker.OperatorLogins = (*Operators)(nil)

// NewOperators checks the configuration; cfg.Clients don't count. It sends nothing.
func NewOperators(cfg Config, operators OperatorConfig) (*Operators, error) {
	operators.ID, operators.SubjectClaim = operatorsID, "sub"
	cfg.Clients = []ClientConfig{operators.ClientConfig}
	clients, err := New(cfg)
	if err != nil {
		return nil, err
	}
	o := &Operators{clients: clients, groups: operators.GroupsClaim, names: []string{"name", "preferred_username"}, stay: operators.SignOutHere}
	if o.groups == "" {
		o.groups = "groups"
	}
	if operators.NameClaim != "" {
		o.names = []string{operators.NameClaim}
	}
	return o, nil
}

// Close ends idle connections.
func (o *Operators) Close() { o.clients.Close() }

// AuthorizationURL implements broker.OperatorLogins.
func (o *Operators) AuthorizationURL(ctx context.Context, req broker.LoginRequest) (broker.Authorization, error) {
	return o.clients.AuthorizationURL(ctx, operatorsID, req)
}

// LogoutURL implements broker.OperatorLogins (RP-Initiated Logout section 2).
func (o *Operators) LogoutURL(ctx context.Context, req broker.OperatorLogout) (broker.Secret, error) {
	one, err := o.clients.client(operatorsID)
	if err != nil || o.stay {
		return broker.Secret{}, err
	}
	meta, err := one.metadata(ctx)
	if err != nil || meta.EndSessionEndpoint == "" {
		return broker.Secret{}, err
	}
	u, err := url.Parse(meta.EndSessionEndpoint)
	if err != nil {
		return broker.Secret{}, refused(0, "metadata has no usable end_session_endpoint")
	}
	q := u.Query() // one of the endpoint's own is kept
	for name, value := range map[string]string{
		"client_id": one.cfg.ClientID, "post_logout_redirect_uri": req.RedirectURI, "state": req.State.Reveal(), "id_token_hint": req.IDToken.Reveal(),
	} {
		if value != "" {
			q.Set(name, value)
		}
	}
	u.RawQuery = q.Encode()
	return broker.NewSecret(u.String()), nil
}

// Redeem implements broker.OperatorLogins. What the ID token says counts before what the userinfo endpoint says, which is asked for
// groups and names that the ID token lacks (Core section 5.4: with a code, a provider may have scopes' claims there alone).
func (o *Operators) Redeem(ctx context.Context, req broker.LoginResponse) (broker.OperatorIdentity, error) {
	one, err := o.clients.client(operatorsID)
	if err != nil {
		return broker.OperatorIdentity{}, err
	}
	got, err := one.redeem(ctx, req)
	if err != nil {
		return broker.OperatorIdentity{}, err
	}
	sub, err := got.person("sub")
	if err != nil {
		return broker.OperatorIdentity{}, err
	}
	if strings.ContainsFunc(sub, unicode.IsControl) {
		return broker.OperatorIdentity{}, fmt.Errorf("%w: its sub is no line of text", broker.ErrLoginRefused)
	}
	who := broker.OperatorIdentity{Issuer: got.Issuer, Subject: sub, Name: o.name(got.All), Email: verifiedEmail(got.All), IDToken: got.raw}
	who.Groups, who.GroupsGiven = o.groupsIn(got.All)
	if !who.GroupsGiven && o.elsewhere(got.All) {
		return broker.OperatorIdentity{}, broker.ErrGroupsElsewhere
	}
	if (who.GroupsGiven && who.Name != "") || got.meta.UserinfoEndpoint == "" || got.access.IsZero() {
		return who, nil
	}
	more, err := one.userinfo(ctx, got)
	switch {
	case err == nil:
	case who.GroupsGiven:
		return who, nil // what is missing is a name
	default:
		return broker.OperatorIdentity{}, err
	}
	if !who.GroupsGiven {
		who.Groups, who.GroupsGiven = o.groupsIn(more)
		if !who.GroupsGiven && o.elsewhere(more) {
			return broker.OperatorIdentity{}, broker.ErrGroupsElsewhere
		}
	}
	if who.Name == "" {
		who.Name = o.name(more)
	}
	if who.Email == "" {
		who.Email = verifiedEmail(more)
	}
	return who, nil
}

// userinfo asks for the claims of the person whose access token it is, who must be the one of the ID token (Core section 5.3.2).
func (c *client) userinfo(ctx context.Context, got redeemed) (map[string]any, error) {
	answer, err := c.fetch.Do(ctx, providers.Fetch{
		What: "userinfo endpoint", Method: http.MethodGet, URL: got.meta.UserinfoEndpoint,
		Header: http.Header{"Authorization": {"Bearer " + got.access.Reveal()}, "Accept": {"application/json"}},
	})
	switch {
	case err != nil:
		return nil, err
	case answer.Status >= 500, answer.Status == http.StatusTooManyRequests:
		return nil, &broker.UpstreamError{Class: broker.ClassInDoubt, Status: answer.Status, What: "userinfo endpoint failed"}
	case answer.Status != http.StatusOK:
		return nil, refused(answer.Status, "userinfo endpoint refuses the access token that came with the ID token")
	}
	var all map[string]any
	if json.Unmarshal(answer.Body, &all) != nil {
		return nil, refused(0, "userinfo endpoint answers with something else than a JSON object (signed or encrypted answers are not read)")
	}
	if sub, _ := all["sub"].(string); sub != got.Subject {
		return nil, fmt.Errorf("%w: userinfo is about somebody else than the ID token", broker.ErrLoginRefused)
	}
	return all, nil
}

// groupsIn reads the groups claim. An element that is no text names no group: 4711 and "4711" could be two.
func (o *Operators) groupsIn(all map[string]any) (groups []string, given bool) {
	value, given := claim(all, o.groups)
	if !given {
		return nil, false
	}
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	for _, one := range list {
		text, ok := one.(string)
		if ok && text != "" && len(text) <= maxText && utf8.ValidString(text) && len(groups) < maxGroups && !slices.Contains(groups, text) {
			groups = append(groups, text)
		}
	}
	return groups, true
}

// claim finds a claim by its name, else by the path that the name's dots make of it.
func claim(all map[string]any, name string) (any, bool) {
	if value, ok := all[name]; ok {
		return value, value != nil
	}
	var value any = all
	for part := range strings.SplitSeq(name, ".") {
		object, ok := value.(map[string]any)
		if !ok {
			return nil, false
		}
		if value, ok = object[part]; !ok {
			return nil, false
		}
	}
	return value, value != nil
}

// elsewhere tells that the person has groups which the provider did not put here (Core section 5.6.2): Entra leaves them out of a
// token where there are more than 200 ("groups overage"), and would have us ask Graph. To take that for "no groups" would be a lie.
func (o *Operators) elsewhere(all map[string]any) bool {
	names, _ := all["_claim_names"].(map[string]any)
	first, _, _ := strings.Cut(o.groups, ".")
	_, whole := names[o.groups]
	_, part := names[first]
	return whole || part || (o.groups == "groups" && (all["hasgroups"] == true || all["hasgroups"] == "true"))
}

func (o *Operators) name(all map[string]any) string {
	for _, name := range o.names {
		value, _ := claim(all, name)
		if text, ok := value.(string); ok && text != "" && len(text) <= maxText && utf8.ValidString(text) {
			return text
		}
	}
	return ""
}

// verifiedEmail is the address, if the provider has seen that it is the person's.
func verifiedEmail(all map[string]any) string {
	text, _ := all["email"].(string)
	if all["email_verified"] != true || len(text) > maxText || !utf8.ValidString(text) {
		return ""
	}
	return text
}
