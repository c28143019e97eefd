/*
 * The console page shows what lab-client.js does.
 *
 * Text of other people reaches the page as text nodes only (`textContent`), so it is
 * never markup. The page's policy (Trusted Types) enforces that. The token stays in its
 * field: it is neither stored nor shown anywhere else.
 *
 * Messages may come by the thousand. They are kept as data, and the newest few hundred
 * of one room are drawn ten times a second.
 */

import { expiry, LabClient } from "/lab-client.js";

const LINES = 200; // lines that a log keeps
const TEXT = 240; // characters shown of a message that is text
const JSON_TEXT = 80; // characters shown of any other message
const MINUTE = 60_000; // milliseconds that the chart shows
const DRAW = 100; // milliseconds between two drawings
const ANNOUNCE = 3_000; // milliseconds between two summaries for a screen reader
const WINDOW = 8; // publishes of a flood that wait for their ack
const FLOOD_LIMIT = 20_000; // messages

const at = (id) => document.getElementById(id);
// name -> {lines, fresh, epoch, seq, unread, resumed, missing, unknown, here}
const rooms = new Map();
let chosen = null; // name of the room that is shown

const address = new URL("/", location.href);
address.protocol = address.protocol.replace("http", "ws");
address.hash = address.search = "";
const client = new LabClient(address.href, {
  token: () => at("token").value.trim(),
  pingInterval: 1_000,
  stream: true,
});

function make(tag, name, text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
}

function clock(when = new Date()) {
  const time = make("time", "", when.toLocaleTimeString("en-GB"));
  time.dateTime = when.toISOString();
  return time;
}

const number = (value) => value.toLocaleString("en");
const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(1)} s`;
const count = (many, what) => `${number(many)} ${what}${many === 1 ? "" : "s"}`;
const range = (from, to) => (from === to ? `#${from}` : `#${from} to #${to}`);
const short = (text, limit = TEXT) =>
  text.length > limit
    ? `${text.slice(0, limit)}… (${number(text.length)} characters)`
    : text;

const scrolledUp = new Set(); // the logs whose reader looks at older lines

/** Keep a log at its end, also when its width changes, unless its reader scrolls up. */
function follow(log) {
  log.addEventListener("scroll", () => {
    const below = log.scrollHeight - log.scrollTop - log.clientHeight;
    if (below < 40) scrolledUp.delete(log);
    else scrolledUp.add(log);
  });
  new ResizeObserver(() => toEnd(log)).observe(log);
}

function toEnd(log) {
  if (!scrolledUp.has(log)) log.scrollTop = log.scrollHeight;
}

/** Add lines to a log. */
function append(log, ...lines) {
  log.append(...lines.slice(-LINES));
  while (log.childElementCount > LINES) log.firstElementChild.remove();
  toEnd(log);
}

for (const id of ["log", "event-log"]) follow(at(id));

/** Enable or disable a button; a disabled one can still be reached with Tab. */
function enable(id, yes) {
  at(id).setAttribute("aria-disabled", String(!yes));
}

function onClick(id, act) {
  at(id).addEventListener("click", () => {
    if (at(id).getAttribute("aria-disabled") !== "true") act();
  });
}

// The story

let latest = { text: null, times: 0, mark: null };

/** Write a line of the story; count the line if it repeats the last one. */
function told(kind, text) {
  if (text === latest.text) {
    latest.times += 1;
    latest.mark.textContent = ` ×${latest.times}`;
    return;
  }
  latest = { text, times: 1, mark: make("span", "quiet") };
  const line = make("li", kind);
  const words = make("span", "", text);
  words.append(latest.mark);
  line.append(clock(), words);
  append(at("event-log"), line);
}

const meanings = new Map([
  [1001, "the replica is shutting down"],
  [1006, "the connection broke without a goodbye"],
  [1009, "a message was too big"],
  [1011, "the server made a mistake"],
  [1013, "the server has too much to do"],
  [4401, "the token is invalid or has expired"],
  [4403, "the server refuses this page"],
  [4408, "the server heard nothing from this page"],
  [4409, "this page read too slowly"],
  [4429, "this page sent too much"],
]);

function because({ code, reason, opened = true }) {
  if (reason === "cut") return "cut here";
  if (code === 1006 && !opened) return reason || "no answer";
  const said = [short(reason, 123), meanings.get(code)].filter(Boolean).join(": ");
  return `${code} ${said || "without a reason"}`;
}

