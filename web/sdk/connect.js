// connect.js of tokenbroker: opens a consent from a chat and tells how it ended. It never sees a code or a token.

const rank = { pending: 1, started: 2, awaiting_completion: 3, completed: 4, denied: 4, failed: 4, expired: 4 };
const longest = 45 * 60_000; // link, sign-in, provider, last step: ten minutes each
// The broker that this came from: it opens no others' links unless told to.
const home = /^(https?:\/\/[^/]+)\/sdk\/connect\.js\b/.exec(import.meta.url)?.[1];

/** Opens the consent; call it in the click. */
export async function connect(consentUrl, options = {}) {
  const later = typeof consentUrl?.then === "function";
  const url = later ? consentUrl : check(consentUrl, options);
  const tab = options.target ? options.target === "tab" : matchMedia("(pointer: coarse), (max-width: 600px)").matches;
  // Before anything is waited for: browsers open windows for clicks alone.
  let win = open(later ? "about:blank" : url.href, "_blank", tab ? "" : popup());
  if (win?.closed) win = null;
  options.onOpen?.(win);
  return later ? navigate(win, url, options) : run(url, win, options);
}

/** Follows a consent that was opened by other means. */
export async function follow(consentUrl, options = {}) {
  return run(check(await consentUrl, options), null, { onBlocked() {}, ...options });
}

async function navigate(win, promised, options) {
  try {
    const url = check(await promised, options);
    win?.location.replace(url.href);
    return await run(url, win, options);
  } catch (error) {
    win?.close();
    throw error;
  }
}

function check(consentUrl, { origin }) {
  const url = new URL(consentUrl), only = new URL(origin || home || url).origin;
  if (!/^https?:$/.test(url.protocol) || !/^\/connect\/[\w.~-]+$/.test(url.pathname)) throw new TypeError("tokenbroker: not the url of a consent");
  if (url.origin !== only) throw new TypeError(`tokenbroker: the consent is not of ${only}`);
  return url;
}

function popup() {
  const middle = (from, room) => Math.round(Math.max(0, from + room / 2));
  return `popup,width=520,height=760,left=${middle(screenX, outerWidth - 520)},top=${middle(screenY, outerHeight - 760)}`;
}

function run(url, win, { signal, onStatus, onBlocked, onClosed, close = true }) {
  return new Promise((resolve, reject) => {
    let consent = "", status = "", over = false, missing = 0;
    const stop = new AbortController();
    const end = (settle, value) => {
      if (over) return;
      over = true;
      stop.abort();
      clearInterval(looking);
      clearTimeout(limit);
      settle(value);
    };
    const finish = (how) => end(resolve, { consent, status: how });
    const hear = (id, now) => {
      if (over || typeof id !== "string" || !id || (consent && id !== consent) || !(rank[now] > (rank[status] || 0))) return;
      consent = id;
      status = now;
      try { onStatus?.({ consent, status }); } catch (error) { reportError(error); }
      if (rank[now] < 4) return;
      if (close && now === "completed") win?.close();
      finish(now);
    };
    const ask = async (wait) => {
      const query = wait && status ? `?wait=25&status=${status}` : "";
      const answer = await fetch(url.origin + url.pathname + "/status" + query, { credentials: "omit", cache: "no-store", referrerPolicy: "no-referrer", signal: stop.signal });
      missing = answer.status === 404 ? missing + 1 : 0;
      if (missing > 2) return finish("expired"); // and each counts against this network
      if (!answer.ok) throw answer.status;
      const now = await answer.json();
      hear(now.consent, now.status);
    };

    // By message: from the broker, and from that window if known.
    addEventListener("message", ({ origin, source, data }) => {
      if (origin !== url.origin || data?.type !== "tokenbroker:consent") return;
      if (win ? source === win : consent && data.consent === consent) hear(data.consent, data.status);
    }, { signal: stop.signal });

    // By asking: answers come with the news.
    const poll = async () => {
      for (let failed = 0; !over; ) {
        const began = Date.now();
        try {
          await ask(!failed);
          failed = 0;
        } catch {
          if (over) return;
          if (!consent && !failed && !missing) console.warn(`tokenbroker: can't read the status. Is ${location.origin} in origins, the broker in connect-src?`);
          failed = Math.min(failed + 1, 4);
        }
        await new Promise((next) => setTimeout(next, Math.max(failed * 1000, 500 - (Date.now() - began))));
      }
    };
    document.addEventListener("visibilitychange", () => { if (!document.hidden) ask().catch(() => {}); }, { signal: stop.signal });

    // Closed before Continue it is over. Later it may only seem so, by a provider's Cross-Origin-Opener-Policy.
    const looking = setInterval(async () => {
      if (!win?.closed) return;
      clearInterval(looking);
      await ask().catch(() => {});
      if (over || status === "awaiting_completion") return;
      onClosed?.({ consent, status });
      if (!(rank[status] > 1)) finish("closed");
    }, 300);
    const limit = setTimeout(finish, longest, "expired");

    const abort = () => end(reject, signal.reason);
    if (signal?.aborted) return abort();
    signal?.addEventListener("abort", abort, { signal: stop.signal });
    if (!win) {
      if (!onBlocked) return finish("blocked");
      onBlocked(url.href);
    }
    poll();
  });
}

