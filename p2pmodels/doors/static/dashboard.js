/**
 * The dashboard: asks the daemon, shows the answer, and says so plainly when none comes.
 *
 * 1. Once a second while somebody looks, rarely otherwise, with growing pauses while it fails.
 * 2. One round of questions at a time; a slow daemon is never asked twice at once.
 * 3. During an outage the last figures stay, dimmed, below a banner that tells their age.
 */

import { RefusedError, UnreachableError, askAll } from "./api.js";
import { attribute, byId, show, text, watchCopyButtons } from "./dom.js";
import * as picture from "./picture.js";
import * as sections from "./sections.js";
import { duration, trouble } from "./words.js";

const VISIBLE_MS = 1000; // ms; what a person takes for "live"
const HIDDEN_MS = 15000; // ms; nobody looks: only often enough to be right when they come back
const FAILED_MS = [1000, 2000, 4000, 8000, 15000]; // ms; pauses after the 1st, 2nd, … failure

let failures = 0;
let isAsking = false;
/** @type {number | undefined} */
let timer;
/** @type {string} the time of day of the last good answer, for the banner */
let answeredAt = "";

/** @param {import("./api.js").Answers} all */
function render(all) {
  sections.headline(all);
  picture.draw(all.flows);
  sections.origin(all.status);
  sections.transfers(all);
  sections.models(all.models);
  sections.peers(all.peers, all.status);
  sections.footer(all.status);
  text(byId("running"), `running for ${duration(all.status.uptime_s)}`);
}

/** The daemon answered: the banner goes, the page is up to date. */
function isWell() {
  failures = 0;
  answeredAt = new Date().toLocaleTimeString();
  show(byId("banner-inside"), false);
  attribute(byId("pulse"), "class", "dot good");
  attribute(document.body, "class", "is-live");
}

/**
 * What is wrong, what to do about it, and the word for the corner of the page.
 * @param {unknown} reason
 */
function diagnosis(reason) {
  if (reason instanceof UnreachableError) {
    const advice = "Start it with “p2pmodels serve”; this page goes on by itself.";
    return ["The daemon does not answer.", advice, "not running"];
  }
  if (reason instanceof RefusedError) {
    return ["The daemon answers with an error.", trouble(reason), "in trouble"];
  }
  console.error(reason);
  return ["This page cannot show the answer.", "Reload it; was p2pmodels updated?", "unclear"];
}

/** @param {unknown} reason */
function isIll(reason) {
  failures += 1;
  const [title, advice, corner] = diagnosis(reason);
  text(byId("banner-title"), title);
  const since = answeredAt ? ` What you see is from ${answeredAt}.` : "";
  text(byId("banner-text"), advice + since);
  text(byId("running"), corner);
  show(byId("banner-inside"), true);
  attribute(byId("pulse"), "class", "dot bad");
  attribute(document.body, "class", "is-stale");
}

async function poll() {
  if (isAsking) return;
  isAsking = true;
  clearTimeout(timer);
  try {
    render(await askAll());
    isWell();
  } catch (reason) {
    isIll(reason);
  } finally {
    isAsking = false;
    timer = setTimeout(poll, pause());
  }
}

function pause() {
  const failed = failures > 0 ? FAILED_MS[Math.min(failures, FAILED_MS.length) - 1] : 0;
  return Math.max(failed, document.hidden ? HIDDEN_MS : VISIBLE_MS);
}

/** The commands of this very daemon, wherever the page was opened from. */
function fillCommands() {
  const endpoint = window.location.origin;
  const commands = {
    shell: `export HF_ENDPOINT=${endpoint}`,
    python: `import os\nos.environ["HF_ENDPOINT"] = "${endpoint}"`,
  };
  for (const [name, command] of Object.entries(commands)) {
    text(byId(`use-${name}`), command);
    byId(`copy-${name}`).dataset.copy = command;
  }
}

fillCommands();
watchCopyButtons();
picture.watchWidth();
byId("again").addEventListener("click", poll);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
});
poll();
