package providers

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// catalogued checks what a definition says about itself.
func (v *validation) catalogued() {
	for i, source := range v.d.Sources {
		u, err := url.Parse(source)
		if web := err == nil && u.Scheme == "https" && u.Host != ""; !web && !repositoryFile.MatchString(source) {
			v.add("sources", "entry %d must be an https:// URL, or owner/repository:path for a file", i+1)
		}
	}
	for i, note := range v.d.Notes {
		if strings.TrimSpace(note) == "" {
			v.add("notes", "entry %d is empty", i+1)
		}
	}
}

var repositoryFile = regexp.MustCompile(`^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+(?:@[A-Za-z0-9_./-]+)?(?::[A-Za-z0-9_./ -]+)?$`)

// callback checks what a callback must bring.
func (v *validation) callback() {
	if s := v.d.CallbackSignature; s != nil {
		if s.Parameter == "" {
			v.add("callback_signature.parameter", "is missing: the name of the parameter that carries the signature")
		}
		if s.Algorithm != "hmac-sha256-hex" {
			v.add("callback_signature.algorithm", "must be hmac-sha256-hex")
		}
		if v.d.TokenEndpointAuthMethod == authNone {
			v.add("callback_signature", "is made with the client secret, which token_endpoint_auth_method none has not")
		}
	}
	v.declaredAll("callback_expect", v.d.CallbackExpect)
}

func (v *validation) lookups() {
	for i, l := range v.d.Lookups {
		key := fmt.Sprintf("lookups[%d]", i)
		if l.Endpoint == "" {
			v.add(key+".endpoint", "is missing")
		}
		v.oneOf(key+".method", l.Method, "GET", "POST")
		v.headers(key+".headers", l.Headers)
		if l.Body != "" && l.Method != "POST" {
			v.add(key+".method", "must be POST where something is sent in the body")
		}
		if len(l.Extra) == 0 {
			v.add(key+".extra", "is missing: nothing of the answer would be kept")
		}
		v.extras(key+".extra", l.Extra)
	}
}

var apiHost = regexp.MustCompile(`^(?:\*\.)?(?:[A-Za-z0-9{}_-]+\.)*[A-Za-z0-9{}_-]+(?::[0-9]{1,5})?$`)

// api checks where tokens may be sent. A host that is all wildcard would let a token out to anybody.
func (v *validation) api() {
	for i, host := range v.d.API.Hosts {
		key := fmt.Sprintf("api.hosts[%d]", i)
		v.declared(key, host)
		if !apiHost.MatchString(host) || strings.HasPrefix(host, "*.") && strings.Count(host, ".") < 2 {
			v.add(key, "must be a host, or *. and a domain of at least two labels")
		}
	}
	v.headers("api.headers", v.d.API.Headers)
	if h := v.d.API.Header; h != "" && !headerName.MatchString(h) {
		v.add("api.header", "is not a header")
	}
}
