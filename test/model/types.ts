// The number types that the tests' model files use, by hand, so that reading files is tested apart from the language.

import { readFileSync } from "node:fs";

import type { ByteSource } from "../../src/files.ts";
import type { Program, Type, Value } from "../../src/ladder/type.ts";

/** Reading files needs no values. */
const ZERO: Value = { kind: "constant", significand: 0n, exponent: 0 };

function type(name: string, blockSize: number, blockBytes: number, gguf: number): [string, Type] {
  return [
    name,
    { name, blockSize, blockBytes, ids: new Map([["gguf", gguf]]), fields: [], value: ZERO, reference: null },
  ];
}

export const program: Program = {
  types: new Map([
    type("F32", 1, 4, 0),
    type("F16", 1, 2, 1),
    type("Q4_1", 32, 20, 3),
    type("Q8_0", 32, 34, 8),
    type("TQ2_0", 256, 66, 35),
  ]),
  elements: new Map(),
  tensors: new Map(),
  claims: [],
  devices: new Map(),
  gemms: new Map(),
};

/** Bytes in memory as a file. */
export function source(bytes: Uint8Array, name = "m.gguf"): ByteSource {
  return {
    name,
    size: bytes.length,
    read(offset, length) {
      if (offset < 0 || offset + length > bytes.length) throw new Error(`read past the end: ${offset} + ${length}`);
      return bytes.slice(offset, offset + length);
    },
    close() {},
  };
}

/** A file's bytes as a source in memory. */
export function load(path: string): ByteSource {
  return source(readFileSync(path), path);
}
