/**
 * `fetch` as it was before anything of ours took its place.
 */

const original = globalThis.fetch;

/** @type {typeof fetch} */
export const plainFetch = (input, init) => original.call(globalThis, input, init);
