/**
 * Model files from the nearest place, in any page or worker, checked before the last byte.
 *
 *     import { fetchModelFile, install } from "http://192.168.1.5:7879/p2pmodels.js";
 *     const response = await fetchModelFile("https://huggingface.co/org/name/resolve/main/file");
 *     install();   // or: let WebLLM and transformers.js fetch as they do, and be asked first
 *
 * 1. The daemon of this machine is asked first, then daemons of the LAN over WebRTC, met through the
 *    rendezvous (the daemon this module came from), then the URL itself.
 * 2. The digest comes from the caller, else from the hub that the URL names, else from the
 *    rendezvous, which is then trusted as much as the page that chose it. Without a digest only the
 *    daemon of this machine and the URL itself are used.
 * 3. In workers WebRTC needs a page of the same web origin that called `install` or `serveWorkers`.
 * 4. Files are public: requests with a token are never ours, and nothing is sent with one.
 */

import { servePage } from "./p2pmodels/bridge.js";
import { fromHub } from "./p2pmodels/digests.js";
import { Refused, download } from "./p2pmodels/download.js";
import { hook } from "./p2pmodels/hook.js";
import { DEFAULT_HUB, parseHubUrl } from "./p2pmodels/names.js";
import { plainFetch } from "./p2pmodels/network.js";
import { peersOf } from "./p2pmodels/peers.js";
import { DEFAULT_DAEMON, Daemon, isLoopback } from "./p2pmodels/sources.js";
import { answered, passed, reportOf, started } from "./p2pmodels/reports.js";

/**
 * @typedef {import("./p2pmodels/reports.js").Report} Report
 * @typedef {object} Options
 * @property {(progress: Report) => void} [onProgress] called at most ten times a second, and at the end
 * @property {AbortSignal} [signal]
 * @property {string} [sha256] 64 hexadecimal digits; what the file must be
 * @property {number} [size] bytes; with `sha256`, spares a question to the hub
 * @property {string | null} [rendezvous] ws(s):// or http(s):// address of a daemon's peer port;
 *   null: no WebRTC. Default: where this module came from
 * @property {string} [secret] the group secret of the LAN, if it has one
 * @property {string} [room] at the rendezvous; default "lan"
 * @property {string | null} [daemon] the daemon of this machine; null: none
 * @property {readonly string[]} [hubs] base URLs of hubs; default: huggingface.co
 */

const SIGNAL_PATH = "/peer/v1/signal";
const PROBE = "bytes=0-0"; // how libraries ask whether there is a file, and how long it is

/** @type {Map<string, Daemon>} one for each address: what is absent is remembered */
const daemons = new Map();

/**
 * Fetch a file of a hub. The answer is a `Response` with status 200 whose body breaks off with an
 * error when the file is wrong; what the origin refuses comes as its own answer.
 * @param {string | URL} url
 * @param {Options} [options]
 * @returns {Promise<Response>}
 */
export async function fetchModelFile(url, options = {}) {
  const address = new URL(url, globalThis.location?.href).href.split("#")[0];
  const signal = options.signal ?? new AbortController().signal;
  signal.throwIfAborted();
  const file = parseHubUrl(address, options.hubs ?? [DEFAULT_HUB]);
  const daemon = daemonOf(options);
  const peers = peersOf(meetingOf(options));
  const report = started(address, options.onProgress);
  daemon.isThere(); // asked meanwhile
  const known = await knownOf(file, options, peers);
  signal.throwIfAborted();
  if (!known) return unchecked(address, file, daemon, report, signal);
  report.begin(known);
  const order = {
    url: address, file, known, daemon, peers, signal,
    onBytes: (/** @type {string} */ from, /** @type {number} */ bytes, /** @type {number} */ position) => report.count(from, bytes, position),
  }; // prettier-ignore
  try {
    return await answered(download(order), report, known, signal);
  } catch (error) {
    if (error instanceof Refused) return passed(error.response, report);
    report.fail(error);
    throw error;
  }
}

/**
 * Let `fetch` and the Cache API of this page or worker get hub files this way; a page also lends its
 * WebRTC to the workers of its web origin.
 * @param {Options} [options] `signal`, `sha256` and `size` are each request's own
 * @returns {() => void} takes it away
 */
export function install(options = {}) {
  const hubs = options.hubs ?? [DEFAULT_HUB];
  const stop = typeof RTCPeerConnection === "undefined" ? () => {} : serveWorkers();
  const unhook = hook(hubs, async (url, { signal, range }) => {
    if (range === null) return fetchModelFile(url, { ...options, hubs, signal });
    return fetchRange(url, range, { ...options, hubs, signal });
  });
  return () => {
    unhook();
    stop();
  };
}

/**
 * Pull over WebRTC for the workers of this web origin; pages only.
 * @returns {() => void} how to stop
 */
export function serveWorkers() {
  return servePage(peersOf);
}

/**
 * Where the bytes of an answer came from, so far.
 * @param {Response} response one of ours
 * @returns {Report | null}
 */
