// The key-value pairs of a model file: the checked cursor that reads them, and typed getters for those who use them.
// Strings and numbers are as hostile as the rest of the file: nothing is read past its end, allocated beyond its size
// or decoded before it is asked for. Not here: tensors and shards (gguf.ts), what a key means (config.ts, tokenizer.ts).

import type { ByteSource } from "../files.ts";

/** A model file that cannot be used. One line: `<file>: <field>: <value>; <what is allowed>`. */
export class ModelError extends Error {
  override readonly name = "ModelError";
  readonly file: string;
  readonly field: string;

  constructor(file: string, field: string, value: unknown, allowed: string, options?: ErrorOptions) {
    super(`${file}: ${field}: ${printable(String(value))}; ${allowed}`, options);
    this.file = file;
    this.field = field;
  }
}

/** Text out of a file in a form that is safe to print: quoted, escaped, and cut when it is long. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > 72 ? `${text.slice(0, 72)}...` : text);
}

function printable(text: string): string {
  // oxlint-disable-next-line no-control-regex -- control characters are what must not reach a terminal
  const line = text.replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, (c) => JSON.stringify(c).slice(1, -1));
  return line.length > 300 ? `${line.slice(0, 300)}...` : line;
}

/** A metadata value as it is stored; 64-bit integers are bigint, number arrays are typed arrays. */
export type MetadataValue = string | number | bigint | boolean | readonly string[] | readonly boolean[] | NumberArray;

type NumberArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | BigUint64Array
  | BigInt64Array
  | Float64Array;

/**
 * The key-value pairs of a file. Each getter throws a ModelError that names key, wanted and found type; with a second
 * argument it returns that where the key is absent (a key of the wrong type is an error all the same).
 */
export interface Metadata {
  /** The file's name, for errors that are found later. */
  readonly file: string;
  /** In the order of the file. */
  readonly keys: readonly string[];
  has(key: string): boolean;
  /** "u32", "string", "[string]", "[f32]" ...; undefined where the key is absent. */
  typeOf(key: string): string | undefined;
  /** The value as stored, whatever its type. */
  value(key: string): MetadataValue | undefined;
  string<T = never>(key: string, ...absent: readonly T[]): string | T;
  boolean<T = never>(key: string, ...absent: readonly T[]): boolean | T;
  /** Any integer type, within +-2^53. */
  integer<T = never>(key: string, ...absent: readonly T[]): number | T;
  /** Any integer or float type. */
  number<T = never>(key: string, ...absent: readonly T[]): number | T;
  strings<T = never>(key: string, ...absent: readonly T[]): readonly string[] | T;
  /** An array of any number type but u64 and i64. */
  numbers<T = never>(key: string, ...absent: readonly T[]): Exclude<NumberArray, BigUint64Array | BigInt64Array> | T;
}

/** Specification: keys are at most 2^16 - 1 bytes. */
const MAX_KEY = 65_535;
/** A vocabulary of 10^6 tokens with merges is below 64 MiB. */
const MAX_HEADER = 2 ** 28;
/** First bytes to read: most headers end within. */
const FIRST_WINDOW = 2 ** 20;

/** The types of values, in the order of their ids. */
export const VALUE_TYPES = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  "array",
  "u64",
  "i64",
  "f64",
] as const;
type ValueType = (typeof VALUE_TYPES)[number];
type NumberType = Exclude<ValueType, "bool" | "string" | "array">;

const VALUE_TYPE_LIST: string = VALUE_TYPES.map((name, id) => `${id} ${name}`).join(", ");