/**
 * Return why a handshake failed.
 *
 * A browser hides the answer, so that a refusal looks like silence. So the server is
 * asked over HTTP.
 */
async function failure(facts) {
  if (facts.code !== 1006 || facts.reason) return because(facts);
  const ask = (path, headers = {}) =>
    fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(5_000) });
  try {
    const ready = await ask("/readyz");
    if (!ready.ok) return `not ready: ${short((await ready.text()).trim())}`;
    const token = client.offered;
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const asked = await ask("/admission", headers);
    if (asked.ok) return "the server answers, the connection failed";
    return `refused with ${asked.status}: ${short((await asked.text()).trim())}`;
  } catch {
    return "no server answered";
  }
}

// The connection

let lostAt = 0;

const stories = {
  connecting: () => {},
  open({ hello }) {
    const where = hello.replica;
    if (client.connects === 1) told("good", `Connected to ${where} as ${hello.user}.`);
    else if (lostAt === 0) told("good", `Connected again, to ${where}.`);
    else {
      const away = seconds(performance.now() - lostAt);
      told("good", `Back on ${where} after ${away}.`);
    }
    lostAt = 0;
  },
  waiting(facts) {
    if (facts.opened) lostAt = performance.now();
    const how =
      facts.ceiling === null
        ? "as the server asked"
        : `drawn between 0 and ${seconds(facts.ceiling)}`;
    const wait = `${seconds(facts.delay)}, ${how}`;
    if (facts.opened) {
      told("bad", `Connection lost: ${because(facts)}.`);
      told("wait", `Waiting ${wait}.`);
    } else {
      failure(facts).then((why) => {
        told("wait", `No connection (${why}): waiting ${wait}.`);
      });
    }
  },
  closed(facts) {
    lostAt = 0;
    if (facts.code === 1000) told("bad", "Disconnected.");
    else told("bad", `Ended: ${because(facts)}. It does not reconnect by itself.`);
  },
};

const statuses = {
  connecting: () => "Connecting…",
  open: ({ hello }) => `Connected as ${hello.user}`,
  waiting: ({ opened }) => (opened ? "Lost, coming back…" : "No connection, trying again…"),
  closed: (facts) =>
    facts.comesBack === "new_token" ? "A new token is needed" : "Not connected",
};

let nextAttempt = null; // time of the next attempt, by performance.now()

client.addEventListener("state", ({ detail }) => {
  const { state, hello } = detail;
  stories[state](detail);
  at("status").textContent = statuses[state](detail);
  at("status").dataset.state = state;
  nextAttempt = state === "waiting" ? performance.now() + detail.delay : null;
  const inForm = ["token", "start", "stop"].includes(document.activeElement?.id);
  for (const id of ["cut", "slow"]) enable(id, state === "open");
  if (hello) {
    at("user").textContent = hello.user;
    at("stage").textContent = hello.stage;
    at("heartbeat").textContent = hello.heartbeat ? `${hello.heartbeat} s` : "never";
    at("reconnects").textContent = number(client.connects - 1);
    until = expiry(client.offered);
    hideToken(true);
    if (inForm && rooms.size === 0) at("room").focus();
  } else if (state !== "connecting") {
    goSlow(false);
    if (flooding) flooding.over = true;
    until = null;
    for (const room of rooms.values()) room.here = null; // unknown without a connection
    soon();
    trips.push({ when: performance.now(), milliseconds: null });
  }
  at("replica").textContent = hello ? hello.replica : "–";
  const refused = state === "closed" && detail.code !== 1000;
  at("connect-problem").textContent = refused ? whatNow(detail) : "";
  if (detail.comesBack === "new_token") at("token").focus();
  showButtons();
  tick();
});

function whatNow({ code, reason, comesBack: comes }) {
  const what = `Ended with ${code}: ${short(reason, 123)}.`;
  return comes === "new_token" ? `${what} Paste another token and connect.` : what;
}

function showButtons() {
  const { state, offered } = client;
  const token = at("token").value.trim();
  at("start").textContent =
    { connecting: "Connecting…", open: "Use new token", waiting: "Try now" }[state] ??
    "Connect";
  const another = token !== "" && token !== offered;
  enable("start", state === "open" ? another : state !== "connecting");
  enable("stop", ["connecting", "open", "waiting"].includes(state));
  enable("flood", flooding !== null || (state === "open" && chosen !== null));
}

function hideToken(hidden) {
  at("token").type = hidden ? "password" : "text";
  at("show").setAttribute("aria-pressed", String(!hidden));
}

