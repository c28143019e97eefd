/*
 * A client that comes back: the browser's twin of labserver/client.py.
 *
 *     import { LabClient } from "/lab-client.js";
 *
 *     const client = new LabClient("ws://127.0.0.1:8080", { token: () => token });
 *     client.addEventListener("message", ({ detail }) => show(detail.payload));
 *     client.start();
 *     await client.join("lobby");
 *     await client.publish("lobby", "hello");
 *
 * It joins its rooms again with a cursor, so that the server can replay what was
 * missed, and it obeys close codes: it does not return where it is not welcome. It
 * needs nothing but this file.
 */

/* Whether a client may connect again after a close code; closing.py says the same. */
export const CLOSES = new Map([
  [1000, "never"],
  [1001, "soon"],
  [1003, "never"],
  [1007, "never"],
  [1009, "never"],
  [1011, "later"],
  [1013, "later"],
  [4401, "new_token"],
  [4403, "never"],
  [4408, "soon"],
  [4409, "soon"],
  [4429, "later"],
]);

/** Return "soon", "later", "new_token" or "never". */
export function comesBack(code) {
  if (CLOSES.has(code)) return CLOSES.get(code);
  // A refusal that this client cannot read is still a refusal.
  return code >= 4000 && code <= 4999 ? "never" : "soon";
}

/** Return the milliseconds that `retry_after_ms=N` in a reason asks for, or null. */
export function retryAfter(reason) {
  const found = /(?:^|\s)retry_after_ms=(\d{1,9})(?=\s|$)/.exec(reason);
  return found ? Math.min(Number(found[1]), 3_600_000) : null;
}

/**
 * How long to wait before the next attempt, in milliseconds.
 *
 * Full jitter: uniform between 0 and a ceiling that doubles up to a cap. The cap comes
 * before the draw, so that even the longest waits are spread; the first delay is random
 * too, because everybody loses the same server at the same moment.
 */
export class Backoff {
  constructor({ first = 500, cap = 20_000, stable = 10_000 } = {}) {
    this.first = first;
    this.cap = cap;
    this.stable = stable;
    this.attempt = 0;
  }

  /** Return the next delay; `draw` returns a number in [0, 1). */
  next(draw = Math.random) {
    const ceiling = Math.min(this.cap, this.first * 2 ** Math.min(this.attempt, 60));
    this.attempt += 1;
    return draw() * ceiling;
  }

  /** Note how long the last connection lasted; a stable one resets the ceiling. */
  lasted(milliseconds) {
    if (milliseconds >= this.stable) this.attempt = 0;
  }
}

/** The server answered a request with an `error`. */
export class ServerError extends Error {
  constructor({ code, detail }) {
    super(detail);
    this.name = "ServerError";
    this.code = code;
  }
}

/** The connection ended before the answer came. */
export class ConnectionLost extends Error {
  constructor() {
    super("the connection ended before the answer");
    this.name = "ConnectionLost";
  }
}

// Handshakes that may fail in a row, on a server that is ready, before the token is
// blamed. A browser hides the status of a refused handshake (whatwg/websockets#39), and
// one failure may as well be a cap, or a replica that was just leaving.
const REFUSALS_LIMIT = 3;
const OPEN_TIMEOUT = 10_000; // milliseconds
const TOLD = new Set(["message", "gap", "joined", "present", "presence", "error"]);
const ROOM = /^[A-Za-z0-9_.:-]{1,64}$/;

/**
 * A connection that survives its sockets.
 *
 * Events, each with its facts in `detail`:
 *
 * - `state`: `{state, ...}`. `connecting`; `open` with `hello`; `waiting` with `delay`
 *   (ms), `opened` (false when the attempt failed), `code` and `reason`; `closed` with
 *   `code`, `reason` and `comesBack`, when it will not try again by itself.
 * - `message`, `gap`, `joined`, `error`: the server's messages, as they are. `joined`
 *   comes after every reconnect; its `recovered` says whether nothing was missed.
 * - `present`, `presence`: who is in a room that was joined with `presence`, and who
 *   came and went. People are connections: group by `user`. Without names they are too
 *   many to be named.
 * - `latency`: `{milliseconds}`, the round trip of a ping.
 */
export class LabClient extends EventTarget {
  /**
   * @param {string} url Address of the server, without a token.
   * @param {object} options
   * @param {function} options.token Returns the token or a promise of it; asked at
   *   every attempt, so that an expired one is replaced. Without it none is sent.
   * @param {Backoff} options.backoff When to try again.
   * @param {number} options.pingInterval Milliseconds between two pings. They are
   *   messages, since a page cannot see the protocol's own.
   * @param {number} options.pingTimeout Milliseconds of silence after a ping, after
   *   which the connection is given up.
   */
  constructor(url, options = {}) {
    super();
    const { token, backoff, pingInterval = 10_000, pingTimeout = 8_000 } = options;
    this.url = url;
    this.token = token ?? (() => null);
    this.backoff = backoff ?? new Backoff();
    this.pingInterval = pingInterval;
    this.pingTimeout = pingTimeout;
    this.state = "new";
    this.hello = null;
    this.connects = 0; // how often a connection was made
    this.cursors = new Map(); // room -> {epoch, seq}, or null before the first joined
    this.present = new Set(); // rooms in which to see, and be seen
    this.socket = null;
    this.attempt = 0; // names the present socket; what belongs to an older one is late
    this.offered = null; // the token of the latest attempt
    this.refusals = 0; // in a row
    this.requests = new Map(); // ref -> {promise, resolve, reject}
    this.opening = []; // who waits for the connection
    this.refs = 0;
  }

