/**
 * Where everything stands in the picture of who gives to whom. Pure: figures in, figures out.
 *
 * 1. This machine in the middle, what is outside the network above it, the other machines around.
 * 2. A place depends on who is there, not on who is busy, so nobody jumps about between two polls.
 * 3. At most PEERS_LIMIT machines have a place of their own; of more, those that do nothing now are
 *    summed up in one.
 * 4. All in CSS pixels for a picture of the given width: text keeps its size on a phone.
 */

import { OTHERS, described, gathered, isBusy, summary } from "./traffic.js";

/**
 * @typedef {import("./api.js").Node} Node
 * @typedef {import("./api.js").Flow} Flow
 * @typedef {import("./traffic.js").Traffic} Traffic
 * @typedef {{x: number, y: number}} Point
 *
 * @typedef {object} Box a node in its place; `x` and `y` are its middle
 * @property {string} id
 * @property {string} kind
 * @property {string} title the whole name, however long
 * @property {string} name cut to fit
 * @property {string} detail
 * @property {boolean} isQuiet it gives and gets nothing now
 * @property {Point} dock where its lines end
 * @property {number} x
 * @property {number} y
 * @property {number} width
 * @property {number} height
 *
 * @typedef {object} Line
 * @property {string} key
 * @property {"flow" | "lease" | "idle"} kind
 * @property {"nearby" | "internet"} place
 * @property {string} path from the giver to the taker
 * @property {string} head the arrow at the taker's end, "" for none
 * @property {number} width
 *
 * @typedef {object} Picture
 * @property {number} width
 * @property {number} height
 * @property {boolean} isWide
 * @property {Box[]} boxes
 * @property {Line[]} lines
 * @property {string} summary the same in one sentence
 */

export const PEERS_LIMIT = 24; // machines with a place of their own; more are a crowd, not a picture
const WIDE_FROM = 640; // px; below it the machines stand in two columns
const BOX_HEIGHT = 40; // px; two lines of text
const PITCH = 50; // px from one box to the next below it
const EDGE = 2; // px between a box and the end of the picture
const TOP = EDGE + BOX_HEIGHT / 2; // px; the middle of the uppermost row
const LETTER = 7.9; // px; the width of a letter of a name, rather too much than too little
const LETTER_NARROW = 7; // px; the letters of a narrow picture are smaller
const GAP = 3; // px between a box and the lines to it
const ASIDE = 5; // px by which the two directions between the same two machines keep clear
const THINNEST = 1.5; // px; a kilobyte a second
const THICKEST = 9; // px; 13 MB/s and more
const THICKEST_NARROW = 5; // px; there is less room between the two columns

/**
 * The picture of these nodes and flows, `width` px wide.
 * @param {Node[]} nodes
 * @param {Flow[]} flows
 * @param {number} width
 * @returns {Picture}
 */
export function picture(nodes, flows, width) {
  const isWide = width >= WIDE_FROM;
  const box = { width: isWide ? 148 : Math.min(136, Math.floor((width - 70) / 2)), height: BOX_HEIGHT };
  const traffic = gathered(flows);
  const peers = chosen(nodes, traffic);
  const places = isWide ? around(peers.length, width, box) : below(peers.length, width, box);
  const slim = { ...box, width: Math.min(box.width, Math.floor((width - 4 * EDGE) / 3) - 4) };
  const outside = [
    { kind: "mirror", x: isWide ? width / 4 : EDGE + slim.width / 2 },
    { kind: "origin", x: width / 2 },
    { kind: "swarm", x: isWide ? (3 * width) / 4 : width - EDGE - slim.width / 2 },
  ];
  /** @type {[Node, Point][]} */
  const placed = [];
  for (const node of nodes) {
    const spot = outside.find((place) => place.kind === node.kind);
    if (spot) placed.push([node, { x: spot.x, y: TOP }]);
    if (node.kind === "self") placed.push([node, { x: width / 2, y: places.middle }]);
  }
  peers.forEach((peer, at) => placed.push([peer, places.spots[at]]));
  const boxes = placed.map(([node, spot]) =>
    boxed(node, spot, spot.y === TOP ? slim : box, width, traffic),
  );
  const thickest = isWide ? THICKEST : THICKEST_NARROW;
  return {
    width,
    height: places.height,
    isWide,
    boxes,
    lines: lines(boxes, traffic, thickest),
    summary: summary(traffic, peers.length),
  };
}

/**
 * The machines that get a place, in a lasting order; the last may stand for many.
 * @param {Node[]} nodes
 * @param {Traffic} traffic
 * @returns {Node[]}
 */
