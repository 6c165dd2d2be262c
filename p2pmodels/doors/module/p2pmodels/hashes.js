/**
 * SHA-256, SHA-1 and HMAC, fed piece by piece.
 *
 * 1. Our own, because `crypto.subtle` cannot be fed and does not exist on http://192.168.x.x.
 * 2. No secret is hidden from timing: what is hashed are public files, and proofs made once a link.
 */

import { engine, start as startEngine } from "./rounds.js";

const BLOCK = 64; // bytes; of both functions

/** The round constants of SHA-256 (FIPS 180-4, 4.2.2): fractions of the cube roots of primes. */
const K = new Int32Array(64);
/** The initial state of SHA-256: fractions of the square roots of the first primes. */
const START_256 = new Int32Array(8);
{
  const fraction = (/** @type {number} */ root) => ((root - Math.floor(root)) * 2 ** 32) | 0;
  let found = 0;
  for (let number = 2; found < 64; number += 1) {
    let isPrime = true;
    for (let by = 2; by * by <= number; by += 1) if (number % by === 0) isPrime = false;
    if (!isPrime) continue;
    if (found < 8) START_256[found] = fraction(Math.sqrt(number));
    K[found] = fraction(Math.cbrt(number));
    found += 1;
  }
}
const START_1 = Int32Array.of(0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0);

/** What both functions share: blocks of 64 bytes, and the length at the end (FIPS 180-4, 5.1). */
class Hasher {
  /** @param {Int32Array} start */
  constructor(start) {
    this.state = start.slice();
    this.words = new Int32Array(64);
    this.rest = new Uint8Array(BLOCK);
    this.held = 0;
    this.length = 0;
  }

  /**
   * @param {Uint8Array} data
   * @returns {this}
   */
  update(data) {
    this.length += data.length;
    let at = 0;
    if (this.held > 0) {
      at = Math.min(BLOCK - this.held, data.length);
      this.rest.set(data.subarray(0, at), this.held);
      this.held += at;
      if (this.held < BLOCK) return this;
      this.mix(this.rest, 0, BLOCK);
      this.held = 0;
    }
    const stop = data.length - ((data.length - at) % BLOCK);
    if (stop > at) this.mix(data, at, stop);
    this.rest.set(data.subarray(stop));
    this.held = data.length - stop;
    return this;
  }

  /**
   * The digest; nothing may be fed afterwards.
   * @returns {Uint8Array}
   */
  finish() {
    const length = this.length;
    const end = new Uint8Array(this.held < 56 ? BLOCK : 2 * BLOCK);
    end.set(this.rest.subarray(0, this.held));
    end[this.held] = 0x80;
    const view = new DataView(end.buffer);
    view.setUint32(end.length - 8, Math.floor(length / 2 ** 29));
    view.setUint32(end.length - 4, (length * 8) >>> 0);
    this.mix(end, 0, end.length);
    const digest = new Uint8Array(this.state.length * 4);
    const out = new DataView(digest.buffer);
    this.state.forEach((word, at) => out.setInt32(at * 4, word));
    return digest;
  }

  /**
   * Take whole blocks in.
   * @param {Uint8Array} data
   * @param {number} start
   * @param {number} stop
   */
  mix(data, start, stop) {
    throw new Error(`not to be used by itself (${data.length}, ${start}, ${stop})`);
  }
}

/** Settled when the fast SHA-256 is ready, or known to be impossible here. */
export const warm = startEngine(K);

/** SHA-256 (FIPS 180-4, 6.2). */
export class Sha256 extends Hasher {
  constructor() {
    super(START_256);
  }

  /**
   * @param {Uint8Array} data
   * @param {number} start
   * @param {number} stop
   */
  mix(data, start, stop) {
    if (engine) engine(this.state, data, start, stop);
    else this.mixSlowly(data, start, stop);
  }

