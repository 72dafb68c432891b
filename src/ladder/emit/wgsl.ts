// A decode as a WGSL prelude: the value at a row and column, and four of them at once with what they share loaded and
// computed once. Words of a storage buffer are all that is read; rows and blocks begin at any byte. Small tables are
// const arrays; bits that lie close together are taken from one read of 32. Not here: pipelines, bindings, entry points.
// WGSL may flush subnormals and assume NaN and infinity away (15.7): what arises on the way is excluded by the proofs of
// rewrite.ts, and what a value itself may be is in the guarantee.

import { gcd } from "../divisor.ts";
import { type Dialect, schedule, type Step } from "./loops.ts";
import { bare, sumText } from "./javascript.ts";
import { lowerValue } from "./lower.ts";
import {
  type Float,
  type Graph,
  type Int,
  operandsOf,
  rebuilder,
  Refusal,
  type Table,
  type Term,
  type Test,
} from "./ir.ts";
import type { Type } from "../type.ts";

/** Entries of a table that is a constant; lavapipe takes seconds to compile one of a thousand. */
const MAX_CONSTANT = 64;

export interface WgslOptions {
  readonly prefix: string;
  readonly group: number;
  readonly binding: number;
  readonly columns: number | null;
}

/** @param rewrite what rebuilds floats for this machine */
export function wgslOf(
  graph: Graph,
  type: Type,
  options: WgslOptions,
  rewrite: (node: Float) => Float,
): { readonly text: string; readonly tables: readonly number[] } {
  const { prefix, group, binding, columns } = options;
  const { name, blockSize, blockBytes } = type;
  const isMatrix = columns !== null && blockSize > columns;
  if (columns !== null && (isMatrix ? blockSize % columns : columns % blockSize) !== 0)
    throw new Refusal(`its blocks have ${blockSize} values, which rows of ${columns} do not fit`);
  const tables = new Map<Table, string>();
  const far: number[] = [];
  const helpers = new Set<string>();
  // Every base is a multiple of this many bytes.
  const grain = isMatrix ? 4 : [4, 2, 1].find((g) => blockBytes % g === 0)!;
  const base = isMatrix ? null : "at";
  const body = (values: readonly Float[]): readonly string[] => {
    const read = readWindows(graph, values);
    const rewritten = read.map(rebuilder(graph, { float: rewrite }));
    const given: string[] = [];
    const dialect = dialectOf({ prefix, base, grain, tables, far, helpers, give: (text) => given.push(text) });
    const steps = rewritten.map((value, at): Step => ({ kind: "store", at: graph.integer(at), value }));
    const lines = schedule(steps, dialect).filter((line) => line !== "");
    const result = given.length === 1 ? given[0]! : `vec4f(${given.join(", ")})`;
    return [...lines, `return ${result};`];
  };

  const count = columns ?? 2 ** 31;
  const rows = isMatrix ? blockSize / columns : 1;
  const row = graph.variable("row", 0, rows - 1);
  const valueAt = (k: Int, c: number): Float => {
    const place = graph.plus(k, graph.integer(c));
    if (isMatrix) return lowerValue(graph, type, graph.plus(graph.times(row, graph.integer(columns)), place));
    if (blockSize > 1) return lowerValue(graph, type, graph.remainder(place, blockSize));
    // Blocks of one value: the one that is c behind.
    const moved = graph.integer(8 * c * blockBytes);
    const move = rebuilder(graph, {
      int: (node) => (node.kind === "bits" ? graph.bits(graph.plus(node.at, moved), node.width) : node),
    });
    return move(lowerValue(graph, type, graph.integer(0)));
  };
  const block = blockSize === 1 ? "k" : `k / ${blockSize}u`;
  const rowText = `row * (${prefix}columns / ${blockSize}u)`;
  const start = isMatrix
    ? []
    : [`let at = (${blockSize === 1 ? `row * ${prefix}columns` : rowText} + ${block}) * ${blockBytes}u;`];
  const one = [...start, ...body([valueAt(graph.variable("k", 0, count - 1), 0)])];

  const fits = isMatrix ? columns % 4 === 0 : blockSize === 1 || blockSize % 4 === 0;
  const calls = [0, 1, 2, 3].map((c) => `${prefix}decode(row, ${c === 0 ? "k" : `k + ${c}u`})`);
  let four: readonly string[] = [`return vec4f(${calls.join(", ")});`];
  if (fits) {
    const k = graph.times(graph.variable("quad", 0, Math.ceil(count / 4) - 1), graph.integer(4));
    const lines = body([0, 1, 2, 3].map((c) => valueAt(k, c)));
    four = [...start, ...(lines.some((line) => /\bquad\b/.test(line)) ? ["let quad = k / 4u;"] : []), ...lines];
  }
  const functions = [
    `fn ${prefix}decode(row: u32, k: u32) -> f32 {`,
    ...one.map((line) => `  ${line}`),
    "}",
    "",
    `// k is a multiple of 4.`,
    `fn ${prefix}decode4(row: u32, k: u32) -> vec4f {`,
    ...four.map((line) => `  ${line}`),
    "}",
  ];
  const declared = [...tables]
    .filter(([, table]) => !table.endsWith("u"))
    .map(([{ values }, table]) => tableText(table, values));
  const next = `@group(${group}) @binding(${binding + 1}) var<storage, read> ${prefix}tables : array<u32>;`;
  const shape = isMatrix ? `${rows} rows of ${columns} values` : `${blockSize} values in ${blockBytes} bytes`;
  const columnsText =
    columns === null ? `override ${prefix}columns : u32;` : `const ${prefix}columns : u32 = ${columns}u;`;
  const text = [
    `// ${name}: ${shape}.`,
    `@group(${group}) @binding(${binding}) var<storage, read> ${prefix}words : array<u32>;`,
    ...(far.length > 0 ? [next] : []),
    columnsText,
    ...declared,
    ...[...helpers].map((helper) => HELPERS[helper]!(prefix)),
    ...functions,
    "",
  ].join("\n");
  return { text, tables: far };
}

