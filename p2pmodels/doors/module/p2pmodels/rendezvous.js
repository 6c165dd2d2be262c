/**
 * The WebSocket of a rendezvous: who is there, offers and answers, and what a file's digest is.
 *
 * 1. What it says is checked; what breaks the rules ends it. It only ever suggests: with a group
 *    secret daemons prove themselves, and bytes are checked against a digest.
 * 2. Every question has a deadline.
 */

import { hex, hmac, utf8 } from "./hashes.js";

const JOIN_MS = 4000; // ms until the room has answered; also what a dead address costs
const ANSWER_MS = 8000; // ms until a daemon has answered an offer through it
const FILE_MS = 3000; // ms; it answers from memory
const MESSAGE_LIMIT = 64 * 1024; // characters; a full room of members is far below
const MEMBERS_LIMIT = 1024; // daemons of one room that are remembered

/** The rendezvous or the daemon behind it did not do what was asked. */
export class MeetingError extends Error {
  /**
   * @param {string} words
   * @param {number} [retryMs] when to ask again, if it said so
   */
  constructor(words, retryMs) {
    super(words);
    this.retryMs = retryMs;
  }
}

/** @typedef {Record<string, any>} Message a JSON object; each field is checked where it is used */

export class Rendezvous extends EventTarget {
  /**
   * @param {string} url ws:// or wss://
   * @param {{id: string, secret: string, room: string}} own
   */
  constructor(url, own) {
    super();
    this.own = own;
    this.isOver = false;
    /** @type {Set<string>} daemons by the name that the room gave them */
    this.members = new Set();
    /** @type {Map<string, (message: Message) => void>} */
    this.waiting = new Map();
    this.count = 0;
    this.socket = new WebSocket(url);
    this.socket.addEventListener("open", () => {
      this.send({ t: "join", room: own.room, kind: "page", id: own.id });
    });
    this.socket.addEventListener("message", (event) => this.hear(event.data));
    this.socket.addEventListener("close", () => this.close());
    this.socket.addEventListener("error", () => this.close());
    /** Settled when the room has answered. */
    this.joined = this.wait("joined", JOIN_MS);
    this.joined.catch(() => this.close());
  }

  close() {
    if (this.isOver) return;
    this.isOver = true;
    this.socket.close();
    for (const settle of [...this.waiting.values()]) settle({ t: "gone" });
    this.dispatchEvent(new Event("over"));
  }

  /**
   * Bring an offer to a member. Throws MeetingError when it is refused or nobody answers.
   * @param {string} member
   * @param {string} sdp
   * @returns {Promise<string>} the answer's SDP
   */
  async offer(member, sdp) {
    const session = `${hex(crypto.getRandomValues(new Uint8Array(12)))}`;
    const { secret } = this.own;
    const proof = secret ? hex(hmac(utf8(secret), utf8(`p2pmodels-sdp-1${sdp}`))) : "";
    this.send({ t: "offer", to: member, session, sdp, proof });
    const answer = await this.wait(session, ANSWER_MS);
    if (answer.t !== "answer" || answer.from !== member || typeof answer.sdp !== "string") {
      const retryMs = answer.retry_s > 0 ? 1000 * answer.retry_s : undefined;
      throw new MeetingError(`refused: ${String(answer.code ?? answer.t).slice(0, 60)}`, retryMs);
    }
    return answer.sdp;
  }

  /**
   * What the rendezvous itself knows of a file; null when it does not.
   * @param {import("./names.js").HubFile} file
   * @returns {Promise<{digest: string, size: number, commit: string} | null>}
   */
  async file(file) {
    const number = (this.count += 1);
    const { repo, revision, path, kind } = file;
    this.send({ t: "file", number, repo, revision, path, kind });
    const answer = await this.wait(`file ${number}`, FILE_MS);
    const { digest, size, commit } = answer;
    const isKnown = /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(digest) && Number.isSafeInteger(size) && size >= 0;
    return isKnown ? { digest, size, commit: /^[0-9a-f]{40}$/.test(commit) ? commit : "" } : null;
  }

  // inside

  /** @param {Message} message */
  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  /**
   * @param {string} key
   * @param {number} within ms
   * @returns {Promise<Message>}
   */
  wait(key, within) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => settle({ t: "late" }), within);
      const settle = (/** @type {Message} */ message) => {
        clearTimeout(timer);
        this.waiting.delete(key);
        if (message.t === "late" || message.t === "gone") reject(new MeetingError(message.t));
        else resolve(message);
      };
      if (this.isOver) settle({ t: "gone" });
      else this.waiting.set(key, settle);
    });
  }

  /** @param {unknown} data */
  hear(data) {
    const message = parsed(data);
    if (!message) return this.close();
    const { t, member, kind, session, number, members } = message;
    if (t === "joined" && Array.isArray(members)) {
      for (const one of members) this.came(one?.member, one?.kind);
      this.waiting.get("joined")?.(message);
    } else if (t === "came") {
      this.came(member, kind);
    } else if (t === "left") {
      this.members.delete(String(member));
    } else if (t === "answer" || t === "refused") {
      this.waiting.get(String(session))?.(message);
    } else if (t === "file") {
      this.waiting.get(`file ${number}`)?.(message);
    } else if (t === "error") {
      this.close();
    }
  }

  /**
   * @param {unknown} member
   * @param {unknown} kind
   */
  came(member, kind) {
    if (typeof member !== "string" || member.length > 64 || kind !== "daemon") return;
    if (this.members.size < MEMBERS_LIMIT) this.members.add(member);
    this.dispatchEvent(new Event("came"));
  }
}

/**
 * @param {unknown} data
 * @returns {Message | null}
 */
function parsed(data) {
  if (typeof data !== "string" || data.length > MESSAGE_LIMIT) return null;
  try {
    const value = JSON.parse(data);
    return value && typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}
