"""The backend of a web chat whose users connect an account: it asks the broker for a link, and completes the consent when the
browser comes back. README.md beside this folder says how to run it."""
import hmac, json, os, secrets
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import parse_qs, quote, urlsplit
from urllib.request import Request, urlopen

BROKER, KEY, PUBLIC = os.environ["BROKER_URL"], os.environ["BROKER_KEY"], os.environ["PUBLIC_URL"]
sessions = {}  # stands for your own: what your server knows of the browser that sends this cookie


def call(path, body):
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urlopen(Request(BROKER + path, json.dumps(body).encode(), headers), timeout=60) as answer:
        return json.load(answer)


class Chat(BaseHTTPRequestHandler):
    def session(self):
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("chat")
        return sessions.get(cookie.value) if cookie else None

    def answer(self, status, text, kind="text/plain; charset=utf-8", cookie=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        if cookie:
            self.send_header("Set-Cookie", f"chat={cookie}; Path=/; HttpOnly; SameSite=Lax")  # and Secure, with https
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self):
        path = urlsplit(self.path).path
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        if path == "/login":  # stands for your own login, and believes whatever it is told: replace it
            sessions[id := secrets.token_urlsafe()] = {"user": form["user"][0], "state": ""}
            return self.answer(200, "", cookie=id)
        session = self.session()
        if path != "/link" or not session:
            return self.answer(401 if path == "/link" else 404, "log in first")
        session["state"] = secrets.token_urlsafe()
        try:  # the user is who is logged in, never what a request says
            consent = call("/v1/consents", {"connector": "files", "subject": session["user"], "return_to": PUBLIC + "/done", "state": session["state"]})
        except OSError as error:
            self.log_error("broker: %s", error)
            return self.answer(502, "no link can be had now")
        self.answer(200, json.dumps({"url": consent["url"]}), "application/json")

    def do_GET(self):
        at = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(at.query).items()}
        session = self.session()
        if at.path != "/done":
            return self.answer(404, "not found")
        state = session and session["state"]
        if session:
            session["state"] = ""  # works once, whatever comes of it
        if not state or not hmac.compare_digest(state.encode(), query.get("state", "").encode()):
            return self.answer(400, "This was not begun here. Nothing was connected.")
        if "code" not in query:
            return self.answer(200, "Nothing was connected. You can close this window.")
        try:
            call(f"/v1/consents/{quote(query.get('consent', ''), safe='')}/complete", {"subject": session["user"], "code": query["code"]})
        except OSError as error:  # subject_mismatch among others: the link was somebody else's
            self.log_error("broker: %s", error.read().decode() if isinstance(error, HTTPError) else error)
            return self.answer(403, "Nothing was connected.")
        self.answer(200, "Connected. You can close this window.")

    def log_request(self, *_):
        pass  # addresses hold codes


ThreadingHTTPServer(("127.0.0.1", int(os.environ["LISTEN"])), Chat).serve_forever()
