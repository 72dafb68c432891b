// A decode as C++17 text without headers of ours: one function for a block, one for a run of blocks, in singles. Loops
// run over signed 64-bit indices and plain byte loads, which compilers turn into vectors; nothing in it is undefined:
// wider loads are copies, sums that may wrap are unsigned, and indices that the data give are kept within their field.
// Not here: what is computed and where (loops.ts), the elements (rewrite.ts).

import { type Dialect, loopsOf, mapSteps, readBytes, schedule } from "./loops.ts";
import { bare, sumText } from "./javascript.ts";
import { type Float, type Graph, type Int, operandsOf, rebuilder, type Table, type Test } from "./ir.ts";
import type { Type } from "../type.ts";

/**
 * @param name what the functions are called
 * @param rewrite what rebuilds floats for this machine
 */
export function cppOf(graph: Graph, type: Type, name: string, rewrite: (node: Float) => Float): string {
  const visit = rebuilder(graph, { int: readBytes(graph, type.blockBytes), float: rewrite });
  const steps = mapSteps(loopsOf(graph, type), visit);
  const tables = new Map<Table, string>();
  const helpers = new Set<string>();
  const body = schedule(steps, dialectOf(name, tables, helpers));
  const spelled = [...tables].map(([{ values }, table]) => tableText(table, values));
  const { blockBytes, blockSize } = type;
  return `// ${type.name}: ${blockSize} values in ${blockBytes} bytes. For little-endian machines.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

${spelled.join("\n")}
${[...helpers].map((helper) => HELPERS[helper]!(name)).join("\n")}
// out[i] is the value of element i of the block.
static inline void ${name}_block(const uint8_t* __restrict block, float* __restrict out) {
${body.map((line) => `  ${line}`).join("\n")}
}

// Consecutive blocks; out has room for ${blockSize} values each.
static inline void ${name}_decode(const uint8_t* __restrict bytes, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; b++) ${name}_block(bytes + b * ${blockBytes}, out + b * ${blockSize});
}
`.replaceAll(/\n{3,}/g, "\n\n");
}

function tableText(name: string, values: readonly number[]): string {
  if (name.endsWith("w")) return `static const uint32_t ${name}[] = {${values.map((x) => `${x}u`).join(", ")}};`;
  return `static const float ${name}[] = {${values.map(numberText).join(", ")}};`;
}

const HELPERS: Readonly<Record<string, (name: string) => string>> = {
  load: (name) => `static inline uint32_t ${name}_load(const uint8_t* at, size_t bytes) {
  uint32_t word = 0;
  std::memcpy(&word, at, bytes);
  return word;
}`,
  single: (name) => `static inline float ${name}_single(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}`,
  double: (name) => `static inline float ${name}_double(uint32_t high, uint32_t low) {
  const uint64_t bits = (uint64_t)high << 32 | low;
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return (float)x;
}`,
  clamp: (name) => `static inline int64_t ${name}_clamp(int64_t x, int64_t least, int64_t most) {
  return x < least ? least : x > most ? most : x;
}`,
};

type Kind = "int64_t" | "uint32_t" | "int32_t";

