/**
 * One daemon over WebRTC: the handshake, what it has, and ranges pulled from it.
 *
 * 1. Before both sides have believed each other nothing is asked; what breaks the rules ends the link.
 * 2. A pull ends with all its bytes or an error: not held, busy, failed, gone. Bytes of a pull that
 *    is over are dropped.
 * 3. A link that owes bytes and gives none for STALL_MS is closed: another one takes over.
 */

import * as frames from "./frames.js";
import { hex, isSame, unhex } from "./hashes.js";
import { FormatError } from "./msgpack.js";

const GATHER_MS = 2000; // ms; candidates of this machine alone are there in a few
const READY_MS = 8000; // ms from the answer until hands are shaken; on a LAN it takes 100
const STALL_MS = 6000; // ms without a byte while some are owed
const ASK_EVERY_MS = 270; // ms between two questions on one link; a daemon takes four a second
const BLOBS_LIMIT = 512; // blobs of which we remember what the daemon has
const RUNS_LIMIT = 16_384; // runs of one blob that are remembered; more than a file has pieces at once

/** The pull did not work out. `status`: 404 not held, 503 busy, 500 failed, 0 the link is gone. */
export class PullError extends Error {
  /**
   * @param {number} status
   * @param {number} retryMs
   */
  constructor(status, retryMs = 0) {
    super(`the peer answered ${status}`);
    this.status = status;
    this.retryMs = retryMs;
  }
}

/**
 * What a daemon has of a blob. `runs` are byte ranges, in no order; `isAnswered` says whether it has
 * said anything.
 * @typedef {{size: number, runs: [number, number][], isWanting: boolean, isAnswered: boolean,
 *   askedAt: number}} Holding
 * @typedef {{start: number, into: Uint8Array<ArrayBuffer>, filled: number,
 *   done: (bytes: Uint8Array<ArrayBuffer>) => void, failed: (error: PullError) => void}} Pull
 */

export class Link extends EventTarget {
  /**
   * @param {{id: string, secret: string}} own our id in hexadecimal digits, and the group secret
   */
  constructor(own) {
    super();
    this.own = own;
    /** The daemon's id, known when the link is ready. */
    this.id = "";
    this.isReady = false;
    this.isOver = false;
    /** Why it is over, for a report. */
    this.reason = "";
    /** @type {Map<string, Holding>} */
    this.holdings = new Map();
    /** @type {Map<number, Pull>} */
    this.pulls = new Map();
    this.received = 0;
    this.lastByteAt = 0;
    this.lastUsedAt = performance.now();
    this.nonce = crypto.getRandomValues(new Uint8Array(16));
    this.nextNumber = 1;
    this.lastAskAt = -Infinity;
    /** @type {Set<string>} */
    this.toAsk = new Set();
    /** @type {frames.Hello | null} */
    this.peer = null;
    this.connection = new RTCPeerConnection({ iceServers: [] });
    this.channel = this.connection.createDataChannel(frames.CHANNEL_LABEL, { ordered: true });
    this.channel.binaryType = "arraybuffer";
    this.connection.addEventListener("connectionstatechange", () => {
      if (["failed", "closed"].includes(this.connection.connectionState)) this.close("lost");
    });
    this.channel.addEventListener("close", () => this.close("lost"));
    this.channel.addEventListener("open", () => this.say(frames.hello(unhex(own.id), this.nonce)));
    this.channel.addEventListener("message", (event) => this.hear(event.data));
    this.watch = setInterval(() => this.look(), 1000);
  }

  /**
   * Shake hands with the daemon that `exchange` brings our offer to.
   * @param {(sdp: string) => Promise<string>} exchange
   */
  async open(exchange) {
    try {
      await this.connection.setLocalDescription();
      await this.gathered();
      this.offer = /** @type {RTCSessionDescription} */ (this.connection.localDescription).sdp;
      const sdp = await exchange(this.offer);
      this.answer = sdp;
      await this.connection.setRemoteDescription({ type: "answer", sdp });
      await this.once("ready", READY_MS);
    } catch (error) {
      this.close("unreachable");
      throw error;
    }
  }

