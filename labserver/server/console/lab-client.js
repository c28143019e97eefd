/*
 * A client that reconnects: labserver/client.py for browsers and Node.
 *
 * SPDX-FileCopyrightText: 2026 The labserver authors
 * SPDX-License-Identifier: MIT
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
 * It joins its rooms again with a cursor, so that the server can replay what it missed.
 * It obeys close codes: after a refusal it does not reconnect. It needs no other file,
 * and does not depend on the console page. Node has a WebSocket from version 22 on, and
 * version 20 with --experimental-websocket.
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

/** Return when to reconnect after a code: "soon", "later", "new_token" or "never". */
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
 * Full jitter: a delay is uniform between 0 and a ceiling that doubles up to a cap. The
 * cap is applied before the draw, so that even the longest delays are spread. The first
 * delay is random, too, because all clients lose a server at the same moment.
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

  /** The upper bound of the next delay, in milliseconds. */
  get ceiling() {
    return Math.min(this.cap, this.first * 2 ** Math.min(this.attempt, 60));
  }

  /** Return the next delay in milliseconds; `draw` returns a number in [0, 1). */
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

/** A message is larger than the server's limit (bytes), which is null if unknown. */
export class TooBig extends Error {
  constructor(size, limit) {
    const most = limit === null ? "fewer" : `at most ${limit}`;
    super(`the message has ${size} bytes; the server accepts ${most}`);
    Object.assign(this, { name: "TooBig", code: "too_big", size, limit });
  }
}

/** A room was left before it was entered. */
export class RoomLeft extends Error {
  constructor() {
    super("the room was left before it was entered");
    this.name = "RoomLeft";
  }
}

// A browser hides the status of a refused handshake (whatwg/websockets#39). A limit, a
// drain or a proxy may have refused it, which passes. So after this many failures in a
// row the server is asked over HTTP, and only its refusal of this client is final.
const ASK_AFTER = 3;
const OPEN_TIMEOUT = 10_000; // milliseconds
const TOKEN_TIMEOUT = 30_000; // milliseconds; a source of tokens may ask a person
const LATE = 1_000; // a timer that is so many milliseconds late: the page was blocked
const WINDOW = [4, 16]; // joins that wait for their answers: at first, and at most
const REST = [500, 8_000]; // milliseconds without joins after a `rate_limited`
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
 * A connection that reconnects when its socket is lost.
 *
 * Events, each with its facts in `detail`:
 *
 * - `state`: `{state, ...}`. `connecting`; `open` with `hello`; `waiting` with `delay`
 *   (ms), `ceiling` (ms; upper bound of the random delay, or null if the server named
 *   the delay), `opened` (false if the attempt failed), `code` and `reason`; `closed`
 *   with `code`, `reason` and `comesBack`: it will not try again by itself.
 * - `message`, `gap`, `joined`, `left`, `error`: the server's messages, as they are.
 *   `joined` comes after every reconnect; its `recovered` is true if every missed
 *   message follows.
 * - `present`, `presence`: the people in a room that was joined with `presence`, and
 *   the changes. A person is a connection: group by `user`. There are no names if the
 *   people are too many.
 * - `latency`: `{milliseconds}`, the round trip of a ping.
 *
 * The client itself makes an `error` with the code `unreadable` when it cannot read a
 * message of the server.
 */
export class LabClient extends EventTarget {
  #pace = Infinity;
  #wake = () => {};

