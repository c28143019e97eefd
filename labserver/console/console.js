/*
 * The console page: what lab-client.js does, made visible.
 *
 * What others have sent reaches the page as text nodes only (`textContent`): nothing
 * that a message contains is ever markup. The token stays in its field: it is neither
 * stored nor written anywhere.
 */

import { LabClient } from "/lab-client.js";

const LINES = 500; // that a log keeps
const TRIPS = 30;

const at = (id) => document.getElementById(id);
const rooms = new Map(); // name -> {lines, seq, unread, joined}
const trips = [];
let chosen = null; // name of the room that is shown

const address = new URL("/", location.href);
address.protocol = address.protocol.replace("http", "ws");
address.hash = address.search = "";
const client = new LabClient(address.href, {
  token: () => at("token").value.trim(),
  pingInterval: 2_000,
});

function make(tag, name, text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
}

function clock() {
  const now = new Date();
  const time = make("time", "", now.toLocaleTimeString());
  time.dateTime = now.toISOString();
  return time;
}

/** Add a line to a log; it stays at its end unless somebody has scrolled up. */
function append(log, line) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(line);
  while (log.childElementCount > LINES) log.firstElementChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// The connection

function told(text) {
  const line = make("li");
  line.append(clock(), make("span", "", text));
  append(at("event-log"), line);
}

const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(1)} s`;
const because = ({ code, reason }) =>
  `${code}, ${reason || (code === 1006 ? "without a goodbye" : "without a reason")}`;

const states = {
  connecting: () => ["Connecting…", null],
  open: ({ hello }) => [
    `Connected as ${hello.user}`,
    `${client.connects > 1 ? "Back" : "Connected"}, on replica ${hello.replica}.`,
  ],
  waiting: (facts) => [
    facts.opened ? "Connection lost, coming back…" : "No connection, trying again…",
    `${facts.opened ? "Lost" : "Attempt failed"} (${because(facts)}). ` +
      `Next in ${seconds(facts.delay)}.`,
  ],
  closed: (facts) => [
    facts.comesBack === "new_token" ? "A new token is needed" : "Not connected",
    facts.code === 1000 ? "Disconnected." : `Ended (${because(facts)}).`,
  ],
};

client.addEventListener("state", ({ detail }) => {
  const { state, hello } = detail;
  const [status, event] = states[state](detail);
  at("status").textContent = status;
  at("status").dataset.state = state;
  if (event) told(event);
  const running = state !== "closed";
  at("start").disabled = running;
  at("stop").disabled = !running;
  at("cut").disabled = state !== "open";
  if (hello) {
    at("user").textContent = hello.user;
    at("replica").textContent = hello.replica;
    at("stage").textContent = hello.stage;
    at("heartbeat").textContent = hello.heartbeat ? `${hello.heartbeat} s` : "none";
    at("reconnects").textContent = client.connects - 1;
  } else {
    at("replica").textContent = at("latency").textContent = "–";
    trips.length = 0;
    at("trips").firstElementChild.setAttribute("points", "");
  }
  const refused = state === "closed" && detail.code !== 1000;
  at("connect-problem").textContent = refused ? `Ended: ${detail.reason}.` : "";
  if (detail.comesBack === "new_token") at("token").focus();
});

client.addEventListener("latency", ({ detail }) => {
  at("latency").textContent = `${detail.milliseconds.toFixed(1)} ms`;
  trips.push(detail.milliseconds);
  if (trips.length > TRIPS) trips.shift();
  const most = Math.max(...trips, 1);
  const points = trips.map(
    (trip, index) => `${(index * 60) / (TRIPS - 1)},${15 - (14 * trip) / most}`,
  );
  at("trips").firstElementChild.setAttribute("points", points.join(" "));
});

at("connect").addEventListener("submit", (event) => {
  event.preventDefault();
  client.start();
});
at("stop").addEventListener("click", () => client.stop());
at("cut").addEventListener("click", () => client.cut());

// Rooms

function enter(name) {
  if (!rooms.has(name)) {
    rooms.set(name, { lines: [], seq: null, unread: 0 });
    showRooms();
  }
  return rooms.get(name);
}

function choose(name) {
  chosen = name;
  const room = rooms.get(name);
  if (room) room.unread = 0;
  at("talk-title").textContent = name ?? "No room";
  at("log").replaceChildren(...(room?.lines ?? []));
  at("log").scrollTop = at("log").scrollHeight;
  at("text").disabled = at("send").disabled = !room;
  at("publish-problem").textContent = "";
  showRooms();
}

function roomLine(name) {
  const line = make("li");
  const pick = make("button", "choose");
  const leave = make("button", "leave", "×");
  pick.append(make("span", "name", name), make("span", "seq"));
  pick.addEventListener("click", () => choose(name));
  leave.setAttribute("aria-label", `Leave ${name}`);
  leave.addEventListener("click", () => quit(name));
  for (const button of [pick, leave]) button.type = "button";
  line.dataset.room = name;
  line.append(pick, leave);
  return line;
}

/** Bring the list up to date; a line that is there stays, and so does the focus. */
function showRooms() {
  const list = at("room-list");
  const lines = new Map([...list.children].map((line) => [line.dataset.room, line]));
  for (const [name, line] of lines) if (!rooms.has(name)) line.remove();
  for (const [name, { seq, unread }] of rooms) {
    if (!lines.has(name)) {
      lines.set(name, roomLine(name));
      list.append(lines.get(name));
    }
    const pick = lines.get(name).firstElementChild;
    pick.setAttribute("aria-pressed", String(name === chosen));
    pick.classList.toggle("unread", unread > 0);
    const where = seq === null ? "not joined yet" : `#${seq}`;
    pick.lastElementChild.textContent = unread ? `${unread} new, ${where}` : where;
  }
}

