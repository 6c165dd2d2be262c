/**
 * The hook: `fetch` and the Cache API of this context ask us first about files of a hub.
 *
 * 1. Only a plain GET of a hub's file is ours. Whatever carries a token, a condition, a body or
 *    credentials goes where it went before.
 * 2. A range is passed on as it is, to the daemon of this machine or else to the origin: a part of a
 *    file has no digest of its own, so peers are not asked for it. Only the first byte alone, by
 *    which libraries ask for a file's size, is answered from what is known.
 * 3. `cache.add` fetches inside the browser; it is replaced by a fetch of ours and a `put`.
 */

import { parseHubUrl } from "./names.js";

const FOREIGN = ["authorization", "if-match", "if-none-match", "if-modified-since", "if-range", "if-unmodified-since"]; // prettier-ignore

/**
 * @typedef {(url: string, given: {signal: AbortSignal, range: string | null}) => Promise<Response>} Answer
 */

/**
 * @param {readonly string[]} hubs
 * @param {Answer} answer
 * @returns {() => void} takes the hook away
 */
export function hook(hubs, answer) {
  const kept = globalThis.Cache?.prototype; // not there on http://192.168.x.x
  const before = { fetch: globalThis.fetch, add: kept?.add, addAll: kept?.addAll };
  let isOn = true;

  /** @type {typeof fetch} */
  const ours = async (input, init) => {
    const request = isOn ? readable(input, init) : null;
    const url = request ? request.url.split("#")[0] : "";
    if (!request || !isOurs(request) || !parseHubUrl(url, hubs)) {
      return before.fetch.call(globalThis, input, init);
    }
    return answer(url, { signal: request.signal, range: request.headers.get("Range") });
  };

  /**
   * @this {Cache}
   * @param {Iterable<RequestInfo | URL>} given
   */
  async function addAll(given) {
    const requests = [...given];
    const isAsked = isOn && requests.some((one) => {
      const request = readable(one);
      return request && isOurs(request) && parseHubUrl(request.url.split("#")[0], hubs);
    });
    if (!isAsked) return before.addAll.call(this, /** @type {RequestInfo[]} */ (requests));
    const answers = await Promise.all(requests.map((one) => ours(one)));
    const bad = answers.find((one) => !one.ok || one.status === 206);
    if (bad) throw new TypeError(`Failed to execute 'add' on 'Cache': status ${bad.status}`);
    await Promise.all(answers.map((one, at) => this.put(/** @type {RequestInfo} */ (requests[at]), one)));
  }

  globalThis.fetch = ours;
  if (kept) {
    kept.addAll = addAll;
    kept.add = function (request) {
      return addAll.call(this, [request]);
    };
  }
  return () => {
    isOn = false;
    // Who hooked in after us keeps their hook; ours then only passes on.
    if (globalThis.fetch === ours) globalThis.fetch = before.fetch;
    if (kept?.addAll === addAll) Object.assign(kept, { add: before.add, addAll: before.addAll });
  };
}

/**
 * @param {RequestInfo | URL} input
 * @param {RequestInit} [init]
 */
function readable(input, init) {
  try {
    // A body can be read once only, and what has one is not ours.
    if (input instanceof Request && input.body) return null;
    return new Request(input, init);
  } catch {
    return null; // let the browser say what is wrong with it
  }
}

/** @param {Request} request */
function isOurs(request) {
  const range = request.headers.get("Range");
  return (
    request.method === "GET" &&
    request.mode !== "no-cors" &&
    request.mode !== "same-origin" &&
    request.credentials !== "include" &&
    request.cache !== "only-if-cached" &&
    !request.integrity &&
    !FOREIGN.some((name) => request.headers.has(name)) &&
    (range === null || /^bytes=\d+-\d*$|^bytes=-\d+$/.test(range))
  );
}
