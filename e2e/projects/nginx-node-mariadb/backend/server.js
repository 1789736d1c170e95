'use strict';
// A guest book: GET /entries lists it, POST /entries {"text": "..."} adds to it, GET /health says whether it can.
const fs = require('node:fs');
const http = require('node:http');
const { connect, quote } = require('./mysql');

const options = {
  host: process.env.DATABASE_HOST || 'db',
  database: process.env.DATABASE_NAME || 'guestbook',
  user: process.env.DATABASE_USER || 'root',
  password: fs.readFileSync(process.env.DATABASE_PASSWORD_FILE || '/run/secrets/db-password', 'utf8').trim(),
};

// A connection is kept until it fails; the next request makes another one.
let current = null;
async function query(sql) {
  const kept = current !== null;
  const connection = await (current = current || connect(options));
  try {
    return await connection.query(sql);
  } catch (err) {
    if (!connection.dead) throw err;
    current = null;
    if (kept && sql.startsWith('SELECT')) return query(sql);
    throw err;
  }
}
async function ask(sql) {
  try {
    return await query(sql);
  } catch (err) {
    if (current) current.catch(() => { current = null; });
    throw err;
  }
}

async function prepare() {
  for (let attempt = 1; ; attempt++) {
    try {
      await ask('CREATE TABLE IF NOT EXISTS entry (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(500) NOT NULL) CHARACTER SET utf8mb4');
      await ask("INSERT INTO entry (id, text) VALUES (1, 'The first entry of the book') ON DUPLICATE KEY UPDATE id = id");
      return;
    } catch (err) {
      current = null;
      if (attempt === 60) throw err;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
}

function answer(res, status, value) {
  const body = JSON.stringify(value) + '\n';
  res.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
  res.end(body);
}

async function body(req) {
  let text = '';
  for await (const chunk of req) {
    text += chunk;
    if (text.length > 4096) throw new RangeError('too long');
  }
  return JSON.parse(text);
}

async function handle(req, res) {
  const path = req.url.split('?')[0];
  if (req.method === 'GET' && path === '/health') {
    await ask('SELECT 1');
    return answer(res, 200, { status: 'ok' });
  }
  if (req.method === 'GET' && path === '/entries') {
    const rows = await ask('SELECT id, text FROM entry ORDER BY id');
    return answer(res, 200, rows.map(([id, text]) => ({ id: Number(id), text })));
  }
  if (req.method === 'POST' && path === '/entries') {
    let text;
    try {
      ({ text } = await body(req));
    } catch {
      text = undefined;
    }
    if (typeof text !== 'string' || !text || text.length > 500) return answer(res, 400, { error: 'text is missing or too long' });
    await ask('INSERT INTO entry (text) VALUES (' + quote(text) + ')');
    return answer(res, 201, { text });
  }
  return answer(res, 404, { error: 'not found' });
}

const server = http.createServer((req, res) => {
  handle(req, res).catch((err) => {
    console.error(err.message);
    if (!res.headersSent) answer(res, 503, { error: 'the database does not answer' });
  });
});

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    server.close(() => process.exit(0));
    server.closeIdleConnections();
    setTimeout(() => process.exit(0), 8000).unref();
  });
}

prepare().then(() => server.listen(3000, () => console.log('listening on 3000')), (err) => {
  console.error(err.message);
  process.exit(1);
});
