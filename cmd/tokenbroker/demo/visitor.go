package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/html"

	"tokenbroker/broker"
)

// visitor is another person's browser, as far as forms and links go: it keeps cookies, follows redirects and presses what says
// yes.
type visitor struct {
	cfg    Config
	user   User
	client *http.Client
}

// mostPages is more than any consent takes.
const mostPages = 12

func newVisitor(cfg Config, user User) (*visitor, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, fmt.Errorf("make cookie jar: %w", err)
	}
	client := *cfg.HTTPClient
	client.Jar = jar
	return &visitor{cfg: cfg, user: user, client: &client}, nil
}

// signIn signs the visitor in at this platform.
func (v *visitor) signIn(ctx context.Context) error {
	_, err := v.get(ctx, http.MethodPost, v.cfg.PublicURL+"/session", url.Values{"user": {v.user.Subject}})
	return err
}

// page is what a browser shows at the end of its redirects.
type page struct {
	address string // without its query
	title   string // the heading
	code    broker.Secret
	form    *form
}

type form struct {
	action string
	fields url.Values
}

// walk opens the link and says yes on every page that asks, until one asks nothing.
func (v *visitor) walk(ctx context.Context, link broker.Secret) (page, error) {
	p, err := v.get(ctx, http.MethodGet, link.Reveal(), nil)
	for range mostPages {
		if err != nil || p.form == nil {
			return p, err
		}
		p, err = v.get(ctx, http.MethodPost, p.form.action, p.form.fields)
	}
	return p, errors.New("walk through the pages: they never end")
}

// get asks for a page, over its redirects, among the three servers of the demo alone. Errors name no address: it may carry a link
// or a code.
func (v *visitor) get(ctx context.Context, method, address string, fields url.Values) (page, error) {
	for range mostPages {
		at, err := url.Parse(address)
		if err != nil {
			return page{}, errors.New("open page: its address is none")
		}
		if origin := at.Scheme + "://" + at.Host; origin != v.cfg.PublicURL && origin != v.cfg.BrokerURL && origin != v.cfg.FilesURL {
			return page{}, errors.New("open page: it leads elsewhere")
		}
		var body io.Reader
		if method == http.MethodPost {
			body = strings.NewReader(fields.Encode())
		}
		req, err := http.NewRequestWithContext(ctx, method, address, body)
		if err != nil {
			return page{}, errors.New("open page: its address is none")
		}
		if body != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		res, err := v.client.Do(req)
		if err != nil {
			var in *url.Error
			if errors.As(err, &in) {
				err = in.Err
			}
			return page{}, fmt.Errorf("open page: %w", err)
		}
		next, err := res.Location()
		if res.StatusCode < 300 || res.StatusCode > 399 || err != nil {
			defer func() { _ = res.Body.Close() }()
			if res.StatusCode > 399 {
				return page{}, fmt.Errorf("open page: status %d", res.StatusCode)
			}
			return v.read(at, io.LimitReader(res.Body, maxAnswer))
		}
		_ = res.Body.Close()
		method, address, fields = http.MethodGet, next.String(), nil
	}
	return page{}, errors.New("open page: too many redirects")
}

// read finds what matters on a page: its heading, a code that it shows, and the form that it asks with.
func (v *visitor) read(at *url.URL, body io.Reader) (page, error) {
	root, err := html.Parse(body)
	if err != nil {
		return page{}, fmt.Errorf("read page: %w", err)
	}
	p := page{address: at.Scheme + "://" + at.Host + at.Path}
	for n := range root.Descendants() {
		switch {
		case n.Data == "h1" && p.title == "":
			p.title = textOf(n)
		case attribute(n, "id") == "code":
			p.code = broker.NewSecret(textOf(n))
		case n.Data == "form" && p.form == nil:
			p.form = v.fill(at, n)
		}
	}
	return p, nil
}

// fill fills a form in, if it has a button that says yes.
func (v *visitor) fill(at *url.URL, n *html.Node) *form {
	target, err := at.Parse(attribute(n, "action"))
	if err != nil || !strings.EqualFold(attribute(n, "method"), http.MethodPost) {
		return nil
	}
	f := &form{action: target.String(), fields: url.Values{}}
	yes := false
	for e := range n.Descendants() {
		name, value := attribute(e, "name"), attribute(e, "value")
		switch {
		case name == "":
		case e.Data == "button":
			if slices.Contains([]string{"continue", "allow"}, value) {
				f.fields.Set(name, value)
				yes = true
			}
		case e.Data != "input":
		case attribute(e, "type") == "radio":
			if value == v.user.Subject || !f.fields.Has(name) {
				f.fields.Set(name, value)
			}
		default:
			f.fields.Add(name, value)
		}
	}
	if !yes {
		return nil
	}
	return f
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func textOf(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
