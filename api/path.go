package api

import (
	"net/url"
	"path"
	"strings"
)

// owns tells whether a request is the API's. Whatever could be read as a path under /v1, by us or by a proxy before us,
// is: then it needs a key, whether or not a route fits it. Routing itself is exact, so no spelling but the right one
// reaches a handler (threat 51).
//
// The endpoints of oauth.go are theirs by their exact path alone: nothing but a 404 lies behind any other spelling.
func owns(u *url.URL) bool {
	if oauthPaths[u.EscapedPath()] {
		return true
	}
	return under(u.EscapedPath()) || under(u.Path) || under(plain(u.Path))
}

func under(p string) bool { return p == "/v1" || strings.HasPrefix(p, "/v1/") }

// plain is the most generous reading of a path: decoded as often as anybody might, without dot segments, empty
// segments, path parameters, backslashes, white space and control characters, in lower case.
func plain(p string) string {
	for range 3 {
		decoded, err := url.PathUnescape(p)
		if err != nil || decoded == p {
			break
		}
		p = decoded
	}
	p = strings.Map(func(r rune) rune {
		switch {
		case r == '\\':
			return '/'
		case r <= ' ' || r == 0x7f:
			return -1
		}
		return r
	}, p)
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.ToLower(path.Clean("/" + strings.Join(segments, "/")))
}