  /**
   * @param {string|string[]|function} url Address of the server, without a token. With
   *   a list, the next one is used whenever one fails. A function is called at every
   *   attempt.
   * @param {object} options
   * @param {function} options.token Returns the token or a promise of it. It is called
   *   at every attempt, so that an expired token is replaced. Without it no token is
   *   sent.
   * @param {Backoff} options.backoff When to try again.
   * @param {number} options.pingInterval Milliseconds between two pings. They are
   *   messages, since a page cannot see the protocol's own pings.
   * @param {number} options.pingTimeout Milliseconds without any message after a ping
   *   before the connection is dropped.
   * @param {boolean} options.stream Use WebSocketStream where the browser has it, so
   *   that `pace` can stop the socket itself.
   */
  constructor(url, options = {}) {
    super();
    if (!globalThis.WebSocket) throw new Error("no WebSocket here: use Node 22 or later");
    const { token, backoff, pingInterval = 10_000, pingTimeout = 8_000 } = options;
    this.urls = typeof url === "string" ? [url] : url;
    this.url = null; // address of the latest attempt
    this.token = token ?? (() => null);
    this.backoff = backoff ?? new Backoff();
    this.pingInterval = pingInterval;
    this.pingTimeout = pingTimeout;
    this.canPace = Boolean(options.stream && globalThis.WebSocketStream);
    this.state = "new";
    this.hello = null;
    this.connects = 0; // how often a connection was made
    this.rooms = new Map(); // name -> {cursor, presence, inside, wish}
    this.socket = null;
    this.attempt = 0; // number of the present socket; events of older ones are ignored
    this.turn = 0; // number of the next address
    this.offered = null; // the token of the latest attempt
    this.refused = undefined; // the last token that the server refused
    this.refusals = 0; // failed handshakes in a row
    this.sizeLimit = null; // bytes of a message, once a server has named its limit
    this.waiting = []; // requests that wait for the connection, in order
    this.requests = new Map(); // ref -> request that was sent, or waits for its room
    this.joins = new Map(); // ref -> join that was sent
    this.pings = new Set(); // requests that wait for their pong
    this.pacing = { first: WINDOW[0], window: WINDOW[0], streak: 0, rest: REST[0] };
    this.trusted = 0; // since when this page reads at full speed (performance.now)
    this.refs = 0;
  }

  /** Connect at once, and stay connected until `stop()` or a refusal. */
  start() {
    if (["connecting", "open"].includes(this.state)) return;
    this.refusals = 0;
    this.refused = undefined;
    this.welcomed = false;
    this.#connect();
  }

  /** Disconnect for good. Cursors are kept: another `start()` resumes. */
  stop() {
    this.#finish(1000, "bye", "never");
  }

  /** Drop the connection as if it had broken: the client reconnects by itself. */
  cut() {
    if (this.state === "open") this.#lost(1006, "cut");
  }

  /**
   * How many messages a second are read: Infinity, or less to play a slow reader.
   *
   * A WebSocket always reads at full speed, and keeps the messages in memory. Only with
   * a WebSocketStream do unread messages wait in the network, where the server notices.
   * Without it (`canPace` is false) this has no effect.
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
  // if there is none. They reject with ServerError, ConnectionLost or TooBig. Requests
  // for a room are sent in the order of the calls.

  /**
   * Enter a room, now and after every reconnect; resolves with the `joined`.
   *
   * The join is sent again later, at a slower pace, if the server cannot serve it now
   * (`rate_limited`, `broker_down`). It rejects with RoomLeft if the room is left
   * first.
   *
   * @param {string} name
   * @param {?{epoch: string, seq: number}} after The newest message that is known
   *   already: the messages after it follow.
   * @param {object} options
   * @param {boolean} options.presence Be seen by the members that asked for presence,
   *   and see them.
   */
  async join(name, after = null, { presence = false } = {}) {
    if (!ROOM.test(name)) {
      const detail = "a room's name is 1 to 64 of A-Z a-z 0-9 _ . : -";
      throw new ServerError({ code: "bad_message", detail });
    }
    let room = this.rooms.get(name);
    if (!room) {
      room = { cursor: after, presence, inside: false, wish: null };
      this.rooms.set(name, room);
    }
    room.presence = presence;
    if (room.wish?.ref && room.wish.presence !== presence) {
      await room.wish.promise; // two joins at once would get missed messages twice
      if (this.rooms.get(name) !== room) throw new RoomLeft();
      return this.join(name, after, { presence });
    }
    room.wish ??= newWish();
    const { promise } = room.wish;
    if (this.state === "closed") this.#giveUp(room);
    else this.#enter();
    return promise;
  }

  /** Leave a room; resolves with the `left`, or with null if there is no connection. */
  async leave(name) {
    const room = this.rooms.get(name);
    this.rooms.delete(name);
    if (room?.wish && !room.wish.ref) {
      for (const request of room.wish.held) this.socket?.send(request.text);
      room.wish.reject(new RoomLeft());
    }
    if (this.state !== "open") return null;
    try {
      return await this.#ask({ type: "leave", room: name }).promise;
    } catch (error) {
      if (error instanceof ConnectionLost) return null;
      throw error;
    }
  }

