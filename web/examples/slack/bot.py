"""A Slack command that works with a user's files: /files asks for them, /files code ABCD-EFGH brings the code that the consent page
showed. There is no browser of ours in Slack, so the code proves that whoever consented is the one who typed the command."""
import hashlib, hmac, json, os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import parse_qs
from urllib.request import Request, urlopen

BROKER, KEY = os.environ["BROKER_URL"], os.environ["BROKER_KEY"]
SECRET = os.environ["SLACK_SIGNING_SECRET"].encode()
pending = {}  # the consent that each user was last asked for; keep it where all your processes find it


def call(path, body):
    """Asks the broker; returns the status and the answer."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    try:
        with urlopen(Request(BROKER + path, json.dumps(body).encode(), headers), timeout=60) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def signed(headers, body):
    """https://docs.slack.dev/authentication/verifying-requests-from-slack"""
    stamp = headers.get("X-Slack-Request-Timestamp", "")
    if not stamp.isdigit() or abs(time.time() - int(stamp)) > 300:
        return False
    want = "v0=" + hmac.new(SECRET, b"v0:" + stamp.encode() + b":" + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(want.encode(), headers.get("X-Slack-Signature", "").encode())


def complete(subject, code):
    status, answer = call(f"/v1/consents/{pending.get(subject, 'none')}/complete", {"subject": subject, "code": code})
    if status == 200:
        return "Connected. " + files(subject)
    return {"invalid_code": "That is not the code. Look again at the page where it is shown.", "account_changed": "That is another account than before."}.get(
        answer["error"], "That did not work. Ask for /files again.")


def files(subject):
    status, answer = call("/v1/tokens", {"connector": "files", "subject": subject, "reason": "the user typed /files in Slack"})
    if status == 200:
        return "Here are your files."  # with answer["access_token"], which stays in this process
    if answer["error"] == "consent_required":
        pending[subject] = answer["consent"]["id"]
        return f"<{answer['consent']['url']}|Connect your files>, then type `/files code` and the code that the page shows."
    return "Your files can't be reached now. Try again later."


class Slack(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 100_000))
        if not signed(self.headers, body):
            return self.send_error(401)
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        subject = f"slack:{form['team_id']}:{form['user_id']}"  # who typed it, as Slack has signed
        word, _, rest = form.get("text", "").strip().partition(" ")
        text = complete(subject, rest) if word == "code" else files(subject)
        # Ephemeral: the link is for this user alone.
        answer = json.dumps({"response_type": "ephemeral", "text": text}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


ThreadingHTTPServer(("127.0.0.1", int(os.environ["LISTEN"])), Slack).serve_forever()
