// Texts made by the grammar, and texts that are broken: the compiler answers each with a program or findings, never an
// exception, and in bounded time; and what it accepts can be decoded for any bytes.

import * as fc from "fast-check";
import { expect, test } from "vitest";

import { decode } from "../../src/ladder/emit/codec.ts";
import { renderDiagnostic } from "../../src/ladder/diagnostic.ts";
import { exactValue, toNumber } from "../../src/ladder/exact.ts";
import { mappedStructureOf } from "../../src/ladder/layout.ts";
import { type Resolution, resolveProgram } from "../../src/ladder/resolve.ts";
import { referenceValue } from "../../src/ladder/prove/rounded.ts";
import { bindTensor } from "../../src/ladder/tensor.ts";
import { builtinTexts } from "./program.ts";

const SEED = 20_261_123;

function resolved(text: string): Resolution {
  const texts = new Map([...builtinTexts, ["fuzz.ladder", text]]);
  const resolution = resolveProgram(texts, ["fuzz.ladder"]);
  if (resolution.kind === "rejected") {
    for (const diagnostic of resolution.diagnostics) expect(renderDiagnostic(diagnostic, texts)).not.toBe("");
  }
  return resolution;
}

/** Mostly what means something, so that it is decoded; now and then what need not. */
const mostly = (tame: fc.Arbitrary<string>, wild: fc.Arbitrary<string>): fc.Arbitrary<string> =>
  fc.oneof({ weight: 40, arbitrary: tame }, { weight: 1, arbitrary: wild });
const joined = (...parts: readonly (fc.Arbitrary<string> | string)[]): fc.Arbitrary<string> =>
  fc
    .tuple(...parts.map((part) => (typeof part === "string" ? fc.constant(part) : part)))
    .map((texts) => texts.join(""));

const small = mostly(
  fc.integer({ min: 0, max: 9 }).map(String),
  fc.constantFrom("2147483647", "99999999999", "0x10", "1.5"),
);
const { index } = fc.letrec<{ index: string }>((tie) => ({
  index: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    fc.constant("i"),
    small,
    joined("(", tie("index"), fc.constantFrom(" + ", " - ", " * "), tie("index"), ")"),
    joined(
      "(",
      tie("index"),
      fc.constantFrom(" div ", " mod "),
      mostly(fc.constantFrom("2", "3", "5"), tie("index")),
      ")",
    ),
    joined(
      "(if ",
      tie("index"),
      fc.constantFrom(" < ", " >= ", " == "),
      "3 then ",
      tie("index"),
      " else ",
      tie("index"),
      ")",
    ),
  ),
}));
/** Something of the block below that has 8 bits. */
const byte = mostly(
  fc.oneof(joined("a[", index, " mod 4]"), joined("b[", index, " mod 2]")),
  fc.oneof(fc.constantFrom("a", "c", "x[i]", "f"), joined("a[", index, "]")),
);
const bitsOf = (width: number): fc.Arbitrary<string> =>
  mostly(
    joined(byte, ".bits(", index, ` mod ${9 - width} +: ${width})`),
    joined(byte, ".bits(", index, " +: ", small, ")"),
  );