  /** Until all candidates are known: an offer is sent whole. */
  async gathered() {
    const { connection } = this;
    if (connection.iceGatheringState === "complete") return;
    await new Promise((resolve) => {
      setTimeout(resolve, GATHER_MS);
      connection.addEventListener("icegatheringstatechange", () => {
        if (connection.iceGatheringState === "complete") resolve(undefined);
      });
    });
  }

  /**
   * @param {string} name
   * @param {number} within ms
   */
  once(name, within) {
    return new Promise((resolve, reject) => {
      if (this.isOver) reject(new PullError(0));
      setTimeout(() => reject(new PullError(0)), within);
      this.addEventListener(name, resolve, { once: true });
      this.addEventListener("over", () => reject(new PullError(0)), { once: true });
    });
  }

  /** @param {string} reason */
  close(reason) {
    if (this.isOver) return;
    this.isOver = true;
    this.isReady = false;
    this.reason = reason;
    clearInterval(this.watch);
    if (this.channel.readyState === "open") this.channel.send(frames.bye(reason));
    const pulls = [...this.pulls.values()];
    this.pulls.clear();
    this.connection.close();
    for (const pull of pulls) pull.failed(new PullError(0));
    this.dispatchEvent(new Event("over"));
  }

  /** Whether another pull may begin. */
  get hasRoom() {
    return this.isReady && this.pulls.size < frames.GETS_LIMIT;
  }

  /**
   * Ask what the daemon has of a blob; a "holding" event tells when something is known.
   * @param {string} digest
   * @param {number} size
   * @returns {Holding}
   */
  ask(digest, size) {
    const known = this.holdings.get(digest);
    const holding = known ?? { size, runs: [], isWanting: false, isAnswered: false, askedAt: 0 };
    this.holdings.delete(digest); // and at the end again: the oldest is forgotten first
    this.holdings.set(digest, holding);
    if (this.holdings.size > BLOBS_LIMIT) {
      this.holdings.delete(/** @type {string} */ (this.holdings.keys().next().value));
    }
    this.toAsk.add(digest);
    this.askNext();
    return holding;
  }

  askNext() {
    const wait = this.lastAskAt + ASK_EVERY_MS - performance.now();
    if (this.toAsk.size === 0 || this.isOver || this.askTimer) return;
    if (wait > 0) {
      this.askTimer = setTimeout(() => {
        this.askTimer = undefined;
        this.askNext();
      }, wait);
      return;
    }
    const [digest] = this.toAsk;
    this.toAsk.delete(digest);
    const holding = this.holdings.get(digest);
    if (!holding) return;
    this.lastAskAt = holding.askedAt = performance.now();
    this.say(frames.want(unhex(digest), holding.size));
    this.askNext();
  }

  /**
   * Pull the bytes start … stop-1 of a blob. Rejects with PullError.
   * @param {string} digest
   * @param {number} start
   * @param {number} stop
   * @returns {{number: number, bytes: Promise<Uint8Array<ArrayBuffer>>}}
   */
  pull(digest, start, stop) {
    const number = this.nextNumber;
    this.nextNumber = (this.nextNumber + 1) % 2 ** 32;
    /** @type {Promise<Uint8Array<ArrayBuffer>>} */
    const bytes = new Promise((done, failed) => {
      const into = new Uint8Array(stop - start);
      if (this.pulls.size === 0) this.lastByteAt = performance.now();
      this.pulls.set(number, { start, into, filled: 0, done, failed });
    });
    this.lastUsedAt = performance.now();
    this.say(frames.get(number, unhex(digest), start, stop));
    return { number, bytes };
  }

  /**
   * Give a pull up; its promise rejects.
   * @param {number} number
   */
  cancel(number) {
    const pull = this.pulls.get(number);
    if (!pull) return;
    this.pulls.delete(number);
    this.say(frames.cancel(number));
    pull.failed(new PullError(0));
  }

  // inside

  /** @param {Uint8Array<ArrayBuffer>} message */
  say(message) {
    if (this.channel.readyState === "open") this.channel.send(message);
  }

