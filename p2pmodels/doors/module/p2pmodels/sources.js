/**
 * Bytes over HTTP: from the daemon of this machine, and from the origin.
 *
 * 1. A source is opened at a place in the file and read from there on; one that ignores the range is
 *    read from its beginning and the first bytes are dropped.
 * 2. A source that gives no byte for STALL_MS is left.
 * 3. A daemon that is not there, or not for this page, is not asked again for ABSENT_MS.
 */

import { resolvePath } from "./names.js";
import { plainFetch } from "./network.js";

export const DEFAULT_DAEMON = "http://127.0.0.1:7878";

const STALL_MS = 30_000; // ms; a daemon that fetches the file itself may need some
const HEADERS_MS = 20_000; // ms; a daemon answers within 8 s even when it has nothing yet
const PROBE_MS = 1500; // ms; a daemon on this machine answers in a few
const ASKED_MS = 20_000; // ms; the browser asks a person first, who must read it
const ABSENT_MS = 300_000; // ms

/** @typedef {import("./pulling.js").Piece} Piece */
/** @typedef {{read: () => Promise<Piece | null>, close: () => void}} Reader */

/** Reads the body of an answer, from `skip` on. */
export class HttpReader {
  /**
   * @param {Response} response
   * @param {string} from who gives it
   * @param {number} skip bytes to drop first
   * @param {AbortController} control ends the request
   */
  constructor(response, from, skip, control) {
    this.from = from;
    this.skip = skip;
    this.control = control;
    this.body = response.body?.getReader();
  }

  /** @returns {Promise<Piece | null>} */
  async read() {
    for (;;) {
      const { done, value } = (await this.next()) ?? { done: true };
      if (done || !value) return null;
      const bytes = value.subarray(Math.min(this.skip, value.length));
      this.skip -= value.length - bytes.length;
      if (bytes.length > 0) return { bytes, from: this.from };
    }
  }

  async next() {
    const timer = setTimeout(() => this.control.abort(new Error("it gives nothing")), STALL_MS);
    try {
      return await this.body?.read();
    } finally {
      clearTimeout(timer);
    }
  }

  close() {
    this.control.abort(new Error("no longer needed"));
    this.body?.cancel().catch(() => {});
  }
}

/**
 * Ask for a file from `at` on. Null when that place cannot be had here.
 * @param {string} url
 * @param {RequestInit} init
 * @param {string} from
 * @param {number} at
 * @param {number} size bytes of the whole file; -1: not known
 * @returns {Promise<{response: Response, reader: HttpReader | null}>}
 */
export async function openHttp(url, init, from, at, size) {
  const control = new AbortController();
  const headers = new Headers(init.headers);
  if (at > 0) headers.set("Range", `bytes=${at}-`);
  const timer = setTimeout(() => control.abort(new Error("no answer")), HEADERS_MS);
  try {
    const response = await plainFetch(url, { ...init, headers, signal: control.signal });
    const place = placeOf(response, at, size);
    if (place < 0) {
      // The caller may hand a refusal on; only what cannot be used is broken off.
      if (response.ok) control.abort();
      return { response, reader: null };
    }
    return { response, reader: new HttpReader(response, from, at - place, control) };
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Where in the file the body of an answer begins; -1: it is not the file that was asked for.
 * @param {Response} response
 * @param {number} at
 * @param {number} size
 */
function placeOf(response, at, size) {
  if (response.status === 200) {
    const length = response.headers.get("Content-Length");
    const isPlain = !response.headers.get("Content-Encoding");
    // An encoded body has another length; the digest is the judge then.
    return length && isPlain && size >= 0 && Number(length) !== size ? -1 : 0;
  }
  if (response.status !== 206 || at === 0) return -1;
  const range = response.headers.get("Content-Range");
  if (range === null) return at; // not exposed to pages everywhere; the digest is the judge
  const match = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(range);
  const isRight = match && Number(match[1]) === at;
  return isRight && (match[2] === "*" || size < 0 || Number(match[2]) === size) ? at : -1;
}

/** The daemon of this machine, as one page knows it. */
export class Daemon {
  /** @param {string} base its address; "" for none */
  constructor(base) {
    this.base = base.replace(/\/+$/, "");
    this.absentAt = -Infinity;
    this.isSeen = false;
    /** @type {Promise<boolean> | undefined} */
    this.asking = undefined;
  }

  /** Whether it answers this page. */
  async isThere() {
    if (!this.base || performance.now() - this.absentAt < ABSENT_MS) return false;
    if (this.isSeen) return true;
    this.asking ??= this.probe().finally(() => {
      this.asking = undefined;
    });
    return this.asking;
  }

  /** @returns {Promise<boolean>} */
  async probe() {
    const state = await permission();
    if (state === "denied") return this.missed();
    const signal = AbortSignal.timeout(state === "prompt" ? ASKED_MS : PROBE_MS);
    try {
      const answer = await plainFetch(`${this.base}/healthz`, { ...this.init(), signal });
      this.isSeen = answer.ok;
      return answer.ok || this.missed();
    } catch {
      return this.missed();
    }
  }

  missed() {
    this.isSeen = false;
    this.absentAt = performance.now();
    return false;
  }

  /**
   * What a request to it carries: the address space that Local Network Access asks for.
   * @returns {RequestInit}
   */
  init() {
    /** @type {RequestInit & {targetAddressSpace?: string}} */
    const init = { credentials: "omit", cache: "no-store" };
    // Elsewhere the option is an error, and loopback pages need none.
    if (globalThis.isSecureContext && !isLoopback(globalThis.location?.href)) {
      init.targetAddressSpace = "loopback";
    }
    return init;
  }

  /** @param {import("./names.js").HubFile} file */
  url(file) {
    return this.base + resolvePath(file);
  }
}

/**
 * What the browser would do about a request to this machine: "granted", "denied", "prompt".
 * @returns {Promise<string>}
 */
async function permission() {
  if (isLoopback(globalThis.location?.href)) return "granted";
  try {
    const name = /** @type {PermissionName} */ ("loopback-network");
    return (await navigator.permissions.query({ name })).state;
  } catch {
    return "granted"; // a browser that does not ask
  }
}

/** @param {string | undefined} url */
export function isLoopback(url) {
  return /^https?:\/\/(127\.0\.0\.1|localhost|\[::1\])([:/]|$)/.test(url ?? "");
}