const nibble = fc.oneof(
  bitsOf(4),
  joined(bitsOf(1), " ++ ", bitsOf(3)),
  joined("if ", index, " < 3 then ", bitsOf(4), " else ", bitsOf(4)),
  joined("join j < 2 : ", bitsOf(2)),
);
const applied = fc.oneof(
  joined(fc.constantFrom("E2M1", "IQ4", "NF4", "I4"), "(", nibble, ")"),
  joined(fc.constantFrom("E4M3FN", "E5M2FNUZ", "E8M0", "I8", "Posit8"), "(", byte, ")"),
  joined("TritPair(", nibble, ", ", index, " mod 2)"),
  joined("TritFraction(", byte, ", ", index, " mod 5)"),
);
const { number } = fc.letrec<{ number: string }>((tie) => ({
  number: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    fc.oneof(byte, fc.constantFrom("f", "f", "2", "0.5", "0x1.8p-3", "q[i mod 8]", "q[0]")),
    applied,
    joined("(", tie("number"), fc.constantFrom(" + ", " - ", " * "), tie("number"), ")"),
    joined("(if ", index, " < 2 then ", tie("number"), " else -", tie("number"), ")"),
  ),
}));
const block = joined(
  "block B[",
  mostly(fc.integer({ min: 1, max: 8 }).map(String), small),
  "] {\n  a : U8[4]\n  b : I8[2]\n  f : F16\n  code q[i < 8] = ",
  nibble,
  "\n  value[i] = ",
  number,
  mostly(fc.constant("\n"), joined("\n  reference[i] = round(F16, ", number, ")\n")),
  "}\n",
);
const tensor = joined(
  "tensor T[n < N, k < K] {\n  a : U8[4]\n  b : I8[2]\n  f : F16\n  let i = ",
  fc.constantFrom("n", "k", "n + 2 * k"),
  "\n  code q = ",
  nibble,
  "\n  value = ",
  number.map((of) => of.replaceAll(/q\[[^\]]*\]/g, "q")),
  "\n}\n",
);
const small8 = fc.constantFrom("E4M3FN", "E5M2", "I8", "U8", "F16", "TritPair", "Missing");
const claim = joined(
  "convert ",
  small8,
  " -> ",
  small8,
  " : ",
  fc.constantFrom("value", "repack", "rounded", "structure"),
  fc.constantFrom("", " when code in 3 .. 200", " when code finite"),
  " by i -> ",
  index,
  "\n",
);
const imports = ["int", "float", "table"].map((file) => `import "${file}.ladder"\n`).join("");
const text = joined(imports, fc.oneof({ weight: 6, arbitrary: block }, tensor, claim));

test("every text of the grammar is accepted or found wrong, and what is accepted decodes as defined", () => {
  let accepted = 0;
  fc.assert(
    fc.property(text, fc.infiniteStream(fc.integer({ min: 0, max: 255 })), (source, bytes) => {
      const resolution = resolved(source);
      if (resolution.kind === "rejected") return;
      accepted++;
      const tensorB = resolution.program.tensors.get("T");
      const binding = tensorB === undefined ? null : bindTensor(tensorB, "", 2, 3);
      const type = binding?.kind === "bound" ? binding.type : resolution.program.types.get("B");
      if (type === undefined) return;
      expect(mappedStructureOf(type).kind).toMatch(/^(affine|float|mapped|none)$/);
      const bytesOf = Uint8Array.from(bytes.take(type.blockBytes));
      expect(referenceValue(type, bytesOf, 0) === null).toBe(type.reference === null);
      const out = new Float64Array(type.blockSize);
      decode(type, bytesOf, out);
      expect([...out]).toEqual([...out.keys()].map((i) => toNumber(exactValue(type, bytesOf, i))));
    }),
    { seed: SEED, numRuns: 800 },
  );
  // The generator is of use only where a good part of what it makes means something.
  expect(accepted).toBeGreaterThan(400);
});

test("every built-in text with a piece taken out, doubled or exchanged is accepted or found wrong", () => {
  const all = [...builtinTexts.entries()].filter(([name]) => name !== "grid.ladder");
  const word = fc.constantFrom(
    "",
    "}",
    "{",
    "[",
    "(",
    "<",
    "code",
    "value",
    "tensor",
    "9",
    "i",
    '"',
    "+:",
    "..",
    "->",
    "0x",
    "\u0000",
    "é",
  );
  fc.assert(
    fc.property(
      fc.constantFrom(...all),
      fc.nat(),
      fc.nat(40),
      word,
      fc.boolean(),
      ([, source], at, length, put, twice) => {
        const from = at % source.length;
        const piece = source.slice(from, from + length);
        const broken = source.slice(0, from) + put + (twice ? piece + piece : "") + source.slice(from + length);
        expect(resolved(broken).kind).toMatch(/^(program|rejected)$/);
      },
    ),
    { seed: SEED, numRuns: 300 },
  );
});

test("any characters at all are found wrong, or say nothing", () => {
  fc.assert(
    fc.property(fc.oneof(fc.string({ maxLength: 200 }), fc.string({ unit: "binary", maxLength: 100 })), (source) => {
      expect(resolved(source).kind).toMatch(/^(program|rejected)$/);
    }),
    { seed: SEED, numRuns: 300 },
  );
});