  /** Connect, and stay connected until `stop()` or a refusal. */
  start() {
    if (["connecting", "open", "waiting"].includes(this.state)) return;
    this.refusals = 0;
    this.#connect();
  }

  /** Disconnect for good. Cursors stay: after another `start()` it resumes. */
  stop() {
    this.#finish(1000, "bye", "never");
  }

  /** Drop the connection as if it had broken: it comes back by itself. */
  cut() {
    if (this.state === "open") this.#lost(1006, "cut");
  }

  // Requests. Each returns a promise of the server's answer, and waits for a connection
  // when there is none. They reject with ServerError or ConnectionLost.

  /**
   * Enter a room, now and after every reconnect; resolves with the `joined`.
   *
   * With `presence` the others who asked for it are told, and so is this client.
   */
  async join(room, after = null, { presence = false } = {}) {
    if (!ROOM.test(room)) {
      const detail = "a room's name is 1 to 64 of A-Z a-z 0-9 _ . : -";
      throw new ServerError({ code: "bad_message", detail });
    }
    if (!this.cursors.has(room)) this.cursors.set(room, after);
    if (presence) this.present.add(room);
    else this.present.delete(room);
    if (this.state === "open") this.#sendJoin(room);
    else await this.#opened(); // it joins every room
    return this.#answer(`join ${room}`);
  }

  /** Leave a room; resolves with the `left`, or null without a connection. */
  async leave(room) {
    this.#forget(room);
    return this.state === "open" ? this.#request({ type: "leave", room }) : null;
  }

  /**
   * Publish; resolves with the `ack`.
   *
   * A connection that is lost before the answer leaves open whether the server has the
   * message. The key makes it safe to send it again, and so this does.
   */
  async publish(room, payload, key = randomKey()) {
    for (;;) {
      try {
        return await this.#request({ type: "publish", room, payload, key });
      } catch (error) {
        if (!(error instanceof ConnectionLost) || this.state === "closed") throw error;
      }
    }
  }

  /** Measure the round trip; resolves with milliseconds. */
  async ping() {
    await this.#opened();
    const sent = performance.now();
    await this.#request({ type: "ping" });
    const milliseconds = performance.now() - sent;
    this.#tell("latency", { milliseconds });
    return milliseconds;
  }

  /** Replace the token of the living connection; resolves with the `refreshed`. */
  refresh(token) {
    return this.#request({ type: "refresh", token });
  }

