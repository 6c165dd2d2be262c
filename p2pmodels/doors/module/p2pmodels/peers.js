/**
 * Daemons of the LAN as a source of bytes: over WebRTC here, or through a page when this is a worker.
 */

import { askedPage } from "./bridge.js";
import { Pulling } from "./pulling.js";
import { roomOf } from "./room.js";

/**
 * @typedef {{rendezvous: string, secret: string, room: string}} Meeting
 * @typedef {object} Peers
 * @property {(known: {digest: string, size: number}, at: number, avoided: Set<string>) =>
 *   Promise<import("./sources.js").Reader | null>} open
 * @property {(file: import("./names.js").HubFile) =>
 *   Promise<{digest: string, size: number, commit: string} | null>} file
 */

/**
 * @param {Meeting} meeting
 * @returns {Peers}
 */
export function peersOf(meeting) {
  // Workers have no RTCPeerConnection: a page of the same origin lends them its own.
  if (typeof RTCPeerConnection === "undefined") return askedPage(meeting);
  return {
    async open(known, at, avoided) {
      const room = await roomOf(meeting);
      return room ? new Pulling(room, known, at, avoided) : null;
    },
    async file(file) {
      const room = await roomOf(meeting);
      return room ? room.rendezvous.file(file).catch(() => null) : null;
    },
  };
}