const HELPERS: Readonly<Record<string, (prefix: string) => string>> = {
  part: (p) => `
// The bits of a word from byte \`at\` on.
fn ${p}part(at: u32) -> u32 {
  return ${p}words[at >> 2u] >> ((at & 3u) << 3u);
}
`,
  word: (p) => `
// 32 bits from byte \`at\`.
fn ${p}word(at: u32) -> u32 {
  let w = at >> 2u;
  let down = (at & 3u) << 3u;
  return (${p}words[w] >> down) | ((${p}words[w + 1u] << 1u) << (31u - down));
}
`,
  number: (p) => `
// The number with these bits, which a constant must not be.
fn ${p}number(bits: u32) -> f32 {
  var x = bits;
  return bitcast<f32>(x);
}
`,
  double: (p) => `
// The single nearest to a double; subnormals are zero.
fn ${p}double(high: u32, low: u32) -> f32 {
  let sign = high & 0x80000000u;
  let power = (high >> 20u) & 0x7ffu;
  var bits = ((high & 0xfffffu) << 3u) | (low >> 29u);
  let rest = low & 0x1fffffffu;
  if (power == 0x7ffu) {
    bits = select(0x7f800000u, 0x7fc00000u, (bits | rest) != 0u);
  } else if (power <= 896u) {
    // Just below the least normal number, rounding may still reach it.
    let reaches = power == 896u && bits == 0x7fffffu && rest >= 0x10000000u;
    bits = select(0u, 0x00800000u, reaches);
  } else if (power >= 1151u) {
    bits = 0x7f800000u;
  } else {
    let up = rest > 0x10000000u || (rest == 0x10000000u && (bits & 1u) == 1u);
    bits = (((power - 896u) << 23u) | bits) + select(0u, 1u, up);
  }
  var x = sign | bits;
  return bitcast<f32>(x);
}
`,
};