/** How numbers of each type are read: one through a DataView, many as a typed array (hosts are little-endian). */
const NUMBERS: {
  readonly [K in NumberType]: {
    readonly bytes: number;
    one(view: DataView, at: number): number | bigint;
    many(bytes: ArrayBuffer): NumberArray;
  };
} = {
  u8: { bytes: 1, one: (v, at) => v.getUint8(at), many: (b) => new Uint8Array(b) },
  i8: { bytes: 1, one: (v, at) => v.getInt8(at), many: (b) => new Int8Array(b) },
  u16: { bytes: 2, one: (v, at) => v.getUint16(at, true), many: (b) => new Uint16Array(b) },
  i16: { bytes: 2, one: (v, at) => v.getInt16(at, true), many: (b) => new Int16Array(b) },
  u32: { bytes: 4, one: (v, at) => v.getUint32(at, true), many: (b) => new Uint32Array(b) },
  i32: { bytes: 4, one: (v, at) => v.getInt32(at, true), many: (b) => new Int32Array(b) },
  f32: { bytes: 4, one: (v, at) => v.getFloat32(at, true), many: (b) => new Float32Array(b) },
  u64: { bytes: 8, one: (v, at) => v.getBigUint64(at, true), many: (b) => new BigUint64Array(b) },
  i64: { bytes: 8, one: (v, at) => v.getBigInt64(at, true), many: (b) => new BigInt64Array(b) },
  f64: { bytes: 8, one: (v, at) => v.getFloat64(at, true), many: (b) => new Float64Array(b) },
};

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The 64-bit length at `at`; byte by byte, because that is fastest before the loop around it is compiled. */
function stringLength(bytes: Uint8Array, at: number): number {
  const low =
    (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24);
  const high =
    (bytes[at + 4] ?? 0) | ((bytes[at + 5] ?? 0) << 8) | ((bytes[at + 6] ?? 0) << 16) | ((bytes[at + 7] ?? 0) << 24);
  return (low >>> 0) + (high >>> 0) * 2 ** 32;
}

/** Reads a header from its first byte on; holds the bytes read so far, which grow by doubling. */
export class HeaderReader {
  readonly source: ByteSource;
  bytes: Uint8Array;
  at = 0;
  private view: DataView;

  constructor(source: ByteSource) {
    this.source = source;
    this.bytes = source.read(0, Math.min(source.size, FIRST_WINDOW));
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
  }

  fail(field: string, value: unknown, allowed: string): never {
    throw new ModelError(this.source.name, field, value, allowed);
  }

  /** Makes sure that `length` bytes from `at` on are held. */
  need(length: number, field: string, at: number = this.at): void {
    const end = at + length;
    if (end <= this.bytes.length) return;
    const { size } = this.source;
    if (end > size) this.fail(field, `${length} bytes at byte ${at}`, `the file ends at byte ${size}`);
    if (end > MAX_HEADER) this.fail(field, `ends at byte ${end}`, `a header has at most ${MAX_HEADER} bytes`);
    const grown = new Uint8Array(Math.min(size, MAX_HEADER, Math.max(end, 2 * this.bytes.length)));
    grown.set(this.bytes);
    grown.set(this.source.read(this.bytes.length, grown.length - this.bytes.length), this.bytes.length);
    this.bytes = grown;
    this.view = new DataView(grown.buffer);
  }

  u32(field: string): number {
    this.need(4, field);
    const value = this.view.getUint32(this.at, true);
    this.at += 4;
    return value;
  }

  /** An unsigned 64-bit number of at most `limit`. */
  u64(field: string, limit: number, allowed: string): number {
    this.need(8, field);
    const value = this.view.getBigUint64(this.at, true);
    if (value > limit) this.fail(field, value, allowed);
    this.at += 8;
    return Number(value);
  }

  /** How many things of at least `bytesEach` follow: never more than the file has room for. */
  count(field: string, bytesEach: number, limit: number): number {
    this.need(8, field);
    const room = Math.floor((this.source.size - this.at - 8) / bytesEach);
    return room < limit
      ? this.u64(field, room, `the ${this.source.size} bytes of the file have room for ${room}`)
      : this.u64(field, limit, `at most ${limit}`);
  }

  text(field: string, limit: number): string {
    const length = this.count(`length of ${field}`, 1, limit);
    this.need(length, field);
    const text = this.decode(this.at, this.at + length, field);
    this.at += length;
    return text;
  }

