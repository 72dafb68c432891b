// Weights as the machine looks them up: codes become odd integers around 0, their bits become planes, and four bits of a
// plane become an index into half a table, with the negation done here instead of at run time.
// Equations of LUT Tensor Core (ISCA'25, 3.1.2): (1) r = s (q - z); (2) q' = 2 q - (2^b - 1), s' = s / 2,
// z' = 2 z + 1 - 2^b; (3) sum a s (q - z) = sum a s' (q' - z'); (4) to (6) the index. Exact, but for what scales round:
// weights.ladder states that in claims, which the prover proves.
// Not here: how a file's bytes become codes (offline.ts), which registers hold indices (fragment.ts).

import { bytesOf, PLANES, TABLE_K, type Weight } from "./fragment.ts";

/**
 * For each code q of a weight, the bits of its planes, plane p at bit p. Codes of integers are 0 to 2^b - 1 and their own
 * bits. Those of ternary are 0, 1, 2 for -1, 0, 1, as two planes that weigh the same: none, one or both set.
 */
const PLANE_BITS: Readonly<Record<Weight, readonly number[]>> = {
  int1: bitsUpTo(1),
  int2: bitsUpTo(2),
  int3: bitsUpTo(3),
  int4: bitsUpTo(4),
  ternary: [0b00, 0b01, 0b11],
};

function bitsUpTo(b: number): readonly number[] {
  return Array.from({ length: 2 ** b }, (_, q) => q);
}

/** How many codes a weight has: q is 0 to one less. */
export function codeCount(weight: Weight): number {
  return PLANE_BITS[weight].length;
}

/** What is taken off 2 q so that codes lie around 0: 2^b - 1, or 2 of ternary. */
export function centreOf(weight: Weight): number {
  return codeCount(weight) - 1;
}

/** Equation (2): a scale and zero point of codes, as those of q' = 2 q - centre. Exact wherever the arguments are. */
export function reinterpreted(
  weight: Weight,
  scale: number,
  zero: number,
): { readonly scale: number; readonly zero: number } {
  return { scale: scale / 2, zero: 2 * zero - centreOf(weight) };
}

/**
 * Equations (4) to (6): four bits w3 w2 w1 w0 of a plane as sign w3 and the index of the other three, inverted where the
 * sign is 1. Its own inverse.
 */
export function symmetrised(bits: number): number {
  return bits & 8 ? bits ^ 7 : bits;
}

/** The columns n and the k of a tile, as a weight fragment has them. */
export interface TileShape {
  readonly weight: Weight;
  readonly n: number;
  readonly k: number;
}

/**
 * Codes of a tile as indices.
 * @param codes (n, k) row-major, each below codeCount
 * @returns (k / 4, planes, n) nibbles, n even in the low half of a byte
 * @throws RangeError where n is odd, k is no multiple of 4, there are not n * k codes, or one is too large
 */
export function packTile(codes: Uint8Array, shape: TileShape): Uint8Array {
  const { weight, n, k } = shape;
  const out = new Uint8Array(sizeOf(shape, codes.length));
  const planes = PLANES[weight].length;
  const bits = Uint8Array.from(PLANE_BITS[weight]);
  for (let at = 0; at < codes.length; at++)
    if (codes[at]! >= bits.length)
      throw new RangeError(
        `column ${Math.floor(at / k)} has the code ${codes[at]} at ${at % k}, and codes of ${weight} are 0 to ${bits.length - 1}`,
      );
  for (let column = 0; column < n; column++) {
    const shift = 4 * (column % 2);
    for (let group = 0; group < k / TABLE_K; group++) {
      const from = column * k + group * TABLE_K;
      const [b0, b1, b2, b3] = [
        bits[codes[from]!]!,
        bits[codes[from + 1]!]!,
        bits[codes[from + 2]!]!,
        bits[codes[from + 3]!]!,
      ];
      for (let plane = 0; plane < planes; plane++) {
        const four =
          ((b0 >> plane) & 1) | (((b1 >> plane) & 1) << 1) | (((b2 >> plane) & 1) << 2) | (((b3 >> plane) & 1) << 3);
        out[((group * planes + plane) * n + column) >> 1]! |= symmetrised(four) << shift;
      }
    }
  }
  return out;
}

/**
 * The codes of a tile: what packTile was given. Planes of ternary may be set the other way round, which is 0 as well.
 * @throws RangeError where the bytes are not those of such a tile
 */
export function unpackTile(indices: Uint8Array, shape: TileShape): Uint8Array {
  const { weight, n, k } = shape;
  const codes = new Uint8Array(n * k);
  const bytes = sizeOf(shape, codes.length);
  if (indices.length !== bytes)
    throw new RangeError(`${indices.length} bytes, and a tile n${n}k${k}.${weight} has ${bytes}`);
  const planes = PLANES[weight].length;
  for (let group = 0; group < k / TABLE_K; group++) {
    for (let plane = 0; plane < planes; plane++) {
      for (let column = 0; column < n; column++) {
        const nibble = (indices[((group * planes + plane) * n + column) >> 1]! >> (4 * (column % 2))) & 15;
        const four = symmetrised(nibble);
        // A plane of ternary counts 1, since the planes weigh the same.
        const worth = weight === "ternary" ? 1 : 2 ** plane;
        for (let j = 0; j < TABLE_K; j++) codes[column * k + group * TABLE_K + j]! += ((four >> j) & 1) * worth;
      }
    }
  }
  return codes;
}

/** Bytes of a tile with so many codes. */
function sizeOf({ weight, n, k }: TileShape, codes: number): number {
  const wrong = [
    n % 2 === 0 && n > 0 ? "" : `n ${n} is not even`,
    k % TABLE_K === 0 && k > 0 ? "" : `k ${k} is no multiple of 4`,
  ];
  const [first] = wrong.filter((text) => text !== "");
  if (first !== undefined) throw new RangeError(`no tile of ${weight}: ${first}`);
  if (codes !== n * k) throw new RangeError(`${codes} codes, and a tile n${n}k${k}.${weight} has ${n * k}`);
  return bytesOf({ kind: "weights", n, k, weight });
}
