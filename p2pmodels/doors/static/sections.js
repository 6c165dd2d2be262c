/**
 * One function for each section of the page: data in, text and widths out.
 */

import { attribute, byId, progress, rows, show, text, within } from "./dom.js";
import * as words from "./words.js";

/**
 * @typedef {import("./api.js").Answers} Answers
 * @typedef {import("./api.js").Status} Status
 * @typedef {import("./api.js").Model} Model
 * @typedef {import("./api.js").Peer} Peer
 * @typedef {import("./api.js").Transfer} Transfer
 * @typedef {import("./api.js").Upload} Upload
 * @typedef {ReturnType<typeof words.places>["rows"][number]} PlaceRow
 */

const COMMIT_DIGITS = 8; // of 40; enough to tell two commits of one repo apart
const TRANSFER_ROWS = 8; // rows; a model of a hundred shards must not push the rest off the page

/**
 * The sentence at the top, and the one below it.
 * @param {Answers} all
 */
export function headline({ status, models, peers }) {
  const { rows: places, total } = words.places(status.bytes_by_source);
  const internet = places.find((row) => row.place.key === "internet")?.bytes ?? 0;
  const daemons = peers.filter((peer) => peer.found_by !== "page");
  const nearby = daemons.filter((peer) => peer.state === "ready").length;
  const saved = total - internet;
  const isNew = models.length === 0 && total === 0;
  const figures = [
    isNew ? "Ready for the first model" : `${words.counted(models.length, "model")} here`,
    saved > 0 ? `${words.bytes(saved)} saved from the internet` : "",
    nearby > 0 ? `${words.counted(nearby, "machine")} nearby` : "no other machine nearby",
  ].filter(Boolean);
  const heading = byId("headline");
  if (heading.textContent !== figures.join(" · ")) {
    heading.replaceChildren(...figures.flatMap(figure));
  }
  text(byId("lead"), lead(total, internet));
}

/**
 * A figure that never breaks inside; the dot stays with what it follows.
 * @param {string} content
 * @param {number} at
 * @param {string[]} all
 */
function figure(content, at, all) {
  const span = document.createElement("span");
  span.className = "figure";
  span.textContent = content;
  if (at === all.length - 1) return [span];
  const dot = document.createElement("span");
  dot.className = "between";
  dot.textContent = " ·";
  span.append(dot);
  return [span, document.createTextNode(" ")];
}

/**
 * @param {number} total
 * @param {number} internet
 */
function lead(total, internet) {
  if (total === 0) return "Programs that ask this machine get their models from the nearest place that has them.";
  if (internet === 0) return `All ${words.bytes(total)} came from nearby, none from the internet.`;
  if (internet === total) return "Downloaded once. Whoever asks next gets it from here.";
  return `Of ${words.bytes(total)} in all, ${words.bytes(internet)} had to come from the internet.`;
}

/** @param {Status} status */
export function origin(status) {
  const { rows: places, total } = words.places(status.bytes_by_source);
  bar(places, total);
  rows(byId("legend"), "legend-row", places, (row) => row.place.key, (row, item) => {
    attribute(row, "class", `legend-row ${item.place.key}`);
    text(within(row, ".legend-name"), item.place.name);
    text(within(row, ".legend-share"), words.percent(item.bytes, total));
    text(within(row, ".legend-bytes"), words.bytes(item.bytes));
    text(within(row, ".legend-detail"), detail(item));
  });
  text(
    byId("given"),
    total === 0
      ? "Nothing has been asked for yet; the bar fills as programs get their models."
      : `Given to programs on this machine: ${words.bytes(status.served_bytes)}. ` +
          `Given to other machines: ${words.bytes(status.shared_bytes)}.`,
  );
}

/** @param {PlaceRow} row */
function detail(row) {
  if (row.parts.length < 2) return row.parts.map((part) => part.word).join("");
  return row.parts.map((part) => `${part.word} ${words.bytes(part.bytes)}`).join(" · ");
}

/**
 * @param {PlaceRow[]} places
 * @param {number} total
 */
function bar(places, total) {
  const element = byId("bar");
  for (const row of places) {
    let segment = element.querySelector(`.${row.place.key}`);
    if (!segment) {
      segment = document.createElement("span");
      segment.className = `segment ${row.place.key}`;
      element.append(segment);
    }
    const share = total > 0 ? (100 * row.bytes) / total : 0;
    /** @type {HTMLElement} */ (segment).style.width = `${share}%`;
    show(/** @type {HTMLElement} */ (segment), row.bytes > 0);
  }
  const parts = places.map((row) => `${row.place.name}: ${words.percent(row.bytes, total)}`);
  attribute(element, "aria-label", total > 0 ? parts.join(", ") : "No bytes yet");
}