/** Reads of bits as windows; those within 32 bits of each other, from the same place on, have one together. */
function readWindows(graph: Graph, values: readonly Float[]): readonly Float[] {
  const reads = new Set<Extract<Int, { kind: "bits" }>>();
  const seen = new Set<Int | Float>();
  const collect = (node: Int | Float): void => {
    if (seen.has(node)) return;
    seen.add(node);
    if (node.kind === "bits") reads.add(node);
    for (const operand of operandsOf(node)) collect(operand);
  };
  for (const value of values) collect(value);
  const byPlace = new Map<string, { readonly node: Extract<Int, { kind: "bits" }>; readonly at: number }[]>();
  for (const node of reads) {
    const { terms, constant } = partsOf(node.at);
    // What moves by parts of a byte keeps a window of its own.
    if (terms.some(({ factor }) => factor % 8 !== 0)) continue;
    const key = terms.map(({ factor, of }) => `${factor}*${of.id}`).join("+");
    byPlace.set(key, [...(byPlace.get(key) ?? []), { node, at: constant }]);
  }
  /** The bits of the window that a read has a part in, relative to the same place. */
  const windows = new Map<Int, { readonly from: number; readonly end: number }>();
  for (const list of byPlace.values()) {
    const sorted = list.toSorted((a, b) => a.at - b.at);
    for (let first = 0; first < sorted.length;) {
      const from = 8 * Math.floor(sorted[first]!.at / 8);
      let [last, end] = [first, from];
      for (; last < sorted.length && sorted[last]!.at + sorted[last]!.node.width <= from + 32; last++)
        end = Math.max(end, sorted[last]!.at + sorted[last]!.node.width);
      for (const { node } of sorted.slice(first, last)) windows.set(node, { from, end });
      first = Math.max(last, first + 1);
    }
  }
  const visit = (node: Int): Int => {
    if (node.kind === "entry") return within32(graph, node);
    if (node.kind !== "bits") return node;
    const { at, width } = node;
    const mask = graph.integer(2 ** width - 1);
    const shared = windows.get(node);
    if (shared !== undefined) {
      const { terms, constant } = partsOf(at);
      const byte = graph.quotient(graph.sum(terms, shared.from), 8);
      const window = graph.window(byte, Math.ceil((shared.end - shared.from) / 8));
      return graph.logic("&", graph.logic(">>", window, graph.integer(constant - shared.from)), mask);
    }
    const [byte, phase] = [graph.quotient(at, 8), graph.remainder(at, 8)];
    const bytes = Math.ceil((phase.most + width) / 8);
    let bits = graph.logic(">>", graph.window(byte, Math.min(bytes, 4)), phase);
    if (bytes > 4) {
      // Up by 32 - phase, in two steps since shifts are below 32.
      const rest = graph.plus(graph.integer(31), graph.times(phase, graph.integer(-1)));
      const next = graph.window(graph.plus(byte, graph.integer(4)), 1);
      bits = graph.logic("|", bits, graph.logic("<<", graph.logic("<<", next, graph.integer(1)), rest));
    }
    return graph.logic("&", bits, mask);
  };
  return values.map(rebuilder(graph, { int: visit }));
}

/**
 * The same entry by sums that do not leave 32 bits, however far the data ask: what they give is kept to where no other
 * entry is the nearest.
 * @throws Refusal where more than one number is given
 */
function within32(graph: Graph, node: Extract<Int, { kind: "entry" }>): Int {
  const { of, most, field } = node;
  const fits = ({ least, most: last }: Int): boolean =>
    (least >= -(2 ** 31) && last < 2 ** 31) || (least >= 0 && last < 2 ** 32);
  if (fits(of)) return node;
  const { terms, constant } = partsOf(of);
  const wide = terms.filter((term) => Math.abs(term.factor) * (term.of.most - term.of.least) >= 2 ** 30);
  const [far] = wide;
  if (far !== undefined && wide.length === 1) {
    const { factor, of: given } = far;
    const rest = graph.sum(
      terms.filter((term) => term !== far),
      constant,
    );
    // From here on it is below the first entry or beyond the last one, whatever the rest is.
    const ends = [(-1 - rest.most) / factor, (most + 1 - rest.least) / factor];
    const bound = (x: number): number => Math.min(Math.max(x, given.least), given.most);
    const kept = graph.clamp(given, bound(Math.floor(Math.min(...ends))), bound(Math.ceil(Math.max(...ends))));
    const near = graph.plus(rest, graph.times(kept, graph.integer(factor)));
    if (fits(near)) return graph.entry(near, most + 1, field);
  }
  throw new Refusal(`the index of ${field} may go beyond 32 bits in more than one way`);
}

