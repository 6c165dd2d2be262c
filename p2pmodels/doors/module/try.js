/**
 * The /try page: fetches one file the way any page would, and shows how it arrives.
 *
 * 1. What strangers wrote (repo and file names, ids of peers) goes on the page as text only.
 * 2. The bytes are read and dropped: a phone need not hold a model.
 */

import { fetchModelFile, report } from "../p2pmodels.js";
import { attribute, byId, rows, show, text, within } from "./dom.js";
import { listPath, resolvePath } from "./names.js";
import { bytes, counted, percent, rate } from "./words.js";

const ANSWER_MS = 8000; // ms for a list
const RATE_MS = 3000; // ms over which the rate is measured while it runs
const FILES_SHOWN = 200; // files of a repo; the rest can be typed in
const COLOURS = 4; // different colours for peers

/** @typedef {import("../p2pmodels.js").Report} Report */
/** @typedef {{name: string, detail: string, chosen: () => void}} Choice */

const hub = document.documentElement.dataset.hub ?? "";
/** @type {AbortController | null} */
let running = null;
/** @type {{at: number, loaded: number}[]} */
let marks = [];
let startedAt = 0;

/** @param {string} id */
const field = (id) => /** @type {HTMLInputElement} */ (byId(id));

/**
 * @param {string} url
 * @returns {Promise<any>} null when there is no such list here
 */
async function listed(url) {
  try {
    const signal = AbortSignal.timeout(ANSWER_MS);
    const answer = await fetch(url, { signal, credentials: "omit" });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

/**
 * @param {string} list
 * @param {Choice[]} choices
 */
function showChoices(list, choices) {
  rows(byId(list), "choice", choices, ({ name }) => name, (row, { name, detail, chosen }) => {
    text(within(row, ".name"), name);
    text(within(row, ".detail"), detail);
    within(row, "button").onclick = chosen;
  }); // prettier-ignore
}

/** The models that the daemon has, where the page is its own; peers do not tell. */
async function showModels() {
  const found = await listed("/api/p2p/v1/models");
  const models = Array.isArray(found?.models) ? found.models : [];
  showChoices("models", models.map((/** @type {any} */ model) => ({
    name: String(model.repo),
    detail: `${counted(model.files_cached, "file")}, ${bytes(model.bytes_cached)}`,
    chosen: () => {
      field("repo").value = String(model.repo).replace(/^datasets\//, "");
      field("revision").value = model.revisions?.[0] ?? model.commit;
      showFiles();
    },
  }))); // prettier-ignore
}

/** The files of the repo that is named, from the daemon if it tells, else from the hub. */
async function showFiles() {
  const file = named();
  if (!file.repo.includes("/")) return;
  const path = listPath(file);
  const found = (await listed(path)) ?? (await listed(hub + path));
  if (named().repo !== file.repo) return; // typed on meanwhile
  const files = Array.isArray(found?.siblings) ? found.siblings.slice(0, FILES_SHOWN) : [];
  show(byId("files-title"), files.length > 0);
  showChoices("files", files.map((/** @type {any} */ one) => ({
    name: String(one.rfilename),
    detail: Number.isFinite(one.size) ? bytes(one.size) : "",
    chosen: () => {
      field("path").value = String(one.rfilename);
      start();
    },
  }))); // prettier-ignore
}

function named() {
  const [repo, revision, path] = ["repo", "revision", "path"].map((id) => field(id).value.trim());
  return { hub, kind: /** @type {"model"} */ ("model"), repo, revision, path };
}

async function start() {
  running?.abort();
  const control = (running = new AbortController());
  const file = named();
  text(byId("file"), `${file.repo} / ${file.path}`);
  text(byId("trouble"), "");
  verdict("", "Asking…");
  marks = [];
  startedAt = performance.now();
  show(byId("arrival"), true);
  show(byId("stop"), true);
  byId("arrival").scrollIntoView({ block: "nearest" });
  const onProgress = (/** @type {Report} */ now) => {
    if (running === control) draw(now);
  };
  try {
    const { signal } = control;
    const response = await fetchModelFile(hub + resolvePath(file), { hubs: [hub], onProgress, signal });
    if (!response.ok) {
      await response.body?.cancel();
      throw new Error(`The hub has no such file for everybody (status ${response.status}).`);
    }
    const reader = response.body?.getReader();
    while (reader && !(await reader.read()).done);
    if (running === control) finished(/** @type {Report} */ (report(response)));
  } catch (error) {
    if (running !== control) return;
    const isStopped = control.signal.aborted;
    verdict(isStopped ? "" : "bad", isStopped ? "Stopped." : `Not obtained: ${/** @type {Error} */ (error).message}`);
  } finally {
    if (running === control) show(byId("stop"), false);
  }
}

/** @param {Report} now */
function draw(now) {
  const at = performance.now();
  marks = [...marks.filter((mark) => at - mark.at < RATE_MS), { at, loaded: now.loaded }];
  const [first] = marks;
  const passed = at - first.at;
  if (passed > 0) text(byId("rate"), rate((1000 * (now.loaded - first.loaded)) / passed));
  const whole = now.total > 0 ? ` of ${bytes(now.total)}` : "";
  text(byId("amount"), bytes(now.loaded) + whole);
  text(byId("digest"), now.digest ? `${now.digest.length === 64 ? "sha256" : "git"} ${now.digest}` : "");
  if (now.state === "running") verdict("", "Arriving; it is checked at the end.");
  givers(now);
}

/** @param {Report} now */
function givers(now) {
  const total = Math.max(now.total, now.loaded, 1);
  const shown = now.givers.map((giver, at) => ({
    ...giver,
    key: giver.id || giver.kind,
    colour: giver.kind === "peer" ? `place-${at % COLOURS}` : `place-${giver.kind}`,
  }));
  attribute(byId("bar"), "aria-valuenow", String(Math.floor((100 * now.loaded) / total)));
  rows(byId("bar"), "part", shown, ({ key }) => key, (part, giver) => {
    attribute(part, "class", `segment ${giver.colour}`);
    part.style.width = `${(100 * giver.bytes) / total}%`;
  }); // prettier-ignore
  rows(byId("givers"), "giver", shown, ({ key }) => key, (row, giver) => {
    attribute(row, "class", giver.colour);
    text(within(row, ".name"), nameOf(giver));
    text(within(row, ".detail"), `${bytes(giver.bytes)} · ${percent(giver.bytes, now.loaded)}`);
  }); // prettier-ignore
}

/** @param {Report["givers"][number]} giver */
function nameOf({ kind, id }) {
  if (kind === "daemon") return "The daemon of this machine";
  if (kind === "origin") return "The hub, over the internet";
  return `Nearby machine ${id.slice(0, 8)}`;
}

/** @param {Report} now */
function finished(now) {
  draw(now);
  text(byId("rate"), rate((1000 * now.loaded) / (performance.now() - startedAt)));
  if (now.isVerified) verdict("good", `Right: all ${bytes(now.loaded)} have the digest of the original.`);
  else verdict("", "It came as its source gave it; nobody told a digest to check it by.");
}

/**
 * @param {"" | "good" | "bad"} kind
 * @param {string} words
 */
function verdict(kind, words) {
  attribute(byId("verdict"), "class", `try-verdict ${kind}`);
  text(byId("verdict"), words);
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
field("repo").addEventListener("change", showFiles);
byId("stop").addEventListener("click", () => running?.abort());
showModels();