  /**
   * Publish; resolves with the `ack`.
   *
   * If the connection is lost before the answer, the client cannot know whether the
   * server has the message. So the message is sent again, and the key makes that safe.
   */
  async publish(room, payload, key = randomKey()) {
    return this.#ask({ type: "publish", room, payload, key }, true).promise;
  }

  /** Measure the round trip; resolves with milliseconds. */
  async ping() {
    const request = this.#ask({ type: "ping" });
    this.pings.add(request);
    try {
      await request.promise;
    } finally {
      this.pings.delete(request);
    }
    const milliseconds = performance.now() - request.sent;
    this.#tell("latency", { milliseconds });
    return milliseconds;
  }

  /** Milliseconds that the oldest ping has waited for its answer; 0 if none waits. */
  get silence() {
    const [oldest] = this.pings;
    return oldest?.sent ? performance.now() - oldest.sent : 0;
  }

  /** Replace the token of the open connection; resolves with the `refreshed`. */
  async refresh(token) {
    const refreshed = await this.#ask({ type: "refresh", token }).promise;
    this.offered = token;
    return refreshed;
  }

  /**
   * Send a message, now or as soon as there is a connection; return the request.
   *
   * @param {object} message
   * @param {boolean} again Whether it may be sent a second time.
   */
  #ask(message, again = false) {
    const ref = `c${++this.refs}`;
    const text = JSON.stringify({ ...message, ref });
    const size = new TextEncoder().encode(text).length; // what goes over the wire
    const request = { ref, text, size, again, room: message.room, ...promised() };
    if (this.sizeLimit !== null && size > this.sizeLimit) {
      request.reject(new TooBig(size, this.sizeLimit));
    } else if (this.state === "open") this.#send(request);
    else if (this.state === "closed") request.reject(new ConnectionLost());
    else this.waiting.push(request);
    return request;
  }

  #send(request) {
    this.requests.set(request.ref, request);
    request.sent = performance.now();
    const wish = this.rooms.get(request.room)?.wish;
    if (wish && !wish.ref) wish.held.push(request);
    else this.socket.send(request.text);
  }

  // Rooms. A wish is a join without its answer. It is sent in its turn, and again if
  // the server could not serve it. `held` are the requests that must be sent after it.
  // A room that was left and joined again is a new object, so that an answer to the old
  // join can be told apart.

  /** Send a few joins; all at once they would exceed the rate limit. */
  #enter() {
    if (this.state !== "open" || this.pacing.rests) return;
    for (const [name, room] of this.rooms) {
      if (this.joins.size >= this.pacing.window) return;
      const { cursor, presence, wish } = room;
      if (!wish || wish.ref || wish.rests) continue;
      const ref = `c${++this.refs}`;
      Object.assign(wish, { ref, presence });
      this.joins.set(ref, { name, room, wish });
      // If the cursor's epoch is gone, all that the new one has is news.
      const back = cursor && { after: cursor, from_start: true };
      const what = { ...back, ...(presence && { presence }) };
      this.socket.send(JSON.stringify({ type: "join", room: name, ...what, ref }));
      for (const { text } of wish.held.splice(0)) this.socket.send(text);
    }
  }

  /** Take the answer to a join; return false if the join will be sent again. */
  #entered({ name, room, wish }, message) {
    const meant = this.rooms.get(name) === room;
    const { type, code } = message;
    if (code === "rate_limited") this.#slowDown();
    if (type !== "error") {
      this.pacing.streak += 1;
      this.pacing.rest = REST[0];
      const grown = this.pacing.first + Math.floor(this.pacing.streak / 3);
      this.pacing.window = Math.min(grown, WINDOW[1]);
      if (meant) {
        room.wish = null;
        room.inside = true;
        this.#move(room, message);
      }
      wish.resolve(message);
    } else if (meant && code === "rate_limited") {
      wish.ref = null;
      return false;
    } else if (meant && code === "broker_down") {
      // Only this room waits: in a cluster, other rooms may work.
      Object.assign(wish, { ref: null, rests: true });
      this.#soon(500 + Math.random() * 1000, () => (wish.rests = false));
      return false;
    } else {
      if (meant) this.rooms.delete(name);
      wish.reject(new ServerError(message));
    }
    return true;
  }

  /** After a `rate_limited`: rest, then join one room at a time. */
  #slowDown() {
    const { pacing } = this;
    Object.assign(pacing, { first: 1, window: 1, streak: 0 });
    if (pacing.rests) return;
    pacing.rests = true;
    this.#soon(pacing.rest * (0.5 + Math.random() / 2), () => (pacing.rests = false));
    pacing.rest = Math.min(2 * pacing.rest, REST[1]);
  }

  /** After `delay` ms call `first` and go on to join, if the connection is the same. */
  #soon(delay, first) {
    const { attempt } = this;
    setTimeout(() => {
      if (attempt !== this.attempt) return;
      first();
      this.#enter();
    }, delay);
  }

  #giveUp(room) {
    const { wish } = room;
    room.wish = null;
    wish?.reject(new ConnectionLost());
  }

  // Connecting

  async #connect() {
    const attempt = ++this.attempt;
    clearTimeout(this.timer);
    this.#become("connecting");
    const { token, problem } = await this.#freshToken();
    if (attempt !== this.attempt) return; // stopped meanwhile
    if (problem) return this.#wait(1006, problem);
    if (token === this.refused) return this.#finish(4401, "no new token", "new_token");
    this.offered = token;
    try {
      const { urls } = this;
      this.url = typeof urls === "function" ? urls() : urls[this.turn % urls.length];
    } catch (error) {
      return this.#wait(1006, `no address: ${reasonOf(error)}`);
    }
    // A browser cannot set Authorization, and a query would end up in logs.
    const protocols = ["lab.json", ...(token ? [`bearer.${token}`] : [])];
    const heard = (data) => {
      if (attempt === this.attempt) this.#hear(data);
    };
    const ended = (code, reason) => {
      if (attempt === this.attempt) this.#lost(code, reason);
    };
    try {
      this.socket = this.canPace
        ? openStream(this.url, protocols, heard, ended, () => this.#turnToRead())
        : openSocket(this.url, protocols, heard, ended);
    } catch {
      const reason = "this is not a token";
      if (this.welcomed) this.#wait(1006, reason);
      else this.#finish(4401, reason, "new_token");
      return;
    }
    patiently(OPEN_TIMEOUT, () => {
      const waits = attempt === this.attempt && this.state === "connecting";
      if (waits) this.#lost(1006, "no answer");
    });
  }

  /** Ask the source of tokens; resolves with `token` or with a `problem`. */
  async #freshToken() {
    let token;
    try {
      token = (await within(TOKEN_TIMEOUT, this.token())) || null;
    } catch (error) {
      return { problem: `no token: ${reasonOf(error)}` };
    }
    // No token for now: connecting without one would certainly be refused.
    if (token === null && this.refused) return { problem: "no token" };
    return { token };
  }

  /** Return a promise that one more message may be read, or null if it may be now. */
  #turnToRead() {
    if (this.#pace === Infinity) return null;
    return new Promise((resolve) => {
      this.#wake = resolve;
      if (this.#pace > 0) setTimeout(resolve, 1000 / this.#pace);
    });
  }

  /** The connection is lost or dropped: decide what to do next. */
  async #lost(code, reason) {
    const opened = this.state === "open";
    const blamed = code === 1009 && this.#blame(reason);
    if (code === 4429) this.pacing.first = 1;
    this.#discard();
    const { attempt } = this;
    if (opened) this.backoff.lasted(performance.now() - this.began);
    else if (code === 1006) {
      const refusal = await this.#refusal();
      if (attempt !== this.attempt) return; // stopped, or started anew meanwhile
      if (refusal) [code, reason] = refusal;
    }
    let comes = blamed ? "soon" : comesBack(code);
    if (comes === "new_token") {
      this.refused = this.offered;
      const { token } = await this.#freshToken();
      if (attempt !== this.attempt) return;
      if (token !== this.refused) comes = "soon";
    }
    if (comes === "never" || comes === "new_token") this.#finish(code, reason, comes);
    else this.#wait(code, reason, opened);
  }

  /** After a failed handshake: return code and reason if the refusal is final. */
  async #refusal() {
    this.refusals += 1;
    const expires = expiry(this.offered);
    const over = expires !== null && expires <= Date.now();
    if (this.refusals % ASK_AFTER && !over) return null;
    const status = await admission(this.url, this.offered);
    if (status === 401) return [4401, "the server is there, and refuses this token"];
    if (status === 403) return [4403, "the server is there, and refuses this page"];
    return null; // any other trouble passes
  }

  /** After a 1009: fail the requests that were too big; return whether one was. */
  #blame(reason) {
    const limit = Number(/limit of (\d{1,12}) bytes/.exec(reason)?.[1] ?? NaN) || null;
    if (limit !== null) this.sizeLimit = limit;
    const requests = [...this.requests.values(), ...this.waiting];
    const largest = Math.max(...requests.map(({ size }) => size));
    const guilty = requests.filter(({ size }) => size > (limit ?? largest - 1));
    for (const request of guilty) {
      this.requests.delete(request.ref);
      request.reject(new TooBig(request.size, limit));
    }
    this.waiting = this.waiting.filter((request) => !guilty.includes(request));
    return guilty.length > 0;
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
    for (const { reject } of this.waiting.splice(0)) reject(new ConnectionLost());
    for (const room of this.rooms.values()) this.#giveUp(room);
  }

  /** Drop the socket without waiting: a dead one would take minutes to close. */
  #discard() {
    this.attempt += 1;
    this.state = "lost";
    clearTimeout(this.timer);
    clearInterval(this.pinging);
    this.socket?.close();
    this.socket = null;
    this.#wake();
    this.joins.clear();
    for (const room of this.rooms.values()) {
      room.inside = false;
      if (room.wish) Object.assign(room.wish, { ref: null, rests: false, held: [] });
    }
    const requests = [...this.requests.values()];
    this.requests.clear();
    this.waiting.unshift(...requests.filter(({ again }) => again));
    for (const { again, reject } of requests) if (!again) reject(new ConnectionLost());
  }

  // Listening

  /** Handle a message of the server; one that cannot be read ends nothing. */
  #hear(data) {
    this.seen = performance.now();
    try {
      this.#receive(JSON.parse(data));
    } catch (error) {
      const detail = reasonOf(error);
      this.#tell("error", { type: "error", code: "unreadable", detail });
    }
  }

  #receive(message) {
    const { type, ref } = message;
    if (type === "hello" && this.state === "connecting") this.#welcome(message);
    const join = this.joins.get(ref);
    if (join) {
      this.joins.delete(ref);
      const over = this.#entered(join, message);
      this.#enter();
      if (!over) return;
    } else this.#note(message);
    const request = this.requests.get(ref);
    if (request) {
      this.requests.delete(ref);
      if (type === "error") request.reject(new ServerError(message));
      else request.resolve(message);
    }
    if (TOLD.has(type)) this.#tell(type, message);
  }

  #welcome(hello) {
    this.state = "open";
    this.began = performance.now();
    this.welcomed = true;
    this.refusals = 0;
    this.refused = undefined;
    this.connects += 1;
    this.hello = hello;
    const { first } = this.pacing;
    Object.assign(this.pacing, { window: first, streak: 0, rests: false });
    for (const room of this.rooms.values()) room.wish ??= newWish();
    this.#enter();
    for (const request of this.waiting.splice(0)) this.#send(request);
    this.#become("open", { hello });
    if (this.state !== "open") return; // a listener has stopped it
    this.pinging = setInterval(() => this.#watch(), this.pingInterval);
    this.#watch();
  }

  /** Ping; drop the connection if no message at all comes in time. */
  #watch() {
    const { attempt } = this;
    const sent = performance.now();
    this.ping().catch(() => {}); // the `state` event tells why a connection ended
    patiently(this.pingTimeout, () => {
      // A page that reads slowly may not have read the answer yet.
      if (this.#pace < Infinity || sent < this.trusted) return;
      if (attempt === this.attempt && this.seen < sent) this.#lost(1006, "silence");
    });
  }

  /** Note a message that answers no request. */
  #note(message) {
    const room = this.rooms.get(message.room);
    if (!room?.inside || message.ref !== undefined) return; // the room was left
    if (message.type !== "left") this.#move(room, message);
    else if (room.wish) room.inside = false; // a later join decides
    else this.rooms.delete(message.room);
  }

  /** Move the cursor of a room to its newest message. */
  #move(room, { type, epoch, seq, to, recovered }) {
    const cursor = room.cursor ?? { epoch: "", seq: 0 };
    if (type === "joined" && !recovered) room.cursor = { epoch, seq };
    else if (type === "joined") {
      room.cursor = { ...cursor, epoch }; // missed messages follow, maybe renumbered
    } else if (type === "message") room.cursor = { ...cursor, seq };
    else if (type === "gap") room.cursor = { ...cursor, seq: to };
    // The server would refuse a join with an invalid cursor.
    const { epoch: name, seq: newest } = room.cursor ?? cursor;
    if (typeof name !== "string" || !Number.isSafeInteger(newest)) room.cursor = null;
  }

  #become(state, facts = {}) {
    this.state = state;
    this.#tell("state", { state, ...facts });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Open a WebSocket: every browser has it, and it reads as fast as it can. */
