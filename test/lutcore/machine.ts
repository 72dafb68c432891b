// What tests of the machine share: one instruction run on bytes through a program of its own, and random bytes of
// fragments in which special numbers are likely.

import fc from "fast-check";

import { load } from "../../src/lutcore/exec.ts";
import { bytesOf, ELEMENT_BITS, type Fragment } from "../../src/lutcore/fragment.ts";
import { type Instruction, type Register, REGISTER_COUNT, type Space } from "../../src/lutcore/instruction.ts";
import { operandsOf } from "../../src/lutcore/isa.ts";
import type { Mode } from "../../src/lutcore/mode.ts";
import type { Program } from "../../src/lutcore/program.ts";
import { exactNumbers } from "./definition.ts";
import { toNumber } from "../../src/ladder/exact.ts";

export const IDEAL: Mode = { kind: "ideal" };
export const PAPER: Mode = { kind: "paper" };

/** A program of one warp. */
export function programOf(code: readonly Instruction[], settings: Partial<Program> = {}): Program {
  const plain = { gridX: 1, gridY: 1, swizzle: 1, warps: 1, registers: REGISTER_COUNT, shared: 0, buffers: 16 };
  return { ...plain, ...settings, code };
}

/** Byte 0 of a space. */
export function start(space: Space): { readonly space: Space; readonly base: number; readonly offset: number } {
  return { space, base: 31, offset: 0 };
}

function loadOf(fragment: Fragment, to: Register, space: Space): Instruction {
  const stride =
    fragment.kind === "weights" ? 0 : bytesOf(fragment) / (fragment.kind === "table" ? fragment.m : fragment.rows);
  switch (fragment.kind) {
    case "matrix":
      return { ...fragment, kind: "ld.mat", order: "rows", to, ...start(space), stride };
    case "table":
      return { ...fragment, kind: "ld.tab", entry: fragment.entry as "int8", to, ...start(space), stride };
    case "weights":
      return { ...fragment, kind: "ld.wgt", to, ...start(space) };
  }
}

function storeOf(fragment: Fragment, from: Register, space: Space): Instruction {
  if (fragment.kind === "weights") throw new Error("no instruction writes weights");
  const stride = bytesOf(fragment) / (fragment.kind === "table" ? fragment.m : fragment.rows);
  return fragment.kind === "matrix"
    ? { ...fragment, kind: "st.mat", from, ...start(space), stride }
    : { ...fragment, kind: "st.tab", entry: fragment.entry as "int8", from, ...start(space), stride };
}

/** Loads what an instruction reads, runs it, and stores what it writes: bytes by fields in and out. */
export function runOne(
  i: Instruction,
  inputs: Readonly<Record<string, Uint8Array>>,
  mode: Mode,
): Readonly<Record<string, Uint8Array>> {
  const operands = operandsOf(i);
  const buffers = operands.map(({ field, access, fragment }) =>
    access === "read" ? inputs[field]!.slice() : new Uint8Array(bytesOf(fragment)),
  );
  const moves = operands.map(({ access, fragment, register }, b) =>
    (access === "read" ? loadOf : storeOf)(fragment, register, `g${b}`),
  );
  const reads = moves.filter((_, b) => operands[b]!.access === "read");
  const writes = moves.filter((_, b) => operands[b]!.access === "write");
  load(programOf([...reads, i, ...writes]), mode)({ parameters: [], buffers });
  return Object.fromEntries(
    operands.flatMap(({ field, access }, b) => (access === "write" ? [[field, buffers[b]!]] : [])),
  );
}

/** What runOne wrote, as numbers. */
export function numbersOf(
  i: Instruction,
  outputs: Readonly<Record<string, Uint8Array>>,
): Readonly<Record<string, number[]>> {
  return Object.fromEntries(
    operandsOf(i)
      .filter(({ access }) => access === "write")
      .map(({ field, fragment }) => {
        if (fragment.kind === "weights") throw new Error("no instruction writes weights");
        const element = fragment.kind === "matrix" ? fragment.element : fragment.entry;
        return [field, exactNumbers(outputs[field]!, element).map(toNumber)];
      }),
  );
}

// High bytes of zeros, subnormals, ones, the largest numbers, infinities and NaN of the floats; ends of integers.
const corners = [0x00, 0x01, 0x3c, 0x3f, 0x7b, 0x7c, 0x7e, 0x7f, 0x80, 0x81, 0xbf, 0xfc, 0xff];

/**
 * Random bytes of a fragment. Numbers are mostly of middling size, so that sums of them round; some are corners.
 * @param special how many of 16 numbers are any bytes or corners
 */
export function fragmentBytes(fragment: Fragment, special: number): fc.Arbitrary<Uint8Array> {
  const count = bytesOf(fragment);
  if (fragment.kind === "weights") return fc.uint8Array({ minLength: count, maxLength: count });
  const element = fragment.kind === "matrix" ? fragment.element : fragment.entry;
  const size = ELEMENT_BITS[element] / 8;
  // The high byte of a number between 2^-6 and 2^2 or so of each float; integers take any.
  const middling: Readonly<Record<string, readonly [number, number]>> = {
    fp32: [0x3d, 0x40],
    fp16: [0x28, 0x43],
    bf16: [0x3d, 0x40],
    e4m3: [0x10, 0x47],
    e5m2: [0x28, 0x43],
  };
  const [least, most] = middling[element] ?? [0, 0x7f];
  const number = fc
    .tuple(
      fc.uint8Array({ minLength: size - 1, maxLength: size - 1 }),
      fc.nat(15),
      fc.integer({ min: least, max: most }),
      fc.boolean(),
      fc.constantFrom(...corners),
      fc.nat(3),
    )
    .map(([low, kind, high, negative, corner, clear]) => {
      const isSpecial = kind < special;
      const top = isSpecial ? corner : high | (negative ? 0x80 : 0);
      return [...low.map((b) => (isSpecial && clear > 0 ? 0 : b)), top];
    });
  return fc
    .array(number, { minLength: count / size, maxLength: count / size })
    .map((list) => Uint8Array.from(list.flat()));
}

/** Random bytes for all that an instruction reads. */
export function inputsOf(i: Instruction, special: number): fc.Arbitrary<Readonly<Record<string, Uint8Array>>> {
  const reads = operandsOf(i).filter(({ access }) => access === "read");
  return fc.record(Object.fromEntries(reads.map(({ field, fragment }) => [field, fragmentBytes(fragment, special)])));
}
