/**
 * The part of msgpack that links speak: one flat map of texts, whole numbers, booleans, bytes, and
 * lists of such.
 *
 * 1. Everything else is refused: floats, ext types, nil, maps in maps, keys twice, bytes behind.
 * 2. What is read stays in proportion to the message: no length is believed before it was checked
 *    against the bytes that are there.
 */

const DEPTH_LIMIT = 2; // lists in lists; `runs` is a list of lists

/** A message that breaks the rules of its format. */
export class FormatError extends Error {}

/** @typedef {string | number | boolean | Uint8Array | Value[]} Value */

/**
 * @param {Record<string, Value>} fields
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function pack(fields) {
  /** @type {number[]} */
  const out = [];
  const entries = Object.entries(fields);
  if (entries.length > 15) throw new FormatError("more than 15 keys");
  out.push(0x80 | entries.length);
  for (const [key, value] of entries) {
    write(out, key);
    write(out, value);
  }
  return Uint8Array.from(out);
}

/**
 * @param {number[]} out
 * @param {Value} value
 */
function write(out, value) {
  if (typeof value === "string") {
    const data = new TextEncoder().encode(value);
    if (data.length < 32) out.push(0xa0 | data.length);
    else head(out, data.length, 0xd9, 0xda);
    out.push(...data);
  } else if (typeof value === "boolean") {
    out.push(value ? 0xc3 : 0xc2);
  } else if (value instanceof Uint8Array) {
    head(out, value.length, 0xc4, 0xc5);
    out.push(...value);
  } else if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) {
    whole(out, value);
  } else {
    throw new FormatError(`${typeof value} cannot be said`);
  }
}

/**
 * @param {number[]} out
 * @param {number} length
 * @param {number} short
 * @param {number} long
 */
function head(out, length, short, long) {
  if (length > 0xffff) throw new FormatError(`${length} bytes in one value`);
  if (length < 256) out.push(short, length);
  else out.push(long, length >> 8, length & 255);
}

/**
 * @param {number[]} out
 * @param {number} value
 */
function whole(out, value) {
  const [tag, width] = value < 256 ? [0xcc, 1] : value < 65536 ? [0xcd, 2] : value < 2 ** 32 ? [0xce, 4] : [0xcf, 8]; // prettier-ignore
  if (value >= 128) out.push(tag);
  for (let at = (value < 128 ? 1 : width) - 1; at >= 0; at -= 1) {
    out.push(Math.floor(value / 256 ** at) % 256);
  }
}

/**
 * Read one map. Throws FormatError.
 * @param {Uint8Array} data
 * @returns {Record<string, Value>}
 */
export function unpack(data) {
  const reader = new Reader(data);
  const tag = reader.byte();
  if ((tag & 0xf0) !== 0x80) throw new FormatError("not a small map");
  /** @type {Record<string, Value>} */
  const fields = Object.create(null);
  for (let left = tag & 15; left > 0; left -= 1) {
    const key = reader.value(0);
    if (typeof key !== "string" || key in fields) throw new FormatError("a key that is none");
    fields[key] = reader.value(0);
  }
  if (reader.at !== data.length) throw new FormatError("bytes after the map");
  return fields;
}

class Reader {
  /** @param {Uint8Array} data */
  constructor(data) {
    this.data = data;
    this.at = 0;
  }

  byte() {
    return this.take(1)[0];
  }

  /** @param {number} length */
  take(length) {
    if (length > this.data.length - this.at) throw new FormatError("it ends too early");
    this.at += length;
    return this.data.subarray(this.at - length, this.at);
  }

  /** @param {number} width */
  whole(width) {
    const value = this.take(width).reduce((sum, byte) => sum * 256 + byte, 0);
    if (!Number.isSafeInteger(value)) throw new FormatError("a number beyond 2^53");
    return value;
  }

  /** @param {number} length */
  text(length) {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.take(length));
    } catch (error) {
      throw error instanceof FormatError ? error : new FormatError("a text that is not UTF-8");
    }
  }

  /**
   * @param {number} count
   * @param {number} depth
   */
  list(count, depth) {
    // Each value takes a byte at least: a crowd that is not there ends here.
    if (depth >= DEPTH_LIMIT || count > this.data.length - this.at) {
      throw new FormatError("too many lists, or a list too long");
    }
    return Array.from({ length: count }, () => this.value(depth + 1));
  }

  /**
   * @param {number} depth
   * @returns {Value}
   */
  value(depth) {
    const tag = this.byte();
    if (tag < 0x80) return tag;
    if (tag >= 0xa0 && tag <= 0xbf) return this.text(tag & 31);
    if (tag >= 0x90 && tag <= 0x9f) return this.list(tag & 15, depth);
    switch (tag) {
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
        return this.take(this.whole(1)).slice();
      case 0xc5:
        return this.take(this.whole(2)).slice();
      case 0xcc:
        return this.whole(1);
      case 0xcd:
        return this.whole(2);
      case 0xce:
        return this.whole(4);
      case 0xcf:
        return this.whole(8);
      case 0xd9:
        return this.text(this.whole(1));
      case 0xda:
        return this.text(this.whole(2));
      case 0xdc:
        return this.list(this.whole(2), depth);
      default:
        throw new FormatError(`a value of kind ${tag.toString(16)}`);
    }
  }
}
