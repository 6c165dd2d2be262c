/**
 * One file pulled from several daemons at once, given out in order.
 *
 * 1. At most WINDOW bytes beyond the reader are pulled: a reader that stops stops the pulls.
 * 2. A range whose link fails, stalls or refuses goes to another one. The range that the reader
 *    waits for is asked of a second link when the first is slow; the first answer counts.
 * 3. It ends by itself when nobody has what comes next: the caller goes on elsewhere from there.
 */

import { PullError } from "./link.js";

const RANGE = 1024 * 1024; // bytes of one get; some 40 ms at what a channel carries
const WINDOW = 16 * RANGE; // bytes ahead of the reader: the memory that a download takes
const PIPELINE = 4; // gets of one file on one link, so that the channel never runs dry
const QUIET_MS = 1200; // ms without a byte from the link that owes the range the reader waits for
const SLOW_MS = 6000; // ms for that range though bytes come; then a second link is asked too
const MEET_MS = 4000; // ms for calls and questions under way, while nothing comes
const PATIENCE_MS = 3000; // ms without anybody who can give what comes next
const ASK_AGAIN_MS = 1000; // ms between questions to a daemon that has not all of it yet
const STRIKES = 3; // failures of one link with one file
const TICK_MS = 250; // ms; how often time itself is looked at

/**
 * @typedef {{bytes: Uint8Array<ArrayBuffer>, from: string}} Piece where `from` names who gave it
 * @typedef {{start: number, stop: number, since: number,
 *   by: Map<import("./link.js").Link, number>}} Flight numbers of the gets by link
 */

export class Pulling {
  /**
   * @param {import("./room.js").Room} room
   * @param {{digest: string, size: number}} file
   * @param {number} start where to begin
   * @param {Set<string>} avoided ids of daemons that are not asked
   */
  constructor(room, file, start, avoided) {
    this.room = room;
    this.file = file;
    this.position = start;
    this.avoided = avoided;
    /** @type {Map<number, Piece>} */
    this.ready = new Map();
    /** @type {Map<number, Flight>} */
    this.flying = new Map();
    /** @type {Map<import("./link.js").Link, {until: number, strikes: number}>} */
    this.resting = new Map();
    this.isOver = false;
    this.movedAt = performance.now();
    this.wake = () => {};
    this.onChange = () => this.schedule();
    room.addEventListener("change", this.onChange);
    room.enter();
    this.timer = setInterval(() => {
      room.fill();
      this.schedule();
    }, TICK_MS);
  }

  /**
   * The next bytes; null at the end of the file or when nobody can go on.
   * @returns {Promise<Piece | null>}
   */
  async read() {
    for (;;) {
      if (this.isOver || this.position >= this.file.size) return null;
      const piece = this.ready.get(this.position);
      if (piece) {
        this.ready.delete(this.position);
        this.position += piece.bytes.length;
        this.movedAt = performance.now();
        this.schedule();
        return piece;
      }
      this.schedule();
      if (this.isDry()) return null;
      await new Promise((resolve) => {
        this.wake = () => resolve(undefined);
      });
    }
  }

  close() {
    if (this.isOver) return;
    this.isOver = true;
    clearInterval(this.timer);
    this.room.removeEventListener("change", this.onChange);
    for (const { by } of this.flying.values()) for (const [link, number] of by) link.cancel(number);
    this.ready.clear();
    this.room.leave();
    this.wake();
  }

  // inside

  /** Start what can be started. */
  schedule() {
    if (this.isOver) return;
    const now = performance.now();
    for (const link of this.room.links) {
      if (this.avoided.has(link.id)) continue;
      this.askAgain(link, now);
      if ((this.resting.get(link)?.until ?? 0) > now) continue;
      while (link.hasRoom && this.pullsOf(link) < PIPELINE) {
        const range = this.next(link, now);
        if (!range) break;
        this.pull(link, range, now);
      }
    }
    this.wake();
  }

  /**
   * @param {import("./link.js").Link} link
   * @param {number} now
   */
  askAgain(link, now) {
    const { digest, size } = this.file;
    const holding = link.holdings.get(digest);
    const hasAll = holding && covers(holding.runs, 0, size);
    if (!holding || (!hasAll && holding.askedAt > 0 && now - holding.askedAt > ASK_AGAIN_MS)) {
      link.ask(digest, size);
    }
  }