function chosen(nodes, traffic) {
  const peers = nodes
    .filter((node) => node.kind === "peer")
    .sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0));
  if (peers.length <= PEERS_LIMIT) return peers;
  const rate = (/** @type {Node} */ peer) =>
    (traffic.given.get(peer.id) ?? 0) + (traffic.taken.get(peer.id) ?? 0);
  const busiest = peers
    .filter((peer) => isBusy(traffic, peer.id))
    .sort((a, b) => rate(b) - rate(a))
    .slice(0, PEERS_LIMIT - 1);
  const shown = new Set(busiest);
  const left = peers.filter((peer) => !shown.has(peer));
  const busy = left.filter((peer) => isBusy(traffic, peer.id)).length;
  const state = busy > 0 ? `${busy} of them busy` : "nothing to do now";
  const name = `${left.length} ${shown.size > 0 ? "more " : ""}machines`;
  return [...peers.filter((peer) => shown.has(peer)), { id: OTHERS, kind: "peer", name, state }];
}

/**
 * Places to the left, below and to the right.
 * @param {number} count
 * @param {number} width
 * @param {{width: number, height: number}} box
 */
function around(count, width, box) {
  const fitting = Math.floor((width - 2 * box.width) / (box.width + 12));
  const aside = Math.max(Math.round(count / 3), Math.ceil((count - fitting) / 2));
  const across = count - 2 * aside;
  const first = TOP + 1.7 * PITCH;
  const rows = Math.max(aside, 2);
  const middle = first + ((rows - 1) * PITCH) / 2;
  const bottom = first + (rows - 0.5) * PITCH + 0.8 * PITCH;
  const from = first + ((rows - aside) * PITCH) / 2;
  /** @type {Point[]} */
  const spots = [];
  for (let at = 0; at < aside; at++) spots.push({ x: EDGE + box.width / 2, y: from + at * PITCH });
  const step = Math.min((width - 2 * box.width) / Math.max(1, across), box.width + 34);
  for (let at = 0; at < across; at++) {
    spots.push({ x: width / 2 + (at - (across - 1) / 2) * step, y: bottom });
  }
  for (let at = aside - 1; at >= 0; at--) {
    spots.push({ x: width - EDGE - box.width / 2, y: from + at * PITCH });
  }
  const lowest = Math.max(middle + PITCH / 2, ...spots.map((spot) => spot.y));
  return { spots, middle, height: Math.ceil(lowest + BOX_HEIGHT / 2 + EDGE) };
}

/**
 * Places in two columns below this machine.
 * @param {number} count
 * @param {number} width
 * @param {{width: number, height: number}} box
 */
function below(count, width, box) {
  const middle = TOP + 1.9 * PITCH;
  const first = middle + 1.6 * PITCH;
  const isAlone = count === 1;
  /** @type {Point[]} */
  const spots = [];
  for (let at = 0; at < count; at++) {
    const left = EDGE + box.width / 2;
    const x = isAlone ? width / 2 : at % 2 === 0 ? left : width - left;
    spots.push({ x, y: first + Math.floor(at / 2) * PITCH });
  }
  const lowest = count > 0 ? spots[count - 1].y : middle;
  return { spots, middle, height: Math.ceil(lowest + BOX_HEIGHT / 2 + EDGE) };
}

/**
 * @param {Node} node
 * @param {Point} spot
 * @param {{width: number, height: number}} size
 * @param {number} across the width of the picture
 * @param {Traffic} traffic
 * @returns {Box}
 */
function boxed(node, spot, size, across, traffic) {
  const title = node.kind === "self" ? "This machine" : node.name || node.id;
  const isQuiet = node.kind !== "self" && !isBusy(traffic, node.id);
  const letters = Math.floor((size.width - 2) / (across < WIDE_FROM ? LETTER_NARROW : LETTER));
  const name = cut(title, letters);
  const detail = cut(described(node, traffic), letters + 3); // in smaller letters
  const dock = docked(node.kind, spot, size, across);
  return { id: node.id, kind: node.kind, title, name, detail, isQuiet, dock, ...spot, ...size };
}

/**
 * The middle of the side of a box that faces this machine.
 * @param {string} kind
 * @param {Point} spot
 * @param {{width: number, height: number}} size
 * @param {number} across
 * @returns {Point}
 */
function docked(kind, { x, y }, size, across) {
  const high = size.height / 2 + GAP;
  const wide = size.width / 2 + GAP;
  if (kind !== "peer") return { x, y: y + high };
  const isAside = x - wide < 2 * EDGE || x + wide > across - 2 * EDGE;
  if (!isAside) return { x, y: y - high };
  return { x: x < across / 2 ? x + wide : x - wide, y };
}

/**
 * The text, or as much of its beginning and end as fits: addresses differ at the end.
 * @param {string} text
 * @param {number} letters
 */
