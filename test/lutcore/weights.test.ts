import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";

import { exactValue, toNumber } from "../../src/ladder/exact.ts";
import { provedStructure } from "../../src/ladder/prove/equation.ts";
import { prove } from "../../src/ladder/prove/prove.ts";
import { bytesOf, PLANES, type Weight } from "../../src/lutcore/fragment.ts";
import {
  centreOf,
  codeCount,
  packTile,
  reinterpreted,
  symmetrised,
  type TileShape,
  unpackTile,
} from "../../src/lutcore/weights.ts";
import { programWith, typeNamed } from "../ladder/program.ts";

const WEIGHTS = Object.keys(PLANES) as Weight[];
const claims = "src/lutcore/weights.ladder";
const program = programWith(readFileSync(new URL(`../../${claims}`, import.meta.url), "utf8"));

/** The name of a weight's formats in weights.ladder. */
function suffix(weight: Weight): string {
  return weight === "ternary" ? "Ternary" : weight.slice(3);
}

test(`every claim of ${claims} is proved`, () => {
  const own = program.claims.filter(({ span }) => span.file === "own.ladder");
  const proofs = own.map((claim) => prove(claim, program));
  expect(proofs.map((proof) => `${proof.claim}: ${proof.kind}`).filter((line) => !line.endsWith(": proof"))).toEqual(
    [],
  );
  expect(own).toHaveLength(25);
});

test("s (q - z) and s' (q' - z') are one function of the stored bits: their proved structures are the same", () => {
  for (const weight of WEIGHTS) {
    const [affine, other] = ["Affine", "Reinterpreted"].map((name) =>
      provedStructure(typeNamed(program, name + suffix(weight))),
    );
    expect(affine!.kind).toBe("proved");
    expect(other).toEqual(affine);
  }
});

test("equation (3) holds for every code, with every zero point, and in what a program computes", () => {
  for (const weight of WEIGHTS) {
    const centre = centreOf(weight);
    expect(weight === "ternary" ? centre : centre + 1).toBe(weight === "ternary" ? 2 : 2 ** Number(suffix(weight)));
    for (let q = 0; q < codeCount(weight); q++) {
      for (let z = -4; z <= 20; z += 0.5) {
        const s = 0.75;
        const { scale, zero } = reinterpreted(weight, s, z);
        expect(scale * (2 * q - centre - zero)).toBe(s * (q - z));
      }
    }
  }
});

test("an index stands for four bits and its negative for their complement; putting in order is its own inverse", () => {
  const seen = new Set<number>();
  for (let bits = 0; bits < 16; bits++) {
    const nibble = symmetrised(bits);
    expect(symmetrised(nibble)).toBe(bits);
    expect(nibble & 8).toBe(bits & 8);
    // Complements share an index and differ in sign: equation (4) without a negation at run time.
    expect(symmetrised(bits ^ 15)).toBe(nibble ^ 8);
    seen.add(nibble);
  }
  expect(seen.size).toBe(16);
});

test("of all 2^4b columns of a group, the packed nibbles mean 2 q - centre in the language, which proves what they mean", () => {
  const wrong: string[] = [];
  for (const weight of WEIGHTS) {
    const type = typeNamed(program, `Lmma${weight === "ternary" ? "Ternary" : `Int${suffix(weight)}`}`);
    const count = codeCount(weight);
    const codes = new Uint8Array(8);
    for (let column = 0; column < count ** 4; column++) {
      for (let k = 0; k < 4; k++) {
        codes[k] = Math.floor(column / count ** k) % count;
        // The other column of the tile, whose nibbles are the high halves of the bytes, has the codes the other way round.
        codes[7 - k] = codes[k]!;
      }
      const bytes = packTile(codes, { weight, n: 2, k: 4 });
      const meant = Array.from(codes, (q) => 2 * q - centreOf(weight));
      const found = Array.from(codes, (_, i) => toNumber(exactValue(type, bytes, i)));
      if (found.join() !== meant.join()) wrong.push(`${weight} ${codes.join()}: ${found.join()}`);
    }
  }
  expect(wrong).toEqual([]);
});

