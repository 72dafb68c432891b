// The manual of the instruction set, src/lutcore/README.md, made from the table: nothing about an instruction is written
// here. What surrounds it, and the worked programs of example/, are put around the table's own words.

import { readdirSync, readFileSync } from "node:fs";

import { HEADER_BYTES, INSTRUCTION_BYTES } from "../../src/lutcore/binary.ts";
import { ELEMENT_BITS, MAX_FRAGMENT_REGISTERS, PLANES, REGISTER_BYTES, TABLE_K } from "../../src/lutcore/fragment.ts";
import {
  type Instruction,
  NAMED_SCALARS,
  type Opcode,
  REGISTER_COUNT,
  WRITABLE_SCALARS,
} from "../../src/lutcore/instruction.ts";
import { OPCODES, operandsOf, rowOf } from "../../src/lutcore/isa.ts";
import { registerName, SETTINGS } from "../../src/lutcore/program.ts";
import { type Field, slotsOf, WORD_BITS } from "../../src/lutcore/row.ts";
import { centreOf } from "../../src/lutcore/weights.ts";
import { legalWords, smallest } from "./instructions.ts";

const GROUPS: readonly { readonly title: string; readonly kinds: readonly Opcode[] }[] = [
  { title: "Control", kinds: ["lea", "loop", "end", "bar"] },
  { title: "Memory", kinds: ["ld.mat", "st.mat", "ld.tab", "st.tab", "ld.wgt"] },
  { title: "Tables", kinds: ["lut", "lutq"] },
  { title: "Products", kinds: ["lmma", "lmmaq", "mma"] },
  { title: "Scales and zero points", kinds: ["asum", "sacc", "zacc"] },
  { title: "Numbers", kinds: ["clr", "cvt", "quant"] },
];

/** The whole manual, in Markdown. */
export function manual(): string {
  const listed = GROUPS.flatMap(({ kinds }) => kinds);
  const missing = OPCODES.filter((kind) => !listed.includes(kind));
  if (missing.length > 0) throw new Error(`the manual has no place for ${missing.join(", ")}`);
  return (
    [
      machine(),
      ...GROUPS.flatMap(({ title, kinds }) => [`## ${title}`, ...kinds.map(instruction)]),
      binary(),
      examples(),
    ].join("\n\n") + "\n"
  );
}

function machine(): string {
  const settings = Object.entries(SETTINGS).map(([name, s]) => [
    `\`.${name}\``,
    s.what,
    `${s.least} to ${s.most}`,
    String(s.plain),
  ]);
  const planes = Object.entries(PLANES).map(([weight, powers]) => {
    const centre = centreOf(weight as keyof typeof PLANES);
    const integers = Array.from({ length: centre + 1 }, (_, q) => String(2 * q - centre));
    if (integers.length > 4) integers.splice(2, integers.length - 4, "...");
    return [
      `\`${weight}\``,
      powers.map((p) => 2 ** p).join(", "),
      integers.join(", "),
      `2 q - ${centre}`,
      `0 to ${centre}`,
    ];
  });
  return `# LMMA: the instruction set

This file is made from the table of instructions (\`isa.ts\`) by \`test/lutcore/manual.ts\`; a test compares the two, and
\`npx vitest run --config test/vitest.config.ts -u test/lutcore/manual.test.ts\` writes it anew.

The machine is a GPU whose tensor cores look products of low-bit weights up, after LUT Tensor Core (ISCA'25). For each ${TABLE_K}
activations, the sums with every pattern of signs are computed once; a bit plane of weights is an index into them. Its
LMMA instruction is the paper's, \`lmma.{M}{N}{K}.{A}{W}{Acc}{O}\`: O[M,N] = A[M,K] W[N,K]^T + Acc[M,N]. Legal shapes, the
encoding, the making of tables, zero points and all else that a program needs are not in the paper, and are this
table's own.

## The machine

A launch is a grid of blocks of warps. Each warp runs the same program from its first instruction on. A program has these
settings, each on a line of its own before the first instruction:

${table(["setting", "what it is", "values", "if absent"], settings)}

A warp has

- **registers** \`r0\` to \`r${REGISTER_COUNT - 1}\` of ${REGISTER_BYTES} bytes, 32 lanes of 4. A _fragment_ begins at a register and fills as many as its bytes
  need, at most ${MAX_FRAGMENT_REGISTERS}: byte b is byte b mod 4 of lane b div 4 mod 32 of register b div ${REGISTER_BYTES}. A register that nothing was written to cannot be read. \`zero\` reads as 0 in every element and \`one\` as 1; they
  stand where an addend or a factor may be left out. A destination may begin where \`addend\` or \`from\` begins if the
  table says so; otherwise it overlaps nothing that the instruction reads.
- **scalars** of 32 bits, unsigned: \`s0\` to \`s${WRITABLE_SCALARS - 1}\`, which hold the launch's parameters at the start, then 0; and ${Object.keys(
    NAMED_SCALARS,
  )
    .map((name) => `\`${name}\``)
    .join(", ")}:
  the block's column and row in the grid, the warp's number in its block, and 0.
