/**
 * Figures and states in words a teacher reads without a glossary. Pure: no page, no network.
 */

/** @typedef {import("./api.js").BySource} BySource */

const UNITS = ["bytes", "kB", "MB", "GB", "TB", "PB"];
const NARROW = "\u00a0"; // a figure and its unit stay on one line

/**
 * A number of bytes in decimal units, as disks and downloads are labelled.
 * @param {number} count
 */
export function bytes(count) {
  let value = Math.max(0, Number(count) || 0);
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit > 0 && value < 9.95 ? 1 : 0;
  return `${value.toFixed(digits)}${NARROW}${UNITS[unit]}`;
}

/** @param {number} perSecond */
export function rate(perSecond) {
  return `${bytes(perSecond)}/s`;
}

/**
 * Two rates in the unit of the larger one, and that unit.
 * @param {number} one
 * @param {number} other
 * @returns {[string, string, string]}
 */
export function rates(one, other) {
  const [, unit] = rate(Math.max(one, other)).split(NARROW);
  const scale = 1000 ** UNITS.indexOf(unit.replace("/s", ""));
  const figure = (/** @type {number} */ perSecond) => {
    const value = perSecond / scale;
    if (value > 0 && value < 0.1) return `<${NARROW}0.1`;
    return value.toFixed(value < 9.95 ? 1 : 0);
  };
  return [figure(one), figure(other), unit];
}

/**
 * @param {number} count
 * @param {string} one
 * @param {string} [many]
 */
export function counted(count, one, many = `${one}s`) {
  return `${count}${NARROW}${count === 1 ? one : many}`;
}

/**
 * What an error says and advises, as two whole sentences.
 * @param {Partial<import("./api.js").ApiError> | null} error
 */
export function trouble(error) {
  const sentences = [error?.message, error?.advice].filter(Boolean);
  return sentences.map((words) => (/[.!?]$/.test(words ?? "") ? words : `${words}.`)).join(" ");
}

/**
 * A share of a whole; never "0 %" for something, never "100 %" for less than all.
 * @param {number} part
 * @param {number} whole
 */
export function percent(part, whole) {
  if (!(whole > 0) || !(part > 0)) return `0${NARROW}%`;
  const value = (100 * part) / whole;
  if (value < 1) return `<${NARROW}1${NARROW}%`;
  return `${part < whole ? Math.min(99, Math.round(value)) : 100}${NARROW}%`;
}

/** @param {number} seconds */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole}${NARROW}s`;
  if (whole < 3600) return `${Math.round(whole / 60)}${NARROW}min`;
  if (whole < 48 * 3600) return `${Math.round(whole / 3600)}${NARROW}h`;
  return `${Math.round(whole / 86400)}${NARROW}days`;
}

/**
 * @param {string | null} when ISO 8601
 * @param {number} now milliseconds
 */
export function used(when, now) {
  const at = when ? Date.parse(when) : NaN;
  if (Number.isNaN(at)) return "";
  const seconds = (now - at) / 1000;
  return seconds < 60 ? "used just now" : `used ${duration(seconds)} ago`;
}

/**
 * The three places a byte can come from, each with the sources it is made of.
 * @type {{key: string, name: string, phrase: string, sources: Record<string, string>}[]}
 */
export const PLACES = [
  {
    key: "here",
    name: "This machine’s cache",
    phrase: "this machine",
    sources: { store: "asked for again, no download" },
  },
  {
    key: "nearby",
    name: "Other machines",
    phrase: "other machines",
    sources: { swarm: "BitTorrent", lan: "local network", webrtc: "browsers" },
  },
  {
    key: "internet",
    name: "The internet",
    phrase: "the internet",
    sources: { origin: "the origin", mirror: "mirrors" },
  },
];

/** Each source by itself, nearest first. */
const SOURCES = [
  ["store", "Already here"],
  ["lan", "Local network"],
  ["swarm", "BitTorrent"],
  ["webrtc", "Over WebRTC"],
  ["mirror", "A mirror"],
  ["origin", "The origin"],
];

/**
 * The sources that gave something, in a fixed order, and what they add up to.
 * @param {BySource} given
 */
export function sources(given) {
  const rows = SOURCES.map(([key, name]) => ({ key, name, bytes: Number(given?.[key]) || 0 }));
  const some = rows.filter((row) => row.bytes > 0);
  return { rows: some, total: some.reduce((sum, row) => sum + row.bytes, 0) };
}

/**
 * Bytes by place, and what they add up to.
 * @param {BySource} sources
 */
export function places(sources) {
  const rows = PLACES.map((place) => {
    const parts = Object.entries(place.sources)
      .map(([key, word]) => ({ word, bytes: Number(sources?.[key]) || 0 }))
      .filter((part) => part.bytes > 0);
    return { place, parts, bytes: parts.reduce((sum, part) => sum + part.bytes, 0) };
  });
  return { rows, total: rows.reduce((sum, row) => sum + row.bytes, 0) };
}

/**
 * "from other machines", "from the internet", or how much of it from where.
 * @param {BySource} sources
 */
export function cameFrom(sources) {
  const { rows, total } = places(sources);
  const some = rows.filter((row) => row.bytes > 0).sort((a, b) => b.bytes - a.bytes);
  if (some.length === 0) return "";
  if (some.length === 1) return `from ${some[0].place.phrase}`;
  return some.map((row) => `${percent(row.bytes, total)} from ${row.place.phrase}`).join(", ");
}

/** Why a model is shared or not: the word on the page, and the sentence behind it. */
export const SHARES = {
  shared: ["Shared", "Proven public: other machines can get it from this one."],
  incomplete: ["Not shared yet", "A model is shared once all of its files are here."],
  unproven: [
    "Not shared",
    "The origin has not confirmed within the last 7 days that everybody may read it.",
  ],
  restricted: ["Private", "Gated or private at its origin: it never leaves this machine."],
  off: ["Sharing is off", "Sharing is switched off in this daemon’s configuration."],
};

/** @type {Record<string, string>} */
export const PEER_STATES = {
  ready: "ready",
  new: "just found",
  unreachable: "does not answer",
};

export const FOUND_BY = {
  mdns: "found by itself",
  configured: "set by hand",
  webrtc: "over WebRTC",
  page: "a page that gets models here",
};

/** @type {Record<string, string>} */
export const ORIGIN_STATES = { ok: "answers", limited: "asks us to wait", down: "does not answer" };

/** @type {Record<string, string>} */
export const PART_NAMES = {
  swarm: "BitTorrent",
  lan: "Local network",
  mdns: "Finding machines",
  sharing: "Sharing",
  origins: "Looking after origins",
  nearby: "Meeting peers",
  links: "Links to machines",
  exchange: "Sharing a download",
  webrtc: "WebRTC",
  meeting: "Meeting over WebRTC",
};