  /** @param {import("./link.js").Link} link */
  pullsOf(link) {
    let count = 0;
    for (const { by } of this.flying.values()) if (by.has(link)) count += 1;
    return count;
  }

  /**
   * The first range in the window that this link can give and nobody gives yet.
   * @param {import("./link.js").Link} link
   * @param {number} now
   * @returns {{start: number, stop: number} | null}
   */
  next(link, now) {
    const { digest, size } = this.file;
    const runs = link.holdings.get(digest)?.runs ?? [];
    if (runs.length === 0) return null;
    const end = Math.min(size, this.position + WINDOW);
    for (let start = this.position; start < end; ) {
      // Ranges lie on one grid, but for the first when a download goes on in the middle.
      const stop = Math.min(size, (Math.floor(start / RANGE) + 1) * RANGE);
      const isFree = !this.ready.has(start) && !this.flying.has(start);
      if (isFree && covers(runs, start, stop)) return { start, stop };
      start = stop;
    }
    const head = this.flying.get(this.position);
    const isOwn = !head || head.by.has(link) || !covers(runs, head.start, head.stop);
    return !isOwn && isSlow(head, Math.max(head.since, this.movedAt), now) ? head : null;
  }

  /**
   * @param {import("./link.js").Link} link
   * @param {{start: number, stop: number}} range
   * @param {number} now
   */
  async pull(link, { start, stop }, now) {
    const { number, bytes } = link.pull(this.file.digest, start, stop);
    /** @type {Flight} */
    const flight = this.flying.get(start) ?? { start, stop, since: now, by: new Map() };
    this.flying.set(start, flight);
    flight.by.set(link, number);
    try {
      const pulled = await bytes;
      if (this.isOver || this.flying.get(start) !== flight) return;
      this.flying.delete(start);
      this.ready.set(start, { bytes: pulled, from: link.id });
      flight.by.delete(link);
      for (const [other, its] of flight.by) other.cancel(its);
    } catch (error) {
      if (!(error instanceof PullError)) throw error;
      flight.by.delete(link);
      if (this.flying.get(start) === flight && flight.by.size === 0) this.flying.delete(start);
      this.rest(link, error);
    }
    this.schedule();
  }

  /**
   * What a failure means for the link, as far as this file goes.
   * @param {import("./link.js").Link} link
   * @param {PullError} error
   */
  rest(link, error) {
    if (error.status === 0 || this.isOver) return; // gone, or given up by ourselves
    const known = this.resting.get(link) ?? { until: 0, strikes: 0 };
    if (error.status === 503) {
      known.until = performance.now() + Math.max(10, error.retryMs);
    } else {
      known.strikes += 1;
      known.until = known.strikes < STRIKES ? performance.now() + ASK_AGAIN_MS : Infinity;
      const holding = link.holdings.get(this.file.digest);
      if (holding && error.status === 404) holding.runs = []; // it says anew what it has
    }
    this.resting.set(link, known);
  }

  /** Whether nobody can give what comes next, now or soon. */
  isDry() {
    if (this.flying.has(this.position)) return false;
    const now = performance.now();
    const links = this.room.links.filter((link) => !this.avoided.has(link.id));
    const holdings = links.map((link) => link.holdings.get(this.file.digest));
    const isWaiting = this.room.isCalling || holdings.some((holding) => !holding?.isAnswered);
    if (isWaiting && now - this.movedAt < MEET_MS) return false;
    const hasHope = links.some((link, at) => {
      const isOut = this.resting.get(link)?.until === Infinity;
      return !isOut && (holdings[at]?.isWanting || (holdings[at]?.runs.length ?? 0) > 0);
    });
    if (hasHope) return now - this.movedAt > PATIENCE_MS;
    return !this.room.widen();
  }
}

/**
 * Whether a second link should be asked for a range that the reader has waited for since then.
 * @param {Flight} flight
 * @param {number} since
 * @param {number} now
 */
function isSlow(flight, since, now) {
  if (flight.by.size !== 1) return false;
  const [owner] = flight.by.keys();
  return now - since > SLOW_MS || now - Math.max(since, owner.lastByteAt) > QUIET_MS;
}

/**
 * @param {[number, number][]} runs disjoint, in order
 * @param {number} start
 * @param {number} stop
 */
function covers(runs, start, stop) {
  return runs.some((run) => run[0] <= start && stop <= run[1]);
}
