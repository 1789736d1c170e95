'use strict';
// Shows how the votes stand: a page at /, and every change as it happens at /events (server-sent events).
const http = require('node:http');
const { connect } = require('./postgres');

const options = { host: 'db', database: 'postgres', user: 'postgres', password: 'postgres' };
const names = { a: process.env.OPTION_A || 'Cats', b: process.env.OPTION_B || 'Dogs' };
const listeners = new Set();
let standing = null; // {a, b}, null until it is known
let connection = null;

async function count() {
  try {
    connection = connection || (await connect(options));
    const rows = await connection.query('SELECT vote, count(*) FROM votes GROUP BY vote');
    const next = { a: 0, b: 0 };
    for (const [vote, n] of rows) if (vote in next) next[vote] = Number(n);
    tell(next);
  } catch (err) {
    if (!connection || connection.dead) connection = null;
    if (/relation "votes" does not exist/.test(err.message)) return tell({ a: 0, b: 0 });
    console.error(err.message);
  }
}

function tell(next) {
  if (JSON.stringify(next) === JSON.stringify(standing)) return;
  standing = next;
  for (const res of listeners) res.write(event());
}

const event = () => `event: standing\ndata: ${JSON.stringify(standing)}\n\n`;
const escape = (s) => s.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]);

function page() {
  const { a, b } = standing;
  const share = a + b ? Math.round((100 * a) / (a + b)) : 50;
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(names.a)} or ${escape(names.b)}: how it stands</title>
<style>:root{color-scheme:light dark}body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:4rem auto;padding:0 1rem;text-align:center}
meter{width:100%;height:2.5rem}</style>
<h1>How it stands</h1>
<p id="text">${escape(names.a)} ${a}, ${escape(names.b)} ${b}</p><meter id="bar" max="100" value="${share}">${share}%</meter>
<script>
new EventSource('/events').addEventListener('standing', function (e) {
  var s = JSON.parse(e.data), n = ${JSON.stringify(names).replace(/</g, '\\u003c')};
  document.getElementById('text').textContent = n.a + ' ' + s.a + ', ' + n.b + ' ' + s.b;
  document.getElementById('bar').value = s.a + s.b ? Math.round(100 * s.a / (s.a + s.b)) : 50;
});
</script></html>
`;
}

const server = http.createServer((req, res) => {
  const path = req.url.split('?')[0];
  const send = (status, kind, text) => {
    res.writeHead(status, { 'content-type': kind, 'content-length': Buffer.byteLength(text) });
    res.end(text);
  };
  if (path !== '/' && path !== '/events' && path !== '/standing') return send(404, 'text/plain', 'not found\n');
  if (!standing) return send(503, 'text/plain', 'the database has not answered yet\n');
  if (path === '/standing') return send(200, 'application/json', JSON.stringify(standing) + '\n');
  if (path === '/') return send(200, 'text/html; charset=utf-8', page());
  res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  res.write(event());
  listeners.add(res);
  res.on('close', () => listeners.delete(res));
});

let stopping = false;
async function loop() {
  while (!stopping) {
    await count();
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    stopping = true;
    for (const res of listeners) res.end();
    server.close(() => process.exit(0));
    server.closeIdleConnections();
    setTimeout(() => process.exit(0), 8000).unref();
  });
}

server.listen(80, () => console.log('listening on 80'));
loop();