function partsOf(at: Int): { readonly terms: readonly Term[]; readonly constant: number } {
  if (at.kind === "sum") return at;
  return at.kind === "integer" ? { terms: [], constant: at.value } : { terms: [{ factor: 1, of: at }], constant: 0 };
}

function tableText(name: string, values: readonly number[]): string {
  if (name.endsWith("w"))
    return `const ${name} = array<u32, ${values.length}>(${values.map((x) => `${x}u`).join(", ")});`;
  if (isBits(values))
    return `const ${name} = array<u32, ${values.length}>(${values.map((x) => `${bitsOf(x)}u`).join(", ")});`;
  return `const ${name} = array<f32, ${values.length}>(${values.map(numberText).join(", ")});`;
}

/** Whether a table has numbers that no constant can be: it holds their bits then. */
function isBits(values: readonly number[]): boolean {
  return values.some((x) => !isConstant(x));
}

function isConstant(value: number): boolean {
  const x = Math.fround(value);
  return Number.isFinite(x) && !Object.is(x, -0) && (x === 0 || Math.abs(x) >= 2 ** -126);
}

const single = new Float32Array(1);
const singleBits = new Uint32Array(single.buffer);

function bitsOf(x: number): number {
  single[0] = x;
  return singleBits[0]!;
}

function numberText(x: number): string {
  return `${/[.e]/.test(String(Math.fround(x))) ? Math.fround(x) : `${Math.fround(x)}.0`}f`;
}

interface Spelling {
  readonly prefix: string;
  /** The name of the byte where the block begins; null for the first of the buffer. */
  readonly base: string | null;
  /** Bytes that it is a multiple of. */
  readonly grain: number;
  readonly tables: Map<Table, string>;
  /** The words of the tables that lie in a buffer. */
  readonly far: number[];
  readonly helpers: Set<string>;
  readonly give: (value: string) => void;
}

