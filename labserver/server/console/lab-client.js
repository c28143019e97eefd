/*
 * A client that comes back: the browser's twin of labserver/client.py.
 *
 *     import { LabClient } from "/lab-client.js";
 *
 *     const client = new LabClient("ws://127.0.0.1:8080", { token: () => token });
 *     client.addEventListener("message", ({ detail }) => show(detail.payload));
 *     client.addEventListener("gap", ({ detail }) => warn(detail.from, detail.to));
 *     client.addEventListener("state", ({ detail }) => status(detail.state));
 *     client.start();
 *     await client.join("lobby");
 *     await client.publish("lobby", "hello"); // resolves when the server has it
 *
 * It joins its rooms again with a cursor, so that the server can replay what was
 * missed, and it obeys close codes: it does not return where it is not welcome. It
 * needs nothing but this file; nothing in it knows the console page.
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
  /**
   * @param {object} options In milliseconds.
   * @param {number} options.first Ceiling of the first delay.
   * @param {number} options.cap Ceiling of any delay.
   * @param {number} options.stable A connection that lasts so long resets the ceiling.
   */
  constructor({ first = 500, cap = 20_000, stable = 10_000 } = {}) {
    this.first = first;
    this.cap = cap;
    this.stable = stable;
    this.attempt = 0;
  }

  /** What the next delay is drawn below. */
  get ceiling() {
    return Math.min(this.cap, this.first * 2 ** Math.min(this.attempt, 60));
  }

  /** Return the next delay; `draw` returns a number in [0, 1). */
  next(draw = Math.random) {
    const { ceiling } = this;
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
const LATE = 1_000; // milliseconds by which a timer shows that this page was held up
const ROOM = /^[A-Za-z0-9_.:-]{1,64}$/;
const TOLD = new Set([
  "message",
  "gap",
  "joined",
  "left",
  "error",
  "present",
  "presence",
]);

/**
 * A connection that survives its sockets.
 *
 * Events, each with its facts in `detail`:
 *
 * - `state`: `{state, ...}`. `connecting`; `open` with `hello`; `waiting` with `delay`
 *   (ms), `ceiling` (ms; what it was drawn below, or null when the server said how
 *   long), `opened` (false when the attempt failed), `code` and `reason`; `closed` with
 *   `code`, `reason` and `comesBack`, when it will not try again by itself.
 * - `message`, `gap`, `joined`, `left`, `error`: the server's messages, as they are.
 *   `joined` comes after every reconnect; its `recovered` says whether nothing was
 *   missed.
 * - `present`, `presence`: who is in a room that was joined with `presence`, and who
 *   came and went. People are connections: group by `user`. Without names they are too
 *   many to be named.
 * - `latency`: `{milliseconds}`, the round trip of a ping.
 */
export class LabClient extends EventTarget {
  #pace = Infinity;
  #wake = () => {};

  /**
   * @param {string|string[]|function} url Address of the server, without a token. Of a
   *   list the next one is taken whenever one fails; a function is asked at every
   *   attempt.
   * @param {object} options
   * @param {function} options.token Returns the token or a promise of it; asked at
   *   every attempt, so that an expired one is replaced. Without it none is sent.
   * @param {Backoff} options.backoff When to try again.
   * @param {number} options.pingInterval Milliseconds between two pings. They are
   *   messages, since a page cannot see the protocol's own.
   * @param {number} options.pingTimeout Milliseconds of silence after a ping, after
   *   which the connection is given up.
   * @param {boolean} options.stream Use WebSocketStream where the browser has it, so
   *   that `pace` can stop the socket itself.
   */
  constructor(url, options = {}) {
    super();
    const { token, backoff, pingInterval = 10_000, pingTimeout = 8_000 } = options;
    this.urls = typeof url === "string" ? [url] : url;
    this.url = null; // of the latest attempt
    this.token = token ?? (() => null);
    this.backoff = backoff ?? new Backoff();
    this.pingInterval = pingInterval;
    this.pingTimeout = pingTimeout;
    this.canPace = Boolean(options.stream && globalThis.WebSocketStream);
    this.state = "new";
    this.hello = null;
    this.connects = 0; // how often a connection was made
    this.cursors = new Map(); // room -> {epoch, seq}, or null before the first joined
    this.present = new Set(); // rooms in which to see, and be seen
    this.socket = null;
    this.attempt = 0; // names the present socket; what belongs to an older one is late
    this.turn = 0; // which of the addresses is next
    this.offered = null; // the token of the latest attempt
    this.refusals = 0; // in a row
    this.requests = new Map(); // ref -> {promise, resolve, reject}
    this.opening = []; // who waits for the connection
    this.unanswered = []; // when each ping was sent that waits for its pong
    this.trusted = 0; // since when silence means that the other side is silent
    this.refs = 0;
  }

  /** Connect, and stay connected until `stop()` or a refusal. Waits for no back-off. */
  start() {
    if (["connecting", "open"].includes(this.state)) return;
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

  /**
   * How many messages a second are read: Infinity, or less to play a slow reader.
   *
   * A WebSocket reads on whatever a page does, and keeps what it read in memory. Only a
   * WebSocketStream lets what is not read wait in the network, where the server feels
   * it; without one (`canPace` is false) this changes nothing.
   */
  get pace() {
    return this.#pace;
  }

  set pace(messages) {
    if (this.#pace < Infinity) this.trusted = performance.now();
    this.#pace = messages;
    this.#wake();
  }

  // Requests. Each returns a promise of the server's answer, and waits for a connection
  // when there is none. They reject with ServerError or ConnectionLost.

  /**
   * Enter a room, now and after every reconnect; resolves with the `joined`.
   *
   * @param {string} room
   * @param {?{epoch: string, seq: number}} after The newest message that is known
   *   already: what came after it follows.
   * @param {object} options
   * @param {boolean} options.presence Tell the others who asked for it, and be told.
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
    this.unanswered.push(sent);
    try {
      await this.#request({ type: "ping" });
    } finally {
      this.unanswered = this.unanswered.filter((other) => other !== sent);
    }
    const milliseconds = performance.now() - sent;
    this.#tell("latency", { milliseconds });
    return milliseconds;
  }

  /** Milliseconds that the oldest ping has waited for its answer; 0 when none does. */
  get silence() {
    const [sent] = this.unanswered;
    return sent === undefined ? 0 : performance.now() - sent;
  }

  /** Replace the token of the living connection; resolves with the `refreshed`. */
  async refresh(token) {
    const refreshed = await this.#request({ type: "refresh", token });
    this.offered = token;
    return refreshed;
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
    const presence = this.present.has(room) ? { presence: true } : {};
    const ref = `join ${room}`;
    this.#send({ type: "join", room, ...(after && { after }), ...presence, ref });
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
    const protocols = ["lab.json", ...(this.offered ? [`bearer.${this.offered}`] : [])];
    const heard = (data) => {
      if (attempt === this.attempt) this.#receive(JSON.parse(data));
    };
    const ended = (code, reason) => {
      if (attempt === this.attempt) this.#lost(code, reason);
    };
    const { urls } = this;
    this.url = typeof urls === "function" ? urls() : urls[this.turn % urls.length];
    try {
      this.socket = this.canPace
        ? openStream(this.url, protocols, heard, ended, () => this.#turnToRead())
        : openSocket(this.url, protocols, heard, ended);
    } catch {
      this.#finish(4401, "this cannot be a token", "new_token");
      return;
    }
    this.began = performance.now();
    this.timer = setTimeout(() => this.#lost(1006, "no answer"), OPEN_TIMEOUT);
  }

  /** Wait until one more message may be read; null when that is now. */
  #turnToRead() {
    if (this.#pace === Infinity) return null;
    return new Promise((resolve) => {
      this.#wake = resolve;
      if (this.#pace > 0) setTimeout(resolve, 1000 / this.#pace);
    });
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
    const ready = await isReady(this.url);
    if (ready !== null) this.refusals = ready ? this.refusals + 1 : 0;
    const expires = expiry(this.offered);
    const over = expires !== null && expires <= Date.now();
    return this.refusals >= (over ? 1 : REFUSALS_LIMIT);
  }

  #wait(code, reason, opened = false) {
    const asked = retryAfter(reason);
    const later = comesBack(code) === "later" ? this.backoff.first : 0;
    const ceiling = asked === null ? this.backoff.ceiling + later : null;
    const delay = asked ?? this.backoff.next() + later;
    this.turn += 1;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#connect(), delay);
    this.#become("waiting", { delay, ceiling, opened, code, reason });
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
    this.socket?.close();
    this.socket = null;
    this.#wake();
    this.unanswered = [];
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
    if (type === "left") this.#forget(message.room); // perhaps the server's decision
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
      // Who reads slowly, or was asleep, may have the answer lying unread.
      const awake = performance.now() < sent + this.pingTimeout + LATE;
      if (this.#pace < Infinity || sent < this.trusted || !awake) return;
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

/** Open a WebSocket: what every browser has, and what reads as fast as it can. */
function openSocket(url, protocols, heard, ended) {
  const socket = new WebSocket(url, protocols);
  socket.onmessage = ({ data }) => heard(data);
  socket.onclose = ({ code, reason }) => ended(code, reason);
  // Nearly always a close follows at once; not in Chromium after a page's policy has
  // blocked the address.
  socket.onerror = () => setTimeout(() => ended(1006, ""));
  return { send: (data) => socket.send(data), close: () => socket.close(1000) };
}

/** Open a WebSocketStream, and read a message whenever `turn` allows one. */
function openStream(url, protocols, heard, ended, turn) {
  const stream = new WebSocketStream(url, { protocols });
  // Asked for now: it may end while a turn is waited for. A failure carries the same
  // two facts as an end.
  const closed = stream.closed.catch((error) => error);
  let writer = null;
  let reads = true;
  const read = async () => {
    const { readable, writable } = await stream.opened;
    writer = writable.getWriter();
    writer.closed.catch(() => {});
    const reader = readable.getReader();
    for (;;) {
      if (reads) await turn();
      const { value, done } = await reader.read();
      if (done) return;
      heard(value);
    }
  };
  read()
    .catch(() => {}) // `closed` says why
    .then(() => closed)
    .then(({ closeCode, reason }) => ended(closeCode || 1006, reason ?? ""));
  return {
    send: (data) => writer?.write(data).catch(() => {}),
    close: () => {
      reads = false; // the rest is taken, or the goodbye would wait behind it
      stream.close({ closeCode: 1000 });
    },
  };
}

// Not randomUUID: a page that came over plain HTTP from another machine has none.
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return when a token runs out by its own word (ms since 1970), or null. */
export function expiry(token) {
  try {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(claims)).exp * 1000 || null;
  } catch {
    return null;
  }
}

/** Return whether the server takes newcomers; null when that cannot be seen. */
async function isReady(url) {
  const place = new URL("/readyz", url.replace(/^ws/, "http"));
  if (place.origin !== globalThis.location?.origin) return null; // another site's
  try {
    return (await fetch(place, { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}
