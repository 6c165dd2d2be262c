/**
 * The control API as the page reads it: GET only, no token, nothing is ever changed from here.
 *
 * Every text in an answer may come from a stranger (repo and file names, peers, error messages), so
 * it goes on the page as text and never as markup.
 */

/**
 * @typedef {{code: string, message: string, advice: string}} ApiError
 * @typedef {Record<string, number>} BySource bytes by source: store, origin, mirror, swarm, …
 * @typedef {{url: string, state: string, error: ApiError | null}} Origin
 * @typedef {object} Status
 * @property {string} version
 * @property {string} id
 * @property {number} uptime_s
 * @property {string} peer_url
 * @property {string} data_dir
 * @property {{bytes: number, limit_bytes: number, free_bytes: number}} store
 * @property {BySource} bytes_by_source
 * @property {number} served_bytes
 * @property {number} shared_bytes
 * @property {Origin[]} origins
 * @property {Record<string, string>} parts
 *
 * @typedef {object} Model
 * @property {string} repo
 * @property {string} commit
 * @property {string[]} revisions
 * @property {number} files
 * @property {number} files_cached
 * @property {number} bytes
 * @property {number} bytes_cached
 * @property {boolean} is_complete
 * @property {boolean} is_pinned
 * @property {string} share
 * @property {string | null} magnet
 * @property {string | null} last_used
 * @property {BySource} sources
 *
 * @typedef {object} Peer
 * @property {string} id
 * @property {string} address
 * @property {string} found_by
 * @property {string} version
 * @property {string} state
 * @property {number} last_seen_s
 * @property {number} bytes_from
 * @property {number} bytes_to
 *
 * @typedef {object} Transfer
 * @property {string} id
 * @property {string} repo
 * @property {string} path
 * @property {number} size
 * @property {number} landed
 * @property {number} rate_bytes_per_s
 * @property {string} source
 * @property {BySource} sources
 * @property {string} state
 * @property {ApiError | null} error
 *
 * @typedef {object} Upload
 * @property {string} name
 * @property {string} infohash
 * @property {number} bytes
 * @property {number} rate_bytes_per_s
 * @property {number} peers
 *
 * @typedef {{id: string, kind: string, name: string, state: string}} Node kind: self, peer, …
 * @typedef {{from: string, to: string, bytes_per_s: number, bytes: number}} Flow
 * @typedef {{nodes: Node[], flows: Flow[]}} Flows
 *
 * @typedef {object} Answers
 * @property {Status} status
 * @property {Model[]} models
 * @property {Peer[]} peers
 * @property {Transfer[]} transfers
 * @property {Upload[]} uploads
 * @property {Flows} flows
 */

const BASE = "/api/p2p/v1/";
const ANSWER_WITHIN_MS = 8000; // ms; a daemon on this machine answers in a few, busy or not

/** Nobody answered, or not in time. */
export class UnreachableError extends Error {}

/** The daemon answered, but with an error of its own. */
export class RefusedError extends Error {
  /** @param {Partial<ApiError>} error */
  constructor(error) {
    super(error.message || "It answered with an error.");
    this.advice = error.advice || "";
  }
}

/**
 * @param {string} path
 * @param {AbortSignal} signal
 * @returns {Promise<any>}
 */
async function ask(path, signal) {
  const answer = await fetch(BASE + path, { signal, cache: "no-store", credentials: "omit" })
    .then(async (head) => ({ head, body: await head.text() }))
    .catch((reason) => {
      throw new UnreachableError(String(reason));
    });
  const { ok, status } = answer.head;
  const body = parsed(answer.body);
  if (ok && body) return body;
  throw new RefusedError(body?.error ?? { message: `An answer with status ${status} is not JSON.` });
}

/** @param {string} body */
function parsed(body) {
  try {
    return JSON.parse(body);
  } catch {
    return null;
  }
}

/**
 * Everything the page shows, asked for at once.
 * @returns {Promise<Answers>}
 */
export async function askAll() {
  const signal = AbortSignal.timeout(ANSWER_WITHIN_MS);
  const paths = ["status", "models", "peers", "transfers", "flows"];
  const [status, models, peers, running, flows] = await Promise.all(
    paths.map((path) => ask(path, signal)),
  );
  return {
    status,
    models: models.models ?? [],
    peers: peers.peers ?? [],
    transfers: running.transfers ?? [],
    uploads: running.uploads ?? [],
    flows: { nodes: flows.nodes ?? [], flows: flows.flows ?? [] },
  };
}
