// A server on Node's `ws` with the parts of the article that this lab grew from: a token
// at the upgrade, rooms in a Map of Sets, a sweep of pings, a check of bufferedAmount
// before each send, Redis pub/sub between processes.
//
// What the article does not have is not here: messages are parsed without a try, a sweep
// ends at the first dead peer, and a message over the limit of the buffer is dropped. The
// wire contract wants numbers and codes of errors, which the article has not: they are
// added here.

import http from "node:http";
import { createHmac, randomBytes } from "node:crypto";
import { createRequire } from "node:module";

const load = createRequire(`${process.env.NODE_MODULES}/`);
const { WebSocket, WebSocketServer } = load("ws");
const { PORT, LAB_SECRET, LAB_REDIS_URL, LAB_HEARTBEAT_INTERVAL } = process.env;
const LIMIT = Number(process.env.LAB_OUTBOX_LIMIT ?? 1_000_000);

const userOf = (request) => {
  const query = new URL(request.url, "http://x").searchParams.get("token");
  const header = (request.headers.authorization ?? "").replace("Bearer ", "");
  const cookie = /lab_token=([^;]*)/.exec(request.headers.cookie ?? "")?.[1];
  const offered = request.headers["sec-websocket-protocol"] ?? "";
  const name = /bearer\.([^,\s]*)/.exec(offered)?.[1];
  const [head, body, signature] = (header || cookie || name || query || "").split(".");
  const sum = createHmac("sha256", LAB_SECRET).update(`${head}.${body}`);
  if (sum.digest("base64url") !== signature) return null;
  const { sub, exp } = JSON.parse(Buffer.from(body, "base64url"));
  return exp * 1000 > Date.now() ? sub : null;
};

const rooms = new Map();
const numbers = new Map();
const deliver = (room, text) => {
  for (const member of rooms.get(room) ?? []) {
    if (member.readyState !== WebSocket.OPEN) continue;
    if (member.bufferedAmount > LIMIT) continue;
    member.send(text);
  }
};
let publish = deliver;
let listen = () => {};
if (LAB_REDIS_URL) {
  const Redis = load("ioredis");
  const [sender, receiver] = [new Redis(LAB_REDIS_URL), new Redis(LAB_REDIS_URL)];
  receiver.on("message", (channel, text) => deliver(channel.slice(5), text));
  publish = (room, text) => sender.publish(`room:${room}`, text);
  listen = (room) => receiver.subscribe(`room:${room}`);
}

const handlers = {
  echo: (socket, { payload }) => ({ type: "echo", payload }),
  ping: () => ({ type: "pong" }),
  join: async (socket, { room }) => {
    if (!rooms.has(room)) rooms.set(room, new Set());
    rooms.get(room).add(socket);
    socket.on("close", () => rooms.get(room)?.delete(socket));
    await listen(room);
    const seq = numbers.get(room) ?? 0;
    return { type: "joined", room, epoch: "one", seq, recovered: false };
  },
  leave: (socket, { room }) => {
    rooms.get(room)?.delete(socket);
    return { type: "left", room };
  },
  publish: (socket, { room, payload }) => {
    const seq = (numbers.get(room) ?? 0) + 1;
    numbers.set(room, seq);
    const message = { type: "message", room, seq, from: socket.user, payload };
    publish(room, JSON.stringify(message));
    return { type: "ack", room, seq };
  },
};

const isRoom = (room) => typeof room === "string" && /^[\w.:-]{1,64}$/.test(room);
const refusal = (message) => {
  if (!handlers[message?.type]) return "unknown_type";
  const roomless = ["echo", "ping"].includes(message.type);
  if (!roomless && !isRoom(message.room)) return "bad_message";
  const bare = message.type === "publish" && message.payload === undefined;
  return bare ? "bad_message" : null;
};

const server = http.createServer();
const wss = new WebSocketServer({ noServer: true, maxPayload: 65536 });
server.on("upgrade", (request, socket, head) => {
  const user = userOf(request);
  if (user === null) {
    socket.write("HTTP/1.1 401 Unauthorized\r\n\r\n");
    socket.destroy();
    return;
  }
  wss.handleUpgrade(request, socket, head, (client) => {
    client.user = user;
    wss.emit("connection", client);
  });
});
wss.on("connection", (socket) => {
  socket.alive = true;
  socket.on("pong", () => (socket.alive = true));
  socket.on("message", async (data) => {
    const message = JSON.parse(data.toString());
    const code = refusal(message);
    const answer = code ? { type: "error", code } : await handlers[message.type](socket, message);
    if (message?.ref !== undefined && answer) answer.ref = message.ref;
    if (answer && !(answer.type === "ack" && answer.ref === undefined)) {
      socket.send(JSON.stringify(answer));
    }
  });
  const about = { user: socket.user, stage: "broker", replica: "one", heartbeat: null };
  socket.send(JSON.stringify({ type: "hello", id: randomBytes(6).toString("hex"), ...about }));
});
const sweep = () => {
  for (const socket of wss.clients) {
    if (!socket.alive) return socket.terminate();
    socket.alive = false;
    socket.ping();
  }
};
setInterval(sweep, 1000 * Number(LAB_HEARTBEAT_INTERVAL ?? 30));
server.listen(Number(PORT), "127.0.0.1");