- **memory**: global buffers \`g0\` to \`g15\`, and \`shared\`, which the warps of a block have in common. An address is
  \`[space + scalar + offset]\` in bytes, a multiple of 4, not wrapped round. What lies outside stops the program with the
  instruction's number. Numbers are little-endian.

Remarks begin with \`//\`. Blanks matter only between words.

## Types

Elements: ${Object.entries(ELEMENT_BITS)
    .map(([element, bits]) => `\`${element}\` (${bits} bits)`)
    .join(", ")}. Floats are those of
\`dsl/float.ladder\`, \`e4m3\` being E4M3FN; integers are in two's complement.

Weights are sums of bit planes of signs, the sum over planes of weight * (2 bit - 1):

${table(["weight", "weights of its planes", "integers q'", "q' of code q", "codes"], planes)}

With a scale s and a zero point z of codes, s (q - z) = s' (q' - z') where s' = s / 2 and z' = 2 z - (what is taken off 2 q)
(equations 2 and 3). \`ternary\` has two planes that weigh the same, so that -1, 0, 1 need no zero point.

## Fragments

- **matrix** rows x columns of an element: row-major, without gaps in registers; in memory rows lie a stride apart. A vector
  is a matrix of one row or one column.
- **table** m, k: (m, k / 4, 8) entries, row-major. Entry i of activations a0 to a3 is -a3 + the sum over j < 3 of
  (2 i_j - 1) a_j, i_j being bit j of i. The sums with the other sign of a3 are the negatives of these (equation 4).
- **weights** n, k: (k / 4, planes, n) nibbles, row-major, an even n in the low half of a byte. Bit 3 of a nibble is a sign and
  bits 0 to 2 are an index: it stands for the entry, or for its negative where the sign is 1. For the bits w3 w2 w1 w0 of a
  plane, those of the weights of a3 to a0, the sign is w3 and the index w2 w1 w0, inverted where w3 is 1 (equations 5 and 6).

A file's weights become this by \`offline.ts\` and \`weights.ts\`; \`weights.ladder\` states in claims, which the prover
proves, that their values stay the same.

## Modes

A program runs in one of three modes. They differ in rounding only; integers are the same in all.

- **ideal**: the result of each instruction is the exact number that its operands make, rounded once to the element of the
  destination, to the nearest, ties to even.
- **paper**: each instruction rounds where its description says.
- **rtl**: as \`paper\`, but \`lmma\` as the public SystemVerilog computes it, with its quirks, each of which can be switched off.`;
}

function instruction(kind: Opcode): string {
  const row = rowOf(kind);
  const fields = slotsOf(row).map(({ name, field, low, width }) => [
    `\`${name}\``,
    width === 1 ? String(low) : `${low} to ${low + width - 1}`,
    described(kind, field),
  ]);
  const text = [
    `### \`${kind}\``,
    `\`\`\`\n${row.syntax}\n\`\`\``,
    row.summary,
    ...row.details,
    fields.length === 0 ? "" : table(["field", "bits", "what it holds"], fields),
    words(kind),
    shapes(kind),
  ];
  return text.filter((part) => part !== "").join("\n\n");
}

function described(kind: Opcode, field: Field): string {
  switch (field.kind) {
    case "scalar":
      return `a scalar that is ${field.access === "read" ? "read" : "written"}`;
    case "choice":
      return field.values.length > 12
        ? `\`${field.values[0]}\` to \`${field.values.at(-2)}\`, \`${field.values.at(-1)}\``
        : field.values.map((value) => `\`${value}\``).join(" ");
    case "number": {
      const whole = field.multipleOf === 1 ? "" : `, a multiple of ${field.multipleOf}`;
      return `${field.least} to ${field.most}${whole}`;
    }
    case "register": {
      const example = field.of(smallest(kind, legalWords(kind)[0]!));
      const blank = field.blank.map((register) => `, or \`${registerName(register)}\``).join("");
      const place = field.inPlace ? "; a destination may begin there" : "";
      return `${example.kind}, ${field.access === "read" ? "read" : "written"}${blank}${place}`;
    }
  }
}

