/**
 * URLs of files on a hub, read strictly: what is not surely one is left alone.
 */

export const DEFAULT_HUB = "https://huggingface.co";

const REPO = /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$/;
const REVISION = /^[A-Za-z0-9][A-Za-z0-9._/+@=-]{0,254}$/;

/**
 * @typedef {object} HubFile
 * @property {string} hub base URL, without a slash at its end
 * @property {"model" | "dataset"} kind
 * @property {string} repo
 * @property {string} revision
 * @property {string} path
 */

/**
 * @param {string} url
 * @param {readonly string[]} hubs base URLs
 * @returns {HubFile | null}
 */
export function parseHubUrl(url, hubs) {
  const hub = hubs.map((base) => base.replace(/\/+$/, "")).find((base) => url.startsWith(`${base}/`));
  if (!hub) return null;
  const segments = new URL(url).pathname.slice(new URL(`${hub}/`).pathname.length).split("/");
  /** @type {"model" | "dataset"} */
  const kind = segments[0] === "datasets" ? "dataset" : "model";
  if (kind === "dataset") segments.shift();
  const at = segments.indexOf("resolve");
  if (at < 1 || at > 2 || segments.length < at + 3) return null;
  const names = segments.map(decoded);
  const [repo, revision, path] = [names.slice(0, at), names[at + 1], names.slice(at + 2)];
  const isSafe = path.every((name) => name && name !== "." && name !== ".." && !/[\\/\0]/.test(name));
  if (!repo.every((name) => REPO.test(name)) || !REVISION.test(revision) || !isSafe) return null;
  return { hub, kind, repo: repo.join("/"), revision, path: path.join("/") };
}

/** @param {string} segment */
function decoded(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return "";
  }
}

/**
 * The path of a file at any hub, the daemon of this machine included.
 * @param {HubFile} file
 */
export function resolvePath({ kind, repo, revision, path }) {
  const encoded = path.split("/").map(encodeURIComponent).join("/");
  return `/${kind === "dataset" ? "datasets/" : ""}${repo}/resolve/${encodeURIComponent(revision)}/${encoded}`;
}

/**
 * The path of the list of all files of a revision, with their digests.
 * @param {HubFile} file
 */
export function listPath({ kind, repo, revision }) {
  return `/api/${kind}s/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
}