/** @param {Model[]} list */
export function models(list) {
  const keyOf = (/** @type {Model} */ model) => `${model.repo}@${model.commit}`;
  const sorted = [...list].sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
  rows(byId("model-list"), "model-row", sorted, keyOf, fillModel);
  show(byId("models-empty"), list.length === 0);
}

/**
 * @param {HTMLElement} row
 * @param {Model} model
 */
function fillModel(row, model) {
  const name = within(row, ".name");
  text(name, model.repo);
  const short = model.commit.slice(0, COMMIT_DIGITS);
  attribute(name, "title", `${[...model.revisions, `commit ${short}`].join(", ")}`);
  show(within(row, ".pin"), model.is_pinned);
  fillShare(row, model.share);
  const bar = within(row, "progress");
  show(bar, !model.is_complete);
  progress(row, model.bytes_cached, model.bytes, `How much of ${model.repo} is here`);
  const size = model.is_complete
    ? `${words.bytes(model.bytes)}, ${words.counted(model.files, "file")}`
    : `${words.bytes(model.bytes_cached)} of ${words.bytes(model.bytes)} here, ` +
      `${model.files_cached} of ${words.counted(model.files, "file")}`;
  fillSources(row, model);
  const parts = [size, words.used(model.last_used, Date.now())];
  text(within(row, ".row-foot .detail"), parts.filter(Boolean).join(" · "));
  const button = within(row, ".magnet");
  const isMagnet = Boolean(model.magnet?.startsWith("magnet:?"));
  show(button, isMagnet);
  button.dataset.copy = isMagnet ? (model.magnet ?? "") : "";
  attribute(button, "aria-label", `Copy the magnet link of ${model.repo}`);
}

/**
 * Where the bytes of a model came from: a bar, and the same in words below it.
 * @param {HTMLElement} row
 * @param {Model} model
 */
function fillSources(row, model) {
  const { rows: known, total } = words.sources(model.sources);
  show(within(row, ".came-from"), total > 0);
  const bar = within(row, ".bar");
  show(bar, known.length > 1);
  rows(bar, "segment", known, (source) => source.key, (segment, source) => {
    attribute(segment, "class", `segment ${source.key}`);
    segment.style.width = `${(100 * source.bytes) / total}%`;
  });
  rows(within(row, ".sources"), "source-row", known, (source) => source.key, (item, source) => {
    attribute(item, "class", source.key);
    const share = known.length > 1 ? ` ${words.percent(source.bytes, total)}` : "";
    text(within(item, ".source-name"), `${source.name}${share}`);
  });
  const told = known.map((source) => `${source.name}: ${words.bytes(source.bytes)}`);
  attribute(bar, "aria-label", `Where ${model.repo} came from. ${told.join(", ")}`);
}

/**
 * @param {HTMLElement} row
 * @param {string} state
 */
function fillShare(row, state) {
  const known = Object.hasOwn(words.SHARES, state);
  const key = known ? /** @type {keyof typeof words.SHARES} */ (state) : "unproven";
  const [word, why] = words.SHARES[key];
  const chip = within(row, ".share");
  attribute(chip, "class", `chip share ${key}`);
  attribute(chip, "title", why);
  text(within(row, ".share-word"), word);
  text(within(row, ".share-why"), `. ${why}`);
}

/**
 * What is on the way in, and what goes out.
 * @param {Answers} all
 */
export function transfers({ transfers: list, uploads, models: known }) {
  const running = list.filter((transfer) => transfer.state !== "done");
  const going = uploads.filter((upload) => upload.peers > 0 || upload.rate_bytes_per_s > 0);
  const shown = running.slice(0, TRANSFER_ROWS);
  rows(byId("transfers"), "transfer-row", shown, (transfer) => transfer.id, fillTransfer);
  const more = running.length - shown.length;
  text(byId("transfers-more"), more > 0 ? `and ${words.counted(more, "more file", "more files")}` : "");
  const names = new Map(known.map((model) => [model.commit, model.repo]));
  rows(byId("uploads"), "upload-row", going, (upload) => upload.infohash, (row, upload) =>
    fillUpload(row, upload, names.get(upload.name) ?? upload.name.slice(0, 12)),
  );
  show(byId("running-now"), running.length + going.length > 0);
}

/**
 * @param {HTMLElement} row
 * @param {Transfer} transfer
 */
function fillTransfer(row, transfer) {
  const isFailed = transfer.state === "failed";
  attribute(row, "class", `row transfer ${isFailed ? "is-failed" : ""}`.trim());
  const name = within(row, ".name");
  text(name, transfer.path);
  attribute(name, "title", transfer.path);
  const isMoving = transfer.state === "fetching" && transfer.rate_bytes_per_s > 0;
  text(within(row, ".rate"), isMoving ? words.rate(transfer.rate_bytes_per_s) : "");
  progress(row, transfer.landed, transfer.size, `${transfer.path} of ${transfer.repo}`);
  show(within(row, "progress"), !isFailed);
  const landed = `${words.bytes(transfer.landed)} of ${words.bytes(transfer.size)}`;
  text(
    within(row, ".detail"),
    [landed, left(transfer), stage(transfer), transfer.repo].filter(Boolean).join(" · "),
  );
  text(within(row, ".trouble"), words.trouble(transfer.error));
}

