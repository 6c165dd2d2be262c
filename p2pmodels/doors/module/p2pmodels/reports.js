/**
 * The answer of a download as a `Response`, and the account of where its bytes came from.
 */

const PROGRESS_MS = 100; // ms between two calls of a page's `onProgress`

/**
 * @typedef {{kind: "daemon" | "peer" | "origin", id: string, bytes: number}} Giver id: of a peer
 * @typedef {object} Report
 * @property {string} url
 * @property {"asking" | "running" | "done" | "failed"} state
 * @property {number} loaded bytes of the file that are here
 * @property {number} total bytes of the file; -1: not known
 * @property {string} digest "" when nobody tells
 * @property {boolean} isVerified the digest was looked at and is right
 * @property {Giver[]} givers who gave how much, wrong bytes included
 * @property {string} error
 */

/** @type {WeakMap<Response, Log>} */
const logs = new WeakMap();

class Log {
  /**
   * @param {string} url
   * @param {((report: Report) => void) | undefined} onProgress
   */
  constructor(url, onProgress) {
    this.onProgress = onProgress;
    this.toldAt = -Infinity;
    /** @type {Report} */
    this.report = { url, state: "asking", loaded: 0, total: -1, digest: "", isVerified: false, givers: [], error: "" };
  }

  /** @param {{digest: string, size: number}} known */
  begin({ digest, size }) {
    Object.assign(this.report, { digest, total: size });
    this.tell(true);
  }

  /**
   * @param {string} from "daemon", "origin" or a peer's id
   * @param {number} bytes
   * @param {number} position
   */
  count(from, bytes, position) {
    const { report } = this;
    let giver = report.givers.find(({ kind, id }) => (kind === "peer" ? id : kind) === from);
    if (!giver) {
      const kind = from === "daemon" || from === "origin" ? from : "peer";
      giver = { kind, id: kind === "peer" ? from : "", bytes: 0 };
      report.givers.push(giver);
    }
    giver.bytes += bytes;
    report.state = "running";
    report.loaded = position;
    this.tell(false);
  }

  /** @param {boolean} isVerified */
  done(isVerified) {
    const { report } = this;
    Object.assign(report, { state: "done", isVerified, total: report.loaded });
    this.tell(true);
  }

  /** @param {unknown} error */
  fail(error) {
    Object.assign(this.report, { state: "failed", error: error instanceof Error ? error.message : String(error) });
    this.tell(true);
  }

  /** @param {boolean} isUrgent */
  tell(isUrgent) {
    const now = performance.now();
    if (!this.onProgress || (!isUrgent && now - this.toldAt < PROGRESS_MS)) return;
    this.toldAt = now;
    try {
      this.onProgress(this.copy());
    } catch (error) {
      console.error(error); // the page's own trouble; the download goes on
    }
  }

  /** @returns {Report} */
  copy() {
    return { ...this.report, givers: this.report.givers.map((giver) => ({ ...giver })) };
  }
}

/**
 * @param {string} url
 * @param {((report: Report) => void) | undefined} onProgress
 */
export function started(url, onProgress) {
  return new Log(url, onProgress);
}

/**
 * @param {Response} response
 * @returns {Report | null}
 */
export function reportOf(response) {
  return logs.get(response)?.copy() ?? null;
}

/**
 * A Response whose body is what `pieces` gives. It is there when the first piece is, so that a
 * refusal can still become another answer.
 * @param {AsyncGenerator<Uint8Array<ArrayBuffer>, void>} pieces
 * @param {Log} log
 * @param {{digest: string, size: number, commit: string}} known
 * @param {AbortSignal} signal
 * @returns {Promise<Response>}
 */
export async function answered(pieces, log, known, signal) {
  let next = await pieces.next();
  const body = new ReadableStream(
    {
      start(controller) {
        signal.addEventListener("abort", () => {
          log.fail(signal.reason);
          controller.error(signal.reason);
        });
      },
      async pull(controller) {
        try {
          if (!next.done) controller.enqueue(next.value);
          else {
            log.done(true);
            controller.close();
            return;
          }
          next = await pieces.next();
        } catch (error) {
          if (signal.aborted) return;
          log.fail(error);
          controller.error(error);
        }
      },
      async cancel(reason) {
        log.fail(reason ?? "nobody reads it any more");
        await pieces.return();
      },
    },
    { highWaterMark: 0 },
  );
  const from = log.report.givers[0];
  const headers = new Headers({
    "Content-Type": "application/octet-stream",
    "X-P2PModels-Source": from?.kind === "peer" ? "webrtc" : (from?.kind ?? "origin"),
    ETag: `"${known.digest}"`,
  });
  if (known.size >= 0) headers.set("Content-Length", String(known.size));
  if (known.commit) headers.set("X-Repo-Commit", known.commit);
  const response = new Response(body, { status: 200, headers });
  Object.defineProperty(response, "url", { value: log.report.url });
  logs.set(response, log);
  return response;
}

/**
 * An answer that goes to the page as it is; its bytes are counted where they pass.
 * @param {Response} response
 * @param {Log} log
 * @param {"daemon" | "origin"} from
 */
export function passed(response, log, from = "origin") {
  const total = Number(response.headers.get("Content-Length") ?? -1);
  log.begin({ digest: "", size: total });
  if (!response.body) {
    log.done(false);
    return response;
  }
  let position = 0;
  const counting = new TransformStream({
    transform(bytes, controller) {
      position += bytes.length;
      log.count(from, bytes.length, position);
      controller.enqueue(bytes);
    },
    flush: () => log.done(false),
  });
  const { status, statusText, headers } = response;
  const counted = new Response(response.body.pipeThrough(counting), { status, statusText, headers });
  Object.defineProperty(counted, "url", { value: log.report.url });
  logs.set(counted, log);
  return counted;
}
