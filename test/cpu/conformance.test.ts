// The native backend against the reference: the suite of all backends, over every instruction set that this machine has,
// with every family of kernels, on one thread and two; and that bits do not depend on how work is shared out.

import { afterAll, describe, expect, test } from "vitest";

import type { Backend } from "../../src/backend.ts";
import { openCpu } from "../../src/cpu/backend.ts";
import { type Placement, Placements, type Tiles } from "../../src/cpu/layout.ts";
import { loadAddon } from "../../src/cpu/native.ts";
import { codesOf, type Kernel, methodsFor } from "../../src/cpu/tuner.ts";
import { structureOf } from "../../src/ladder/layout.ts";
import type { Type } from "../../src/ladder/type.ts";
import {
  chunk,
  conformance,
  type Extent,
  type Machine,
  ownTypes50x256,
  range,
  run,
  SEED,
  USUAL_HEADS,
} from "../conformance.ts";
import { ACTIVATION_GROUP, anyShape, type Arithmetic, gemmCase, matrixTypes } from "../products.ts";
import { Random, weightFile } from "../small-plan.ts";

const addon = loadAddon();
const isas = "unavailable" in addon ? [] : addon.isas();

/** Kernels for integers; a matrix that those of a family cannot run is multiplied by dot products. */
const families = ["dot", "lookup", "ternary"] as const;
type Family = (typeof families)[number];

interface Native {
  readonly isa: string;
  readonly threads: number;
  readonly family: Family;
}
const natives: readonly Native[] = isas.flatMap((isa) =>
  families
    .filter((family) => methodsFor(isa, { bits: 2, plain: true, ternary: true }).includes(family))
    .flatMap((family) => [1, 2].map((threads) => ({ isa, threads, family }))),
);

const backends = new Map<string, Backend>();

function cpu({ isa, threads, family }: Native): Backend {
  const key = `${isa}/${threads}/${family}`;
  let backend = backends.get(key);
  if (backend === undefined) {
    const choose = (tiles: Tiles): Kernel => ({
      method: methodsFor(isa, codesOf(tiles)).includes(family) ? family : "dot",
      ahead: family === "dot" ? 0 : 1024,
    });
    const opened = openCpu({ isa, threads, choose });
    if ("unavailable" in opened) throw new Error(opened.unavailable);
    backends.set(key, (backend = opened));
  }
  return backend;
}

afterAll(async () => {
  for (const backend of backends.values()) await backend[Symbol.asyncDispose]();
});

/** How an (n, k) matrix of a type is kept. */
function placementOf(type: Type, n: number, k: number): Placement {
  return new Placements().of({ name: "w", type, shape: [n, k], file: 0, byteOffset: 0, byteLength: 0 }, "matrix");
}

function arithmeticOf(placement: Placement, k: number, family: Family): Arithmetic {
  if (placement.kind === "rows") return { activations: "f32", additions: k, roundings: 6, terms: 1, norm: 16 };
  const { group, product } = placement;
  const runs = methodsFor("scalar", codesOf(placement)).includes(family);
  const quantised = product.kind === "integer" ? "int8" : "f32";
  return {
    activations: runs ? ({ dot: quantised, lookup: "fours", ternary: "fives" } as const)[family] : quantised,
    additions: (product.kind === "table" ? group : group / ACTIVATION_GROUP) + k / group,
    roundings: 6,
    terms: 4,
    norm: 16,
  };
}

/** A half times a code of 8 bits is exact. */
function readsExactly(type: Type, n: number, k: number): boolean {
  const structure = structureOf(type);
  const placement = placementOf(type, n, k);
  return (
    structure.kind === "float" ||
    (placement.kind === "rows" && placement.format !== "f32") ||
    (structure.kind === "affine" &&
      placement.kind === "tiles" &&
      structure.offset === null &&
      Number.isInteger(structure.zero) &&
      structure.scale.fields.every((f) => f.format !== "f32"))
  );
}

const machines = natives.map((native): Machine => ({
  name: `${native.isa} ${native.family}, ${native.threads} threads`,
  kin: native.family,
  open: () => Promise.resolve(cpu(native)),
  arithmetic: (type, { n, k }) => arithmeticOf(placementOf(type, n, k), k, native.family),
  tries: () => true,
  readsExactly,
}));

/** Every epilogue, with neither norm nor bias, with a norm, and with both. */
const products: Extent["products"] = (["store", "add", "silu-mul"] as const).flatMap((epilogue) =>
  [
    [false, false],
    [true, false],
    [true, true],
  ].map(([norm, bias]) => ({ epilogue, norm: norm!, bias: bias!, shape: anyShape })),
);

conformance("native ops equal the reference's", "unavailable" in addon ? addon : machines, {
  embeddings: matrixTypes.map((type) => ({ type, rows: 70, k: type.blockSize * Math.ceil(64 / type.blockSize) })),
  types: matrixTypes,
  products,
  heads: USUAL_HEADS,
});

const why = "unavailable" in addon ? `; skipped: ${addon.unavailable}` : "";

describe.skipIf(why !== "")(`the native backend alone (seed ${SEED})${why}`, () => {
  test.each(matrixTypes.map((type) => [type.name, type] as const))(
    "weights of type %s give the same bits for a token alone or among others, on any number of threads",
    async (_, type) => {
      const random = new Random(SEED + 1);
      const c = gemmCase(type, anyShape(type, random), { epilogue: "store", norm: true, bias: false }, random);
      using weights = weightFile(c.weights);
      for (const native of natives.filter(({ threads }) => threads === 2)) {
        const [together] = (await run(cpu(native), c.plan, weights, [[chunk(range(c.tokens))]])) as [Float32Array];
        const alone = await run(
          cpu({ ...native, threads: 1 }),
          c.plan,
          weights,
          range(c.tokens).map((t) => [chunk([t])]),
        );
        expect(Buffer.concat(alone.map((a) => Buffer.from(a.buffer, a.byteOffset, a.byteLength)))).toEqual(
          Buffer.from(together.buffer, together.byteOffset, together.byteLength),
        );
      }
    },
  );

  test("types of a person's own run in the family that their numbers ask for", () => {
    const expected = { OwnTable: ["table", 8], OwnPair: ["integer", 4] } as const;
    expect(ownTypes50x256.map(({ type }) => type.name)).toEqual(Object.keys(expected));
    for (const { type } of ownTypes50x256) {
      const [family, bits] = expected[type.name as keyof typeof expected];
      expect(placementOf(type, 50, 256), type.name).toMatchObject({ kind: "tiles", bits, product: { kind: family } });
    }
  });
});
