// The registers of one warp: bytes, with views for the elements that fragments are made of, and which were written.
// Numbers come out as doubles, which all elements are, and go in rounded to the nearest of an element, ties to even;
// integers modulo 2^bits. So an instruction that computes exactly and then writes has rounded once.
// Not here: which registers an instruction uses (isa.ts), what it computes (lut.ts, dense.ts).

import { type Element, REGISTER_BYTES } from "./fragment.ts";
import { ONE, type Register, ZERO } from "./instruction.ts";
import { encoderOf, type Float, rounderOf, valuesOf } from "./number.ts";

export interface Registers {
  readonly bytes: Uint8Array;
  readonly signedBytes: Int8Array;
  readonly halves: Uint16Array;
  readonly signedHalves: Int16Array;
  readonly words: Int32Array;
  readonly singles: Float32Array;
  /** 1 for each register that something was written to. */
  readonly written: Uint8Array;
}

export function newRegisters(count: number): Registers {
  const buffer = new ArrayBuffer(count * REGISTER_BYTES);
  return {
    bytes: new Uint8Array(buffer),
    signedBytes: new Int8Array(buffer),
    halves: new Uint16Array(buffer),
    signedHalves: new Int16Array(buffer),
    words: new Int32Array(buffer),
    singles: new Float32Array(buffer),
    written: new Uint8Array(count),
  };
}

/** The one NaN of fp32 that instructions write. */
export const QUIET_NAN = 0x7fc00000;

/** The values of the codes of a float of 8 or 16 bits, made once. */
export const VALUES: Readonly<Record<Exclude<Float, "fp32">, Float32Array>> = {
  fp16: valuesOf("fp16"),
  bf16: valuesOf("bf16"),
  e4m3: valuesOf("e4m3"),
  e5m2: valuesOf("e5m2"),
};

const CODES = { fp16: codeOf("fp16"), bf16: codeOf("bf16"), e4m3: codeOf("e4m3"), e5m2: codeOf("e5m2") } as const;

function codeOf(float: Exclude<Float, "fp32">): (x: number) => number {
  const round = rounderOf(float);
  const encode = encoderOf(float);
  return (x) => encode(round(x));
}

/** The first `count` numbers of the fragment at a register; of `zero` and `one`, zeros and ones. */
export function readNumbers(from: Registers, element: Element, at: Register, count: number, to: Float64Array): void {
  if (at === ZERO || at === ONE) {
    to.fill(at === ONE ? 1 : 0, 0, count);
    return;
  }
  const first = at * REGISTER_BYTES;
  switch (element) {
    case "fp32":
      for (let i = 0, o = first >> 2; i < count; i++) to[i] = from.singles[o + i]!;
      return;
    case "fp16":
    case "bf16": {
      const values = VALUES[element];
      for (let i = 0, o = first >> 1; i < count; i++) to[i] = values[from.halves[o + i]!]!;
      return;
    }
    case "e4m3":
    case "e5m2": {
      const values = VALUES[element];
      for (let i = 0; i < count; i++) to[i] = values[from.bytes[first + i]!]!;
      return;
    }
    case "int32":
      for (let i = 0, o = first >> 2; i < count; i++) to[i] = from.words[o + i]!;
      return;
    case "int16":
      for (let i = 0, o = first >> 1; i < count; i++) to[i] = from.signedHalves[o + i]!;
      return;
    case "int8":
      for (let i = 0; i < count; i++) to[i] = from.signedBytes[first + i]!;
      return;
  }
}

/** Numbers as the first ones of the fragment at a register, each rounded once; NaN becomes the positive quiet one. */
export function writeNumbers(to: Registers, element: Element, at: Register, count: number, from: Float64Array): void {
  const first = at * REGISTER_BYTES;
  switch (element) {
    case "fp32":
      for (let i = 0, o = first >> 2; i < count; i++) {
        to.singles[o + i] = from[i]!;
        if (Number.isNaN(from[i]!)) to.words[o + i] = QUIET_NAN;
      }
      return;
    case "fp16":
    case "bf16": {
      const code = CODES[element];
      for (let i = 0, o = first >> 1; i < count; i++) to.halves[o + i] = code(from[i]!);
      return;
    }
    case "e4m3":
    case "e5m2": {
      const code = CODES[element];
      for (let i = 0; i < count; i++) to.bytes[first + i] = code(from[i]!);
      return;
    }
    case "int32":
      for (let i = 0, o = first >> 2; i < count; i++) to.words[o + i] = from[i]!;
      return;
    case "int16":
      for (let i = 0, o = first >> 1; i < count; i++) to.signedHalves[o + i] = from[i]!;
      return;
    case "int8":
      for (let i = 0; i < count; i++) to.signedBytes[first + i] = from[i]!;
      return;
  }
}