function dialectOf(name: string, tables: Map<Table, string>, helpers: Set<string>): Dialect {
  const helped = (helper: string): string => {
    helpers.add(helper);
    return `${name}_${helper}`;
  };
  const tableName = (table: Table, suffix: string): string => {
    const known = tables.get(table) ?? `${name}_t${tables.size}${suffix}`;
    tables.set(table, known);
    return known;
  };
  const kinds = new Map<Int, Kind>();
  const kindOf = (node: Int): Kind => {
    let kind = kinds.get(node);
    if (kind === undefined) {
      kind = isIndex(node) ? "int64_t" : node.least >= 0 && node.most < 2 ** 32 ? "uint32_t" : "int64_t";
      if (!isIndex(node) && node.least < 0 && node.least >= -(2 ** 31) && node.most < 2 ** 31) kind = "int32_t";
      kinds.set(node, kind);
    }
    return kind;
  };
  return {
    spell(node, of) {
      const as = (operand: Int, kind: Kind): string => {
        if (operand.kind === "integer") return integerText(operand.value, kind);
        return kindOf(operand) === kind ? of(operand) : `(${kind})${of(operand)}`;
      };
      const test = ({ operator, left, right }: Test): string => {
        const [a, b] = [left, right].map((x) => (x.kind === "integer" ? null : kindOf(x)));
        const kind = a === null ? b! : b === null || a === b ? a! : "int64_t";
        const fits = (x: Int): boolean =>
          x.kind !== "integer" || kind === "int64_t" || (x.value >= 0 && x.value < 2 ** 31);
        const common = fits(left) && fits(right) ? kind : "int64_t";
        return `${as(left, common)} ${operator} ${as(right, common)}`;
      };
      switch (node.kind) {
        case "integer":
          return integerText(node.value, "int64_t");
        case "variable":
          return node.name;
        case "sum":
        case "product": {
          const kind = kindOf(node);
          // Unsigned, since a part of a sum may leave the range that the whole of it keeps.
          const inner = kind === "int32_t" ? "uint32_t" : kind;
          const number = (x: number): string => integerText(x, inner);
          const text =
            node.kind === "sum"
              ? sumText(node, (operand) => as(operand, inner), number)
              : `${as(node.left, inner)} * ${as(node.right, inner)}`;
          return kind === inner ? `(${text})` : `(${kind})(${text})`;
        }
        case "quotient":
        case "remainder": {
          const [kind, from] = [kindOf(node), kindOf(node.of)];
          const text = `(${of(node.of)} ${node.kind === "quotient" ? "/" : "%"} ${integerText(node.by, from)})`;
          return kind === from ? text : `(${kind})${text}`;
        }
        case "logic":
          return `(${as(node.left, "uint32_t")} ${node.operator} ${as(node.right, "uint32_t")})`;
        case "zeros":
          return `(uint32_t)__builtin_clz(${as(node.of, "uint32_t")})`;
        case "load":
          if (node.bytes === 1) return `(uint32_t)block[${of(node.at)}]`;
          return `${helped("load")}(block + ${of(node.at)}, ${node.bytes})`;
        case "word":
          return `${tableName(node.table, "w")}[${of(node.index)}]`;
        case "clamp":
        case "entry": {
          const text = `${helped("clamp")}(${as(node.of, "int64_t")}, ${node.least}, ${node.most})`;
          return kindOf(node) === "int64_t" ? text : `(${kindOf(node)})${text}`;
        }
        case "number":
          return numberText(node.value);
        case "convert":
          return node.of.least >= 0 && node.of.most >= 2 ** 31
            ? `(float)${of(node.of)}`
            : `(float)${as(node.of, "int32_t")}`;
        case "single":
          return `${helped("single")}(${as(node.of, "uint32_t")})`;
        case "double":
          return `${helped("double")}(${as(node.high, "uint32_t")}, ${as(node.low, "uint32_t")})`;
        case "gather":
          return `${tableName(node.table, "")}[${of(node.index)}]`;
        case "negate":
          return `(-${of(node.of)})`;
        case "arithmetic":
          return `(${of(node.left)} ${node.operator} ${of(node.right)})`;
        case "pick": {
          if (!("least" in node)) return `(${test(node.test)} ? ${of(node.yes)} : ${of(node.no)})`;
          const kind = kindOf(node);
          return `(${test(node.test)} ? ${as(node.yes, kind)} : ${as(node.no, kind)})`;
        }
        case "half":
        case "window":
        case "element":
        case "bits":
          throw new Error(`C++ has no ${node.kind}`);
      }
    },
    eager: true,
    declare: (node, variable, text) => `const ${"least" in node ? kindOf(node) : "float"} ${variable} = ${bare(text)};`,
    store: (at, value) => `out[${bare(at)}] = ${bare(value)};`,
    loop: (variable, count, body) => [
      `for (int64_t ${variable} = 0; ${variable} < ${count}; ${variable}++) {`,
      ...body.map((line) => `  ${line}`),
      "}",
    ],
  };
}

const indices = new WeakMap<Int, boolean>();

/** Whether a number is worked out from loops alone, as places mostly are. */
function isIndex(node: Int): boolean {
  let known = indices.get(node);
  if (known === undefined) {
    const reads = ["load", "word", "logic", "zeros", "entry"].includes(node.kind);
    known = !reads && operandsOf(node).every((operand) => isIndex(operand as Int));
    indices.set(node, known);
  }
  return known;
}

function integerText(value: number, kind: Kind): string {
  if (kind === "uint32_t") return `${value < 0 ? value + 2 ** 32 : value}u`;
  if (kind === "int32_t" && value === -(2 ** 31)) return "(-2147483647 - 1)";
  return String(value);
}

function numberText(value: number): string {
  const x = Math.fround(value);
  if (Number.isNaN(x)) return "std::numeric_limits<float>::quiet_NaN()";
  if (!Number.isFinite(x)) return `${x < 0 ? "-" : ""}std::numeric_limits<float>::infinity()`;
  const text = Object.is(x, -0) ? "-0" : String(value);
  return `${/[.e]/.test(text) ? text : `${text}.0`}f`;
}
