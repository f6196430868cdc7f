// Types of connect.js.

/** The states of a consent (ConsentStatus in the broker's openapi.yaml). */
export type ConsentStatus = "pending" | "started" | "awaiting_completion" | "completed" | "denied" | "failed" | "expired";

export interface Consent {
  /** The consent's id, as the broker's API has it; empty while it is not known. */
  consent: string;
  status: ConsentStatus;
}

/**
 * How it ended. closed: the window was closed before Continue was pressed. blocked: no window was opened, and there is no onBlocked.
 * expired: nobody went on in time, or the broker does not know the link, said three times.
 */
export interface Result {
  consent: string;
  status: "completed" | "denied" | "failed" | "expired" | "closed" | "blocked";
}

export interface Options {
  /**
   * The broker's origin: consents of any other are refused with a TypeError. Left out, it is the one that served the script, where it
   * was loaded from /sdk/connect.js; a copy at another address, as of this package, takes every origin.
   */
  origin?: string;
  /** A window of its own, or a tab; left out: a tab on phones. */
  target?: "popup" | "tab";
  /** Ends it from outside: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
  /** Close the window once the consent is completed. Default true. */
  close?: boolean;
  /** Called with the window, or with null where the browser opened none. */
  onOpen?(window: Window | null): void;
  /** Called with every status that is new. */
  onStatus?(now: Consent): void;
  /** Called when the browser opened no window: show the address as a link with rel="opener". */
  onBlocked?(url: string): void;
  /**
   * Called when the window was closed. Before Continue that is the end, and the promise resolves with "closed". Later it may be a
   * provider that cut the window off (Cross-Origin-Opener-Policy), so it goes on: end it by the signal if you do not want to wait.
   */
  onClosed?(now: { consent: string; status: ConsentStatus | "" }): void;
}

/** Opens the consent. Call it in the click; where the url must be fetched first, give the promise of it. */
export function connect(consentUrl: string | URL | PromiseLike<string | URL>, options?: Options): Promise<Result>;

/** Follows a consent that was opened by other means. */
export function follow(consentUrl: string | URL | PromiseLike<string | URL>, options?: Options): Promise<Result>;

export type State = "ready" | "waiting" | "code" | "awaiting_completion" | "completed" | "denied" | "failed" | "expired" | "closed" | "blocked";

/** The words of the element by state, and those of its button and link. */
export type Texts = Record<Exclude<State, "ready"> | "label" | "open", string>;

/**
 * <tokenbroker-connect consent-url="..." binding="code" origin="...">, origin as in Options. Parts: button, label, status, link. Custom
 * properties: --tokenbroker-accent, --tokenbroker-on-accent, --tokenbroker-radius. Its state is in the attribute state.
 */
export class TokenbrokerConnect extends HTMLElement {
  consentUrl: string;
  readonly state: State;
  get texts(): Texts;
  set texts(texts: Partial<Texts>);
  /** What its button does; call it in a click. */
  connect(): Promise<Result>;
}

export interface TokenbrokerConnectEvents {
  "tokenbroker:status": CustomEvent<Consent>;
  "tokenbroker:blocked": CustomEvent<{ url: string }>;
  "tokenbroker:closed": CustomEvent<{ consent: string; status: ConsentStatus | "" }>;
}

declare global {
  interface HTMLElementTagNameMap {
    "tokenbroker-connect": TokenbrokerConnect;
  }
  interface HTMLElementEventMap extends TokenbrokerConnectEvents {}
}
