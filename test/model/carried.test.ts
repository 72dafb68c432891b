// Types that a file brings along: resolved before its tensors are read, apart from the standard ones, and refused where
// they are not what they say, however long they are.

import { describe, expect, test } from "vitest";

import { carriedPairs, FIRST_CARRIED_ID } from "../../src/model/carried.ts";
import { type Gguf, readGguf } from "../../src/model/gguf.ts";
import { ModelError } from "../../src/model/metadata.ts";
import { resolveProgram } from "../../src/ladder/resolve.ts";
import { program, source } from "./types.ts";
import { gguf, type Pair, type TensorToWrite } from "./write-gguf.ts";

const text = `element B8 = int(bits: 8, coding: unsigned)
block Own[4] { x : B8[4] value[i] = x[i] - 3 }
block Q8_0[2] { x : B8[2] value[i] = x[i] }
`;

const SOURCE = "lutra.ladder.source.own.ladder";
const TYPE = `lutra.ladder.type.${FIRST_CARRIED_ID}`;

function tensor(type: number, bytes: number, dims: readonly number[]): TensorToWrite {
  return { name: "w", dims, type, bytes: new Uint8Array(bytes) };
}

function read(pairs: readonly Pair[], one: TensorToWrite = tensor(FIRST_CARRIED_ID, 8, [8])): Gguf {
  return readGguf(source(gguf({ pairs, tensors: [one] })), program, (name) => {
    throw new Error(`opened ${name}`);
  });
}

/** The message of the ModelError that is thrown. */
function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof ModelError) return error.message;
    throw error;
  }
  return "nothing was refused";
}

test("a file's own types are those of its tensors, and what is written is what is read", () => {
  const resolution = resolveProgram(new Map([["own.ladder", text]]));
  if (resolution.kind === "rejected") throw new Error("rejected");
  const types = ["Own", "Q8_0"].map((name) => resolution.program.types.get(name)!);
  const pairs = carriedPairs({ texts: new Map([["own.ladder", text]]), types }).map(({ key, value }): Pair => [
    key,
    "string",
    String(value),
  ]);
  expect(pairs.map(([key, , value]) => [key, value])).toEqual([
    ["lutra.ladder.type.19456", "Own"],
    ["lutra.ladder.type.19457", "Q8_0"],
    [SOURCE, text],
  ]);
  expect(read(pairs).tensors.get("w")!.type).toMatchObject({ name: "Own", blockSize: 4, blockBytes: 4 });
  // A name that a standard type has as well means the file's own under the file's own id, and else the standard one.
  expect(read(pairs, tensor(FIRST_CARRIED_ID + 1, 8, [8])).tensors.get("w")!.type.blockSize).toBe(2);
  expect(read(pairs, tensor(8, 34, [32])).tensors.get("w")!.type.blockSize).toBe(32);
});

describe("is refused in one line:", () => {
  const own: Pair = [SOURCE, "string", text];
  const named: Pair = [TYPE, "string", "Own"];
  const many = (count: number): Pair[] =>
    Array.from({ length: count }, (_, n) => [`lutra.ladder.type.${FIRST_CARRIED_ID + n}`, "string", "Own"]);
  test.each<readonly [string, readonly Pair[], string]>([
    [
      "a text that is wrong",
      [[SOURCE, "string", "block X[4] {\n  x : U9[4]\n  value[i] = x[i]\n}"], named],
      "lutra.ladder.source.*: own.ladder:2:7: error[unknown-name]: there is no element U9; the texts must declare the file's types; make the file again",
    ],
    ["a text that is missing", [named], `${TYPE}: "Own"; the types declared in lutra.ladder.source.* have other names`],
    [
      "a type that no text declares",
      [own, [TYPE, "string", "Other"]],
      `${TYPE}: "Other"; the types declared in lutra.ladder.source.* have other names`,
    ],
    [
      "an id that is out of turn",
      [own, ["lutra.ladder.type.2", "string", "Own"]],
      `key: "lutra.ladder.type.2"; the ids count from 19456: ${TYPE} comes here`,
    ],
    ["a name that is no text", [own, [TYPE, "u32", 7]], `${TYPE}: type u32; a string is needed`],
    ["too many types", [own, ...many(257)], "lutra.ladder.type.*: 257 types; a file carries at most 256"],
    [
      "too much text",
      [[SOURCE, "string", " ".repeat(200_000)], [`${SOURCE}2`, "string", " ".repeat(100_000)], named],
      "lutra.ladder.source.*: too long; together they have at most 262144 characters",
    ],
  ])("%s", (_, pairs, message) => {
    expect(refusal(() => read(pairs))).toBe(`m.gguf: ${message}`);
  });

  test("an id that a standard type has", () => {
    const taken = {
      ...program,
      types: new Map([["Taken", { ...program.types.get("F32")!, ids: new Map([["gguf", FIRST_CARRIED_ID]]) }]]),
    };
    const bytes = gguf({ pairs: [own, [TYPE, "string", "Own"]] });
    expect(refusal(() => readGguf(source(bytes), taken, () => source(bytes)))).toBe(
      'm.gguf: lutra.ladder.type.19456: "Own"; the id 19456 belongs to F32',
    );
  });

  test("a tensor with an id that the file does not give", () => {
    expect(() => read([own, [TYPE, "string", "Own"]], tensor(FIRST_CARRIED_ID + 1, 8, [8]))).toThrow(
      /^m\.gguf: tensor "w": type 19457; types are .*19456 Own$/,
    );
  });
});

test("hostile texts are refused in less than two seconds", () => {
  const hostile = [
    `block X[4] { x : ${"(".repeat(100_000)}`,
    `element ${"x".repeat(200_000)} = int(bits: 8, coding: unsigned)`,
    "element A = int(bits: 2147483648, coding: unsigned)",
    'import "own.ladder"',
    `block X[4096] { x : F16[65536] value[i] = ${Array.from({ length: 2000 }, () => "x[i]").join(" + ")} }`,
    "\u0000".repeat(100_000),
  ];
  for (const hostileText of hostile) {
    const startMs = performance.now();
    expect(() =>
      read([
        [SOURCE, "string", hostileText],
        [TYPE, "string", "Own"],
      ]),
    ).toThrow(ModelError);
    expect(performance.now() - startMs).toBeLessThan(2000);
  }
});
