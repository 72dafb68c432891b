// What the bodies of the LMMA machine (shaders/lmma.wgsl) have to know, as WGSL constants made from the tables: opcodes, where the
// fields of an instruction lie, what the codes of a field stand for, floats, planes, quirks and the places of a launch's words.
// So the body names fields and repeats none of their numbers. Not here: what instructions do (the body), who puts the
// words there (lmma.ts).

import { ELEMENT_BITS, type Element, PLANES, REGISTER_BYTES, TABLE_ENTRIES, TABLE_K } from "../lutcore/fragment.ts";
import {
  MAX_BUFFERS,
  MAX_LOOPS,
  NAMED_SCALARS,
  ONE,
  REGISTER_COUNT,
  WRITABLE_SCALARS,
  ZERO,
} from "../lutcore/instruction.ts";
import { OPCODES, rowOf } from "../lutcore/isa.ts";
import { type Quirks, STAGE1 } from "../lutcore/mode.ts";
import { FLOATS, isFloat } from "../lutcore/number.ts";
import { HEADER_BYTES, INSTRUCTION_BYTES } from "../lutcore/binary.ts";
import { SETTINGS } from "../lutcore/program.ts";
import { type Slot, slotsOf } from "../lutcore/row.ts";

/** The elements in the order of their numbers, floats first. */
const ELEMENTS: readonly Element[] = (Object.keys(ELEMENT_BITS) as Element[]).toSorted(
  (a, b) => Number(isFloat(b)) - Number(isFloat(a)),
);
/** What words stand for: their places in the list that has them. */
const WORDS: readonly (readonly string[])[] = [ELEMENTS, Object.keys(PLANES), ["rows", "columns"]];
/** The quirks in the order of their bits. */
export const QUIRKS: readonly (keyof Quirks)[] = Object.keys(STAGE1) as (keyof Quirks)[];
/** Words of a launch in the buffer `given`, by their places; parameters and the tables of buffers stand behind. */
export const LAUNCH = { program: 0, index: 1, report: 2, scratch: 3, parameters: 4 } as const;
export const BUFFER_WORDS: number = LAUNCH.parameters + WRITABLE_SCALARS;
export const LAUNCH_WORDS: number = BUFFER_WORDS + 2 * MAX_BUFFERS;
/** The first word of a buffer that a launch does not have. */
export const NO_BUFFER = 0xffff_ffff;
/** Words of the index for an instruction: operands, then rows, bytes of a row, and the element or a loop's end. */
export const MAX_OPERANDS = 5;
export const INDEX_WORDS: number = MAX_OPERANDS + 3;
/** Words of a report, in front of the counts of executed instructions. */
export const REPORT = ["state", "at", "detail", "value", "left", "shared", "block", "warp", "column", "row"] as const;
/** What a launch can be, as its report says. The faults are those of src/lutcore/launch.ts. */
export const STATES = [
  "running",
  "ended",
  "limit",
  "unwritten",
  "no buffer",
  "off a word",
  "outside",
  "barrier",
] as const;
/** Words of a warp's state: a bit for each register that was written to, the next instruction, where it waits. */
const WARP = { scalars: 32, starts: MAX_LOOPS, rounds: MAX_LOOPS, written: 32, at: 1, depth: 1, waits: 1 } as const;
export const WARP_WORDS: number = Object.values(WARP).reduce((sum, words) => sum + words, 0);

