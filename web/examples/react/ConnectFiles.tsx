// A part of a chat's page: asks the user to connect an account, and tells its parent when that is done.
import { useEffect, useRef, useState } from "react";
import { connect, type Result } from "tokenbroker-connect";

type Props = {
  /** Asks your own backend for the link, which asks the broker: the API key never comes to a browser. */
  fetchLink: () => Promise<string>;
  onConnected: (consent: string) => void;
};

const said: Record<Result["status"], string> = {
  completed: "Connected.",
  denied: "All right, I go on without.",
  failed: "That did not work out. Shall we try again?",
  expired: "That took too long. Shall we try again?",
  closed: "The window was closed. Shall we try again?",
  blocked: "Your browser did not open a window.",
};

export function ConnectFiles({ fetchLink, onConnected }: Props) {
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(false);
  const [link, setLink] = useState<string>();
  const running = useRef<AbortController>(undefined);
  useEffect(() => () => running.current?.abort(), []); // nobody waits any more when this is taken away

  async function open() {
    const stop = (running.current = new AbortController());
    setBusy(true);
    setText("Go on in the window that has opened.");
    try {
      // In the click, with the promise of the link: the window opens at once.
      const { consent, status } = await connect(fetchLink(), {
        signal: stop.signal,
        onBlocked: setLink,
        onStatus: ({ status }) => { if (status === "awaiting_completion") setText("One moment."); },
        onClosed: () => setText("The window was closed. If you are not done, open it again."),
      });
      setText(said[status]);
      if (status === "completed") onConnected(consent);
    } catch (error) {
      if (stop.signal.aborted) return;
      setText(error instanceof Error ? error.message : String(error));
    } finally {
      if (!stop.signal.aborted) {
        setBusy(false);
        setLink(undefined);
      }
    }
  }

  return (
    <section aria-label="Connect your files">
      <button type="button" onClick={open} disabled={busy}>Connect your files</button>
      <p role="status">{text}</p>
      {link && <a href={link} target="_blank" rel="opener">Connect your files here</a>}
    </section>
  );
}
