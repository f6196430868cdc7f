// Everything here is an extra: the pages work without it.
"use strict";
(() => {
  // Tell the window that opened this page how it went: at the client's registered origins and nowhere else, and never
  // with a code or a token in it.
  const outcome = document.getElementById("outcome");
  if (outcome && window.opener) {
    const { consent, status, origins } = outcome.dataset;
    for (const origin of JSON.parse(origins || "[]")) {
      try {
        window.opener.postMessage({ type: "tokenbroker:consent", consent, status }, origin);
      } catch {
        // An opener of another origin, or one that is gone, does not hear it.
      }
    }
  }

  // Look for news while it goes on elsewhere: the code is typed in the chat, and this page should say how that went. It
  // asks for itself, compares the status and loads itself anew once that has changed; the new page tells the opener.
  if (outcome && "waiting" in outcome.dataset) {
    const every = 2000;
    const until = Date.now() + 10 * 60 * 1000 + 2 * every; // a code lives ten minutes: so its end is seen as well
    let timer = 0;
    let asking = false;
    const next = () => {
      clearTimeout(timer);
      if (!document.hidden && Date.now() < until) timer = setTimeout(look, every);
    };
    const look = async () => {
      if (asking) return;
      asking = true;
      try {
        const answer = await fetch(window.location.href, { credentials: "same-origin", cache: "no-store", redirect: "error" });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const now = page.getElementById("outcome");
        // Without an outcome the consent is no longer there to be seen (404), or we are busy: only the first is final.
        if (now ? now.dataset.status !== outcome.dataset.status : answer.status === 404) {
          window.location.reload();
          return;
        }
      } catch {
        // Not reachable just now; the next turn asks again.
      }
      asking = false;
      next();
    };
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && Date.now() < until) look();
    });
    next();
  }

  // A window that was opened by the chat can be closed by a button; elsewhere the words say it.
  const close = document.getElementById("close");
  if (close && window.opener) {
    close.hidden = false;
    close.addEventListener("click", () => window.close());
  }

  // A button that copies the code.
  const copy = document.getElementById("copy");
  const code = document.getElementById("code");
  if (copy && code && navigator.clipboard) {
    copy.hidden = false;
    const label = copy.textContent;
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent.trim());
        copy.textContent = copy.dataset.done;
        setTimeout(() => { copy.textContent = label; }, 2000);
      } catch {
        window.getSelection().selectAllChildren(code); // it can still be copied by hand
      }
    });
  }

  // One press, one consent: a second one while the first is under way would make the first one's sign-in void.
  for (const form of document.querySelectorAll("form.choice")) {
    let sent = false;
    form.addEventListener("submit", (event) => {
      if (sent) {
        event.preventDefault();
        return;
      }
      sent = true;
      form.setAttribute("aria-busy", "true");
    });
    window.addEventListener("pageshow", () => { // back from the provider
      sent = false;
      form.removeAttribute("aria-busy");
    });
  }
})();
