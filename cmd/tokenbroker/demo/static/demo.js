// The page works without this file: forms post and the page comes back. With it nothing reloads and news come by themselves.
"use strict";
(() => {
  const body = document.body;
  const log = document.getElementById("log");
  const events = document.getElementById("events");
  const typing = document.getElementById("typing");
  const toggle = document.getElementById("panel-toggle");
  const state = { rev: Number(body.dataset.rev), seq: Number(body.dataset.seq), timer: 0, asking: false, again: false };

  const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 120;
  const toEnd = () => { log.scrollTop = log.scrollHeight; };

  // The server renders (and escapes) every fragment; here they are only put in their places.
  function element(html) {
    const template = document.createElement("template");
    template.innerHTML = html.trim();
    return template.content.firstElementChild;
  }

  function place(parts) {
    const follow = atEnd();
    for (const part of parts) {
      const fresh = element(part.html);
      const old = document.getElementById(fresh.id);
      if (!old) {
        log.append(fresh);
        continue;
      }
      // What the user is typing into a card must survive the card's being drawn anew.
      const typed = old.querySelector("input[name=code]");
      const field = fresh.querySelector("input[name=code]");
      const focused = typed && typed === document.activeElement;
      if (typed && field) field.value = typed.value;
      old.replaceWith(fresh);
      const elsewhere = document.activeElement.id === "text" && document.activeElement.value !== ""; // in the middle of a message
      if (field && (focused || (fresh.querySelector("[data-state=code]") && !elsewhere))) field.focus();
    }
    if (parts.length && follow) toEnd();
  }

  // The tour is drawn anew when a stop was seen; a press of its button goes on at the next one.
  function tour(html) {
    const fresh = element(html);
    const old = document.getElementById("tour");
    const focused = old.contains(document.activeElement);
    old.replaceWith(fresh);
    if (focused) fresh.querySelector("[aria-current] button")?.focus();
    count();
  }

  // How long the token at hand is good for another task.
  function count() {
    for (const time of document.querySelectorAll("time[data-until]")) {
      const left = Math.ceil((Number(time.dataset.until) - Date.now()) / 1000);
      time.textContent = left > 0 ? `in ${left} s` : "with your next question";
    }
  }
  setInterval(count, 1000);

  async function update(check) {
    if (state.asking) {
      state.again = check === true || state.again === true ? true : "plain"; // a wish to check is never lost to one without
      return;
    }
    state.asking = true;
    clearTimeout(state.timer);
    try {
      const answer = await fetch(`/updates?rev=${state.rev}&seq=${state.seq}&tour=${encodeURIComponent(document.getElementById("tour").dataset.tour)}${check === true ? "&check" : ""}`, { headers: { Accept: "application/json" } });
      if (answer.status === 401) {
        window.location.assign("/");
        return;
      }
      if (answer.ok) {
        const news = await answer.json();
        place(news.chat || []);
        for (const part of news.events || []) {
          const fresh = element(part.html);
          if (events.checkVisibility()) fresh.classList.add("fresh"); // shown later, it would not be fresh any more
          events.prepend(fresh);
        }
        while (events.children.length > 300) events.lastElementChild.remove();
        if (news.tour) tour(news.tour);
        state.rev = news.rev;
        state.seq = news.seq;
      }
    } catch {
      // The demo is away; the next turn asks again.
    } finally {
      state.asking = false;
      const again = state.again;
      state.again = false;
      if (again) update(again === true);
      else state.timer = setTimeout(update, document.hidden ? 5000 : 1000);
    }
  }

  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form[data-async]");
    if (!form) return;
    event.preventDefault();
    const data = new URLSearchParams(new FormData(form, event.submitter));
    if (form.action.endsWith("/binding")) {
      for (const button of form.querySelectorAll("[data-binding]")) button.setAttribute("aria-pressed", String(button === event.submitter));
    }
    const talks = !form.action.endsWith("/binding");
    if (talks) typing.hidden = false;
    if (form.classList.contains("entry")) form.reset();
    try {
      const sent = fetch(form.action, { method: "POST", body: data, headers: { Accept: "application/json" } });
      setTimeout(update, 60); // shows the user's own line while the assistant works
      await sent;
    } catch {
      // The line did not get through; it is not in the log, so the user sees that.
    } finally {
      if (talks) typing.hidden = true;
      await update();
      toEnd();
    }
  });

  // Connect opens a window beside the chat; where pop-ups are blocked the link opens a tab by itself.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-connect]");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const popup = window.open(link.href, "tokenbroker", "popup,width=480,height=760");
    if (popup) {
      event.preventDefault();
      popup.focus();
    }
  });

  // The broker's page tells how a consent ended, and our own page when the browser is back. Neither is believed, only taken
  // as a sign to ask: what they say could be said by anybody who has a reference to this window.
  window.addEventListener("message", (event) => {
    const fromBroker = event.origin === body.dataset.broker && event.data && event.data.type === "tokenbroker:consent";
    const fromUs = event.origin === window.location.origin && event.data && event.data.type === "demo:finished";
    if (fromBroker || fromUs) update(true);
  });

  events.addEventListener("animationend", (event) => event.target.classList.remove("fresh"));

  if (toggle) {
    toggle.hidden = false;
    toggle.addEventListener("click", () => {
      const open = body.classList.toggle("panel-open");
      toggle.setAttribute("aria-expanded", String(open));
    });
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) update(); });
  body.classList.add("scripted");
  toEnd();
  update();
})();
