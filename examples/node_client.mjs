// Join a room, say hello, and print what comes, over all reconnects.
// Elsewhere: npm install the package that `npm pack` makes, and import "lab-client".

import { LabClient } from "../labserver/server/console/lab-client.js";

const { URL = "ws://127.0.0.1:8080", TOKEN } = process.env;
if (!TOKEN) throw new Error("set TOKEN to what the server prints");
const client = new LabClient(URL, { token: () => TOKEN });
client.addEventListener("message", ({ detail }) => {
  console.log(detail.from, detail.payload);
});
client.addEventListener("gap", ({ detail }) => {
  console.log("missing:", detail.from, "to", detail.to);
});
client.addEventListener("state", ({ detail }) => {
  console.error(detail.state, detail.reason ?? "");
});
client.start();
await client.join("lobby");
await client.publish("lobby", "hello from Node"); // it is sent again if need be