  decode(begin: number, end: number, field: string): string {
    try {
      return UTF8.decode(this.bytes.subarray(begin, end));
    } catch {
      return this.fail(field, `bytes ${begin} to ${end}`, "text is UTF-8");
    }
  }

  number(type: NumberType, field: string): number | bigint {
    const codec = NUMBERS[type];
    this.need(codec.bytes, field);
    const value = codec.one(this.view, this.at);
    this.at += codec.bytes;
    return value;
  }

  boolean(field: string): boolean {
    const value = this.number("u8", field);
    if (value !== 0 && value !== 1) this.fail(field, `bool ${value}`, "a bool is 0 or 1");
    return value === 1;
  }

  /** Steps over `count` strings; every one of them lies inside the file. */
  skipStrings(count: number, field: string): void {
    let at = this.at;
    for (let i = 0; i < count; i++) {
      if (at + 8 > this.bytes.length) this.need(8, field, at);
      const length = stringLength(this.bytes, at);
      const room = this.source.size - at - 8;
      if (length > room) {
        const found = this.view.getBigUint64(at, true);
        this.fail(`length of ${field}[${i}]`, found, `the file ends ${room} bytes later`);
      }
      at += 8 + length;
    }
    this.need(at - this.at, field);
    this.at = at;
  }

  /**
   * Decodes `count` strings from `begin` on in one go, several times faster than one by one: they are copied
   * together with a newline after each (so that a cut character cannot be completed by its neighbour), decoded, and
   * sliced by their lengths in UTF-16.
   */
  strings(begin: number, end: number, count: number, field: string): readonly string[] {
    const { bytes } = this;
    const packed = new Uint8Array(end - begin);
    const lengths = new Uint32Array(count);
    let to = 0;
    for (let i = 0, at = begin; i < count; i++) {
      const stop = at + 8 + stringLength(bytes, at);
      let units = 0;
      for (at += 8; at < stop; at++) {
        const byte = bytes[at] ?? 0;
        packed[to++] = byte;
        // Every byte but a continuation begins a character; those of four bytes take two units.
        if ((byte & 0xc0) !== 0x80) units += byte >= 0xf0 ? 2 : 1;
      }
      packed[to++] = 0x0a;
      lengths[i] = units;
    }
    let text: string;
    try {
      text = UTF8.decode(packed.subarray(0, to));
    } catch {
      return this.stringsOneByOne(begin, count, field);
    }
    const result: string[] = [];
    let at = 0;
    for (const length of lengths) {
      result.push(text.slice(at, at + length));
      at += length + 1;
    }
    return result;
  }

  /** Finds the string that is no UTF-8, to name it. */
  private stringsOneByOne(begin: number, count: number, field: string): readonly string[] {
    const { bytes } = this;
    let at = begin;
    return Array.from({ length: count }, (_, i) => {
      const stop = at + 8 + stringLength(bytes, at);
      const text = this.decode(at + 8, stop, `${field}[${i}]`);
      at = stop;
      return text;
    });
  }
}

/** One key's value: its type in words, and how to get it. */
interface Entry {
  readonly type: string;
  load(): MetadataValue;
}

function valueType(reader: HeaderReader, field: string): ValueType {
  const id = reader.u32(field);
  return VALUE_TYPES[id] ?? reader.fail(field, `value type ${id}`, `types are ${VALUE_TYPE_LIST}`);
}

/** Reads the value at the cursor; arrays are only stepped over, and decoded when they are asked for. */
function readEntry(reader: HeaderReader, key: string): Entry {
  const type = valueType(reader, key);
  if (type === "array") return readArray(reader, key);
  const value =
    type === "string" ? reader.text(key, MAX_HEADER) : type === "bool" ? reader.boolean(key) : reader.number(type, key);
  return { type, load: () => value };
}

