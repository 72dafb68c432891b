// The GPU backend against the reference: the suite of all backends on lavapipe and, for some types, on SwiftShader. Each
// text of a kernel costs them tenths of a second, so that shapes are few, and the same for as many types as blocks allow.

import { afterAll, expect, test } from "vitest";

import type { Backend, Unavailable } from "../../src/backend.ts";
import { shaderTexts } from "../../src/files.ts";
import { openGpuBackend } from "../../src/gpu/backend.ts";
import { openGpu } from "../../src/gpu/device.ts";
import { Kernels, type WeightForm } from "../../src/gpu/codegen.ts";
import type { ChooseMethods, Method } from "../../src/gpu/method.ts";
import { integerOperand } from "../../src/ladder/emit/packing.ts";
import { structureOf } from "../../src/ladder/layout.ts";
import type { Type } from "../../src/ladder/type.ts";
import { conformance, type Extent, type Machine, USUAL_HEADS } from "../conformance.ts";
import { softwareGpu, type SoftwareDriver } from "../gpu.ts";
import { programWith } from "../ladder/program.ts";
import { ACTIVATION_GROUP, type Arithmetic, matrixTypes, type Shape, wideTypes } from "../products.ts";

/** That method for all matrices; null for what the backend itself chooses. */
const always =
  (method: Method | null): ChooseMethods =>
  () =>
    method && { one: method, more: method };

/** How a backend keeps a matrix: as the one does that has the same kernels. */
type Forms = (type: Type, k: number) => WeightForm;
const formsOf = (subgroup: number, method: Method | null): Forms => {
  const kernels = new Kernels(shaderTexts(), { software: true, subgroup }, always(method));
  return (type, k) => kernels.forms(type, 1, k)[0]!;
};

/**
 * Sums of any shape have no more roundings than terms. A division of WGSL is within 2.5 units in the last place, each of
 * them two of EPSILON; a square root is the inverse of an inverse that is within 2. So a scale of activations is off by 5,
 * and weight, scale, offset and their products by one each; a norm's factor is off by half of 6 for the sum across lanes,
 * of one for a mean and one for what is added to it, then 4 + 5 for the root, 5 for the quotient, and two products.
 */
function arithmeticOf({ layout, methods }: WeightForm, { tokens, k }: Shape): Arithmetic {
  const method = tokens === 1 ? methods.one : methods.more;
  const activations = ({ dot: "int8", decode: "f32", lookup: "sums" } as const)[method];
  const additions = method === "dot" ? k / ACTIVATION_GROUP : k;
  return { activations, additions, roundings: 12, terms: layout === "floats" ? 1 : 4, norm: 24 };
}

/** Floats are what they are; a half times a code of 8 bits is exact. */
function readsExactly({ type, layout }: WeightForm): boolean {
  const structure = structureOf(type);
  return (
    structure.kind === "float" ||
    layout === "floats" ||
    (structure.kind === "affine" &&
      layout === "codes" &&
      structure.offset === null &&
      Number.isInteger(structure.zero) &&
      structure.scale.codes === null &&
      structure.scale.fields.length < 2 &&
      structure.scale.fields.every((f) => f.format !== "f32"))
  );
}

const opened: Backend[] = [];
afterAll(async () => {
  for (const backend of opened) await backend[Symbol.asyncDispose]();
});

/** One machine for each wanted method; null for what the backend itself chooses. */
async function machinesOn(
  driver: SoftwareDriver,
  wanted: readonly (Method | null)[],
  tried: (type: string, method: Method | null) => boolean,
): Promise<readonly Machine[] | Unavailable> {
  const gpu = softwareGpu(driver);
  if ("unavailable" in gpu) return gpu;
  const device = await openGpu(gpu);
  if ("unavailable" in device) return device;
  const subgroup = device.subgroup?.least ?? 0;
  await device[Symbol.asyncDispose]();
  const machines: Machine[] = [];
  for (const method of wanted) {
    const backend = await openGpuBackend(gpu, shaderTexts(), () => always(method));
    if ("unavailable" in backend) return backend;
    opened.push(backend);
    const formOf = formsOf(subgroup, method);
    machines.push({
      name: `${driver}${method === null ? "" : `, ${method}`}`,
      kin: null,
      open: () => Promise.resolve(backend),
      arithmetic: (type, shape) => arithmeticOf(formOf(type, shape.k), shape),
      tries: (type) => tried(type.name, method),
      readsExactly: (type, _, k) => readsExactly(formOf(type, k)),
    });
  }
  return machines;
}