  /**
   * @param {Uint8Array} data
   * @param {number} start
   * @param {number} stop
   */
  mixSlowly(data, start, stop) {
    const { state, words } = this;
    let [a0, b0, c0, d0, e0, f0, g0, h0] = state;
    for (let at = start; at < stop; ) {
      for (let t = 0; t < 16; t += 1, at += 4) {
        words[t] = (data[at] << 24) | (data[at + 1] << 16) | (data[at + 2] << 8) | data[at + 3];
      }
      for (let t = 16; t < 64; t += 1) {
        const x = words[t - 15];
        const y = words[t - 2];
        const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
        const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
        words[t] = (words[t - 16] + s0 + words[t - 7] + s1) | 0;
      }
      let a = a0, b = b0, c = c0, d = d0, e = e0, f = f0, g = g0, h = h0; // prettier-ignore
      for (let t = 0; t < 64; t += 1) {
        const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
        const one = (h + s1 + (g ^ (e & (f ^ g))) + K[t] + words[t]) | 0;
        const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
        const two = (s0 + ((a & b) | (c & (a | b)))) | 0;
        h = g;
        g = f;
        f = e;
        e = (d + one) | 0;
        d = c;
        c = b;
        b = a;
        a = (one + two) | 0;
      }
      a0 = (a0 + a) | 0;
      b0 = (b0 + b) | 0;
      c0 = (c0 + c) | 0;
      d0 = (d0 + d) | 0;
      e0 = (e0 + e) | 0;
      f0 = (f0 + f) | 0;
      g0 = (g0 + g) | 0;
      h0 = (h0 + h) | 0;
    }
    state.set([a0, b0, c0, d0, e0, f0, g0, h0]);
  }
}

/** SHA-1 (FIPS 180-4, 6.1): only what git's names of small files need. */
export class Sha1 extends Hasher {
  constructor() {
    super(START_1);
  }

  /**
   * @param {Uint8Array} data
   * @param {number} start
   * @param {number} stop
   */
  mix(data, start, stop) {
    const { state, words } = this;
    // 80 words are needed, 16 at a time: a word is replaced when it was used for the last time.
    const left = (/** @type {number} */ x, /** @type {number} */ by) => (x << by) | (x >>> (32 - by));
    for (let at = start; at < stop; ) {
      for (let t = 0; t < 16; t += 1, at += 4) {
        words[t] = (data[at] << 24) | (data[at + 1] << 16) | (data[at + 2] << 8) | data[at + 3];
      }
      let [a, b, c, d, e] = state;
      for (let t = 0; t < 80; t += 1) {
        const place = t & 15;
        if (t >= 16) {
          const x = words[(t - 3) & 15] ^ words[(t - 8) & 15] ^ words[(t - 14) & 15] ^ words[place];
          words[place] = left(x, 1);
        }
        let f = b ^ c ^ d;
        let constant = 0x6ed9eba1;
        if (t < 20) {
          f = (b & c) | (~b & d);
          constant = 0x5a827999;
        } else if (t >= 60) {
          constant = 0xca62c1d6;
        } else if (t >= 40) {
          f = (b & c) | (b & d) | (c & d);
          constant = 0x8f1bbcdc;
        }
        const next = (left(a, 5) + f + e + constant + words[place]) | 0;
        e = d;
        d = c;
        c = left(b, 30);
        b = a;
        a = next;
      }
      state[0] += a;
      state[1] += b;
      state[2] += c;
      state[3] += d;
      state[4] += e;
    }
  }
}

/**
 * A hasher for a digest as the hub writes it: 64 digits are a sha256, 40 git's name of a blob.
 * @param {string} digest
 * @param {number} size bytes of the file; git puts them in front
 * @returns {Sha256 | Sha1}
 */
export function hasherFor(digest, size) {
  if (digest.length === 64) return new Sha256();
  return new Sha1().update(utf8(`blob ${size}\0`));
}

/**
 * HMAC-SHA256 (RFC 2104).
 * @param {Uint8Array} key
 * @param {Uint8Array} data
 * @returns {Uint8Array}
 */
export function hmac(key, data) {
  const padded = new Uint8Array(BLOCK);
  padded.set(key.length > BLOCK ? new Sha256().update(key).finish() : key);
  const inner = new Sha256().update(padded.map((byte) => byte ^ 0x36)).update(data).finish();
  return new Sha256().update(padded.map((byte) => byte ^ 0x5c)).update(inner).finish();
}

/** @param {string} text */
export function utf8(text) {
  return new TextEncoder().encode(text);
}

/** @param {Uint8Array} data */
export function hex(data) {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The bytes of an even number of hexadecimal digits.
 * @param {string} text
 */
export function unhex(text) {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/**
 * @param {Uint8Array} one
 * @param {Uint8Array} other
 */
export function isSame(one, other) {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}
