/**
 * What passes between this machine and the others, and the words for it. Pure.
 */

import * as words from "./words.js";

/**
 * @typedef {import("./api.js").Node} Node
 * @typedef {import("./api.js").Flow} Flow
 *
 * @typedef {object} Traffic
 * @property {Map<string, number>} given bytes a second from that node to this machine
 * @property {Map<string, number>} taken bytes a second from this machine to that node
 * @property {Set<string>} fetching who fetches from the origin for the room
 */

export const OTHERS = "others"; // the id of the node that stands for all who have no place

/**
 * What passes between each node and this machine, and who fetches from the origin.
 * @param {Flow[]} flows
 * @returns {Traffic}
 */
export function gathered(flows) {
  /** @type {Traffic} */
  const traffic = { given: new Map(), taken: new Map(), fetching: new Set() };
  for (const flow of flows) {
    const rate = Math.max(0, Number(flow.bytes_per_s) || 0);
    if (flow.to === "self" && rate > 0) traffic.given.set(flow.from, rate);
    else if (flow.from === "self" && rate > 0) traffic.taken.set(flow.to, rate);
    else if (flow.from === "origin" && flow.to !== "self") traffic.fetching.add(flow.to);
  }
  return traffic;
}

/** @param {Traffic} traffic @param {string} id */
export function isBusy(traffic, id) {
  return traffic.given.has(id) || traffic.taken.has(id) || traffic.fetching.has(id);
}

/**
 * The second line of a box: what it gives and gets, seen from this machine, or what it is.
 * @param {Node} node
 * @param {Traffic} traffic
 */
export function described(node, traffic) {
  if (node.kind === "self") {
    return rates(total(traffic.given), total(traffic.taken)) || "at rest";
  }
  const figures = rates(traffic.given.get(node.id) ?? 0, traffic.taken.get(node.id) ?? 0);
  if (figures) return figures;
  if (traffic.fetching.has(node.id)) return "fetches for the room";
  if (node.id === OTHERS) return node.state;
  if (node.kind === "peer") return words.PEER_STATES[node.state] ?? node.state;
  const kind = { origin: "the origin", mirror: "a mirror", swarm: "the swarm" }[node.kind] ?? "";
  const state = { down: "does not answer", limited: "asks us to wait" }[node.state];
  return state ?? kind;
}

/**
 * "↓ 12 MB/s", or "↓ 12 ↑ 0.3 MB/s", short enough for a box; down is to this machine.
 * @param {number} down
 * @param {number} up
 */
function rates(down, up) {
  if (down > 0 && up > 0) {
    const [first, second, unit] = words.rates(down, up);
    return `↓\u00a0${first} ↑\u00a0${second}\u00a0${unit}`;
  }
  if (down > 0) return `↓\u00a0${words.rate(down)}`;
  return up > 0 ? `↑\u00a0${words.rate(up)}` : "";
}

/** @param {Map<string, number>} of */
function total(of) {
  return [...of.values()].reduce((sum, rate) => sum + rate, 0);
}

/**
 * The picture in a sentence or two, below it and for those who do not see it.
 * @param {Traffic} traffic
 * @param {number} peers
 */
export function summary(traffic, peers) {
  const machines = (/** @type {Map<string, number>} */ of) =>
    [...of].filter(([id]) => !["origin", "mirror", "swarm"].includes(id));
  const sum = (/** @type {[string, number][]} */ some) => some.reduce((all, [, rate]) => all + rate, 0);
  const parts = [];
  const near = machines(traffic.given);
  if (near.length > 0) {
    parts.push(`${words.rate(sum(near))} from ${words.counted(near.length, "machine")} nearby`);
  }
  for (const [id, phrase] of [["swarm", "BitTorrent"], ["origin", "the origin"], ["mirror", "a mirror"]]) {
    const rate = traffic.given.get(id) ?? 0;
    if (rate > 0) parts.push(`${words.rate(rate)} from ${phrase}`);
  }
  const sentences = [];
  if (parts.length > 0) sentences.push(`This machine gets ${parts.join(", ")}.`);
  const out = machines(traffic.taken);
  const swarm = traffic.taken.get("swarm") ?? 0;
  const gives = [];
  if (out.length > 0) gives.push(`${words.rate(sum(out))} to ${words.counted(out.length, "machine")}`);
  if (swarm > 0) gives.push(`${words.rate(swarm)} to BitTorrent`);
  if (gives.length > 0) sentences.push(`It gives ${gives.join(", ")}.`);
  const fetching = traffic.fetching.size;
  if (fetching > 0) {
    sentences.push(
      `${words.counted(fetching, "other machine fetches", "other machines fetch")} from the origin for the room.`,
    );
  }
  if (sentences.length > 0) return sentences.join(" ");
  return peers > 0 ? "Nothing is on the way now." : "Nothing is on the way now, and no other machine is here.";
}
