// What a row of the instruction table is: fields, how they are written and encoded, what is legal, and what it means.
// A row proves itself when the table is built: its text names each field once, its fields fit a word of 128 bits one behind
// the other, and no other row has its opcode. Not here: the rows (isa.ts).

import type { Fragment } from "./fragment.ts";
import type { Instruction, Opcode, Register } from "./instruction.ts";

/** What a field of an instruction holds, and so how it is written and encoded. */
export type Field<I = Instruction> =
  /** `of`: the fragment that begins there. `blank`: registers without bytes that may stand in its place. */
  | {
      readonly kind: "register";
      readonly access: "read" | "write";
      readonly of: (i: I) => Fragment;
      readonly blank: readonly Register[];
      /** Each number is read before the number of its place is written: a destination may begin there too. */
      readonly inPlace: boolean;
    }
  | { readonly kind: "scalar"; readonly access: "read" | "write" }
  /** One of a list, encoded as its place there. */
  | { readonly kind: "choice"; readonly bits: number; readonly values: readonly (string | number)[] }
  /** In two's complement where `least` is below 0. */
  | {
      readonly kind: "number";
      readonly bits: number;
      readonly least: number;
      readonly most: number;
      readonly multipleOf: number;
    };

/** The first thing that is wrong, at a field. `message` says what, and what would be right. */
export interface Problem {
  readonly field: string;
  readonly message: string;
}

interface RowOf<I> {
  /** In the low byte of the encoding. */
  readonly opcode: number;
  /** Begins with the instruction's name. What stands in braces is a field; a blank is any number of blanks. */
  readonly syntax: string;
  /** In the order of the encoding, from bit 8 up. */
  readonly fields: { readonly [F in Exclude<keyof I, "kind">]: Field<I> };
  /** What the lists of the fields and the sizes of fragments do not say; null where all is well. */
  readonly illegal: (i: I) => Problem | null;
  /** What it computes, in Markdown. */
  readonly summary: string;
  readonly details: readonly string[];
}

/** A row for every instruction, each of the fields that its type has. */
export type Rows = { readonly [K in Opcode]: RowOf<Extract<Instruction, { kind: K }>> };

/** A row without the type of its instruction, for what treats all alike. */
export interface Row extends Omit<RowOf<Instruction>, "fields"> {
  readonly fields: Readonly<Record<string, Field>>;
}

/** Bits of an encoded instruction, the opcode in bits 0 to 7. */
export const WORD_BITS = 128;
const OPCODE_BITS = 8;
const REGISTER_BITS = 10;
const SCALAR_BITS = 5;

/** Bits [low, low + width) of the word. */
export interface Slot {
  readonly name: string;
  readonly field: Field;
  readonly low: number;
  readonly width: number;
}

/** Where the fields of a row lie; the bits behind the last are 0. */
export function slotsOf({ fields }: Pick<Row, "fields">): readonly Slot[] {
  const slots: Slot[] = [];
  let low = OPCODE_BITS;
  for (const [name, field] of Object.entries(fields)) {
    const width = field.kind === "register" ? REGISTER_BITS : field.kind === "scalar" ? SCALAR_BITS : field.bits;
    slots.push({ name, field, low, width });
    low += width;
  }
  return slots;
}

/**
 * The rows, if they are consistent.
 * @throws Error that names the row, the field and the numbers
 */
export function proved(rows: Rows): Readonly<Record<Opcode, Row>> {
  const general = rows as unknown as Readonly<Record<Opcode, Row>>;
  const owners = new Map<number, string>();
  for (const [kind, row] of Object.entries(general)) {
    const { opcode } = row;
    const wrong = (what: string): Error => new Error(`instruction ${kind}: ${what}`);
    if (!(Number.isInteger(opcode) && opcode > 0 && opcode < 2 ** OPCODE_BITS))
      throw wrong(`opcode ${opcode} is no byte`);
    if (owners.has(opcode)) throw wrong(`opcode ${opcode} is that of ${owners.get(opcode)}`);
    owners.set(opcode, kind);
    const named = [...row.syntax.matchAll(/\{(\w+)\}/g)].map(([, name]) => name!);
    if (!new RegExp(`^${kind.replace(".", "\\.")}(?![a-z])`).test(row.syntax))
      throw wrong("its syntax begins otherwise");
    for (const name of [...Object.keys(row.fields), ...named]) {
      const times = named.filter((other) => other === name).length;
      if (times !== 1 || !(name in row.fields))
        throw wrong(`its syntax names ${name} ${times} times, and fields have it ${name in row.fields ? 1 : 0} times`);
    }
    for (const { name, field, low, width } of slotsOf(row)) {
      if (low + width > WORD_BITS) throw wrong(`${name} ends at bit ${low + width} of ${WORD_BITS}`);
      const codes = codesOf(field);
      if (codes > 2 ** width) throw wrong(`${name} has ${codes} values in ${width} bits`);
    }
  }
  return general;
}

/** How many codes a field needs: those from the least number to the most, or twice those of the larger sign. */
function codesOf(field: Field): number {
  switch (field.kind) {
    case "choice":
      return field.values.length;
    case "number":
      return field.least < 0 ? 2 * Math.max(field.most + 1, -field.least) : field.most + 1;
    case "register":
      return 2 ** REGISTER_BITS;
    case "scalar":
      return 2 ** SCALAR_BITS;
  }
}