function dialectOf({ prefix, base, grain, tables, far, helpers, give }: Spelling): Dialect {
  const helped = (helper: string): string => {
    helpers.add(helper);
    return `${prefix}${helper}`;
  };
  /** A table's entry: of a constant, or of the buffer where such a constant would take seconds to compile. */
  const entryText = (table: Table, index: string, isWords: boolean): string => {
    let name = tables.get(table);
    if (name === undefined) {
      const isFar = table.values.length > MAX_CONSTANT;
      name = isFar ? `${far.length}u` : `${prefix}t${tables.size}${isWords ? "w" : ""}`;
      if (isFar) far.push(...(isWords ? table.values : table.values.map(bitsOf)));
      tables.set(table, name);
    }
    const isFar = name.endsWith("u");
    const text = isFar ? `${prefix}tables[${name === "0u" ? "" : `${name} + `}${index}]` : `${name}[${bare(index)}]`;
    return !isWords && (isFar || isBits(table.values)) ? `bitcast<f32>(${text})` : text;
  };
  const kindOf = (node: Int): "u32" | "i32" => (node.least < 0 ? "i32" : "u32");
  // Modulo 2^32, as all sums are: a part may leave the range that the whole keeps.
  const number = (kind: "u32" | "i32") => (x: number) => {
    const word = ((x % 2 ** 32) + 2 ** 32) % 2 ** 32;
    if (kind === "u32") return `${word}u`;
    return word === 2 ** 31 ? `i32(${word}u)` : `${word > 2 ** 31 ? word - 2 ** 32 : word}i`;
  };
  const as = (node: Int, kind: "u32" | "i32", of: (operand: Int) => string): string => {
    if (node.kind === "integer") return number(kind)(node.value);
    return kindOf(node) === kind ? of(node) : `${kind}(${bare(of(node))})`;
  };
  return {
    eager: false,
    spell(node, of) {
      const test = ({ operator, left, right }: Test): string => {
        const kind = kindOf(left) === "i32" || kindOf(right) === "i32" ? "i32" : "u32";
        return `${as(left, kind, of)} ${operator} ${as(right, kind, of)}`;
      };
      switch (node.kind) {
        case "integer":
          return number(kindOf(node))(node.value);
        case "variable":
          return node.name;
        case "sum": {
          const kind = kindOf(node);
          return `(${sumText(node, (operand) => as(operand, kind, of), number(kind))})`;
        }
        case "product": {
          const kind = kindOf(node);
          return `(${as(node.left, kind, of)} * ${as(node.right, kind, of)})`;
        }
        case "quotient":
          return `(${as(node.of, "u32", of)} / ${node.by}u)`;
        case "remainder":
          return `(${as(node.of, "u32", of)} % ${node.by}u)`;
        case "logic":
          return `(${as(node.left, "u32", of)} ${node.operator} ${as(node.right, "u32", of)})`;
        case "zeros":
          return `countLeadingZeros(${as(node.of, "u32", of)})`;
        case "window": {
          const text = as(node.at, "u32", of);
          const byte = node.at.kind === "sum" ? bare(text) : text;
          const at = base === null ? byte : byte === "0u" ? base : `${base} + ${byte}`;
          const { terms, constant } = partsOf(node.at);
          const aligned = terms.reduce((g, { factor }) => gcd(g, Math.abs(factor)), gcd(grain, constant));
          if (aligned === 4) return `${prefix}words[(${at}) >> 2u]`;
          const isWithin = node.bytes === 1 || (node.bytes === 2 && aligned === 2);
          return `${helped(isWithin ? "part" : "word")}(${at})`;
        }
        case "word":
          return entryText(node.table, as(node.index, "u32", of), true);
        case "clamp":
        case "entry": {
          const kind = kindOf(node.of);
          const text = `clamp(${of(node.of)}, ${number(kind)(node.least)}, ${number(kind)(node.most)})`;
          return kind === kindOf(node) ? text : `${kindOf(node)}(${text})`;
        }
        case "number":
          if (isConstant(node.value)) return node.value < 0 ? `(${numberText(node.value)})` : numberText(node.value);
          return `${helped("number")}(${bitsOf(node.value)}u)`;
        case "convert":
          return `f32(${bare(of(node.of))})`;
        case "single":
          return `bitcast<f32>(${bare(as(node.of, "u32", of))})`;
        case "half":
          return `unpack2x16float(${bare(as(node.of, "u32", of))}).x`;
        case "double":
          return `${helped("double")}(${as(node.high, "u32", of)}, ${as(node.low, "u32", of)})`;
        case "gather":
          return entryText(node.table, as(node.index, "u32", of), false);
        case "negate":
          return `(-${of(node.of)})`;
        case "arithmetic":
          return `(${of(node.left)} ${node.operator} ${of(node.right)})`;
        case "pick": {
          if (!("least" in node)) return `select(${bare(of(node.no))}, ${bare(of(node.yes))}, ${test(node.test)})`;
          const kind = kindOf(node);
          return `select(${as(node.no, kind, of)}, ${as(node.yes, kind, of)}, ${test(node.test)})`;
        }
        case "bits":
        case "load":
        case "element":
          throw new Error(`WGSL has no ${node.kind}`);
      }
    },
    declare: (_node, name, text) => `let ${name} = ${bare(text)};`,
    store(_at, value) {
      give(bare(value));
      return "";
    },
    loop() {
      throw new Error("a value has no loops");
    },
  };
}
