// The article's server: rooms in a Map of Sets, JSON encoded for each broadcast, a check
// of bufferedAmount before each send, a heartbeat sweep. With --redis it runs several
// replicas like the article: it publishes to Redis, and delivers what comes back.
//
//   node node_ws.mjs --modules FOLDER [--deflate] [--redis unix:///path] [--sweep MS]

import { createRequire } from "node:module";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    modules: { type: "string" }, // folder of the installed modules
    deflate: { type: "boolean" },
    redis: { type: "string" },
    sweep: { type: "string", default: "30000" }, // milliseconds between two pings
  },
});
const load = createRequire(`${options.modules}/`);
const { WebSocket, WebSocketServer } = load("ws");

const BUFFERED_LIMIT = 1_000_000; // bytes

const rooms = new Map();
let join = (room, socket) => {
  if (!rooms.has(room)) rooms.set(room, new Set());
  rooms.get(room).add(socket);
  socket.on("close", () => rooms.get(room)?.delete(socket));
};

const deliver = (room, message) => {
  const text = JSON.stringify(message);
  for (const member of rooms.get(room) ?? []) {
    if (member.readyState !== WebSocket.OPEN) continue;
    if (member.bufferedAmount > BUFFERED_LIMIT) continue;
    member.send(text);
  }
};
let publish = deliver;

if (options.redis) {
  const Redis = load("ioredis");
  const where = options.redis.replace(/^unix:\/\//, "");
  const [sender, receiver] = [new Redis(where), new Redis(where)];
  receiver.on("message", (channel, text) => {
    deliver(channel.slice("room:".length), JSON.parse(text));
  });
  publish = (room, message) => {
    sender.publish(`room:${room}`, JSON.stringify(message));
  };
  const joinHere = join;
  join = async (room, socket) => {
    const first = !rooms.has(room);
    joinHere(room, socket);
    if (first) await receiver.subscribe(`room:${room}`);
  };
}

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  backlog: 4096,
  perMessageDeflate: options.deflate ?? false,
});

server.on("connection", (socket) => {
  socket.alive = true;
  socket.on("pong", () => {
    socket.alive = true;
  });
  socket.on("message", async (data) => {
    const { type, room, payload } = JSON.parse(data.toString());
    if (type === "join") {
      await join(room, socket);
      socket.send(JSON.stringify({ type: "joined", room }));
    } else if (type === "publish") {
      publish(room, { type: "message", room, payload });
    }
  });
  socket.send(JSON.stringify({ type: "hello" }));
});

setInterval(() => {
  for (const socket of server.clients) {
    if (!socket.alive) {
      socket.terminate();
      continue; // the article returns here, which ends the sweep
    }
    socket.alive = false;
    socket.ping();
  }
}, Number(options.sweep));

process.on("SIGTERM", () => {
  server.close(() => process.exit(0));
  for (const socket of server.clients) socket.close(1001, "draining");
});

server.on("listening", () => {
  console.log(`listening on ws://127.0.0.1:${server.address().port}`);
});
