// The window in which the user consented: tell the chat, then go away. Where no opener is left, the page says what to do.
"use strict";
if (window.opener) {
  window.opener.postMessage({ type: "demo:finished" }, window.location.origin);
  if (document.currentScript.hasAttribute("data-close")) window.close();
}