function readArray(reader: HeaderReader, key: string): Entry {
  const element = valueType(reader, key);
  if (element === "array") reader.fail(key, "array of arrays", "arrays hold numbers, bools or strings");
  const bytesEach = element === "string" ? 8 : element === "bool" ? 1 : NUMBERS[element].bytes;
  const count = reader.count(`length of ${key}`, bytesEach, MAX_HEADER);
  const begin = reader.at;
  const type = `[${element}]`;
  if (element === "string") {
    reader.skipStrings(count, key);
    const end = reader.at;
    return { type, load: () => reader.strings(begin, end, count, key) };
  }
  reader.need(count * bytesEach, key);
  if (element === "bool") {
    const values = Array.from({ length: count }, (_, i) => reader.boolean(`${key}[${i}]`));
    return { type, load: () => values };
  }
  reader.at += count * bytesEach;
  // A copy, because a typed array begins at a multiple of its element's size.
  const end = begin + count * bytesEach;
  return { type, load: () => NUMBERS[element].many(new Uint8Array(reader.bytes.subarray(begin, end)).buffer) };
}

/** Reads `count` pairs from the cursor on. */
export function readPairs(reader: HeaderReader, count: number): Metadata {
  const entries = new Map<string, Entry>();
  for (let i = 0; i < count; i++) {
    const key = reader.text(`key ${i}`, MAX_KEY);
    if (key === "") reader.fail(`key ${i}`, quoted(key), "a key has at least one character");
    if (entries.has(key)) reader.fail(`key ${i}`, quoted(key), "each key is given once");
    entries.set(key, readEntry(reader, key.length > 72 ? `key ${i}` : key));
  }
  return metadata(reader.source.name, entries);
}

const isStrings = (value: MetadataValue): value is readonly string[] =>
  Array.isArray(value) && (value.length === 0 || typeof value[0] === "string");

const asNumber = (value: MetadataValue): number | undefined =>
  typeof value === "number" ? value : typeof value === "bigint" ? Number(value) : undefined;

function metadata(file: string, entries: ReadonlyMap<string, Entry>): Metadata {
  /** The value if `accepts` takes it, else what is given for an absent key, else an error. */
  function get<V, T>(
    key: string,
    wanted: string,
    absent: readonly T[],
    accepts: (value: MetadataValue) => V | undefined,
  ): V | T {
    const entry = entries.get(key);
    if (entry === undefined) {
      for (const value of absent) return value;
      throw new ModelError(file, key, "absent", `${wanted} is needed`);
    }
    const value = accepts(entry.load());
    if (value === undefined) throw new ModelError(file, key, `type ${entry.type}`, `${wanted} is needed`);
    return value;
  }

  return {
    file,
    keys: [...entries.keys()],
    has: (key) => entries.has(key),
    typeOf: (key) => entries.get(key)?.type,
    value: (key) => entries.get(key)?.load(),
    string: (key, ...absent) => get(key, "a string", absent, (v) => (typeof v === "string" ? v : undefined)),
    boolean: (key, ...absent) => get(key, "a bool", absent, (v) => (typeof v === "boolean" ? v : undefined)),
    integer: (key, ...absent) =>
      get(key, "an integer", absent, (v) => {
        const type = entries.get(key)?.type;
        const value = type === "f32" || type === "f64" ? undefined : asNumber(v);
        if (value !== undefined && !Number.isSafeInteger(value)) {
          throw new ModelError(file, key, v, "an integer within +-2^53 is needed");
        }
        return value;
      }),
    number: (key, ...absent) => get(key, "a number", absent, asNumber),
    strings: (key, ...absent) => get(key, "an array of strings", absent, (v) => (isStrings(v) ? v : undefined)),
    numbers: (key, ...absent) =>
      get(key, "an array of numbers of up to 32 bits, or f64,", absent, (v) =>
        ArrayBuffer.isView(v) && !(v instanceof BigUint64Array || v instanceof BigInt64Array) ? v : undefined,
      ),
  };
}