at("show").addEventListener("click", () => hideToken(at("token").type === "text"));
at("token").addEventListener("input", showButtons);
at("connect").addEventListener("submit", (event) => {
  event.preventDefault();
  if (client.state === "open") renew();
  else client.start();
});

/** Extend the connection with the token in the field. */
async function renew() {
  const token = at("token").value.trim();
  if (!token || token === client.offered) return;
  try {
    const { expires } = await client.refresh(token);
    until = expires === null ? null : expires * 1000;
    told("good", "The token was replaced, without a reconnect.");
    at("connect-problem").textContent = "";
  } catch (error) {
    at("connect-problem").textContent = `Not replaced: ${error.message}.`;
  }
  showButtons();
}

onClick("stop", () => {
  client.stop();
  at("start").focus();
});
onClick("cut", () => client.cut());

// Vital signs

const trips = []; // {when, milliseconds}; null where the connection was lost
let until = null; // when the token expires, in ms since 1970

client.addEventListener("latency", ({ detail: { milliseconds } }) => {
  trips.push({ when: performance.now(), milliseconds });
  tick();
});

const trip = (milliseconds) =>
  milliseconds < 1000 ? `${milliseconds.toFixed(1)} ms` : seconds(milliseconds);

/** Show what changes with time: ages, the countdown, the chart. */
function tick() {
  const now = performance.now();
  const left = nextAttempt === null ? 0 : Math.max(0, nextAttempt - now);
  at("countdown").textContent = left ? `in ${seconds(left)}` : "";
  at("expiry").textContent = until === null ? "–" : remaining(until - Date.now());
  while (trips.length && trips[0].when < now - MINUTE) trips.shift();
  const due = client.state === "open" && client.silence > 1000 ? client.silence : 0;
  const last = trips.at(-1)?.milliseconds ?? null;
  const open = client.state === "open" && last !== null;
  at("latency").classList.toggle("warning", due > 0);
  at("latency").textContent = due ? `over ${seconds(due)}` : open ? trip(last) : "–";
  const most = Math.max(due, ...trips.map(({ milliseconds }) => milliseconds ?? 0));
  at("highest").textContent = most
    ? `at most ${trip(most)} in the last minute`
    : "the last minute";
  draw(now, Math.max(most, 5), due);
}

const remaining = (left) =>
  left > 3 * MINUTE
    ? `in ${number(Math.round(left / MINUTE))} min`
    : `in ${Math.max(0, Math.ceil(left / 1000))} s`;

function draw(now, most, due) {
  const x = (when) => (600 * (1 - (now - when) / MINUTE)).toFixed(1);
  const y = (milliseconds) => (56 - (46 * milliseconds) / most).toFixed(1);
  const [out, line, waiting] = at("trips").children;
  let path = "";
  let outages = "";
  let before = null;
  for (const { when, milliseconds } of trips) {
    if (before?.milliseconds == null && before !== null && milliseconds !== null) {
      outages += `M${x(before.when)} 0V60H${x(when)}V0Z`;
    }
    if (milliseconds !== null) {
      const place = `${x(when)} ${y(milliseconds)}`;
      path += before?.milliseconds == null ? `M${place}h1` : `L${place}`;
    }
    if (milliseconds !== null || before?.milliseconds != null) {
      before = { when, milliseconds }; // keep the first of several failures
    }
  }
  if (before !== null && before.milliseconds === null) {
    outages += `M${x(before.when)} 0V60H600V0Z`;
  }
  out.setAttribute("d", outages);
  line.setAttribute("d", path);
  waiting.setAttribute("d", due ? `M${x(now - due)} ${y(0)}L600 ${y(due)}` : "");
}

setInterval(tick, 500);

// Rooms

function enter(name) {
  if (!rooms.has(name)) {
    const counts = { seq: null, unread: 0, resumed: 0, missing: 0 };
    const place = { epoch: null, unknown: false, here: null };
    rooms.set(name, { lines: [], fresh: [], ...place, ...counts });
  }
  soon();
  return rooms.get(name);
}

function choose(name) {
  chosen = name;
  const room = rooms.get(name);
  if (room) {
    room.unread = 0;
    room.fresh = [];
  }
  at("talk-title").textContent = name === null ? "3. Talk" : `3. Talk in ${name}`;
  at("log").replaceChildren(...(room?.lines ?? []).map((line) => line()));
  scrolledUp.delete(at("log"));
  toEnd(at("log"));
  at("text").disabled = at("send").disabled = !room;
  at("publish-problem").textContent = "";
  showButtons();
  show();
}

