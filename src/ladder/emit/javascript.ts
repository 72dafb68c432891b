// A decode as the text of an ES module: `decode(bytes, out)` for whole runs of blocks, in doubles.
// Not here: what is computed and where (loops.ts), the elements (rewrite.ts).

import { type Dialect, loopsOf, mapSteps, readBytes, schedule } from "./loops.ts";
import { type Float, type Graph, type Int, type Table, type Test, rebuilder } from "./ir.ts";
import type { Type } from "../type.ts";

/** @param rewrite what rebuilds floats for this machine */
export function javaScriptOf(graph: Graph, type: Type, rewrite: (node: Float) => Float): string {
  const visit = rebuilder(graph, { int: readBytes(graph, type.blockBytes), float: rewrite });
  const steps = mapSteps(loopsOf(graph, type), visit);
  const tables = new Map<Table, string>();
  const helpers = new Set<keyof typeof HELPERS>();
  const body = schedule(steps, dialectOf(tables, helpers));
  const { name, blockBytes, blockSize } = type;
  const spelled = [...tables].map(([{ values }, table]) => {
    const isSmall = values.every((x) => Number.isInteger(x) && !Object.is(x, -0) && Math.abs(x) < 2 ** 31);
    return `const ${table} = ${isSmall ? "Int32Array" : "Float64Array"}.of(${values.map(numberText).join(", ")});`;
  });
  return `// ${name}: ${blockSize} values in ${blockBytes} bytes.
${spelled.join("\n")}
${[...helpers].map((helper) => HELPERS[helper]).join("\n")}
/**
 * Decodes consecutive blocks of ${name}.
 * @param {Uint8Array} bytes a whole number of blocks
 * @param {Float64Array | Float32Array} out as many numbers as they hold
 * @param {(index: number, count: number, field: string) => number} outside which entry of a field is taken where the
 * data ask for one that it does not have; the nearest one, if nothing is said
 */
export function decode(bytes, out, outside = (index, count) => (index < 0 ? 0 : count - 1)) {
  const blocks = bytes.length / ${blockBytes};
  if (!Number.isInteger(blocks))
    throw new RangeError(\`\${bytes.length} bytes are no whole number of ${name} blocks of ${blockBytes} bytes\`);
  if (out.length !== blocks * ${blockSize})
    throw new RangeError(\`\${blocks} blocks of ${name} hold \${blocks} x ${blockSize} = \${blocks * ${blockSize}} values, and there is room for \${out.length}\`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let base = 0, to = 0; to < out.length; base += ${blockBytes}, to += ${blockSize}) {
${body.map((line) => `    ${line}`).join("\n")}
  }
}
`.replaceAll(/\n{3,}/g, "\n\n");
}

const HELPERS = {
  single: `const words = new Uint32Array(2);
const singles = new Float32Array(words.buffer);
const doubles = new Float64Array(words.buffer);
function single(bits) {
  words[0] = bits;
  return singles[0];
}
function double(high, low) {
  words[0] = low;
  words[1] = high;
  return doubles[0];
}`,
  entry: `function entry(index, count, field, outside) {
  return index >= 0 && index < count ? index : outside(index, count, field);
}`,
} as const;

