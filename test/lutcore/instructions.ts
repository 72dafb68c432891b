// Instructions for tests, made from the table: all legal choices of words, and fast-check's random legal instructions and
// programs, which need not do anything sensible.

import fc from "fast-check";

import { type Instruction, type Opcode, REGISTER_COUNT } from "../../src/lutcore/instruction.ts";
import { OPCODES, operandsOf, rowOf } from "../../src/lutcore/isa.ts";
import { checkInstruction, type Program, SETTINGS } from "../../src/lutcore/program.ts";

type Fields = Readonly<Record<string, string | number>>;

/** Whether a choice is one of words: elements, orders; not sizes, which limit each other, nor the many spaces. */
function isWords(values: readonly (string | number)[]): boolean {
  return typeof values[0] === "string" && values[0] !== "g0";
}

/** Every combination of words that some instruction of the kind may have, with the smallest sizes. */
export function legalWords(kind: Opcode): readonly Fields[] {
  let rows: Fields[] = [{}];
  for (const [name, field] of Object.entries(rowOf(kind).fields)) {
    if (field.kind !== "choice" || !isWords(field.values)) continue;
    rows = rows.flatMap((row) => field.values.map((value) => ({ ...row, [name]: value })));
  }
  return rows.filter((words) => rowOf(kind).illegal(smallest(kind, words)) === null);
}

/** The instruction with these words, least sizes, and registers one behind the other. */
export function smallest(kind: Opcode, words: Fields): Instruction {
  const fields: Record<string, string | number> = { kind };
  for (const [name, field] of Object.entries(rowOf(kind).fields)) {
    if (field.kind === "choice") fields[name] = words[name] ?? field.values[0]!;
    else if (field.kind === "number")
      fields[name] = name === "stride" ? 4096 : name === "columns" || name === "rows" ? 4 : 0;
    else fields[name] = 0;
  }
  return placed(fields as unknown as Instruction, 0);
}

/** The same with its registers one behind the other from `first` on. */
function placed(i: Instruction, first: number): Instruction {
  const fields: Record<string, string | number> = { ...i };
  let next = first;
  for (const { field, registers } of operandsOf(i)) {
    fields[field] = next;
    next += registers;
  }
  return fields as unknown as Instruction;
}

/** A legal instruction of the kind. */
export function instructions(kind: Opcode): fc.Arbitrary<Instruction> {
  const words = fc.constantFrom(...legalWords(kind));
  const sizes: Record<string, fc.Arbitrary<string | number>> = {};
  for (const [name, field] of Object.entries(rowOf(kind).fields)) {
    if (field.kind === "choice" && !isWords(field.values)) sizes[name] = fc.constantFrom(...field.values);
    if (field.kind === "scalar") sizes[name] = fc.nat(field.access === "write" ? 27 : 31);
    if (field.kind === "register")
      sizes[name] = fc.oneof(
        { weight: 4, arbitrary: fc.constant(0) },
        { weight: 1, arbitrary: fc.constantFrom(0, ...field.blank) },
      );
    if (field.kind !== "number") continue;
    const { least, most, multipleOf } = field;
    const by = (top: number): fc.Arbitrary<number> =>
      fc.integer({ min: Math.ceil(least / multipleOf), max: Math.floor(top / multipleOf) }).map((x) => x * multipleOf);
    if (name === "rows" || name === "columns")
      sizes[name] = fc.oneof(
        by(16),
        by(64).map((x) => 4 * x),
      );
    else
      sizes[name] = fc.oneof(
        by(Math.min(most, 4096)),
        by(most),
        fc.constant(Math.floor(most / multipleOf) * multipleOf),
      );
  }
  return fc
    .tuple(words, fc.record(sizes), fc.nat(REGISTER_COUNT - 400))
    .map(([chosen, sized, first]) => placed({ kind, ...sized, ...chosen } as unknown as Instruction, first))
    .filter((i) => checkInstruction(i) === null);
}

/** A legal program of up to `most` instructions other than loops, each loop opened being closed. */
export function programs(most: number): fc.Arbitrary<Program> {
  const one = fc.oneof(...OPCODES.filter((kind) => kind !== "end").map((kind) => instructions(kind)));
  const settings = Object.fromEntries(
    Object.entries(SETTINGS).map(([name, { least, most: top }]) => [
      name,
      fc.oneof(fc.constant(top), fc.integer({ min: least, max: top })),
    ]),
  ) as { readonly [S in keyof typeof SETTINGS]: fc.Arbitrary<number> };
  const body = fc.array(fc.tuple(one, fc.boolean()), { maxLength: most }).map((list) => {
    const code: Instruction[] = [];
    let depth = 0;
    for (const [i, closes] of list) {
      if (i.kind === "loop") depth++;
      if (depth <= 8) code.push(i);
      else depth--;
      if (closes && depth > 0) {
        code.push({ kind: "end" });
        depth--;
      }
    }
    return [...code, ...Array.from({ length: depth }, () => ({ kind: "end" }) as const)];
  });
  // All that the code may name is there: every register, every buffer, shared memory.
  return fc
    .record({ ...settings, code: body })
    .map((program) => ({ ...program, registers: REGISTER_COUNT, buffers: 16, shared: Math.max(4, program.shared) }));
}