function openSocket(url, protocols, heard, ended) {
  const socket = new WebSocket(url, protocols);
  socket.onmessage = ({ data }) => heard(data);
  socket.onclose = ({ code, reason }) => ended(code, reason);
  // A close follows at once, except in Chromium after a page's policy has blocked the
  // address.
  socket.onerror = () => setTimeout(() => ended(1006, ""));
  return { send: (data) => socket.send(data), close: () => socket.close(1000) };
}

/** Open a WebSocketStream, and read a message whenever `turn` allows one. */
function openStream(url, protocols, heard, ended, turn) {
  const stream = new WebSocketStream(url, { protocols });
  // Begin now: the stream may end during the wait for a turn. Like a normal end, a
  // failure has `closeCode` and `reason`.
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
      reads = false; // read the rest without turns, or the goodbye would wait behind it
      stream.close({ closeCode: 1000 });
    },
  };
}

// A page that came over plain HTTP from another machine has no crypto.randomUUID.
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return the expiry that a token states (ms since 1970), or null. */
export function expiry(token) {
  try {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(claims)).exp * 1000 || null;
  } catch {
    return null;
  }
}

/** Return the HTTP status that a handshake would get; null if it cannot be seen. */
async function admission(url, token) {
  try {
    const place = new URL("/admission", String(url).replace(/^ws/, "http"));
    const { location } = globalThis; // only a page has one, and may ask its own site
    if (location && place.origin !== location.origin) return null;
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const signal = AbortSignal.timeout(OPEN_TIMEOUT);
    return (await fetch(place, { headers, cache: "no-store", signal })).status;
  } catch {
    return null;
  }
}