export function report(response) {
  return reportOf(response);
}

/**
 * A part of a file, from the daemon of this machine or the origin. Whether there is a file, and its
 * size, is known from the list: no hub is asked for each of them again.
 * @param {string} url
 * @param {string} range
 * @param {Options} options
 */
async function fetchRange(url, range, options) {
  const file = parseHubUrl(url, options.hubs ?? []);
  const daemon = daemonOf(options);
  const headers = { Range: range };
  const { signal } = options;
  const log = started(url, options.onProgress);
  if (file && (await daemon.isThere())) {
    try {
      const found = await plainFetch(daemon.url(file), { ...daemon.init(), headers, signal });
      if (found.status === 206 || found.status === 416) return passed(found, log, "daemon");
      await found.body?.cancel();
    } catch (error) {
      if (signal?.aborted) throw error;
    }
  }
  if (file && range === PROBE) {
    const known = await knownOf(file, {}, peersOf(meetingOf(options)));
    if (known && known.size > 0) return probed(url, known, options);
  }
  return passed(await plainFetch(url, { headers, signal, cache: "no-store" }), log);
}

/**
 * The answer to a probe. Nobody reads its byte; if somebody does, it comes out of the whole file,
 * checked.
 * @param {string} url
 * @param {{digest: string, size: number, commit: string}} known
 * @param {Options} options
 */
function probed(url, known, options) {
  const over = new AbortController();
  const signals = options.signal ? [options.signal, over.signal] : [over.signal];
  const body = new ReadableStream(
    {
      async pull(controller) {
        const whole = await fetchModelFile(url, { ...options, signal: AbortSignal.any(signals) });
        if (!whole.ok || !whole.body) throw new TypeError(`${url}: status ${whole.status}`);
        /** @type {Uint8Array | undefined} */
        let first;
        const reader = whole.body.getReader();
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
          first ??= part.value.slice(0, 1);
        }
        controller.enqueue(first);
        controller.close();
      },
      cancel: () => over.abort(),
    },
    { highWaterMark: 0 },
  );
  const headers = new Headers({
    "Accept-Ranges": "bytes",
    "Content-Length": "1",
    "Content-Range": `bytes 0-0/${known.size}`,
    "Content-Type": "application/octet-stream",
    ETag: `"${known.digest}"`,
  });
  if (known.commit) headers.set("X-Repo-Commit", known.commit);
  const response = new Response(body, { status: 206, headers });
  Object.defineProperty(response, "url", { value: url });
  return response;
}

/**
 * Of a file whose digest nobody tells: the daemon checks it by itself, the origin is the authority.
 * @param {string} url
 * @param {import("./p2pmodels/names.js").HubFile | null} file
 * @param {Daemon} daemon
 * @param {ReturnType<typeof started>} log
 * @param {AbortSignal} signal
 */
async function unchecked(url, file, daemon, log, signal) {
  if (file && (await daemon.isThere())) {
    try {
      const found = await plainFetch(daemon.url(file), { ...daemon.init(), signal });
      if (found.ok) return passed(found, log, "daemon");
      await found.body?.cancel();
    } catch (error) {
      if (signal.aborted) throw error;
    }
  }
  return passed(await plainFetch(url, { signal }), log);
}

/**
 * @param {import("./p2pmodels/names.js").HubFile | null} file
 * @param {Options} options
 * @param {import("./p2pmodels/peers.js").Peers} peers
 * @returns {Promise<{digest: string, size: number, commit: string} | null>}
 */
async function knownOf(file, { sha256, size }, peers) {
  if (sha256 !== undefined && !/^[0-9a-f]{64}$/i.test(sha256)) throw new TypeError("sha256: 64 hexadecimal digits");
  const digest = sha256?.toLowerCase();
  if (digest && size !== undefined) return { digest, size, commit: "" };
  const listed = file ? await fromHub(file) : null;
  const found = listed ?? (file ? await peers.file(file) : null);
  if (!digest) return found === "absent" ? null : found;
  const isSame = found !== null && found !== "absent" && found.digest === digest;
  return isSame ? found : { digest, size: -1, commit: "" };
}

/** @param {Options} options */
function daemonOf({ daemon }) {
  const here = new URL(import.meta.url);
  // Loaded from a daemon of this very machine, that one is it.
  const base = daemon ?? (daemon === undefined && isLoopback(here.href) ? here.origin : daemon === null ? "" : DEFAULT_DAEMON);
  const found = daemons.get(base) ?? new Daemon(base);
  daemons.set(base, found);
  return found;
}

/** @param {Options} options */
function meetingOf({ rendezvous, secret = "", room = "lan" }) {
  const given = rendezvous === undefined ? new URL(import.meta.url).origin : (rendezvous ?? "");
  if (!/^(ws|http)s?:\/\//.test(given)) return { rendezvous: "", secret, room };
  const address = new URL(given.replace(/^http/, "ws"));
  if (address.pathname === "/") address.pathname = SIGNAL_PATH;
  return { rendezvous: address.href, secret, room };
}