/** Which words go together, for fields that limit each other. */
function words(kind: Opcode): string {
  const legal = legalWords(kind);
  const names = Object.keys(legal[0]!);
  // A field is free where each of its values goes with all that the others may be.
  const rest = (row: (typeof legal)[number], name: string): string =>
    names
      .filter((other) => other !== name)
      .map((other) => row[other])
      .join(" ");
  const bound = names.filter((name) => {
    const field = rowOf(kind).fields[name]!;
    const values = field.kind === "choice" ? field.values : [];
    return new Set(legal.map((row) => rest(row, name))).size * values.length !== legal.length;
  });
  if (bound.length === 0) return "";
  const rows = [...new Set(legal.map((row) => bound.map((name) => row[name]).join(" ")))].map((row) => row.split(" "));
  const last = bound.at(-1)!;
  const merged = new Map<string, string[]>();
  for (const row of rows) {
    const key = row.slice(0, -1).join(" ");
    merged.set(key, [...(merged.get(key) ?? []), row.at(-1)!]);
  }
  const lines = [...merged].map(([key, values]) => [
    ...key.split(" ").map((word) => `\`${word}\``),
    values.map((value) => `\`${value}\``).join(" "),
  ]);
  return `What goes together:\n\n${table([...bound.slice(0, -1), last], lines)}`;
}

/** The largest k of each m and n that is legal whatever the words, for instructions of three sizes. */
function shapes(kind: Opcode): string {
  const { m, n, k } = rowOf(kind).fields;
  if (m?.kind !== "choice" || n?.kind !== "choice" || k?.kind !== "choice") return "";
  const legal = legalWords(kind);
  const fits = (sizes: Readonly<Record<"m" | "n" | "k", string | number>>): boolean =>
    legal.every((chosen) => {
      const i = { ...smallest(kind, chosen), ...sizes } as Instruction;
      return operandsOf(i).every(({ registers }) => registers <= MAX_FRAGMENT_REGISTERS);
    });
  const lines = m.values.map((row) => {
    const largest = n.values.map(
      (column) => k.values.findLast((size) => fits({ m: row, n: column, k: size })) ?? "none",
    );
    return [`m${row}`, ...largest.map(String)];
  });
  const heads = ["", ...n.values.map((column) => `n${column}`)];
  return `A shape is legal where every operand fits ${MAX_FRAGMENT_REGISTERS} registers. With narrow types k may be larger than here; with all types it may be\n\n${table(heads, lines)}`;
}

function binary(): string {
  const names = [
    "the letters `LMMA`",
    "the version, 1",
    ...Object.keys(SETTINGS).map((name) => `\`${name}\``),
    "the number of instructions",
  ];
  const header = names.map((name, w) => [String(4 * w), name]);
  return `## The binary

A header of ${HEADER_BYTES} bytes, then ${INSTRUCTION_BYTES} for each instruction; words are little-endian, and what is left of the header is 0:

${table(["byte", "word"], header)}

An instruction is ${WORD_BITS} bits, bit b being bit b mod 8 of byte b div 8. Bits 0 to 7 are the opcode, and the fields follow as the
tables above say; what is left is 0. A register is its number, with ${REGISTER_COUNT} for \`one\` and ${REGISTER_COUNT + 1} for \`zero\`; a scalar is its number, with ${Object.entries(
    NAMED_SCALARS,
  )
    .map(([name, number]) => `${number} for \`${name}\``)
    .join(", ")};
a word or size is its place in the list of the field, from 0; a number that may be negative is in two's complement. Opcodes:

${table(
  ["opcode", "instruction", "what it does"],
  OPCODES.map((kind) => [`0x${rowOf(kind).opcode.toString(16).padStart(2, "0")}`, `\`${kind}\``, rowOf(kind).summary]),
)}`;
}

function examples(): string {
  const folder = new URL("example/", import.meta.url);
  const parts = readdirSync(folder)
    .toSorted()
    .map((file) => {
      const text = readFileSync(new URL(file, folder), "utf8").trimEnd();
      return `### ${file.replace(/\.lmma$/, "")}\n\n\`\`\`\n${text}\n\`\`\``;
    });
  return [
    "## Programs",
    "These are run by the tests, those without tables of 8 bits in all modes, and give the products that they say.",
    ...parts,
  ].join("\n\n");
}

/** With cells as wide as the widest of their column, as the formatter has them. */
function table(heads: readonly string[], lines: readonly (readonly string[])[]): string {
  const widths = heads.map((head, c) => Math.max(3, head.length, ...lines.map((cells) => cells[c]!.length)));
  const row = (cells: readonly string[]): string =>
    `| ${cells.map((cell, c) => cell.padEnd(widths[c]!)).join(" | ")} |`;
  return [row(heads), row(widths.map((width) => "-".repeat(width))), ...lines.map(row)].join("\n");
}
