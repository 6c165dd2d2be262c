/**
 * Draws the picture of who gives to whom, as `layout.js` says where.
 *
 * Shapes live as long as what they show: an arrow that goes on moves on, poll after poll.
 */

import { attribute, byId, text } from "./dom.js";
import { picture } from "./layout.js";

/**
 * @typedef {import("./layout.js").Box} Box
 * @typedef {import("./layout.js").Line} Line
 */

const SVG = "http://www.w3.org/2000/svg";
const NARROWEST = 280; // px; narrower screens scale it down

/** @type {import("./api.js").Flows} */
let latest = { nodes: [], flows: [] };

/** @param {import("./api.js").Flows} flows */
export function draw(flows) {
  latest = flows;
  const frame = byId("picture");
  const width = Math.max(NARROWEST, Math.floor(frame.getBoundingClientRect().width));
  const { height, isWide, boxes, lines, summary } = picture(flows.nodes, flows.flows, width);
  attribute(frame, "class", isWide ? "wide" : "narrow");
  attribute(frame, "viewBox", `0 0 ${width} ${height}`);
  attribute(frame, "aria-label", summary);
  kept(byId("picture-lines"), lines, (line) => line.key, madeLine, fillLine);
  kept(byId("picture-boxes"), boxes, (box) => box.id, madeBox, fillBox);
  text(byId("picture-summary"), summary);
}

/** Draw it again in the width that the page has now. */
export function watchWidth() {
  new ResizeObserver(() => draw(latest)).observe(byId("picture-card"));
}

/**
 * Make the children of `group` show `items`, each kept by its key.
 * @template T
 * @param {Element} group
 * @param {T[]} items
 * @param {(item: T) => string} keyOf
 * @param {() => SVGElement} make
 * @param {(shape: SVGElement, item: T) => void} fill
 */
function kept(group, items, keyOf, make, fill) {
  const old = new Map(
    [.../** @type {Iterable<SVGElement>} */ (group.children)].map((shape) => [shape.dataset.key, shape]),
  );
  items.forEach((item, at) => {
    const key = keyOf(item);
    const shape = old.get(key) ?? make();
    old.delete(key);
    shape.dataset.key = key;
    fill(shape, item);
    if (group.children[at] !== shape) group.insertBefore(shape, group.children[at] ?? null);
  });
  for (const shape of old.values()) shape.remove();
}

/**
 * @param {string} kind
 * @param {...SVGElement} children
 * @returns {SVGElement}
 */
function made(kind, ...children) {
  const shape = /** @type {SVGElement} */ (document.createElementNS(SVG, kind));
  shape.append(...children);
  return shape;
}

function madeLine() {
  return made("g", made("path"), made("path"), made("path"));
}

/**
 * @param {SVGElement} shape
 * @param {Line} line
 */
function fillLine(shape, line) {
  attribute(shape, "class", `line ${line.kind} ${line.place}`);
  const [bed, dashes, head] = /** @type {Iterable<SVGElement>} */ (shape.children);
  for (const [path, name] of /** @type {const} */ ([[bed, "bed"], [dashes, "dashes"]])) {
    attribute(path, "class", name);
    attribute(path, "d", line.path);
    attribute(path, "stroke-width", line.width.toFixed(1));
  }
  attribute(head, "class", "head");
  attribute(head, "d", line.head);
}

function madeBox() {
  return made("g", made("title"), made("rect"), made("text"), made("text"));
}

/**
 * @param {SVGElement} shape
 * @param {Box} box
 */
function fillBox(shape, box) {
  attribute(shape, "class", `box ${box.kind} ${box.isQuiet ? "quiet" : ""}`.trim());
  attribute(shape, "transform", `translate(${box.x.toFixed(1)} ${box.y.toFixed(1)})`);
  const [title, rect, name, detail] = /** @type {Iterable<SVGElement>} */ (shape.children);
  text(title, `${box.title}: ${box.detail}`);
  attribute(rect, "x", String(-box.width / 2));
  attribute(rect, "y", String(-box.height / 2));
  attribute(rect, "width", String(box.width));
  attribute(rect, "height", String(box.height));
  attribute(rect, "rx", "11");
  attribute(name, "class", "box-name");
  attribute(name, "y", "-3");
  text(name, box.name);
  attribute(detail, "class", "box-detail");
  attribute(detail, "y", "13");
  text(detail, box.detail);
}
