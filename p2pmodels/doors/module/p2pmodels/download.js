/**
 * One file from the nearest places, checked: the bytes as they may be given out.
 *
 * 1. The order is the daemon of this machine, daemons of the LAN, the origin; where one stops the
 *    next goes on, at the same byte.
 * 2. The last piece is held back until the digest of the whole file is right. Files up to HOLD bytes
 *    are held back whole, so that a wrong one is fetched again from elsewhere and nobody notices.
 * 3. Who gave a wrong file is not asked for it again.
 */

import { hasherFor, hex } from "./hashes.js";
import { openHttp } from "./sources.js";

const HOLD = 8 * 1024 * 1024; // bytes; what may wait in memory beside the window
const ROUNDS = 3; // times that the places are asked in turn as long as something came
const RETRIES = 3; // times that a wrong file is fetched again
const LIARS_LIMIT = 64; // files of which we remember who gave a wrong one

/** No source has the file, or all of them broke off. */
export class NotObtained extends Error {}

/** The bytes have not the digest that they should have. */
export class DigestError extends Error {}

/** The origin refused; its answer goes to the caller as it is. */
export class Refused extends Error {
  /** @param {Response} response */
  constructor(response) {
    super(`the origin answered ${response.status}`);
    this.response = response;
  }
}

/** @type {Map<string, Set<string>>} by digest: who gave wrong bytes */
const liars = new Map();

/**
 * @typedef {object} Order
 * @property {string} url the original URL
 * @property {import("./names.js").HubFile | null} file
 * @property {{digest: string, size: number}} known size -1: not known
 * @property {import("./sources.js").Daemon} daemon
 * @property {import("./peers.js").Peers} peers
 * @property {AbortSignal} signal
 * @property {(from: string, bytes: number, position: number) => void} onBytes
 */

/**
 * The pieces of a file, in order; the last ones only when all of it is right.
 * Throws Refused, NotObtained, DigestError, and what aborted the signal.
 * @param {Order} order
 * @returns {AsyncGenerator<Uint8Array<ArrayBuffer>, void>}
 */
export async function* download(order) {
  let isGiven = false;
  for (let tries = 0; tries <= RETRIES; tries += 1) {
    const attempt = new Attempt(order);
    for await (const bytes of attempt.pieces()) {
      isGiven = true;
      yield bytes;
    }
    if (attempt.isRight) return;
    blame(order.known.digest, attempt.givers);
    if (isGiven) break;
  }
  throw new DigestError(`the digest of ${order.url} is not ${order.known.digest}`);
}

class Attempt {
  /** @param {Order} order */
  constructor(order) {
    this.order = order;
    this.position = 0;
    this.isRight = false;
    /** @type {Set<string>} */
    this.givers = new Set();
    /** @type {Uint8Array<ArrayBuffer>[]} */
    this.held = [];
    this.hasher = hasherFor(order.known.digest, order.known.size);
    this.avoided = liars.get(order.known.digest) ?? new Set();
    /** @type {unknown} */
    this.trouble = null;
  }

  get isWhole() {
    return this.position === this.order.known.size;
  }

  async *pieces() {
    const { signal, url } = this.order;
    for (let round = 0; round < ROUNDS; round += 1) {
      const before = this.position;
      for (const open of [this.daemon, this.peers, this.origin]) {
        if (!this.isWhole) yield* this.drain(await this.opened(open));
        signal.throwIfAborted();
        if (this.isWhole) return yield* this.judged();
      }
      if (this.position === before) break;
    }
    throw new NotObtained(`no source gives ${url}: ${String(this.trouble ?? "nobody has it")}`);
  }

  /** The held pieces, if the digest is right. */
  *judged() {
    this.isRight = hex(this.hasher.finish()) === this.order.known.digest;
    if (this.isRight) yield* this.held;
    this.held = [];
  }

  /**
   * @param {() => Promise<import("./sources.js").Reader | null>} open
   */
  async opened(open) {
    try {
      return await open.call(this);
    } catch (error) {
      if (error instanceof Refused) throw error;
      this.trouble = error;
      return null;
    }
  }

  /**
   * Take what a source gives, until the file is whole or it gives no more.
   * @param {import("./sources.js").Reader | null} reader
   */
  async *drain(reader) {
    if (!reader) return;
    const { known, signal, onBytes } = this.order;
    const close = () => reader.close();
    signal.addEventListener("abort", close);
    try {
      while (!this.isWhole && !signal.aborted) {
        const piece = await this.piece(reader);
        if (!piece) break;
        const { bytes, from } = piece;
        if (known.size >= 0 && this.position + bytes.length > known.size) {
          this.avoided = new Set([...this.avoided, from]); // longer than the file
          break;
        }
        this.hasher.update(bytes);
        this.position += bytes.length;
        this.givers.add(from);
        onBytes(from, bytes.length, this.position);
        this.held.push(bytes);
        if (known.size < 0 || known.size > HOLD) while (this.held.length > 1) yield this.given();
      }
    } finally {
      signal.removeEventListener("abort", close);
      reader.close();
    }
  }

  given() {
    return /** @type {Uint8Array<ArrayBuffer>} */ (this.held.shift());
  }

  /** @param {import("./sources.js").Reader} reader */
  async piece(reader) {
    try {
      const piece = await reader.read();
      const { known } = this.order;
      // Of unknown size, a body that ends by itself is the whole file or a wrong one.
      if (!piece && known.size < 0) this.order.known = { ...known, size: this.position };
      return piece;
    } catch (error) {
      this.trouble = error;
      return null;
    }
  }

  async daemon() {
    const { daemon, file, known } = this.order;
    if (!file || this.avoided.has("daemon") || !(await daemon.isThere())) return null;
    const found = await openHttp(daemon.url(file), daemon.init(), "daemon", this.position, known.size);
    const tag = found.response.headers.get("ETag") ?? "";
    const isSame = !/^"([0-9a-f]{64}|[0-9a-f]{40})"$/.test(tag) || tag === `"${known.digest}"`;
    if (isSame) return found.reader;
    found.reader?.close();
    return null;
  }

  async peers() {
    const { peers, known } = this.order;
    return known.size >= 0 ? peers.open(known, this.position, this.avoided) : null;
  }

  async origin() {
    const { url, known } = this.order;
    if (this.avoided.has("origin")) return null;
    const { response, reader } = await openHttp(url, { credentials: "same-origin" }, "origin", this.position, known.size);
    if (!response.ok && this.position === 0) throw new Refused(response);
    return reader;
  }
}

/**
 * @param {string} digest
 * @param {Set<string>} givers
 */
function blame(digest, givers) {
  const known = liars.get(digest) ?? new Set();
  liars.delete(digest);
  liars.set(digest, new Set([...known, ...givers]));
  if (liars.size > LIARS_LIMIT) liars.delete(/** @type {string} */ (liars.keys().next().value));
}
