/**
 * A worker's way to WebRTC, which workers have not: a page of the same web origin pulls for it.
 *
 * 1. They find each other by a BroadcastChannel, which only contexts of one web origin share; each
 *    worker then has a channel of its own. No message of the application is touched.
 * 2. The worker asks for one piece at a time, so its reader's pace reaches the daemons.
 * 3. The worker checks the digest itself: a page is believed no more than a peer.
 */

import { hex } from "./hashes.js";

const MEETING_POINT = "p2pmodels";
const FIND_MS = 500; // ms until a page has answered; then there is none
const LOST_MS = 15_000; // ms without an answer: the page is gone
const ABSENT_MS = 10_000; // ms for which no page is looked for after none was found
const IDLE_MS = 60_000; // ms after which a page gives up a download that nobody reads
const READERS_LIMIT = 32; // downloads of workers that one page pulls at once

const random = () => hex(crypto.getRandomValues(new Uint8Array(12)));

/** A worker's side. */
class Caller {
  /** @param {import("./peers.js").Meeting} meeting */
  constructor(meeting) {
    this.meeting = meeting;
    this.channel = new BroadcastChannel(`${MEETING_POINT}-${random()}`);
    /** @type {Map<number, (answer: any) => void>} */
    this.waiting = new Map();
    this.count = 0;
    this.page = "";
    this.absentAt = -Infinity;
    /** @type {Promise<string> | undefined} */
    this.finding = undefined;
    this.channel.addEventListener("message", ({ data }) => {
      if (data.t === "here") this.found?.(data.page);
      else if (data.t === "done") this.waiting.get(data.number)?.(data);
    });
  }

  /** The page that pulls for us, "" for none. */
  async find() {
    if (this.page || performance.now() - this.absentAt < ABSENT_MS) return this.page;
    this.finding ??= new Promise((resolve) => {
      this.found = resolve;
      setTimeout(() => resolve(""), FIND_MS);
      const point = new BroadcastChannel(MEETING_POINT);
      point.postMessage({ t: "who", name: this.channel.name });
      point.close();
    });
    this.page = await this.finding;
    this.finding = undefined;
    if (!this.page) this.absentAt = performance.now();
    return this.page;
  }

  /**
   * @param {string} method
   * @param {...unknown} values
   * @returns {Promise<any>} null when there is no page or it does not answer
   */
  async call(method, ...values) {
    const page = await this.find();
    if (!page) return null;
    const number = (this.count += 1);
    return new Promise((resolve) => {
      const settle = (/** @type {any} */ answer) => {
        clearTimeout(timer);
        this.waiting.delete(number);
        resolve(answer?.value ?? null);
      };
      const timer = setTimeout(() => {
        this.page = "";
        settle(null);
      }, LOST_MS);
      this.waiting.set(number, settle);
      this.channel.postMessage({ t: "call", page, number, method, values });
    });
  }
}

/** @type {Map<string, Caller>} */
const callers = new Map();

/**
 * Peers by way of a page.
 * @param {import("./peers.js").Meeting} meeting
 * @returns {import("./peers.js").Peers}
 */
export function askedPage(meeting) {
  const key = JSON.stringify(meeting);
  const caller = callers.get(key) ?? new Caller(meeting);
  callers.set(key, caller);
  return {
    async open(known, at, avoided) {
      if (!meeting.rendezvous) return null;
      const handle = await caller.call("open", meeting, known, at, [...avoided]);
      if (!handle) return null;
      return { read: () => caller.call("read", handle), close: () => void caller.call("close", handle) };
    },
    file: async (file) => (meeting.rendezvous ? caller.call("file", meeting, file) : null),
  };
}

/**
 * Pull for the workers of this web origin, from a page. Returns how to stop.
 * @param {(meeting: import("./peers.js").Meeting) => import("./peers.js").Peers} peersOf
 * @returns {() => void}
 */
export function servePage(peersOf) {
  const page = random();
  const point = new BroadcastChannel(MEETING_POINT);
  /** @type {Map<string, {reader: import("./sources.js").Reader, usedAt: number}>} */
  const readers = new Map();
  /** @type {Set<BroadcastChannel>} */
  const channels = new Set();
  /** @type {Record<string, (...values: any[]) => Promise<unknown>>} */
  const methods = {
    async open(meeting, known, at, avoided) {
      if (readers.size >= READERS_LIMIT) return null;
      const reader = await peersOf(meeting).open(known, at, new Set(avoided));
      if (!reader) return null;
      const handle = random();
      readers.set(handle, { reader, usedAt: performance.now() });
      return handle;
    },
    async read(handle) {
      const entry = readers.get(handle);
      if (entry) entry.usedAt = Infinity;
      const piece = (await entry?.reader.read()) ?? null;
      if (entry) entry.usedAt = performance.now();
      return piece;
    },
    async close(handle) {
      readers.get(handle)?.reader.close();
      readers.delete(handle);
    },
    file: async (meeting, file) => peersOf(meeting).file(file),
  };
  point.addEventListener("message", ({ data }) => {
    if (data.t !== "who") return;
    const channel = new BroadcastChannel(data.name);
    channels.add(channel);
    channel.addEventListener("message", async ({ data: call }) => {
      if (call.t !== "call" || call.page !== page) return;
      const value = await methods[call.method](...call.values).catch(() => null);
      channel.postMessage({ t: "done", number: call.number, value });
    });
    channel.postMessage({ t: "here", page });
  });
  const timer = setInterval(() => {
    for (const [handle, { usedAt }] of readers) {
      if (performance.now() - usedAt > IDLE_MS) methods.close(handle);
    }
  }, IDLE_MS / 4);
  return () => {
    clearInterval(timer);
    point.close();
    for (const channel of channels) channel.close();
    for (const handle of [...readers.keys()]) methods.close(handle);
  };
}