function roomLine(name) {
  const line = make("li");
  const pick = make("button", "choose");
  const leave = make("button", "leave", "×");
  pick.append(make("span", "name", name), make("span", "unread"), make("span", "seq"));
  pick.addEventListener("click", () => choose(name));
  leave.setAttribute("aria-label", `Leave ${name}`);
  leave.addEventListener("click", () => quit(name));
  for (const button of [pick, leave]) button.type = "button";
  line.dataset.room = name;
  line.append(pick, leave);
  return line;
}

let showing = null;

/** Draw the changes a little later, once for many messages. */
function soon() {
  showing ??= setTimeout(show, DRAW);
}

/** Update rooms and log; existing lines stay, so that the focus does. */
function show() {
  clearTimeout(showing);
  showing = null;
  const list = at("room-list");
  const lines = new Map([...list.children].map((line) => [line.dataset.room, line]));
  for (const [name, line] of lines) if (!rooms.has(name)) line.remove();
  const sums = { resumed: 0, missing: 0, unknown: false };
  for (const [name, room] of rooms) {
    if (!lines.has(name)) {
      lines.set(name, roomLine(name));
      list.append(lines.get(name));
    }
    const pick = lines.get(name).firstElementChild;
    const [, unread, where] = pick.children;
    pick.setAttribute("aria-pressed", String(name === chosen));
    unread.textContent = room.unread ? `${number(room.unread)} new` : "";
    where.textContent = standing(room);
    where.classList.toggle("warning", room.missing > 0 || room.unknown);
    sums.resumed += room.resumed;
    sums.missing += room.missing;
    sums.unknown ||= room.unknown;
  }
  at("resumed").textContent = number(sums.resumed);
  at("missing").textContent = howMany(sums);
  at("missing").classList.toggle("warning", sums.missing > 0 || sums.unknown);
  const room = rooms.get(chosen);
  if (room?.fresh.length) {
    append(at("log"), ...room.fresh.slice(-LINES).map((line) => line()));
    room.fresh = [];
  }
  at("present").textContent = room?.here ? company(room.here) : "";
}

/** Return how many messages are missing; after a new epoch nobody can know. */
function howMany({ missing, unknown }) {
  if (!unknown) return number(missing);
  return missing ? `${number(missing)} or more` : "unknown";
}

function standing({ seq, resumed, missing, unknown }) {
  if (seq === null) return "not joined yet";
  const facts = [`at #${seq}`];
  if (resumed) facts.push(`${number(resumed)} resumed`);
  const some = missing || unknown;
  facts.push(some ? `${howMany({ missing, unknown })} missing` : "no gap");
  return facts.join(" · ");
}

function quit(name) {
  client.leave(name).catch(() => {});
  gone(name);
  at("room").focus();
}

function gone(name) {
  rooms.delete(name);
  const rest = [...rooms.keys()];
  if (chosen === name) choose(rest.at(-1) ?? null);
  else show();
}

async function join(name) {
  at("join-problem").textContent = "";
  enter(name);
  choose(name);
  try {
    await client.join(name, null, { presence: true });
  } catch (error) {
    if (error.code === undefined) return; // no connection: the client joins later
    at("join-problem").textContent = `${short(name, 64)}: ${error.message}.`;
    quit(name);
  }
}

at("join").addEventListener("submit", (event) => {
  event.preventDefault();
  join(at("room").value.trim());
  at("text").focus();
});

// Who is here

client.addEventListener("present", ({ detail }) => {
  const room = rooms.get(detail.room);
  if (!room) return;
  const names = (people) => new Map(people.map(({ id, user }) => [id, user]));
  room.here = { count: detail.count, users: detail.clients && names(detail.clients) };
  soon();
});

client.addEventListener("presence", ({ detail }) => {
  const here = rooms.get(detail.room)?.here;
  if (!here) return;
  const { count: many, joined, left } = detail;
  here.count = many;
  if (!joined || !left) here.users = null; // too many to be named
  for (const { id } of left ?? []) here.users?.delete(id);
  for (const { id, user } of joined ?? []) here.users?.set(id, user);
  soon();
});

function company({ count: many, users }) {
  const names = [...new Set(users?.values())];
  const some = names.slice(0, 5).map((name) => short(name, 20));
  const more = names.length > some.length ? ", …" : "";
  return `${number(many)} here${some.length ? `: ${some.join(", ")}${more}` : ""}`;
}