/** The constants, for all modes. */
export function lmmaPrelude(): string {
  const lines: string[] = [];
  const constant = (name: string, value: number): unknown => lines.push(`const ${upper(name)} = ${hex(value)};`);
  for (const [e, element] of ELEMENTS.entries()) constant(element, e);
  constant(
    "element logs",
    packed(
      ELEMENTS.map((element) => Math.log2(ELEMENT_BITS[element] / 8)),
      4,
    ),
  );
  const floats = ELEMENTS.filter(isFloat).map((float) => FLOATS[float]);
  constant(
    "exponent bits",
    packed(
      floats.map(({ exponentBits }) => exponentBits),
      4,
    ),
  );
  constant(
    "fraction bits",
    packed(
      floats.map(({ fractionBits }) => fractionBits),
      5,
    ),
  );
  constant(
    "finite tops",
    packed(
      floats.map(({ top }) => (top === "finite" ? 1 : 0)),
      1,
    ),
  );
  for (const [name, value] of Object.entries(NAMED_SCALARS)) constant(`scalar ${name}`, value);
  for (const [name, value] of Object.entries({
    ZERO,
    ONE,
    TABLE_K,
    TABLE_ENTRIES,
    WRITABLE_SCALARS,
    MAX_LOOPS,
    BUFFER_WORDS,
    LAUNCH_WORDS,
    NO_BUFFER,
    MAX_OPERANDS,
    INDEX_WORDS,
    WARP_WORDS,
    REGISTER_COUNT,
  }))
    constant(name, value);
  constant("register words", REGISTER_BYTES / 4);
  constant("float count", floats.length);
  constant("max warps", SETTINGS.warps.most);
  constant("report words", REPORT.length);
  constant("header words", HEADER_BYTES / 4);
  constant("instruction words", INSTRUCTION_BYTES / 4);
  // Behind g0 to g15 in the list of spaces.
  constant("shared space", MAX_BUFFERS);
  let place = 0;
  for (const [name, words] of Object.entries(WARP)) {
    constant(name, place);
    place += words;
  }
  for (const [name, first] of Object.entries(LAUNCH)) constant(`launch ${name}`, first);
  for (const [r, name] of REPORT.entries()) constant(`report ${name}`, r);
  for (const [state, name] of STATES.entries()) constant(`is ${name}`, state);
  // The header of a binary: its mark and version, then the settings, then the number of instructions.
  const settings = Object.keys(SETTINGS);
  for (const [s, name] of [...settings, "length"].entries()) constant(`header ${name}`, 2 + s);
  for (const [bit, quirk] of QUIRKS.entries()) constant(quirk, 2 ** bit);
  for (const kind of OPCODES) {
    constant(kind, rowOf(kind).opcode);
    for (const slot of slotsOf(rowOf(kind)))
      lines.push(
        `const ${upper(`${kind} ${slot.name}`)} = vec3u(${slot.low}, ${slot.width}, ${hex(meaningOf(kind, slot))});`,
      );
  }
  const powers = Object.values(PLANES).map((list) => hex(packed(list, 4)));
  const counts = Object.values(PLANES).map((list) => list.length);
  constant("plane counts", packed(counts, 4));
  lines.push(
    "/** The powers of two of a weight's planes, four bits each. */",
    "fn plane_powers(weight: u32) -> u32 {",
    "  switch (weight) {",
    ...powers.slice(1).map((list, w) => `    case ${w + 1}u: { return ${list}; }`),
    `    default: { return ${powers[0]}; }`,
    "  }",
    "}",
  );
  return `${lines.join("\n")}\n`;
}

/** Four bits for each code of a choice: an element's or weight's number, or a size's power of two; 0 of other fields. */
function meaningOf(kind: string, { name, field }: Slot): number {
  if (field.kind !== "choice" || name === "space") return 0;
  const meanings = field.values.map((value) =>
    typeof value === "number" ? Math.log2(value) : Math.max(...WORDS.map((list) => list.indexOf(value))),
  );
  if (!meanings.every((meaning) => Number.isInteger(meaning) && meaning >= 0 && meaning < 16))
    throw new Error(`${kind}, field ${name}: ${field.values.join(", ")} have no numbers of four bits`);
  return packed(meanings, 4);
}

/** The number of an element in the bodies. */
export function elementNumber(element: Element): number {
  return ELEMENTS.indexOf(element);
}

/** Small numbers in one word, the first in the lowest bits. */
function packed(values: readonly number[], bits: number): number {
  return values.reduce((sum, value, v) => sum + value * 2 ** (bits * v), 0);
}

function hex(value: number): string {
  return `0x${value.toString(16)}u`;
}

/** `ld.mat byRow` as LD_MAT_BY_ROW. */
function upper(name: string): string {
  return name
    .replaceAll(/([a-z])([A-Z])/g, "$1_$2")
    .replaceAll(/[. ]/g, "_")
    .toUpperCase();
}