test("an index looks up what its four weights make of any four activations, plane by plane", () => {
  const integers = fc.tuple(
    fc.integer({ min: -32768, max: 32767 }),
    fc.integer({ min: -32768, max: 32767 }),
    fc.integer({ min: -32768, max: 32767 }),
    fc.integer({ min: -32768, max: 32767 }),
  );
  fc.assert(
    fc.property(
      fc.constantFrom(...WEIGHTS),
      integers,
      fc.array(fc.nat(), { minLength: 4, maxLength: 4 }),
      (weight, a, picks) => {
        const codes = Uint8Array.from([...picks, 0, 0, 0, 0].map((pick) => pick % codeCount(weight)));
        const entries = Array.from(
          { length: 8 },
          (_, i) => -a[3] + [0, 1, 2].reduce((sum, j) => sum + (2 * ((i >> j) & 1) - 1) * a[j]!, 0),
        );
        const bytes = packTile(codes, { weight, n: 2, k: 4 });
        let sum = 0;
        for (const [plane, power] of PLANES[weight].entries()) {
          const nibble = bytes[plane]! & 15;
          sum += 2 ** power * (nibble & 8 ? -1 : 1) * entries[nibble & 7]!;
        }
        expect(sum).toBe(a.reduce((total, x, k) => total + x * (2 * codes[k]! - centreOf(weight)), 0));
      },
    ),
  );
});

const shapes: fc.Arbitrary<TileShape> = fc.record({
  weight: fc.constantFrom(...WEIGHTS),
  n: fc.integer({ min: 1, max: 40 }).map((n) => 2 * n),
  k: fc.integer({ min: 1, max: 20 }).map((k) => 4 * k),
});

test("a tile unpacks to the codes that were packed, and any bytes are those of the codes that they unpack to", () => {
  fc.assert(
    fc.property(shapes, fc.infiniteStream(fc.nat(255)), (shape, numbers) => {
      const { weight, n, k } = shape;
      const codes = Uint8Array.from({ length: n * k }, () => numbers.next().value % codeCount(weight));
      const packed = packTile(codes, shape);
      expect(packed).toHaveLength(bytesOf({ kind: "weights", n, k, weight }));
      expect(unpackTile(packed, shape)).toEqual(codes);
      const any = Uint8Array.from(packed, () => numbers.next().value);
      const again = packTile(unpackTile(any, shape), shape);
      // Ternary has two ways to write 0; both are the same code.
      if (weight === "ternary") expect(unpackTile(again, shape)).toEqual(unpackTile(any, shape));
      else expect(again).toEqual(any);
    }),
  );
});

test("a fragment of some k of a tile is a slice of it", () => {
  fc.assert(
    fc.property(shapes, fc.nat(), fc.infiniteStream(fc.nat(255)), (shape, pick, numbers) => {
      const { weight, n, k } = shape;
      const first = 4 * (pick % (k / 4));
      const codes = Uint8Array.from({ length: n * k }, () => numbers.next().value % codeCount(weight));
      const some = codes.filter((_, at) => at % k >= first);
      const bytes = bytesOf({ kind: "weights", n, k: first === 0 ? 4 : first, weight }) * (first === 0 ? 0 : 1);
      expect(packTile(codes, shape).subarray(bytes)).toEqual(packTile(some, { weight, n, k: k - first }));
    }),
  );
});

test("what is no tile is refused", () => {
  const told = (codes: readonly number[], weight: Weight, n: number, k: number): string => {
    try {
      packTile(Uint8Array.from(codes), { weight, n, k });
    } catch (error) {
      return String(error);
    }
    return "packed";
  };
  expect(
    [
      told([0, 1, 2, 3, 0, 1, 2, 3], "int2", 2, 4),
      told([0, 1, 2, 3, 0, 1, 4, 3], "int2", 2, 4),
      told([0, 1, 2, 3, 0, 1, 2, 3], "ternary", 2, 4),
      told([0, 0, 0, 0], "int2", 1, 4),
      told([0, 0, 0, 0], "int2", 2, 2),
      told([0, 0, 0, 0], "int2", 2, 4),
    ].join("\n"),
  ).toMatchInlineSnapshot(`
    "packed
    RangeError: column 1 has the code 4 at 2, and codes of int2 are 0 to 3
    RangeError: column 0 has the code 3 at 3, and codes of ternary are 0 to 2
    RangeError: no tile of int2: n 1 is not even
    RangeError: no tile of int2: k 2 is no multiple of 4
    RangeError: 4 codes, and a tile n2k4.int2 has 8"
  `);
  expect(() => unpackTile(new Uint8Array(3), { weight: "int2", n: 2, k: 4 })).toThrowErrorMatchingInlineSnapshot(
    `[RangeError: 3 bytes, and a tile n2k4.int2 has 2]`,
  );
});