// Messages

/** Add a line to a room's log; `line` creates the element when it is drawn. */
function say(name, line) {
  const room = rooms.get(name);
  if (!room) return;
  for (const list of [room.lines, room.fresh]) {
    list.push(line);
    if (list.length > LINES) list.shift();
  }
  soon();
}

function notice(name, text, warning = false) {
  const when = new Date();
  say(name, () => {
    const line = make("li", warning ? "notice warning" : "notice");
    line.append(make("span", "", text), clock(when));
    return line;
  });
}

client.addEventListener("message", ({ detail }) => {
  const { room: name, seq, from, payload } = detail;
  const room = rooms.get(name);
  if (!room) return;
  const mine = from === client.hello.user;
  const when = new Date();
  const plain = typeof payload === "string";
  const text = plain ? short(payload) : short(JSON.stringify(payload), JSON_TEXT);
  const kind = plain ? "payload" : "payload json";
  say(name, () => {
    const line = make("li", mine ? "mine" : "");
    const parts = [make("span", "seq", `#${seq}`), make("span", "from", from)];
    line.append(...parts, make("span", kind, text), clock(when));
    return line;
  });
  room.seq = seq;
  if (name !== chosen) room.unread += 1;
  else if (!mine) announce(from, text);
});

const heard = { many: 0, from: "", text: "" };
let announcing = null;

/** Read out to a screen reader: the message, or how many there were. */
function announce(from, text) {
  heard.many += 1;
  Object.assign(heard, { from, text });
  announcing ??= setTimeout(() => {
    const { many } = heard;
    at("announcer").textContent =
      many === 1
        ? `${heard.from}: ${short(heard.text, 100)}`
        : `${many} messages, the last from ${heard.from}`;
    heard.many = 0;
    announcing = null;
  }, ANNOUNCE);
}

const reasons = {
  slow: "this page did not read fast enough",
  broker: "the broker did not deliver them",
};

client.addEventListener("gap", ({ detail }) => {
  const { room: name, from, to, reason } = detail;
  const room = rooms.get(name);
  if (!room) return;
  const lost = to - from + 1;
  const which = lost === 1 ? "Message" : "Messages";
  const why = reasons[reason] ?? short(reason, 50);
  notice(name, `${which} ${range(from, to)} will not come: ${why}.`, true);
  told("bad", `${name}: a gap, ${range(from, to)} (${why}).`);
  room.missing += lost;
  room.seq = to;
});

client.addEventListener("joined", ({ detail }) => {
  const { room: name, epoch, seq, recovered } = detail;
  const room = rooms.get(name);
  if (!room) return;
  const missed = seq - room.seq;
  if (room.seq === null) {
    notice(name, seq ? `Joined after #${seq}.` : "Joined a new room.");
    told("room", `${name}: joined at #${seq}.`);
  } else if (recovered) {
    const some = `${count(missed, "missed message")} resumed`;
    const what = missed ? some : "nothing missed";
    notice(name, `Back: ${what}.`);
    told(missed ? "good" : "room", `${name}: ${what}.`);
    room.resumed += missed;
  } else if (epoch !== room.epoch) {
    const what = "the server forgot the room and counts anew, in another epoch";
    notice(name, `Not resumed: ${what}. It goes on after #${seq}.`, true);
    told("bad", `${name}: not resumed, ${what}. Nobody knows how many are missing.`);
    room.unknown = true;
  } else {
    const what = `the messages after #${room.seq} are too many or too old`;
    notice(name, `Not resumed: ${what}. The room is at #${seq} now.`, true);
    told("bad", `${name}: not resumed, ${what}.`);
    room.missing += Math.max(0, missed);
  }
  room.epoch = epoch;
  room.seq = recovered ? room.seq ?? seq : seq;
  soon();
});

client.addEventListener("left", ({ detail: { room: name, ref } }) => {
  if (ref !== undefined || !rooms.has(name)) return; // this page asked for it
  told("bad", `${name}: the server ended the membership.`);
  gone(name);
});

client.addEventListener("error", ({ detail: { code, detail } }) => {
  told("bad", `The server answered ${code}: ${short(detail, 200)}.`);
});

at("publish").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = at("text");
  const text = field.value;
  if (!text || chosen === null) return;
  field.value = "";
  at("publish-problem").textContent =
    client.state === "open" ? "" : "It is sent as soon as there is a connection.";
  try {
    await client.publish(chosen, text);
    at("publish-problem").textContent = "";
  } catch (error) {
    at("publish-problem").textContent = `Not published: ${error.message}.`;
    field.value ||= text;
  }
});