  async #request(message) {
    await this.#opened();
    const ref = `c${++this.refs}`;
    const answer = this.#answer(ref);
    this.#send({ ...message, ref });
    return answer;
  }

  #send(message) {
    this.socket?.send(JSON.stringify(message));
  }

  #sendJoin(room) {
    const after = this.cursors.get(room);
    const presence = this.present.has(room);
    this.#send({
      type: "join",
      room,
      ...(after && { after }),
      ...(presence && { presence }),
      ref: `join ${room}`,
    });
  }

  #forget(room) {
    this.cursors.delete(room);
    this.present.delete(room);
  }

  #answer(ref) {
    let request = this.requests.get(ref);
    if (!request) {
      request = {};
      request.promise = new Promise((resolve, reject) => {
        Object.assign(request, { resolve, reject });
      });
      this.requests.set(ref, request);
    }
    return request.promise;
  }

  async #opened() {
    if (this.state === "open") return;
    if (this.state === "closed") throw new ConnectionLost();
    await new Promise((resolve, reject) => this.opening.push({ resolve, reject }));
  }

  // Connecting

  async #connect() {
    const attempt = ++this.attempt;
    clearTimeout(this.timer);
    this.#become("connecting");
    try {
      this.offered = await this.token();
    } catch (error) {
      if (attempt === this.attempt) this.#wait(1006, `no token: ${error.message}`);
      return;
    }
    if (attempt !== this.attempt) return; // stopped meanwhile
    // A browser cannot set Authorization, and a query would end up in logs.
    const bearer = this.offered ? [`bearer.${this.offered}`] : [];
    try {
      this.socket = new WebSocket(this.url, ["lab.json", ...bearer]);
    } catch {
      this.#finish(4401, "this cannot be a token", "new_token");
      return;
    }
    this.began = performance.now();
    this.timer = setTimeout(() => this.#lost(1006, "no answer"), OPEN_TIMEOUT);
    this.socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.socket.onclose = ({ code, reason }) => this.#lost(code, reason);
  }

  /** The connection is gone, or given up: decide what comes next. */
  async #lost(code, reason) {
    const opened = this.state === "open";
    this.#discard();
    const attempt = this.attempt;
    if (opened) {
      this.backoff.lasted(performance.now() - this.began);
    } else if (code === 1006 && (await this.#refused())) {
      code = 4401;
      reason = "the server is there, and refuses this token or this page";
    }
    let comes = comesBack(code);
    if (comes === "new_token") {
      const token = await Promise.resolve(this.token()).catch(() => null);
      if (token && token !== this.offered) comes = "soon";
    }
    if (attempt !== this.attempt) return; // stopped, or started anew meanwhile
    if (comes === "never" || comes === "new_token") this.#finish(code, reason, comes);
    else this.#wait(code, reason, opened);
  }

  /** After a failed handshake: say whether it was this client that was refused. */
  async #refused() {
    this.refusals = (await isReady(this.url)) ? this.refusals + 1 : 0;
    return this.refusals >= (expired(this.offered) ? 1 : REFUSALS_LIMIT);
  }

  #wait(code, reason, opened = false) {
    const later = comesBack(code) === "later" ? this.backoff.first : 0;
    const delay = retryAfter(reason) ?? this.backoff.next() + later;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#connect(), delay);
    this.#become("waiting", { delay, opened, code, reason });
  }

  #finish(code, reason, comesBack) {
    this.#discard();
    this.#become("closed", { code, reason, comesBack });
    for (const { reject } of this.opening.splice(0)) reject(new ConnectionLost());
  }

  /** Let go of the socket without waiting: a dead one would take minutes to close. */
  #discard() {
    this.attempt += 1;
    this.state = "lost";
    clearTimeout(this.timer);
    clearInterval(this.pinging);
    if (this.socket) {
      this.socket.onmessage = this.socket.onclose = null;
      this.socket.close(1000);
      this.socket = null;
    }
    const requests = [...this.requests.values()];
    this.requests.clear();
    for (const { reject } of requests) reject(new ConnectionLost());
  }

  // Listening

  #receive(message) {
    this.seen = performance.now();
    if (message.type === "hello") this.#welcome(message);
    this.#note(message);
    const { type, ref } = message;
    if (type === "error" && ref?.startsWith?.("join ") && !this.#stays(message)) return;
    const request = this.requests.get(ref);
    if (request) {
      this.requests.delete(ref);
      if (type === "error") request.reject(new ServerError(message));
      else request.resolve(message);
    }
    if (TOLD.has(type)) this.#tell(type, message);
  }

  #welcome(hello) {
    clearTimeout(this.timer);
    this.refusals = 0;
    this.connects += 1;
    this.hello = hello;
    this.#become("open", { hello });
    for (const room of this.cursors.keys()) this.#sendJoin(room);
    for (const { resolve } of this.opening.splice(0)) resolve();
    this.pinging = setInterval(() => this.#watch(), this.pingInterval);
    this.#watch();
  }

  /** A room that cannot be joined now is tried again; one that never can is dropped. */
  #stays({ code, ref }) {
    const room = ref.slice("join ".length);
    if (code !== "broker_down") {
      this.#forget(room);
      return true;
    }
    const { attempt } = this;
    setTimeout(() => {
      if (attempt === this.attempt && this.cursors.has(room)) this.#sendJoin(room);
    }, 500 + Math.random() * 1000);
    return false;
  }

  /** Ping; give the connection up when nothing at all comes in time. */
  #watch() {
    const { attempt } = this;
    const sent = performance.now();
    this.ping().catch(() => {}); // whoever ends the connection says so
    setTimeout(() => {
      if (attempt === this.attempt && this.seen < sent) this.#lost(1006, "silence");
    }, this.pingTimeout);
  }

  /** Keep the cursor of each room at the newest that is known. */
  #note(message) {
    const { type, room } = message;
    if (!this.cursors.has(room)) return;
    const cursor = this.cursors.get(room) ?? { epoch: "", seq: 0 };
    if (type === "joined" && !message.recovered) {
      this.cursors.set(room, { epoch: message.epoch, seq: message.seq });
    } else if (type === "joined") {
      // What was missed follows, maybe in a new epoch.
      this.cursors.set(room, { ...cursor, epoch: message.epoch });
    } else if (type === "message") {
      this.cursors.set(room, { ...cursor, seq: message.seq });
    } else if (type === "gap") {
      this.cursors.set(room, { ...cursor, seq: message.to });
    }
  }

  #become(state, facts = {}) {
    this.state = state;
    this.#tell("state", { state, ...facts });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

// Not randomUUID: a page that came over plain HTTP from another machine has none.
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return whether a token says of itself that it is over, by this machine's clock. */
function expired(token) {
  try {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(claims)).exp * 1000 <= Date.now();
  } catch {
    return false;
  }
}

/** Return whether the server takes newcomers; false also when that cannot be seen. */
async function isReady(url) {
  try {
    const place = new URL("/readyz", url.replace(/^ws/, "http"));
    return (await fetch(place, { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}