  /** Once a second: does it still give what it owes? */
  look() {
    if (this.pulls.size > 0 && performance.now() - this.lastByteAt > STALL_MS) this.close("stalled");
  }

  /** @param {ArrayBuffer | string} message */
  hear(message) {
    if (this.isOver) return;
    try {
      if (typeof message === "string") throw new FormatError("a text");
      this.take(frames.read(message));
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      this.close("rules");
    }
  }

  /** @param {frames.Frame} frame */
  take(frame) {
    switch (frame.t) {
      case "hello":
        return this.greeted(frame);
      case "welcome":
        return this.welcomed(frame);
      case "bye":
        return this.close(`bye: ${frame.reason.slice(0, 100)}`);
    }
    if (!this.isReady) throw new FormatError("a message before the handshake is done");
    if (frame.t === "data") this.data(frame);
    else if (frame.t === "end") this.end(frame);
    else if (frame.t === "have") this.have(frame);
  }

  /** @param {frames.Hello} theirs */
  greeted(theirs) {
    if (this.peer) throw new FormatError("a second hello");
    this.peer = theirs;
    if (theirs.protocol !== frames.PROTOCOL) return this.close("protocol");
    const [own, other] = this.sides(theirs);
    this.say(frames.welcome(frames.proof(this.own.secret, "dialler", own, other)));
  }

  /** @param {frames.Welcome} theirs */
  welcomed(theirs) {
    if (!this.peer || this.isReady) throw new FormatError("a welcome out of order");
    const [own, other] = this.sides(this.peer);
    const expected = frames.proof(this.own.secret, "acceptor", other, own);
    if (!isSame(theirs.proof, expected)) return this.close("group");
    this.id = hex(this.peer.id);
    this.isReady = true;
    this.dispatchEvent(new Event("ready"));
  }

  /**
   * Both sides as the proofs name them.
   * @param {frames.Hello} theirs
   */
  sides(theirs) {
    const own = frames.fingerprint(this.offer ?? "");
    const other = frames.fingerprint(this.answer ?? "");
    return [
      { nonce: this.nonce, id: this.own.id, fingerprint: own },
      { nonce: theirs.nonce, id: hex(theirs.id), fingerprint: other },
    ];
  }

  /** @param {frames.Data} data */
  data({ number, offset, bytes }) {
    this.received += bytes.length;
    this.lastByteAt = performance.now();
    const pull = this.pulls.get(number);
    if (!pull) return; // given up; these were on their way
    if (offset !== pull.start + pull.filled || pull.filled + bytes.length > pull.into.length) {
      throw new FormatError("data that was not asked for");
    }
    pull.into.set(bytes, pull.filled);
    pull.filled += bytes.length;
  }

  /** @param {frames.End} end */
  end({ number, status, retry_ms: retryMs }) {
    this.lastByteAt = this.lastUsedAt = performance.now();
    const pull = this.pulls.get(number);
    if (!pull) return;
    this.pulls.delete(number);
    if (status !== 200) pull.failed(new PullError(status, retryMs));
    else if (pull.filled === pull.into.length) pull.done(pull.into);
    else throw new FormatError("an end before the last byte");
    this.dispatchEvent(new Event("room"));
  }

  /** @param {frames.Have} have */
  have({ blob, size, is_wanting: isWanting, runs }) {
    const holding = this.holdings.get(hex(blob));
    if (!holding || holding.size !== size) return;
    holding.isAnswered = true;
    holding.isWanting = isWanting;
    const piece = frames.pieceLength(size);
    for (const [start, stop] of runs) {
      holding.runs.push([start * piece, Math.min(size, stop * piece)]);
    }
    holding.runs = merged(holding.runs).slice(0, RUNS_LIMIT);
    this.dispatchEvent(new Event("holding"));
  }
}

/**
 * The same ranges in order, those that touch made one.
 * @param {[number, number][]} ranges
 */
function merged(ranges) {
  /** @type {[number, number][]} */
  const out = [];
  for (const [start, stop] of ranges.sort((one, other) => one[0] - other[0])) {
    const last = out.at(-1);
    if (last && start <= last[1]) last[1] = Math.max(last[1], stop);
    else out.push([start, stop]);
  }
  return out;
}