/** @param {Transfer} transfer */
function stage(transfer) {
  if (transfer.state === "failed") return "could not be fetched";
  if (transfer.state === "verifying") return "checking it byte by byte";
  if (transfer.state === "waiting") return "looking for the nearest place";
  return words.cameFrom(transfer.sources) || words.cameFrom({ [transfer.source]: 1 });
}

/** @param {Transfer} transfer */
function left(transfer) {
  const rate = transfer.rate_bytes_per_s;
  const rest = transfer.size - transfer.landed;
  if (transfer.state !== "fetching" || rate < 1 || rest <= 0) return "";
  return `${words.duration(Math.max(1, rest / rate))}\u00a0left`;
}

/**
 * @param {HTMLElement} row
 * @param {Upload} upload
 * @param {string} name
 */
function fillUpload(row, upload, name) {
  text(within(row, ".name"), name);
  text(within(row, ".rate"), upload.rate_bytes_per_s > 0 ? words.rate(upload.rate_bytes_per_s) : "");
  const to = words.counted(upload.peers, "machine");
  text(within(row, ".detail"), `Giving it to ${to} · ${words.bytes(upload.bytes)} so far`);
}

/**
 * @param {Peer[]} list
 * @param {Status} status
 */
export function peers(list, status) {
  const order = (/** @type {Peer} */ peer) => `${peer.state !== "ready"} ${peer.address}`;
  const sorted = [...list].sort((a, b) => (order(a) < order(b) ? -1 : 1));
  rows(byId("peer-list"), "peer-row", sorted, (peer) => `${peer.id} ${peer.address}`, fillPeer);
  show(byId("peers-empty"), list.length === 0);
  const port = /:(\d+)\/?$/.exec(status.peer_url ?? "")?.[1] ?? "7879";
  const command = `p2pmodels serve --peer http://ADDRESS:${port}`;
  text(byId("use-peer"), command);
  byId("copy-peer").dataset.copy = command;
}

/**
 * @param {HTMLElement} row
 * @param {Peer} peer
 */
function fillPeer(row, peer) {
  const kind = { ready: "good", unreachable: "bad" }[peer.state] ?? "idle";
  attribute(within(row, ".dot"), "class", `dot ${kind}`);
  const name = within(row, ".name");
  text(name, peer.address);
  attribute(name, "title", `peer ${peer.id}${peer.version && `, p2pmodels ${peer.version}`}`);
  text(within(row, ".state"), words.PEER_STATES[peer.state] ?? peer.state);
  const parts = [];
  if (peer.bytes_from > 0) parts.push(`gave us ${words.bytes(peer.bytes_from)}`);
  if (peer.bytes_to > 0) parts.push(`got ${words.bytes(peer.bytes_to)} from us`);
  parts.push(words.FOUND_BY[peer.found_by] ?? peer.found_by);
  if (peer.state !== "ready") parts.push(`last seen ${words.duration(peer.last_seen_s)} ago`);
  text(within(row, ".detail"), parts.join(" · "));
}

/** @param {Status} status */
export function footer(status) {
  rows(byId("origins"), "health-row", status.origins ?? [], (item) => item.url, (row, item) => {
    const kind = { ok: "good", down: "bad" }[item.state] ?? "idle";
    const state = words.ORIGIN_STATES[item.state] ?? item.state;
    fillHealth(row, kind, item.url, state, words.trouble(item.error));
  });
  const parts = Object.entries(status.parts ?? {});
  rows(byId("parts"), "health-row", parts, ([name]) => name, (row, [name, state]) => {
    const kind = state === "running" ? "good" : state.startsWith("failed") ? "bad" : "idle";
    fillHealth(row, kind, words.PART_NAMES[name] ?? name, state, "");
  });
  const { bytes: kept, free_bytes: free, limit_bytes: limit } = status.store;
  const ceiling = limit > 0 ? `, at most ${words.bytes(limit)}` : "";
  text(byId("disk"), `${words.bytes(kept)} kept${ceiling}; ${words.bytes(free)} free`);
  text(byId("folder"), status.data_dir);
  text(byId("version"), `p2pmodels ${status.version} · peer ${String(status.id).slice(0, 12)}`);
}

/**
 * @param {HTMLElement} row
 * @param {string} kind
 * @param {string} name
 * @param {string} state
 * @param {string} trouble
 */
function fillHealth(row, kind, name, state, trouble) {
  attribute(within(row, ".dot"), "class", `dot ${kind}`);
  text(within(row, ".name"), name);
  text(within(row, ".state"), state);
  text(within(row, ".trouble"), trouble);
}
