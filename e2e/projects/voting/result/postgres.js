'use strict';
// A client of PostgreSQL's protocol 3.0, as much of it as this service needs: one connection, simple queries, and
// authentication by SCRAM-SHA-256 (RFC 5802, RFC 7677).
const crypto = require('node:crypto');
const net = require('node:net');

const hmac = (key, text) => crypto.createHmac('sha256', key).update(text).digest();
const sha256 = (data) => crypto.createHash('sha256').update(data).digest();

class Scram {
  constructor(password) {
    this.password = password;
    this.bare = 'n=,r=' + crypto.randomBytes(18).toString('base64');
  }

  first() { return 'n,,' + this.bare; }

  final(challenge) {
    const part = Object.fromEntries(challenge.split(',').map((p) => [p[0], p.slice(2)]));
    if (!part.r.startsWith(this.bare.slice(5))) throw new Error('database: nonce of another conversation');
    const salted = crypto.pbkdf2Sync(this.password, Buffer.from(part.s, 'base64'), Number(part.i), 32, 'sha256');
    const client = hmac(salted, 'Client Key');
    const without = 'c=biws,r=' + part.r;
    const all = [this.bare, challenge, without].join(',');
    const signature = hmac(sha256(client), all);
    this.expected = hmac(hmac(salted, 'Server Key'), all).toString('base64');
    return without + ',p=' + client.map((byte, i) => byte ^ signature[i]).toString('base64');
  }

  check(text) {
    if (text.split(',')[0] !== 'v=' + this.expected) throw new Error('database: the server does not know the password');
  }
}

class Connection {
  constructor(options) {
    this.options = options;
    this.received = Buffer.alloc(0);
    this.job = null; // {rows, err, resolve, reject}
    this.last = Promise.resolve();
    this.dead = null;
  }

  open() {
    return new Promise((resolve, reject) => {
      this.job = { rows: [], resolve: () => resolve(this), reject };
      this.socket = net.connect({ host: this.options.host, port: 5432, noDelay: true });
      this.socket.setTimeout(5000, () => { if (this.job) this.fail(new Error('database: no answer in 5 s')); });
      this.socket.on('connect', () => {
        const pairs = Buffer.from(`user\0${this.options.user}\0database\0${this.options.database}\0\0`);
        const head = Buffer.alloc(8);
        head.writeInt32BE(8 + pairs.length, 0);
        head.writeInt32BE(196608, 4);
        this.socket.write(Buffer.concat([head, pairs]));
      });
      this.socket.on('error', (err) => this.fail(err));
      this.socket.on('close', () => this.fail(new Error('database: connection closed')));
      this.socket.on('data', (chunk) => {
        try {
          this.take(chunk);
        } catch (err) {
          this.fail(err);
        }
      });
    });
  }

  fail(err) {
    this.dead = this.dead || err;
    this.socket.destroy();
    const job = this.job;
    this.job = null;
    if (job) job.reject(this.dead);
  }

  send(kind, payload) {
    const head = Buffer.alloc(5);
    head.write(kind, 0, 'latin1');
    head.writeInt32BE(4 + payload.length, 1);
    this.socket.write(Buffer.concat([head, payload]));
  }

  take(chunk) {
    this.received = Buffer.concat([this.received, chunk]);
    while (this.received.length >= 5) {
      const length = this.received.readInt32BE(1);
      if (this.received.length < 1 + length) return;
      const kind = String.fromCharCode(this.received[0]);
      const payload = this.received.subarray(5, 1 + length);
      this.received = this.received.subarray(1 + length);
      this.message(kind, payload);
    }
  }

  message(kind, payload) {
    const job = this.job;
    if (!job) return;
    if (kind === 'R') return this.authenticate(payload.readInt32BE(0), payload.subarray(4));
    if (kind === 'D') return void job.rows.push(row(payload));
    if (kind === 'E') {
      job.err = new Error('database: ' + errorText(payload));
      if (!this.ready) this.fail(job.err);
    }
    if (kind === 'Z') {
      this.ready = true;
      this.job = null;
      if (job.err) job.reject(job.err);
      else job.resolve(job.rows);
    }
  }

  authenticate(method, data) {
    if (method === 0) return; // accepted
    if (method === 10) {
      this.scram = new Scram(this.options.password);
      const first = Buffer.from(this.scram.first());
      const size = Buffer.alloc(4);
      size.writeInt32BE(first.length, 0);
      return this.send('p', Buffer.concat([Buffer.from('SCRAM-SHA-256\0'), size, first]));
    }
    if (method === 11) return this.send('p', Buffer.from(this.scram.final(data.toString())));
    if (method === 12) return this.scram.check(data.toString());
    throw new Error('database: unknown authentication ' + method);
  }

  // query runs one statement after those before it and returns its rows as arrays of strings.
  query(sql) {
    const run = () => new Promise((resolve, reject) => {
      if (this.dead) return reject(this.dead);
      this.job = { rows: [], resolve, reject };
      this.send('Q', Buffer.from(sql + '\0'));
    });
    const answer = this.last.then(run, run);
    this.last = answer.catch(() => {});
    return answer;
  }

  close() { this.socket.destroy(); }
}

function row(payload) {
  const values = [];
  for (let i = 0, at = 2; i < payload.readInt16BE(0); i++) {
    const length = payload.readInt32BE(at);
    at += 4;
    values.push(length < 0 ? null : payload.toString('utf8', at, at + length));
    at += Math.max(0, length);
  }
  return values;
}

function errorText(payload) {
  const fields = payload.toString('utf8').split('\0');
  const text = fields.find((f) => f[0] === 'M');
  return text ? text.slice(1) : 'unknown error';
}

module.exports = { connect: (options) => new Connection(options).open() };