function quit(name) {
  client.leave(name).catch(() => {});
  rooms.delete(name);
  const rest = [...rooms.keys()];
  if (chosen === name) choose(rest.at(-1) ?? null);
  else showRooms();
  at("room").focus();
}

async function join(name) {
  at("join-problem").textContent = "";
  enter(name);
  choose(name);
  try {
    await client.join(name);
  } catch (error) {
    if (error.code === undefined) return; // the connection: it joins when it is back
    at("join-problem").textContent = `${name}: ${error.message}`;
    quit(name);
  }
}

at("join").addEventListener("submit", (event) => {
  event.preventDefault();
  join(at("room").value.trim()).then(() => at("room").select());
});

// Messages

function say(name, line) {
  const room = rooms.get(name);
  if (!room) return;
  line.append(clock());
  room.lines.push(line);
  if (room.lines.length > LINES) room.lines.shift();
  if (name === chosen) append(at("log"), line);
}

function notice(name, text, warning = false) {
  const line = make("li", warning ? "notice warning" : "notice");
  line.append(make("span", "", text));
  say(name, line);
}

client.addEventListener("message", ({ detail }) => {
  const { room: name, seq, from, payload } = detail;
  const room = rooms.get(name);
  if (!room) return;
  const text = typeof payload === "string" ? payload : null;
  const line = make("li", from === client.hello.user ? "mine" : "");
  line.append(
    make("span", "seq", `#${seq}`),
    make("span", "from", from),
    text === null
      ? make("span", "payload json", JSON.stringify(payload))
      : make("span", "payload", text),
  );
  room.seq = seq;
  if (name !== chosen) room.unread += 1;
  say(name, line);
  showRooms();
});

const reasons = {
  slow: "this page did not read fast enough",
  broker: "the broker did not deliver them",
};

client.addEventListener("gap", ({ detail }) => {
  const { room: name, from, to, reason } = detail;
  const count = to - from + 1;
  const which = count === 1 ? `Message #${from} is` : `Messages #${from} to #${to} are`;
  notice(name, `${which} missing: ${reasons[reason] ?? reason}.`, true);
  if (rooms.has(name)) rooms.get(name).seq = to;
  showRooms();
});

client.addEventListener("joined", ({ detail }) => {
  const { room: name, seq, recovered } = detail;
  const room = rooms.get(name);
  if (!room) return;
  const missed = seq - room.seq;
  if (room.seq === null) {
    notice(name, seq ? `Joined after #${seq}.` : "Joined. Nothing was said here yet.");
  } else if (recovered) {
    const what = missed === 1 ? "message follows" : "messages follow";
    const how = missed ? `${missed} missed ${what}` : "nothing was missed";
    notice(name, `Back: ${how}.`);
  } else {
    const what = `what came after #${room.seq} cannot be had any more`;
    notice(name, `Back, but ${what}. The room stands at #${seq}.`, true);
  }
  room.seq = recovered ? room.seq : seq;
  showRooms();
});

client.addEventListener("error", ({ detail: { code, detail } }) => {
  told(`The server answered ${code}: ${detail}`);
});

at("publish").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = at("text");
  const text = field.value;
  if (!text || chosen === null) return;
  field.value = "";
  at("publish-problem").textContent =
    client.state === "open" ? "" : "It goes out as soon as there is a connection.";
  try {
    await client.publish(chosen, text);
    at("publish-problem").textContent = "";
  } catch (error) {
    at("publish-problem").textContent = `Not published: ${error.message}`;
    field.value ||= text;
  }
});

// A link may carry a token and a room behind #, which browsers do not send. It goes out
// of the address at once, so that neither history nor a screenshot shows it.
const given = new URLSearchParams(location.hash.slice(1));
if (location.hash) history.replaceState(null, "", location.pathname);
if (given.has("room")) join(given.get("room"));
if (given.has("token")) {
  at("token").value = given.get("token");
  client.start();
}
