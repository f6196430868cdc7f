// Keeps a page of the dashboard up to date while it is open. The page works without it: there is a link to load it anew.
"use strict";
(() => {
  const part = document.getElementById("live");
  const state = document.getElementById("live-state");
  if (!part || !state || !("EventSource" in window)) return;
  const again = state.querySelector("a");
  const at = document.getElementById("live-at");
  const words = document.createElement("span");
  state.prepend(words, " ");

  let stream = null;
  let timer = 0;
  let over = false;
  const say = (what) => {
    state.dataset.state = what;
    const text = state.dataset[what];
    if (words.textContent !== text) words.textContent = text;
  };

  // What is open stays open, what has the focus keeps it, and nobody's selection is taken away.
  const place = (element) => {
    if (!element || !part.contains(element)) return null;
    if (element.id) return { id: element.id };
    if (element.tagName === "A") return { href: element.getAttribute("href") };
    if (element.tagName === "SUMMARY" && element.parentElement.id) return { summary: element.parentElement.id };
    const label = element.getAttribute("aria-labelledby") || element.getAttribute("aria-label");
    return label ? { label } : null;
  };
  const found = (where) => {
    if (where.id) return document.getElementById(where.id);
    if (where.summary) return document.getElementById(where.summary)?.querySelector("summary");
    for (const element of part.querySelectorAll(where.href ? "a[href]" : "[aria-labelledby],[aria-label]")) {
      const value = where.href ? element.getAttribute("href") : element.getAttribute("aria-labelledby") || element.getAttribute("aria-label");
      if (value === (where.href || where.label) && element.tabIndex >= 0) return element;
    }
    return null;
  };
  let late = null; // what came while somebody had selected something
  const selecting = () => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  };
  const show = (html) => {
    if (selecting()) {
      late = html;
      return;
    }
    late = null;
    const focus = place(document.activeElement);
    const open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
    const scrolled = [...part.querySelectorAll("[role=region]")].map((one) => [place(one), one.scrollLeft]);
    part.innerHTML = html;
    for (const id of open) if (id) document.getElementById(id)?.setAttribute("open", "");
    for (const [where, left] of scrolled) {
      const one = where && left ? found(where) : null;
      if (one) one.scrollLeft = left;
    }
    if (focus) found(focus)?.focus({ preventScroll: true });
    if (!window.matchMedia("(prefers-reduced-motion: reduce)").matches) {
      state.classList.remove("fresh");
      void state.offsetWidth; // so that it begins anew
      state.classList.add("fresh");
    }
  };
  document.addEventListener("selectionchange", () => {
    if (late !== null && !selecting()) show(late);
  });

  const close = () => {
    clearTimeout(timer);
    stream?.close();
    stream = null;
  };
  const listen = () => {
    close();
    if (over || document.hidden) return;
    stream = new EventSource(part.dataset.stream);
    stream.addEventListener("hello", () => say("live"));
    stream.addEventListener("part", (event) => show(event.data));
    stream.addEventListener("at", (event) => {
      if (at && event.data) at.textContent = event.data;
      say("live");
    });
    stream.addEventListener("over", () => {
      over = true;
      close();
      say("over");
      if (again) again.textContent = "Sign in again";
    });
    stream.addEventListener("stale", () => {
      over = true;
      close();
      say("stale");
    });
    stream.addEventListener("ended", () => {
      over = true;
      close();
      say("ended");
    });
    stream.addEventListener("error", () => {
      say("lost");
      // The browser comes again by itself, unless it was refused.
      if (stream && stream.readyState === EventSource.CLOSED) {
        close();
        timer = setTimeout(listen, 10000);
      }
    });
  };
  // A page that nobody looks at asks for nothing.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : listen()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) listen();
  });
  listen();
})();