const style = `
:host { display: inline-block }
:host([hidden]) { display: none }
button { font: inherit; min-height: 44px; padding: 0 1.1em; border: 1px solid transparent; border-radius: var(--tokenbroker-radius, 8px); cursor: pointer;
  background: var(--tokenbroker-accent, light-dark(#1d4ed8, #a8c1ff)); color: var(--tokenbroker-on-accent, light-dark(#fff, #0b1530)) }
[aria-disabled=true] { opacity: .7; cursor: default }
:focus-visible { outline: 3px solid currentColor; outline-offset: 2px }
p { margin: .5em 0 0 }
p:empty { display: none }
a { color: inherit }
`;

const words = {
  label: "Connect",
  waiting: "Go on in the new window.",
  code: "Type the code that it shows here in the chat.",
  awaiting_completion: "One moment.",
  completed: "Connected.",
  denied: "Nothing was connected.",
  failed: "That did not work. Ask for a new link.",
  expired: "This took too long. Ask for a new link.",
  closed: "Nothing is connected yet. If that window is gone, open it again.",
  blocked: "No window opened.",
  open: "Open it here",
};

/** <tokenbroker-connect consent-url="..." binding="code"> */
export class TokenbrokerConnect extends (globalThis.HTMLElement ?? class {}) {
  static observedAttributes = ["consent-url"];
  #parts; #stop; #texts; #result; #win; #done;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open", delegatesFocus: true });
    const make = (tag, part, inside) => Object.assign(inside.appendChild(document.createElement(tag)), { part });
    const sheet = new CSSStyleSheet(); // policies may forbid inline styles
    sheet.replaceSync(style);
    root.adoptedStyleSheets = [sheet];
    const button = make("button", "button", root);
    button.type = "button";
    button.addEventListener("click", () => this.connect().catch((error) => { if (error?.name !== "AbortError") reportError(error); }));
    const label = make("slot", "label", button);
    const text = make("p", "status", root);
    text.setAttribute("role", "status");
    text.setAttribute("aria-live", "polite");
    this.#parts = { button, label, text, link: null };
  }

  connectedCallback() { this.#show(this.state); }
  // Not at once: what is moved is out and in again in one go.
  disconnectedCallback() { queueMicrotask(() => { if (!this.isConnected) this.#stop?.abort(); }); }
  attributeChangedCallback(_, before, now) {
    if (before === now) return;
    this.#stop?.abort();
    this.#stop = this.#result = null;
    this.#show("ready");
  }

  get consentUrl() { return this.getAttribute("consent-url") ?? ""; }
  set consentUrl(url) { this.setAttribute("consent-url", url); }
  get state() { return this.getAttribute("state") ?? "ready"; }
  get texts() { return { ...words, ...this.#texts }; }
  set texts(texts) { this.#texts = { ...texts }; this.#show(this.state); }

  connect() {
    if (this.#result) return Promise.resolve(this.#result);
    if (this.state !== "ready" && this.#win && !this.#win.closed) return this.#win.focus(), this.#done;
    this.#stop?.abort();
    const stop = (this.#stop = new AbortController());
    const tell = (name, detail) => this.dispatchEvent(new CustomEvent(`tokenbroker:${name}`, { detail, bubbles: true, composed: true }));
    this.#show("waiting");
    return (this.#done = connect(this.consentUrl, {
      origin: this.getAttribute("origin"),
      onOpen: (win) => { this.#win = win; },
      signal: stop.signal,
      onStatus: (now) => {
        if (rank[now.status] === 4) this.#result = now;
        const code = now.status === "awaiting_completion" && this.getAttribute("binding") === "code";
        if (rank[now.status] > 2) this.#show(code ? "code" : now.status);
        tell("status", now);
      },
      onBlocked: (url) => { this.#show("blocked", url); tell("blocked", { url }); },
      onClosed: (now) => { this.#show("closed"); tell("closed", now); },
    }).then((result) => {
      if (this.#stop === stop && result.status === "expired") this.#show("expired");
      return result;
    }, (error) => {
      if (this.#stop === stop) this.#show("ready");
      throw error;
    }));
  }

  #show(state, url) {
    const { button, label, text } = this.#parts, texts = this.texts;
    label.textContent = texts.label;
    button.setAttribute("aria-disabled", String(rank[state] === 4));
    const said = texts[state] ?? "";
    if (url || text.textContent !== said) text.textContent = said;
    this.setAttribute("state", state);
    if (!url) return;
    const link = document.createElement("a");
    Object.assign(link, { part: "link", href: url, target: "_blank", rel: "opener", textContent: texts.open });
    text.append(" ", link);
  }
}

if (globalThis.customElements && !customElements.get("tokenbroker-connect")) customElements.define("tokenbroker-connect", TokenbrokerConnect);
