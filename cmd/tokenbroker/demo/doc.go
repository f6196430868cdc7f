// Package demo is a chatbot platform in small: a chat page with an assistant that needs the user's files and asks the
// token broker for access. It knows the broker by its REST API alone, as any integrator would, so it doubles as the
// example to read: assistant.go asks for tokens, consent.go runs both bindings, platform.go is the whole API client.
//
//	chat, err := demo.New(demo.Config{
//		PublicURL: "http://127.0.0.1:3000", BrokerURL: "http://127.0.0.1:8080", FilesURL: "http://127.0.0.1:4000",
//		APIKey: key, Connector: "files", Now: time.Now, Random: rand.Reader, Log: log,
//	})
//	server := &http.Server{Handler: chat}
//
// The broker must list PublicURL+"/done" and PublicURL+"/portal" among the client's return_to and PublicURL among its origins. A request may take
// as long as the provider does, so the server's WriteTimeout should not be below 90 s.
//
// Who is chatting is chosen on a page instead of being proven, and everything lives in memory: it is a demo. The rest is
// meant as in production: tokens are used by this backend and never reach the browser, the subject of every call comes
// from the session, and what changes anything is refused to other origins.
//
// # For tests in a browser
//
// Sign in by POST /session with user=alice. On the page: form#compose with input#text; button[data-say] say what they
// carry; #log li[data-message] are messages, a consent card is .card[data-consent][data-state=waiting|code|done|...] with
// a[data-connect]; files are li[data-file]; the code field is input[name=code] in form[data-code]; the bindings are
// buttons [data-binding=return|code]; events are #events li[data-type][data-scope][data-outcome], newest first.
package demo
