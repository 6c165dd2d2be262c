/**
 * What a file's digest is: from the hub that the URL names, else from the rendezvous.
 *
 * 1. One request a repo and revision; the answer serves all its files. Of a branch it is asked again
 *    after BRANCH_MS, of a commit never.
 * 2. A hub that does not answer in time, or refuses, is not asked again for RETRY_MS.
 */

import { listPath } from "./names.js";
import { plainFetch } from "./network.js";

const ANSWER_MS = 5000; // ms for the list of a repo; without it the rendezvous is asked
const RETRY_MS = 60_000; // ms
const BRANCH_MS = 300_000; // ms; a branch that moved is seen after that
const LISTS_LIMIT = 64; // repos that are remembered

/**
 * @typedef {{digest: string, size: number, commit: string}} Known
 * @typedef {Map<string, Known | null>} List null: the hub lists it without its digest
 */

/** @type {Map<string, {list: Promise<List | null>, until: number}>} */
const lists = new Map();

/**
 * What the hub says of a file: what it is, "absent" when the repo has no such file, null when the
 * hub does not tell.
 * @param {import("./names.js").HubFile} file
 * @returns {Promise<Known | "absent" | null>}
 */
export async function fromHub(file) {
  const url = file.hub + listPath(file);
  let entry = lists.get(url);
  if (!entry || performance.now() > entry.until) {
    const isFixed = /^[0-9a-f]{40}$/.test(file.revision);
    const fresh = { list: asked(url), until: isFixed ? Infinity : performance.now() + BRANCH_MS };
    lists.delete(url);
    lists.set(url, fresh);
    if (lists.size > LISTS_LIMIT) lists.delete(/** @type {string} */ (lists.keys().next().value));
    fresh.list.then((list) => {
      if (!list) fresh.until = performance.now() + RETRY_MS;
    });
    entry = fresh;
  }
  const list = await entry.list;
  if (!list) return null;
  const known = list.get(file.path);
  return known === undefined ? "absent" : known;
}

/**
 * @param {string} url
 * @returns {Promise<List | null>}
 */
async function asked(url) {
  try {
    const signal = AbortSignal.timeout(ANSWER_MS);
    const answer = await plainFetch(url, { signal, credentials: "omit" });
    return answer.ok ? parsed(await answer.json()) : null;
  } catch {
    return null;
  }
}

/**
 * @param {any} body the hub's JSON
 * @returns {List | null}
 */
function parsed(body) {
  if (!Array.isArray(body?.siblings)) return null;
  const commit = /^[0-9a-f]{40}$/.test(body.sha) ? body.sha : "";
  /** @type {List} */
  const list = new Map();
  for (const { rfilename, size, blobId, lfs } of body.siblings) {
    const digest = lfs?.sha256 ?? lfs?.oid ?? blobId;
    const length = lfs?.size ?? size;
    const isKnown = /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(digest) && Number.isSafeInteger(length);
    if (typeof rfilename !== "string") return null;
    list.set(rfilename, isKnown && length >= 0 ? { digest, size: length, commit } : null);
  }
  return list;
}

/** Ask hubs again that did not answer before. */
export function forgetLists() {
  lists.clear();
}
