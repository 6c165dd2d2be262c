/**
 * The inner loop of SHA-256 as WebAssembly, several times as fast as the same in JavaScript.
 *
 * 1. The code is written here, instruction by instruction, when the module loads: nothing opaque is
 *    shipped, and there is no build step.
 * 2. Where WebAssembly is forbidden (a page's policy) or not there yet, `engine` is null and
 *    `hashes.js` does it in JavaScript.
 */

const PAGE = 65_536; // bytes of a page of WebAssembly memory
const DATA = 1024; // where the data lies; the state lies at 0
const TAKEN_AT_ONCE = 4 * PAGE - DATA; // bytes of data; whole blocks

/**
 * Instructions (WebAssembly core specification, 5.4). `code` is a list of bytes.
 * @typedef {number[]} Code
 */
const [GET, SET, TEE, LOAD, STORE, CONST, ADD, AND, XOR, SHIFT, ROTATE] =
  [0x20, 0x21, 0x22, 0x28, 0x36, 0x41, 0x6a, 0x71, 0x73, 0x76, 0x78]; // prettier-ignore

// Locals: 0 and 1 are the arguments `at` and `stop`, then a … h, one help, sixteen words.
const AT = 0;
const STOP = 1;
const LETTERS = 2;
const HELP = 10;
const WORDS = 11;

/** @param {number} value */
function unsigned(value) {
  const out = [];
  for (; value > 127; value >>>= 7) out.push((value & 127) | 128);
  return [...out, value];
}

/** @param {number} value */
function constant(value) {
  const out = [CONST];
  for (;;) {
    const low = value & 127;
    value >>= 7;
    const isLast = (value === 0 && !(low & 64)) || (value === -1 && Boolean(low & 64));
    out.push(isLast ? low : low | 128);
    if (isLast) return out;
  }
}

/** @param {number} local */
const get = (local) => [GET, local];

/**
 * @param {Code} x
 * @param {number} by
 */
const rotated = (x, by) => [...x, ...constant(by), ROTATE];

/**
 * Σ and σ of FIPS 180-4, 4.1.2: two rotations, and a third or a shift.
 * @param {number} local
 * @param {number} one
 * @param {number} two
 * @param {number} three
 * @param {boolean} isShift
 */
function sigma(local, one, two, three, isShift) {
  const x = get(local);
  const third = isShift ? [...x, ...constant(three), SHIFT] : rotated(x, three);
  return [...rotated(x, one), ...rotated(x, two), XOR, ...third, XOR];
}

/**
 * One of the 64 rounds. The letters change places by being counted on, so nothing is moved.
 * @param {number} t
 * @param {number} k
 * @returns {Code}
 */
function round(t, k) {
  const [a, b, c, d, e, f, g, h] = Array.from({ length: 8 }, (_, at) => LETTERS + ((at - t + 64) & 7));
  const word = WORDS + (t & 15);
  /** @type {Code} */
  let code = [];
  if (t < 16) {
    // The word is stored the other way round than memory is read here.
    const loaded = [...get(AT), LOAD, 2, ...unsigned(4 * t)];
    const even = [...loaded, TEE, HELP, ...constant(24), ROTATE, ...constant(0x00ff00ff), AND];
    const odd = [...get(HELP), ...constant(8), ROTATE, ...constant(0xff00ff00 | 0), AND];
    code = [...even, ...odd, XOR, SET, word];
  } else {
    const back = (/** @type {number} */ by) => WORDS + ((t - by) & 15);
    code = [
      ...get(word), ...sigma(back(15), 7, 18, 3, true), ADD, ...get(back(7)), ADD,
      ...sigma(back(2), 17, 19, 10, true), ADD, SET, word,
    ]; // prettier-ignore
  }
  const choice = [...get(f), ...get(g), XOR, ...get(e), AND, ...get(g), XOR];
  const majority = [...get(a), ...get(b), XOR, ...get(c), AND, ...get(a), ...get(b), AND, XOR];
  return [
    ...code,
    ...get(h), ...sigma(e, 6, 11, 25, false), ADD, ...choice, ADD, ...constant(k), ADD,
    ...get(word), ADD, TEE, HELP, ...get(d), ADD, SET, d,
    ...get(HELP), ...sigma(a, 2, 13, 22, false), ADD, ...majority, ADD, SET, h,
  ]; // prettier-ignore
}

/**
 * @param {number} id
 * @param {number[]} content
 */
const section = (id, content) => [id, ...unsigned(content.length), ...content];

/**
 * A module with a memory `m` and a function `f(at, stop)` that takes the blocks there into the state.
 * @param {Int32Array} constants
 */
function assembled(constants) {
  const letters = Array.from({ length: 8 }, (_, at) => at);
  const state = (/** @type {number} */ at) => [...constant(0), LOAD, 2, 4 * at];
  const body = [
    1, ...unsigned(25), 0x7f, // 25 locals of type i32
    ...letters.flatMap((at) => [...state(at), SET, LETTERS + at]),
    0x03, 0x40, // loop
    ...Array.from(constants).flatMap((k, t) => round(t, k)),
    ...letters.flatMap((at) => [
      ...constant(0), ...state(at), ...get(LETTERS + at), ADD, TEE, LETTERS + at, STORE, 2, 4 * at,
    ]),
    ...get(AT), ...constant(64), ADD, TEE, AT, ...get(STOP), 0x49, 0x0d, 0, // at < stop: again
    0x0b, 0x0b,
  ]; // prettier-ignore
  return Uint8Array.from([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, [1, 0x60, 2, 0x7f, 0x7f, 0]), // a type: two i32, nothing back
    ...section(3, [1, 0]),
    ...section(5, [1, 0, 4]), // four pages
    ...section(7, [2, 1, 0x6d, 2, 0, 1, 0x66, 0, 0]), // exports m and f
    ...section(10, [1, ...unsigned(body.length), ...body]),
  ]); // prettier-ignore
}

/**
 * Takes whole blocks into a state.
 * @typedef {(state: Int32Array, data: Uint8Array, start: number, stop: number) => void} Engine
 */

/** @type {Engine | null} */
export let engine = null;

/**
 * Make the engine ready.
 * @param {Int32Array} constants of the 64 rounds
 */
export async function start(constants) {
  try {
    const { instance } = await WebAssembly.instantiate(assembled(constants));
    const { m, f } = /** @type {{m: WebAssembly.Memory, f: (at: number, stop: number) => void}} */ (
      /** @type {unknown} */ (instance.exports)
    );
    const state = new Int32Array(m.buffer, 0, 8);
    const space = new Uint8Array(m.buffer, DATA);
    engine = (given, data, start, stop) => {
      state.set(given);
      for (let at = start; at < stop; at += TAKEN_AT_ONCE) {
        const part = data.subarray(at, Math.min(stop, at + TAKEN_AT_ONCE));
        space.set(part);
        f(DATA, DATA + part.length);
      }
      given.set(state);
    };
  } catch {
    engine = null; // forbidden here
  }
}
