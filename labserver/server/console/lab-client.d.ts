/** Types of lab-client.js, a client that reconnects. Times are in milliseconds. */

/** When a client may connect again. */
export type Return = "soon" | "later" | "new_token" | "never";

/** The newest message of a room that a client knows. */
export interface Cursor {
  epoch: string;
  seq: number;
}

export interface Hello {
  type: "hello";
  id: string;
  user: string;
  stage: string;
  replica: string;
  /** Seconds between two pings of the server; null for none. */
  heartbeat: number | null;
}

export interface Joined {
  type: "joined";
  room: string;
  epoch: string;
  seq: number;
  /** Whether every missed message follows. */
  recovered: boolean;
  ref?: string | number;
}

export interface Left {
  type: "left";
  room: string;
  ref?: string | number;
}

export interface Message {
  type: "message";
  room: string;
  seq: number;
  from: string;
  payload: unknown;
}

/** Messages of a room that will not come; both ends are inclusive. */
export interface Gap {
  type: "gap";
  room: string;
  from: number;
  to: number;
  reason: "slow" | "broker";
}

export interface Ack {
  type: "ack";
  room: string;
  seq: number;
  ref: string | number;
}

export interface Refreshed {
  type: "refreshed";
  /** Seconds since 1970; null if the token does not expire. */
  expires: number | null;
  ref?: string | number;
}

export interface Problem {
  type: "error";
  code: string;
  detail: string;
  ref?: string | number;
}

/** A connection that joined a room with presence. */
export interface Person {
  id: string;
  user: string;
}

export interface Present {
  type: "present";
  room: string;
  count: number;
  /** Missing if there are too many. */
  clients?: Person[];
}

export interface Presence {
  type: "presence";
  room: string;
  count: number;
  joined?: Person[];
  left?: Person[];
}

/** The facts of a `state` event. */
export type State =
  | { state: "connecting" }
  | { state: "open"; hello: Hello }
  | {
      state: "waiting";
      delay: number;
      /** Upper bound of the random delay; null if the server named the delay. */
      ceiling: number | null;
      /** False if the attempt failed. */
      opened: boolean;
      code: number;
      reason: string;
    }
  | { state: "closed"; code: number; reason: string; comesBack: Return };

/** The events of a client: name, and type of `detail`. */
export interface LabClientEvents {
  state: State;
  message: Message;
  gap: Gap;
  joined: Joined;
  left: Left;
  error: Problem;
  present: Present;
  presence: Presence;
  latency: { milliseconds: number };
}

/** Whether a client may connect again, by close code. */
export const CLOSES: Map<number, Return>;

/** Return when to reconnect after a close code. */
export function comesBack(code: number): Return;

/** Return the milliseconds that `retry_after_ms=N` asks for, or null. */
export function retryAfter(reason: string): number | null;

/** Return the expiry that a token states (ms since 1970), or null. */
export function expiry(token: string | null): number | null;

export interface BackoffOptions {
  /** Ceiling of the first delay; 500. */
  first?: number;
  /** Ceiling of any delay; 20,000. */
  cap?: number;
  /** A connection that lasts so long resets the ceiling; 10,000. */
  stable?: number;
}

/** How long to wait before the next attempt, with full jitter. */
export class Backoff {
  constructor(options?: BackoffOptions);
  first: number;
  cap: number;
  stable: number;
  attempt: number;
  readonly ceiling: number;
  /** Return the next delay; `draw` returns a number in [0, 1). */
  next(draw?: () => number): number;
  /** Note how long the last connection lasted. */
  lasted(milliseconds: number): void;
}

/** The server answered a request with an `error`. */
export class ServerError extends Error {
  constructor(problem: { code: string; detail: string });
  code: string;
}

/** The connection ended before the answer came. */
export class ConnectionLost extends Error {
  constructor();
}

/** A message is larger than the server's limit (bytes), which is null if unknown. */
export class TooBig extends Error {
  constructor(size: number, limit: number | null);
  code: "too_big";
  size: number;
  limit: number | null;
}

/** A room was left before it was entered. */
export class RoomLeft extends Error {
  constructor();
}

export type Token = string | null | undefined;

export interface LabClientOptions {
  /** Called at every attempt. Without it no token is sent. */
  token?: () => Token | Promise<Token>;
  backoff?: Backoff;
  /** Between two pings; 10,000. */
  pingInterval?: number;
  /** Without any message after a ping, before the connection is dropped; 8,000. */
  pingTimeout?: number;
  /** Use WebSocketStream where there is one, so that `pace` works. */
  stream?: boolean;
}

/**
 * A connection that reconnects when its socket is lost.
 *
 * Requests reject with ServerError, ConnectionLost or TooBig.
 */
export class LabClient extends EventTarget {
  /** @param url Without a token: one, a list to take turns, or a function. */
  constructor(url: string | string[] | (() => string), options?: LabClientOptions);

  readonly state: "new" | State["state"] | "lost";
  readonly hello: Hello | null;
  readonly url: string | null;
  /** How often a connection was made. */
  readonly connects: number;
  /** The token of the latest attempt. */
  readonly offered: Token;
  /** Bytes of a message, once a server has named its limit. */
  readonly sizeLimit: number | null;
  readonly canPace: boolean;
  /** How long the oldest ping has waited for its answer; 0 if none waits. */
  readonly silence: number;
  /** Messages read a second; Infinity unless a slow reader is played. */
  pace: number;

  start(): void;
  /** Disconnect. Cursors are kept: another `start()` resumes. */
  stop(): void;
  /** Drop the connection as if it had broken. */
  cut(): void;

  join(
    room: string,
    after?: Cursor | null,
    options?: { presence?: boolean },
  ): Promise<Joined>;
  /** Resolves with null if there is no connection. */
  leave(room: string): Promise<Left | null>;
  /** Sent again after a lost connection; the key makes that safe. */
  publish(room: string, payload: unknown, key?: string): Promise<Ack>;
  /** Resolves with the round trip. */
  ping(): Promise<number>;
  refresh(token: string): Promise<Refreshed>;

  addEventListener<Name extends keyof LabClientEvents>(
    type: Name,
    listener: (event: CustomEvent<LabClientEvents[Name]>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}
