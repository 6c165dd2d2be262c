/**
 * What is said on a shard channel, and how it is checked: messages in, validated values out.
 *
 * 1. `read` returns a frame of known kind with exactly its keys in range, or throws FormatError.
 * 2. The rules are those of `core/wire.py` and `core/shard.py` of the daemon.
 */

import { hmac, utf8 } from "./hashes.js";
import { FormatError, pack, unpack } from "./msgpack.js";

export const CHANNEL_LABEL = "p2pmodels-1";
export const PROTOCOL = 1; // version of the frames
export const GETS_LIMIT = 8; // gets under way on one channel; one more is answered "busy"
export const DATA_HEAD = 13; // bytes before the payload of a data message
const DATA_LIMIT = 64 * 1024; // bytes of payload in one message
const FRAME_LIMIT = 64 * 1024; // bytes of any other message
const RETRY_LIMIT_MS = 30_000; // ms; as long as a daemon may ask us to wait

const MIB = 1024 * 1024;

/**
 * @typedef {{t: "data", number: number, offset: number, bytes: Uint8Array<ArrayBuffer>}} Data
 * @typedef {{t: "hello", protocol: number, id: Uint8Array, version: string, port: number,
 *   nonce: Uint8Array}} Hello
 * @typedef {{t: "welcome", proof: Uint8Array, ticket: Uint8Array}} Welcome
 * @typedef {{t: "have", blob: Uint8Array, size: number, is_wanting: boolean,
 *   runs: [number, number, boolean][], roots: Uint8Array}} Have
 * @typedef {{t: "end", number: number, status: number, retry_ms: number}} End
 * @typedef {{t: "bye", reason: string}} Bye
 * @typedef {{t: "other"}} Other what a page need not know: lease, busy, want, unwant, get, cancel
 * @typedef {Data | Hello | Welcome | Have | End | Bye | Other} Frame
 */

const whole = (/** @type {unknown} */ value) => Number.isInteger(value);
const text = (/** @type {unknown} */ value) => typeof value === "string";
const truth = (/** @type {unknown} */ value) => typeof value === "boolean";
const bytes = (/** @type {number[]} */ ...lengths) => (/** @type {unknown} */ value) =>
  value instanceof Uint8Array && (lengths.length === 0 || lengths.includes(value.length));

/** @type {Record<string, Record<string, (value: unknown) => boolean>>} */
const KINDS = {
  hello: { protocol: whole, id: bytes(16), version: text, port: whole, nonce: bytes(16) },
  welcome: { proof: bytes(0, 32), ticket: bytes(16) },
  have: { blob: bytes(20, 32), size: whole, is_wanting: truth, runs: isRuns, roots: bytes() },
  end: { number: whole, status: whole, retry_ms: (value) => whole(value) && Number(value) <= RETRY_LIMIT_MS },
  bye: { reason: text },
};
const OTHERS = new Set(["want", "unwant", "lease", "busy", "get", "cancel"]);

/** @param {unknown} value */
function isRuns(value) {
  let stop = 0;
  return (
    Array.isArray(value) &&
    value.every((run) => {
      const [from, to, isVouched] = Array.isArray(run) && run.length === 3 ? run : [];
      const isRun = whole(from) && whole(to) && truth(isVouched) && stop <= from && from < to;
      stop = to;
      return isRun;
    })
  );
}

/**
 * @param {ArrayBuffer} message
 * @returns {Frame}
 */
export function read(message) {
  const data = new Uint8Array(message);
  if (data[0] === 0) return readData(message);
  if (data.length > FRAME_LIMIT) throw new FormatError("a frame that is too long");
  const fields = unpack(data);
  const kind = String(fields.t);
  if (OTHERS.has(kind)) return { t: "other" };
  const checks = Object.hasOwn(KINDS, kind) ? KINDS[kind] : undefined;
  const keys = Object.keys(fields).filter((key) => key !== "t");
  if (!checks || keys.length !== Object.keys(checks).length) throw new FormatError("no known frame");
  for (const [key, isRight] of Object.entries(checks)) {
    if (!(key in fields) || !isRight(fields[key])) throw new FormatError(`${key} of a ${kind}`);
  }
  return /** @type {Frame} */ (/** @type {unknown} */ (fields));
}

/** @param {ArrayBuffer} message */
function readData(message) {
  const length = message.byteLength - DATA_HEAD;
  if (length < 1 || length > DATA_LIMIT) throw new FormatError("data of a wrong length");
  const view = new DataView(message);
  const offset = view.getUint32(5) * 2 ** 32 + view.getUint32(9);
  if (!Number.isSafeInteger(offset)) throw new FormatError("an offset beyond 2^53");
  const payload = new Uint8Array(message, DATA_HEAD);
  return /** @type {Data} */ ({ t: "data", number: view.getUint32(1), offset, bytes: payload });
}

/**
 * @param {Uint8Array} id
 * @param {Uint8Array} nonce
 */
export function hello(id, nonce) {
  return pack({ t: "hello", protocol: PROTOCOL, id, version: "page-1", port: 0, nonce });
}

/** @param {Uint8Array} proof */
export function welcome(proof) {
  // A ticket opens the peer port, which a page has not.
  return pack({ t: "welcome", proof, ticket: crypto.getRandomValues(new Uint8Array(16)) });
}

/**
 * @param {Uint8Array} blob
 * @param {number} size
 */
export function want(blob, size) {
  return pack({ t: "want", blob, size });
}

/**
 * @param {number} number
 * @param {Uint8Array} blob
 * @param {number} start
 * @param {number} stop
 */
export function get(number, blob, start, stop) {
  return pack({ t: "get", number, blob, start, stop });
}

/** @param {number} number */
export function cancel(number) {
  return pack({ t: "cancel", number });
}

/** @param {string} reason */
export function bye(reason) {
  return pack({ t: "bye", reason });
}

/**
 * The proof that `prover` knows the group secret; empty without one.
 * @param {string} secret
 * @param {"dialler" | "acceptor"} role of the prover
 * @param {{nonce: Uint8Array, id: string, fingerprint: string}} prover
 * @param {{nonce: Uint8Array, id: string, fingerprint: string}} other
 * @returns {Uint8Array}
 */
export function proof(secret, role, prover, other) {
  if (!secret) return new Uint8Array(0);
  const parts = [utf8("p2pmodels-link-1"), utf8(role), prover.nonce, other.nonce]; // prettier-ignore
  for (const word of [prover.id, other.id, prover.fingerprint, other.fingerprint]) {
    parts.push(utf8(word));
  }
  /** @type {number[]} */
  const signed = [];
  for (const part of parts) {
    signed.push(0, 0, part.length >> 8, part.length & 255, ...part);
  }
  return hmac(utf8(secret), Uint8Array.from(signed));
}

/**
 * The text of an SDP's DTLS fingerprint, as both ends write it in their proofs.
 * @param {string} sdp
 */
export function fingerprint(sdp) {
  const found = /^a=fingerprint:(sha-256) ([0-9A-Fa-f:]{95})\s*$/im.exec(sdp);
  if (!found) throw new FormatError("an SDP without a sha-256 fingerprint");
  return `${found[1]} ${found[2]}`.toLowerCase();
}

/**
 * Bytes of a piece of a file: the same function as in every daemon.
 * @param {number} size
 */
export function pieceLength(size) {
  let length = MIB / 4;
  while (length < size / 2048 && length < 16 * MIB) length *= 2;
  return length;
}