/** Return `{promise, resolve, reject}`. */
function promised() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => {
    Object.assign(parts, { resolve, reject });
  });
  return parts;
}

function newWish() {
  const wish = { ref: null, presence: false, rests: false, held: [], ...promised() };
  wish.promise.catch(() => {}); // after a reconnect nobody may wait for it
  return wish;
}

/** Wait for a promise or a value, but at most `limit` milliseconds. */
function within(limit, promise) {
  const { promise: over, reject } = promised();
  const timer = setTimeout(() => reject(new Error("it takes too long")), limit);
  return Promise.race([promise, over]).finally(() => clearTimeout(timer));
}

/**
 * Call `verdict` after `delay` milliseconds; after twice that if the page was blocked.
 *
 * After a block, messages that have arrived may still be unread. The delay is repeated
 * only once, since in a hidden tab every timer is late, up to a minute.
 */
function patiently(delay, verdict) {
  const due = performance.now() + delay;
  const timer = setTimeout(() => {
    if (performance.now() < due + LATE) verdict();
    else setTimeout(verdict, delay).unref?.();
  }, delay);
  timer.unref?.(); // a deadline alone does not keep Node running
}

/** Return the text of whatever was thrown: it need not be an Error. */
const reasonOf = (error) => String(error?.message ?? error);
