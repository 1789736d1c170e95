'use strict';
// A client of MariaDB's text protocol, as much of it as this service needs: one connection, one statement at a time,
// authentication by mysql_native_password. Values go through quote(). Protocol 4.1, result sets as text.
const crypto = require('node:crypto');
const net = require('node:net');

const PROTOCOL_41 = 0x200, SECURE = 0x8000, WITH_DB = 0x8, LONG_PASSWORD = 0x1, PLUGIN_AUTH = 0x80000;

function quote(value) {
  const escapes = { '\0': '\\0', '\n': '\\n', '\r': '\\r', '\x1a': '\\Z', '"': '\\"', "'": "\\'", '\\': '\\\\' };
  return "'" + String(value).replace(/[\0\n\r\x1a"'\\]/g, (c) => escapes[c]) + "'";
}

function scramble(password, seed) {
  if (!password) return Buffer.alloc(0);
  const sha1 = (...parts) => parts.reduce((h, p) => h.update(p), crypto.createHash('sha1')).digest();
  const once = sha1(password);
  const mask = sha1(seed, sha1(once));
  return once.map((byte, i) => byte ^ mask[i]);
}

// lengthEncoded reads an integer or null at offset and returns it with the offset after it.
function lengthEncoded(buf, at) {
  const first = buf[at];
  if (first < 0xfb) return [first, at + 1];
  if (first === 0xfb) return [null, at + 1];
  if (first === 0xfc) return [buf.readUInt16LE(at + 1), at + 3];
  if (first === 0xfd) return [buf.readUIntLE(at + 1, 3), at + 4];
  return [Number(buf.readBigUInt64LE(at + 1)), at + 9];
}

function serverError(packet) {
  const at = packet[3] === 0x23 ? 9 : 3; // after "#" and the SQL state
  return new Error('database: ' + packet.toString('utf8', at));
}

class Connection {
  constructor(options) {
    this.options = options;
    this.received = Buffer.alloc(0);
    this.waiting = null; // gets packets
    this.last = Promise.resolve();
    this.dead = null;
  }

  open() {
    return new Promise((resolve, reject) => {
      this.fail = (err) => {
        this.dead = this.dead || err;
        this.socket.destroy();
        if (this.waiting) this.waiting.reject(this.dead);
        reject(this.dead);
      };
      this.socket = net.connect({ host: this.options.host, port: 3306, noDelay: true });
      this.socket.setTimeout(5000, () => { if (this.waiting) this.fail(new Error('database: no answer in 5 s')); });
      this.socket.on('error', (err) => this.fail(err));
      this.socket.on('close', () => this.fail(new Error('database: connection closed')));
      this.socket.on('data', (chunk) => this.take(chunk));
      this.waiting = { packet: (p, seq) => this.greet(p, seq, resolve), reject };
    });
  }

  take(chunk) {
    this.received = Buffer.concat([this.received, chunk]);
    while (this.received.length >= 4) {
      const length = this.received.readUIntLE(0, 3);
      if (this.received.length < 4 + length) return;
      const packet = this.received.subarray(4, 4 + length);
      const seq = this.received[3];
      this.received = this.received.subarray(4 + length);
      if (this.waiting) this.waiting.packet(packet, seq);
    }
  }

  send(payload, seq) {
    const head = Buffer.alloc(4);
    head.writeUIntLE(payload.length, 0, 3);
    head[3] = seq;
    this.socket.write(Buffer.concat([head, payload]));
  }

  // greet answers the server's handshake and ends at its OK.
  greet(packet, seq, resolve) {
    if (packet[0] === 0xff) return this.fail(serverError(packet));
    if (packet[0] === 0x00) {
      this.waiting = null;
      return resolve(this);
    }
    if (packet[0] === 0xfe) { // another seed for the same method
      const method = packet.toString('latin1', 1, packet.indexOf(0, 1));
      if (method !== 'mysql_native_password') return this.fail(new Error('database: unknown authentication ' + method));
      const seed = packet.subarray(packet.indexOf(0, 1) + 1, packet.indexOf(0, 1) + 21);
      return this.send(scramble(this.options.password, seed), seq + 1);
    }
    const version = packet.indexOf(0, 1);
    const seed = Buffer.concat([packet.subarray(version + 5, version + 13), packet.subarray(version + 32, version + 44)]);
    const fixed = Buffer.alloc(32);
    fixed.writeUInt32LE(PROTOCOL_41 | SECURE | WITH_DB | LONG_PASSWORD | PLUGIN_AUTH, 0);
    fixed.writeUInt32LE(1 << 24, 4);
    fixed[8] = 45; // utf8mb4_general_ci
    const answer = scramble(this.options.password, seed);
    this.send(Buffer.concat([fixed, Buffer.from(this.options.user + '\0'), Buffer.from([answer.length]), answer,
      Buffer.from(this.options.database + '\0'), Buffer.from('mysql_native_password\0')]), seq + 1);
  }

  // query runs one statement after those before it and returns its rows as arrays of strings.
  query(sql) {
    const run = () => new Promise((resolve, reject) => {
      if (this.dead) return reject(this.dead);
      const state = { columns: null, seen: 0, rows: [], body: false };
      const done = (end) => { this.waiting = null; end(); };
      this.waiting = { reject, packet: (p) => this.result(p, state, done, resolve, reject) };
      this.send(Buffer.concat([Buffer.from([3]), Buffer.from(sql)]), 0);
    });
    const answer = this.last.then(run, run);
    this.last = answer.catch(() => {});
    return answer;
  }

  result(packet, state, done, resolve, reject) {
    if (packet[0] === 0xff) return done(() => reject(serverError(packet)));
    if (state.columns === null) {
      if (packet[0] === 0x00) return done(() => resolve([]));
      [state.columns] = lengthEncoded(packet, 0);
      return;
    }
    const eof = packet[0] === 0xfe && packet.length < 9;
    if (!state.body) {
      if (eof) state.body = true;
      return;
    }
    if (eof) return done(() => resolve(state.rows));
    const row = [];
    for (let i = 0, at = 0; i < state.columns; i++) {
      let length;
      [length, at] = lengthEncoded(packet, at);
      row.push(length === null ? null : packet.toString('utf8', at, at + length));
      at += length === null ? 0 : length;
    }
    state.rows.push(row);
  }

  close() { this.socket.destroy(); }
}

module.exports = { connect: (options) => new Connection(options).open(), quote };
