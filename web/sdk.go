package web

import (
	"crypto/sha512"
	_ "embed" // connect.js
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
)

// connectJS is the script that chat pages load; api/sdk/typescript has the same bytes as a package.
//
//go:embed sdk/connect.js
var connectJS []byte

// sdk is the script as it is served.
type sdk struct {
	integrity string // for the attribute of that name (Subresource Integrity)
	version   string // a part of the digest: the address changes with the content
	src       string
}

func newSDK(publicURL string) sdk {
	sum := sha512.Sum384(connectJS)
	s := sdk{integrity: "sha384-" + base64.StdEncoding.EncodeToString(sum[:]), version: base64.RawURLEncoding.EncodeToString(sum[:9])}
	s.src = strings.TrimSuffix(publicURL, "/") + "/sdk/connect.js?v=" + s.version
	return s
}

// script is GET /sdk/connect.js. It holds nothing of anybody, so every page may load it.
func (w *Web) script(c echo.Context) error {
	h := c.Response().Header()
	everybody(h)
	h.Set("Cache-Control", "no-cache")
	if c.QueryParam("v") == w.sdk.version {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	h.Set("ETag", `"`+w.sdk.version+`"`)
	if strings.Contains(c.Request().Header.Get("If-None-Match"), `"`+w.sdk.version+`"`) {
		return c.NoContent(http.StatusNotModified)
	}
	return c.Blob(http.StatusOK, "text/javascript; charset=utf-8", connectJS)
}

// scriptInfo is GET /sdk/connect.json: the address of the script as it is now, which changes with it, and its digest.
func (w *Web) scriptInfo(c echo.Context) error {
	everybody(c.Response().Header())
	c.Response().Header().Set("Cache-Control", "no-cache")
	return c.JSON(http.StatusOK, struct {
		Src       string `json:"src"`
		Integrity string `json:"integrity"`
	}{w.sdk.src, w.sdk.integrity})
}

// everybody lets pages of every origin use an answer.
func everybody(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
}