/** A row of whole blocks, about so long; of types that only the exact evaluator decodes short ones. */
const rowOf = ({ name, blockSize }: Type, k: number): number =>
  blockSize * Math.max(1, Math.round((wideTypes.has(name) ? k / 8 : k) / blockSize));

/** More rows than a tile has, and several rows of activations. */
const evenShape = (type: Type): Shape => ({ tokens: 19, n: wideTypes.has(type.name) ? 5 : 65, k: rowOf(type, 256) });
/** Rows that end within a group, and within four values, where blocks let them; and one row of activations. */
const oddShape = (type: Type): Shape => ({ tokens: 1, n: wideTypes.has(type.name) ? 3 : 37, k: rowOf(type, 77) });

const products: Extent["products"] = [
  { epilogue: "add", norm: false, bias: false, shape: oddShape },
  { epilogue: "silu-mul", norm: true, bias: true, shape: evenShape },
];

/** The shape of the self-test's matrix, so that its kernel serves both; smaller where bytes take long to draw. */
function embeddingOf(type: Type): Extent["embeddings"][number] {
  const k = type.blockSize * Math.ceil(256 / type.blockSize);
  return { type, rows: wideTypes.has(type.name) ? 34 : Math.ceil(2 ** 16 / k), k };
}

/** The names of one type for each way in which kernels of a method read integers: their width, groups and offsets. */
function kindsOfIntegers(method: "dot" | "lookup"): ReadonlySet<string> {
  const kinds = new Map<string, string>();
  const formOf = formsOf(0, method);
  for (const type of matrixTypes) {
    const operand = integerOperand(type, method === "lookup" ? "planes" : "bytes");
    const { methods } = formOf(type, rowOf(type, 256));
    if (operand.kind === "none" || methods.more !== method) continue;
    const { bits, step, group, offset } = operand;
    const key = [bits, step, group === null, offset.length].join(" ");
    if (!kinds.has(key)) kinds.set(key, type.name);
  }
  return new Set(kinds.values());
}
const INTEGERS: Readonly<Record<"dot" | "lookup", ReadonlySet<string>>> = {
  dot: kindsOfIntegers("dot"),
  lookup: kindsOfIntegers("lookup"),
};

const standard = programWith().types;

const onLavapipe = await machinesOn("lavapipe", [null, "dot", "lookup"], (type, method) =>
  method === "dot" || method === "lookup" ? INTEGERS[method].has(type) : true,
);
conformance("ops on lavapipe equal the reference's", onLavapipe, {
  embeddings: matrixTypes.map(embeddingOf),
  types: matrixTypes.filter((type) => standard.has(type.name) || INTEGERS.dot.has(type.name)),
  products,
  heads: [...USUAL_HEADS, { heads: 3, kvHeads: 3, headDim: 7 }, { heads: 6, kvHeads: 2, headDim: 33 }],
});

/** Of each way in which matrices lie one or two, and of each turn that a prelude takes. */
const SOME = ["F16", "BF16", "Q4_0", "Q4_1", "Q6_K", "TQ2_0", "NF4", "OCP_MXFP4", "Straddle"];
const some = matrixTypes.filter(({ name }) => SOME.includes(name));
const onSwiftShader = await machinesOn("SwiftShader", [null, "dot"], (type) => SOME.includes(type));
conformance("ops on SwiftShader equal the reference's", onSwiftShader, {
  embeddings: some.map(embeddingOf),
  types: some,
  products,
  heads: USUAL_HEADS.slice(0, 2),
});

test("what the suite goes over lies in all ways that there are, and integers of many kinds are multiplied as such", () => {
  const layouts = matrixTypes.flatMap((type) => [256, 77].map((k) => formsOf(0, null)(type, rowOf(type, k)).layout));
  expect([...new Set(layouts)].toSorted()).toEqual(["bytes", "codes", "planes"]);
  expect(INTEGERS.dot.size).toBeGreaterThan(9);
  expect(INTEGERS.lookup.size).toBeGreaterThan(6);
});