// Go slow

let blocking = null;

function goSlow(yes) {
  const was = at("slow").getAttribute("aria-pressed") === "true";
  if (yes === was) return;
  at("slow").setAttribute("aria-pressed", String(yes));
  const pace = Number(at("pace").value);
  client.pace = yes ? pace : Infinity;
  clearInterval(blocking);
  if (!yes) told("room", "Reads at full speed again.");
  else if (client.canPace) {
    told("wait", pace ? `Reads ${pace} messages a second.` : "Reads nothing any more.");
  } else {
    told("wait", "Blocks itself for 15 s: this browser cannot stop reading a socket.");
    const over = performance.now() + 15_000;
    blocking = setInterval(() => {
      const end = performance.now() + 450;
      while (performance.now() < end); // the only other way to read late
      if (end > over) goSlow(false);
    }, 500);
  }
}

onClick("slow", () => goSlow(at("slow").getAttribute("aria-pressed") !== "true"));
at("pace").addEventListener("change", () => {
  if (client.pace < Infinity) client.pace = Number(at("pace").value);
});
if (!client.canPace) {
  at("slow-hint").textContent =
    "This browser has no WebSocketStream, so a page cannot stop it from reading. " +
    "Instead the page blocks itself for 15 s; the server may or may not notice.";
  at("pace").disabled = true;
}

// Flood

let flooding = null;

/** Return random text, which deflate cannot shrink to almost nothing. */
function noise(size) {
  const bytes = crypto.getRandomValues(new Uint8Array(Math.ceil((size * 3) / 4)));
  return btoa(String.fromCharCode(...bytes)).slice(0, size);
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function flood(room, size, time, obeys) {
  const text = noise(size);
  const began = performance.now();
  const run = { sent: 0, acks: 0, limited: 0, over: false };
  flooding = run;
  let quietUntil = 0;
  let quiet = 250; // milliseconds of the last pause; doubled each time in a row
  const goesOn = () => !run.over && performance.now() < began + time;
  const report = () => {
    const rate = run.acks / Math.max(0.001, (performance.now() - began) / 1000);
    at("flood-hint").textContent =
      `${number(run.acks)} of ${number(run.sent)} published, ` +
      `${number(Math.round(rate))} a second; ` +
      `rate_limited ${number(run.limited)} times`;
  };
  const publisher = async () => {
    while (goesOn() && run.sent < FLOOD_LIMIT) {
      run.sent += 1;
      const message = { flood: run.sent, noise: text };
      for (let again = true; again && goesOn(); ) {
        again = false;
        try {
          await client.publish(room, message);
          run.acks += 1;
          quiet = 250;
        } catch (error) {
          if (error.code === "rate_limited") {
            run.limited += 1;
            again = obeys;
            if (performance.now() > quietUntil) {
              quiet = Math.min(2 * quiet, 4_000);
              quietUntil = performance.now() + quiet;
            }
          } else run.over = true;
        }
        const rest = quietUntil - performance.now();
        if (obeys && rest > 0) await pause(rest);
      }
    }
  };
  told("wait", `Floods ${room} for ${time / 1000} s with messages of ${size} bytes.`);
  at("flood").textContent = "Stop";
  const reporting = setInterval(report, 250);
  await Promise.all(Array.from({ length: WINDOW }, publisher));
  clearInterval(reporting);
  report();
  told("room", `The flood is over: ${at("flood-hint").textContent}.`);
  flooding = null;
  at("flood").textContent = "Flood";
  showButtons();
}

onClick("flood", () => {
  if (flooding) flooding.over = true;
  else {
    const [size, time] = ["flood-size", "flood-time"].map((id) => Number(at(id).value));
    flood(chosen, size, time * 1000, at("obey").checked);
  }
});

// A link may carry a token and a room after #, which browsers do not send. (After ? it
// works, too, but it was sent.) It is removed from the address at once, so that neither
// history nor a screenshot shows it.
const { search, hash } = location;
const given = new URLSearchParams(`${search.slice(1)}&${hash.slice(1)}`);
if (search || hash) history.replaceState(null, "", location.pathname);
if (given.has("room")) join(given.get("room"));
if (given.has("token")) {
  at("token").value = given.get("token");
  client.start();
}
showButtons();
