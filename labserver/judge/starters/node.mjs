// A server to begin with, on `ws` (npm install ws): it keeps the promise of stage echo.
// Judge it with: labserver judge --stage echo -- node server.mjs
import { randomUUID } from 'node:crypto';
import { WebSocketServer } from 'ws';

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(process.env.PORT ?? 8080),
  maxPayload: 65536, // bytes of a message
});

server.on('connection', (socket) => {
  const send = (type, fields) => socket.send(JSON.stringify({ type, ...fields }));
  const about = { user: 'anonymous', stage: 'echo', replica: 'one', heartbeat: null };
  send('hello', { id: randomUUID(), ...about });
  // Without this, a message that is too large would end the process.
  socket.on('error', () => {});
  socket.on('message', (data, isBinary) => {
    if (isBinary) return socket.close(1003, 'text only');
    const text = data.toString();
    try {
      JSON.parse(text);
    } catch {
      return send('error', { code: 'bad_json', detail: 'this is not JSON' });
    }
    // As it came: a number that was parsed may be another.
    socket.send(`{"type":"echo","payload":${text}}`);
  });
});

process.on('SIGTERM', () => process.exit(0));
