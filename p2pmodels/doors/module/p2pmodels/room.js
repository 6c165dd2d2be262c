/**
 * The daemons that a page has links to, met through one rendezvous; shared by all its downloads.
 *
 * 1. A few links at first, some more when nobody on them has what is wanted; never above LINKS_LIMIT.
 * 2. Who could not be reached is left alone for a while, a dead rendezvous too.
 * 3. When nothing was wanted for IDLE_MS, all is closed: a page that only lies open costs nobody.
 */

import { hex } from "./hashes.js";
import { Link } from "./link.js";
import { MeetingError, Rendezvous } from "./rendezvous.js";

const LINKS_FIRST = 4; // links opened at once; three daemons are more than a page can take in
const LINKS_LIMIT = 8; // links in all
const FORGET_MS = 60_000; // ms for which an unreachable daemon is left alone
const RECALL_MS = 1500; // ms after which one is called again whose link broke; its child starts anew
const SOON_MS = 4000; // ms; a call that may be made by then is worth waiting for
const DEAD_MS = 180_000; // ms for which a dead rendezvous is left alone
const IDLE_MS = 60_000; // ms

const own = hex(crypto.getRandomValues(new Uint8Array(16))); // this page's id, another one each time

/** @type {Map<string, Room>} */
const rooms = new Map();
/** @type {Map<string, number>} rendezvous that were dead, and when */
const dead = new Map();

/**
 * The room of a rendezvous; null while it is known to be dead or nothing here can speak WebRTC.
 * @param {{rendezvous: string, secret: string, room: string}} options
 * @returns {Promise<Room | null>}
 */
export async function roomOf({ rendezvous, secret, room }) {
  if (!rendezvous || typeof RTCPeerConnection === "undefined") return null;
  const key = JSON.stringify([rendezvous, secret, room]);
  if (performance.now() - (dead.get(key) ?? -Infinity) < DEAD_MS) return null;
  let found = rooms.get(key);
  if (!found || found.isOver) {
    found = new Room(new Rendezvous(rendezvous, { id: own, secret, room }), secret);
    rooms.set(key, found);
  }
  try {
    await found.rendezvous.joined;
    return found;
  } catch {
    dead.set(key, performance.now());
    return null;
  }
}

/** Ask every rendezvous and daemon again that did not answer before. */
export function forgetFailures() {
  dead.clear();
}

export class Room extends EventTarget {
  /**
   * @param {Rendezvous} rendezvous
   * @param {string} secret
   */
  constructor(rendezvous, secret) {
    super();
    this.rendezvous = rendezvous;
    this.secret = secret;
    /** @type {Map<string, Link>} by member, from the first offer on */
    this.linked = new Map();
    /** @type {Map<string, number>} members that are not called before then */
    this.resting = new Map();
    /** @type {Set<string>} members that have stalled once */
    this.stalled = new Set();
    this.users = 0;
    this.isOver = false;
    this.wanted = LINKS_FIRST;
    this.usedAt = performance.now();
    rendezvous.addEventListener("came", () => this.fill());
    rendezvous.addEventListener("over", () => {
      if (this.linked.size === 0) this.close();
    });
    this.timer = setInterval(() => this.look(), 5000);
  }

  /** The links that may be asked. */
  get links() {
    return [...this.linked.values()].filter((link) => link.isReady);
  }

  /** Whether somebody is being called, or soon will be. */
  get isCalling() {
    const soon = performance.now() + SOON_MS;
    return (
      [...this.linked.values()].some((link) => !link.isReady && !link.isOver) ||
      [...this.rendezvous.members].some((member) => (this.resting.get(member) ?? Infinity) < soon && !this.linked.has(member))
    );
  }

  /** Keep the room open until `leave`. */
  enter() {
    this.users += 1;
    this.fill();
  }

  leave() {
    this.users -= 1;
    this.usedAt = performance.now();
  }

  /**
   * Call further daemons: those on the links have not what is wanted.
   * @returns {boolean} whether somebody is called
   */
  widen() {
    if (this.wanted < LINKS_LIMIT) this.wanted += 1;
    this.fill();
    return this.isCalling;
  }

  /** Call daemons until there are as many links as wanted. */
  fill() {
    if (this.isOver || this.users === 0) return;
    const now = performance.now();
    const free = [...this.rendezvous.members].filter(
      (member) => !this.linked.has(member) && (this.resting.get(member) ?? 0) <= now,
    );
    // The first in the list is the rendezvous itself, the likeliest to have the file. Of the
    // others each page takes some by chance, so that a class does not fall upon the same few.
    const [first, ...others] = free;
    const order = [first, ...shuffled(others)].slice(0, Math.max(0, this.wanted - this.linked.size));
    for (const member of order) if (member) this.call(member);
  }

  /** @param {string} member */
  async call(member) {
    const link = new Link({ id: own, secret: this.secret });
    this.linked.set(member, link);
    let rest = FORGET_MS;
    link.addEventListener("over", () => {
      this.linked.delete(member);
      // A daemon whose child was killed says no farewell; who stalls again and again has no excuse.
      const isExcused = link.reason === "stalled" && !this.stalled.has(member);
      if (link.id && (link.reason === "lost" || isExcused)) rest = RECALL_MS;
      if (link.reason === "stalled") this.stalled.add(member);
      this.resting.set(member, performance.now() + rest);
      this.dispatchEvent(new Event("change"));
      this.fill();
    });
    for (const name of ["holding", "room"]) {
      link.addEventListener(name, () => this.dispatchEvent(new Event("change")));
    }
    const exchange = async (/** @type {string} */ sdp) => {
      try {
        return await this.rendezvous.offer(member, sdp);
      } catch (error) {
        if (error instanceof MeetingError) rest = Math.min(error.retryMs ?? rest, FORGET_MS);
        throw error;
      }
    };
    // Why it failed stands in the link; it has closed itself.
    await link.open(exchange).catch(() => {});
    this.dispatchEvent(new Event("change"));
  }

  look() {
    const isIdle = this.users === 0 && performance.now() - this.usedAt > IDLE_MS;
    if (isIdle || (this.rendezvous.isOver && this.linked.size === 0)) this.close();
  }

  close() {
    if (this.isOver) return;
    this.isOver = true;
    clearInterval(this.timer);
    for (const link of this.linked.values()) link.close("leaving");
    this.rendezvous.close();
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * @template T
 * @param {T[]} items
 */
function shuffled(items) {
  return items.map((item) => ({ item, at: Math.random() })).sort((a, b) => a.at - b.at).map(({ item }) => item); // prettier-ignore
}