function cut(text, letters) {
  if (text.length <= letters) return text;
  const tail = Math.floor((letters - 1) / 2);
  return `${text.slice(0, letters - 1 - tail)}…${text.slice(text.length - tail)}`;
}

/**
 * @param {Box[]} boxes
 * @param {Traffic} traffic
 * @param {number} thickest
 * @returns {Line[]}
 */
function lines(boxes, traffic, thickest) {
  const self = boxes.find((box) => box.kind === "self");
  const origin = boxes.find((box) => box.kind === "origin");
  if (!self) return [];
  /** @type {Line[]} */
  const found = [];
  for (const box of boxes) {
    if (box === self) continue;
    const place = box.kind === "origin" || box.kind === "mirror" ? "internet" : "nearby";
    const down = traffic.given.get(box.id) ?? 0;
    const up = traffic.taken.get(box.id) ?? 0;
    const aside = down > 0 && up > 0 ? ASIDE : 0;
    const near = end(self, box.dock);
    const flow = (/** @type {number} */ rate, /** @type {string} */ key, /** @type {Point[]} */ ends) => {
      const width = Math.min(thickest, thickness(rate));
      found.push({ key, kind: "flow", place, width, ...straight(ends[0], ends[1], width, aside) });
    };
    if (down > 0) flow(down, `${box.id}>self`, [box.dock, near]);
    if (up > 0) flow(up, `self>${box.id}`, [near, box.dock]);
    if (down + up === 0) {
      const path = `M${dot(box.dock)}L${dot(near)}`;
      found.push({ key: `idle ${box.id}`, kind: "idle", place, path, head: "", width: 1 });
    }
    if (origin && traffic.fetching.has(box.id)) found.push(lease(origin, box, self));
  }
  const order = ["idle", "lease", "flow"];
  return found.sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind));
}

/**
 * A line with an arrow between two points, moved to its own right-hand side.
 * @param {Point} from
 * @param {Point} to
 * @param {number} width
 * @param {number} aside
 */
function straight(from, to, width, aside) {
  const far = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  const x = (-aside * (to.y - from.y)) / far;
  const y = (aside * (to.x - from.x)) / far;
  return arrow({ x: from.x + x, y: from.y + y }, { x: to.x + x, y: to.y + y }, width);
}

/**
 * A thin line from the origin to a machine that fetches for the room, past this machine.
 * @param {Box} origin
 * @param {Box} peer
 * @param {Box} self
 * @returns {Line}
 */
function lease(origin, peer, self) {
  const side = peer.x > self.x + 1 ? 1 : -1;
  const from = { x: origin.x + (side * origin.width) / 3, y: origin.y + origin.height / 2 };
  const isBeyond = peer.dock.x === peer.x; // this machine stands between them
  const bend = { x: self.x + side * (self.width / 2 + (isBeyond ? 70 : 22)), y: self.y };
  const path = `M${dot(from)}Q${dot(bend)} ${dot(peer.dock)}`;
  const { head } = arrow(bend, peer.dock, THINNEST);
  return { key: `origin>${peer.id}`, kind: "lease", place: "internet", path, head, width: THINNEST };
}

/**
 * The line between two points, and its head; the line ends where the head begins.
 * @param {Point} from
 * @param {Point} to
 * @param {number} width
 */
function arrow(from, to, width) {
  const far = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  const along = { x: (to.x - from.x) / far, y: (to.y - from.y) / far };
  const long = Math.min(far, 5 + 1.4 * width);
  const half = 2.5 + 0.9 * width;
  const foot = { x: to.x - along.x * long, y: to.y - along.y * long };
  const left = { x: foot.x - along.y * half, y: foot.y + along.x * half };
  const right = { x: foot.x + along.y * half, y: foot.y - along.x * half };
  return {
    path: `M${dot(from)}L${dot(foot)}`,
    head: `M${dot(to)}L${dot(left)}L${dot(right)}Z`,
  };
}

/**
 * Where the line from the middle of `box` towards a point leaves the box.
 * @param {Box} box
 * @param {Point} towards
 * @returns {Point}
 */
function end(box, towards) {
  const x = towards.x - box.x;
  const y = towards.y - box.y;
  const scale = Math.min(
    1,
    (box.width / 2 + GAP) / (Math.abs(x) || 1e-9),
    (box.height / 2 + GAP) / (Math.abs(y) || 1e-9),
  );
  return { x: box.x + x * scale, y: box.y + y * scale };
}

/** @param {number} rate */
export function thickness(rate) {
  return Math.min(THICKEST, THINNEST + 2 * Math.log2(1 + rate / 1e6));
}

/** @param {Point} point */
function dot({ x, y }) {
  return `${Math.round(x * 10) / 10},${Math.round(y * 10) / 10}`;
}
