// Package sandbox is a small real OAuth 2.0 and OpenID Connect authorization server with a files API behind it. Dev
// mode, tests and benchmarks talk to it over HTTP as they would talk to Google or Slack; it is not for production: its
// users have no passwords and its data lives in memory.
//
// The protocol work (validation of authorization requests, codes, PKCE, client authentication, the refresh grant,
// revocation, id_tokens, client credentials, assertions) is done by github.com/zitadel/oidc/v3. This package owns what a provider has of its own: users,
// the sign-in page, grants and the rotation of refresh tokens, opaque tokens, and the faults that a test may order.
//
// # Use
//
//	listener, err := net.Listen("tcp", "127.0.0.1:0")
//	sandboxServer, err := sandbox.New(sandbox.Config{
//		Issuer:  "http://" + listener.Addr().String(),
//		Clients: []sandbox.Client{{ID: "files", Secret: "s3cret", RedirectURIs: []string{callback}}},
//		Random:  rand.Reader,
//		Now:     time.Now,
//	})
//	server := &http.Server{Handler: sandboxServer}   // then server.Serve(listener)
//	defer sandboxServer.Close()                      // first lets go of every request that a fault holds
//
// Endpoints: GET /authorize, POST /token, POST /revoke, GET or POST /userinfo, GET /keys,
// POST /device_authorization with the page GET /device (RFC 8628),
// GET /.well-known/oauth-authorization-server (RFC 8414), GET /.well-known/openid-configuration; the files API: GET and
// POST /files, GET /files/ID, GET /me.
//
// # Signing in
//
// In a browser /authorize leads to a page where one picks alice, bob or mallory, unticks permissions and allows or
// denies. Programs have three ways past that page:
//
//   - extra parameters of the authorization request: login_hint=alice&auto=allow (or auto=deny), and auto_scopes="files.read"
//     to grant only a part. One can append them to any authorization URL, or set them as a provider's authorization_params;
//   - Config.Auto or Server.SetAuto, which decide for every authorization request;
//   - the form itself: follow the redirect to /login?request=ID and POST request, user, decision=allow|deny and scope
//     (repeated) to /login.
//
// # Scopes
//
// files.read and files.write open the files API. A refresh token is issued when offline_access was asked and granted
// (OpenID Connect Core section 11). openid adds an id_token. /me and /userinfo answer to every valid access token.
//
// # Faults
//
// Server.Inject orders faults, Server.ClearFaults ends them and lets held requests go on; each is described at its Kind.
// With Config.Admin the same is there over HTTP, for tests that started the sandbox in another process:
//
//	POST   /_sandbox/faults    {"faults":[{"on":"refresh","kind":"status","status":503,"retry_after":1,"times":2}]}
//	DELETE /_sandbox/faults
//	GET    /_sandbox/stats
//	POST   /_sandbox/settings  {"rotation":"strict","access_token_lifetime_ms":5000,"auto":{"user":"alice","decision":"allow"}}
//	POST   /_sandbox/grants/revoke  {"user":"alice"}    (the user withdraws it at the provider)
//
// Server.Stats counts what arrived; Server.Requests, with Config.Record, keeps the last requests to /token and /revoke in
// memory, secrets and all, for tests that check what was sent.
package sandbox