function dialectOf(tables: Map<Table, string>, helpers: Set<keyof typeof HELPERS>): Dialect {
  const tableName = (table: Table): string => {
    const name = tables.get(table) ?? `T${tables.size}`;
    tables.set(table, name);
    return name;
  };
  const helped = (helper: keyof typeof HELPERS, call: string): string => {
    helpers.add(helper);
    return call;
  };
  return {
    spell(node, of) {
      const test = ({ operator, left, right }: Test): string =>
        `${of(left)} ${operator === "==" ? "===" : operator === "!=" ? "!==" : operator} ${of(right)}`;
      switch (node.kind) {
        case "integer":
          return String(node.value);
        case "variable":
          return node.name;
        case "sum":
          return `(${sumText(node, of)})`;
        case "product":
          return `(${of(node.left)} * ${of(node.right)})`;
        case "quotient":
          return isPower(node.by) && node.of.most < 2 ** 31
            ? `(${of(node.of)} >> ${Math.log2(node.by)})`
            : `Math.floor(${of(node.of)} / ${node.by})`;
        case "remainder":
          return isPower(node.by) && node.by < 2 ** 31
            ? `(${of(node.of)} & ${node.by - 1})`
            : `(${of(node.of)} % ${node.by})`;
        case "logic": {
          if (node.operator === ">>") return `(${of(node.left)} >>> ${of(node.right)})`;
          const text = `(${of(node.left)} ${node.operator} ${of(node.right)})`;
          return node.most < 2 ** 31 ? text : `(${text} >>> 0)`;
        }
        case "zeros":
          return `Math.clz32(${of(node.of)})`;
        case "load":
          return loadText(node.at, node.bytes, of);
        case "word":
        case "gather":
          return `${tableName(node.table)}[${of(node.index)}]`;
        case "clamp":
          return `Math.min(Math.max(${of(node.of)}, ${node.least}), ${node.most})`;
        case "entry":
          return helped(
            "entry",
            `entry(${bare(of(node.of))}, ${node.most + 1}, ${JSON.stringify(node.field)}, outside)`,
          );
        case "number":
          return node.value < 0 || Object.is(node.value, -0) ? `(${numberText(node.value)})` : numberText(node.value);
        case "convert":
          return of(node.of);
        case "single":
          if (node.of.kind === "load" && node.of.bytes === 4) return `view.getFloat32(${place(node.of.at, of)}, true)`;
          return helped("single", `single(${of(node.of)})`);
        case "double": {
          const { high, low } = node;
          const isWhole = high.kind === "load" && low.kind === "load" && high.bytes === 4 && low.bytes === 4;
          if (isWhole && isNext(low.at, high.at)) return `view.getFloat64(${place(low.at, of)}, true)`;
          return helped("single", `double(${of(high)}, ${of(low)})`);
        }
        case "negate":
          return `(-${of(node.of)})`;
        case "arithmetic":
          return `(${of(node.left)} ${node.operator} ${of(node.right)})`;
        case "pick":
          return `(${test(node.test)} ? ${of(node.yes)} : ${of(node.no)})`;
        case "half":
        case "window":
        case "element":
        case "bits":
          throw new Error(`JavaScript has no ${node.kind}`);
      }
    },
    eager: false,
    declare: (_node, name, text) => `const ${name} = ${bare(text)};`,
    // Places of values are sums, or a variable.
    store: (at, value) => `out[${at === "0" ? "to" : `to + ${bare(at)}`}] = ${bare(value)};`,
    loop: (variable, count, body) => [
      `for (let ${variable} = 0; ${variable} < ${count}; ${variable}++) {`,
      ...body.map((line) => `  ${line}`),
      "}",
    ],
  };
}

function place(at: Int, of: (operand: Int) => string): string {
  const text = of(at);
  return text === "0" ? "base" : `base + ${at.kind === "sum" ? bare(text) : text}`;
}

function loadText(at: Int, bytes: number, of: (operand: Int) => string): string {
  const where = place(at, of);
  if (bytes === 1) return `bytes[${where}]`;
  if (bytes === 2) return `view.getUint16(${where}, true)`;
  if (bytes === 4) return `view.getUint32(${where}, true)`;
  return `(view.getUint16(${where}, true) | (bytes[${where} + 2] << 16))`;
}

/** Whether one place is four bytes behind the other. */
function isNext(low: Int, high: Int): boolean {
  if (low.kind === "integer") return high.kind === "integer" && high.value === low.value + 4;
  const [a, b] = [low, high].map((at) => (at.kind === "sum" ? at : { terms: [{ factor: 1, of: at }], constant: 0 }));
  const same = (x: typeof a, y: typeof a): boolean =>
    x!.terms.length === y!.terms.length &&
    x!.terms.every(({ factor, of }, k) => y!.terms[k]!.factor === factor && y!.terms[k]!.of === of);
  return same(a, b) && b!.constant === a!.constant + 4;
}

/** The terms of a sum, those that are added first. */
export function sumText(
  { terms, constant }: Extract<Int, { kind: "sum" }>,
  of: (operand: Int) => string,
  number: (x: number) => string = String,
): string {
  const parts = terms.map(({ factor, of: part }) => {
    const size = Math.abs(factor);
    return { factor, text: size === 1 ? of(part) : `${of(part)} * ${number(size)}` };
  });
  if (constant !== 0) parts.push({ factor: constant, text: number(Math.abs(constant)) });
  const sorted = parts.toSorted((a, b) => Math.sign(b.factor) - Math.sign(a.factor));
  // From 0 where all are taken away: the sign of a number would make -0 of none.
  if (sorted[0]!.factor < 0) sorted.unshift({ factor: 1, text: number(0) });
  return sorted.map(({ factor, text }, k) => (k === 0 ? text : `${factor < 0 ? "-" : "+"} ${text}`)).join(" ");
}

function isPower(x: number): boolean {
  return Number.isInteger(Math.log2(x));
}

/** Without the parentheses that enclose all of it. */
export function bare(text: string): string {
  if (!text.startsWith("(") || !text.endsWith(")")) return text;
  let depth = 0;
  for (let k = 0; k < text.length; k++) {
    const letter = text[k];
    if (letter === "(") depth++;
    if (letter === ")") depth--;
    if (depth === 0 && k < text.length - 1) return text;
  }
  return text.slice(1, -1);
}

function numberText(x: number): string {
  return Object.is(x, -0) ? "-0" : String(x);
}
