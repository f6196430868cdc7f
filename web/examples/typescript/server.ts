// The backend of a web chat whose users connect an account: it asks the broker for a link, and completes the consent when the
// browser comes back. README.md beside this folder says how to run it.
import { randomBytes, timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";

const { BROKER_URL: broker = "", BROKER_KEY: key = "", PUBLIC_URL: chat = "", LISTEN: port } = process.env;

// Stands for your own: what your server knows of the browser that sends this cookie.
type Session = { user: string; state: string };
const sessions = new Map<string, Session>();
const random = () => randomBytes(32).toString("base64url");

function current(request: IncomingMessage): Session | undefined {
  const id = /(?:^|; )chat=([\w-]+)/.exec(request.headers.cookie ?? "")?.[1];
  return id ? sessions.get(id) : undefined;
}

async function call(path: string, body: Record<string, string>): Promise<{ url?: string }> {
  const answer = await fetch(broker + path, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(60_000),
  });
  if (!answer.ok) throw new Error(`broker: ${answer.status} ${((await answer.json()) as { error?: string }).error}`);
  return (await answer.json()) as { url?: string };
}

// Stands for your own login, and believes whatever it is told: replace it.
async function login(request: IncomingMessage, response: ServerResponse) {
  let body = "";
  for await (const chunk of request) body += chunk;
  const id = random();
  sessions.set(id, { user: new URLSearchParams(body).get("user") ?? "", state: "" });
  response.setHeader("set-cookie", `chat=${id}; Path=/; HttpOnly; SameSite=Lax`).end(); // and Secure, with https
}

async function link(request: IncomingMessage, response: ServerResponse) {
  const session = current(request);
  if (!session) return void response.writeHead(401).end("log in first");
  session.state = random();
  // The user is who is logged in, never what a request says.
  const consent = await call("/v1/consents", { connector: "files", subject: session.user, return_to: `${chat}/done`, state: session.state });
  response.setHeader("content-type", "application/json").end(JSON.stringify({ url: consent.url }));
}

function same(a: string, b: string) {
  const [x, y] = [Buffer.from(a), Buffer.from(b)];
  return x.length > 0 && x.length === y.length && timingSafeEqual(x, y);
}

async function done(request: IncomingMessage, response: ServerResponse, query: URLSearchParams) {
  const session = current(request);
  const state = session?.state ?? "";
  if (session) session.state = ""; // works once, whatever comes of it
  if (!session || !same(state, query.get("state") ?? "")) return void response.writeHead(400).end("This was not begun here. Nothing was connected.");
  const code = query.get("code");
  if (!code) return void response.end("Nothing was connected. You can close this window.");
  try {
    await call(`/v1/consents/${encodeURIComponent(query.get("consent") ?? "")}/complete`, { subject: session.user, code });
  } catch (error) {
    console.error(String(error)); // subject_mismatch among others: the link was somebody else's
    return void response.writeHead(403).end("Nothing was connected.");
  }
  response.end("Connected. You can close this window.");
}

createServer((request, response) => {
  const at = new URL(request.url ?? "/", chat);
  const routes: Record<string, () => Promise<void>> = {
    "POST /login": () => login(request, response),
    "POST /link": () => link(request, response),
    "GET /done": () => done(request, response, at.searchParams),
  };
  const route = routes[`${request.method} ${at.pathname}`];
  if (!route) return void response.writeHead(404).end("not found");
  route().catch((error) => {
    console.error(String(error));
    response.writeHead(502).end("this can't be done now");
  });
}).listen(Number(port), "127.0.0.1");
