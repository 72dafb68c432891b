// What commands speak of by name: the types, elements and devices that come with Lutra, and those of a person's own file.
// Not here: a type that a model file has to carry (library.ts), what .ladder texts mean (ladder/).

import { dirname, join } from "node:path";

import { readLadder, standardTexts } from "../files.ts";
import { didYouMean } from "../ladder/diagnostic.ts";
import { parse } from "../ladder/grammar.ts";
import type { Endpoint, Program } from "../ladder/type.ts";
import { neighbour } from "../library.ts";
import { MAX_SIZE } from "../ladder/schedule/method.ts";
import type { Gemm } from "../ladder/schedule/route.ts";
import { type Option, UsageError, type Values } from "./command.ts";

type ProductOptions = Readonly<
  Record<"activation" | "acc" | "out", Extract<Option, { kind: "text" }>> &
    Record<"m" | "n" | "k", Option & { readonly kind: "integer"; readonly fallback: number }>
>;

/** What commands about one matrix product are told of it, beside the type of the weights. */
export const PRODUCT_OPTIONS: ProductOptions = {
  activation: { kind: "text", about: "number type of the activations (F16)" },
  acc: { kind: "text", about: "element that products are summed in (F32)" },
  out: { kind: "text", about: "element of the result (F32)" },
  m: { kind: "integer", about: "rows of activations", min: 1, max: MAX_SIZE, fallback: 1 },
  n: { kind: "integer", about: "rows of weights", min: 1, max: MAX_SIZE, fallback: 4096 },
  k: { kind: "integer", about: "columns of both", min: 1, max: MAX_SIZE, fallback: 4096 },
};

export interface Texts {
  /** By name: the given ones, what they import from their folders, and those that come with Lutra. */
  readonly texts: ReadonlyMap<string, string>;
  /** Where the given ones and those beside them lie, by name. */
  readonly folders: ReadonlyMap<string, string>;
}

/**
 * Files with what they import, and all that comes with Lutra.
 * @throws UsageError where two files have one name,
 *   FileError where one cannot be read
 */
export function readTexts(paths: readonly string[]): Texts {
  const texts = new Map(standardTexts().map(({ name, text }) => [name, text]));
  const folders = new Map<string, string>();
  for (const path of paths) {
    const { name, text } = readLadder(path);
    const other = folders.get(name);
    if (other !== undefined && other !== dirname(path))
      throw new UsageError(`${path}: ${join(other, name)} has the same name, by which an import would find either`);
    folders.set(name, dirname(path));
    texts.set(name, text);
  }
  for (const [name, folder] of folders) {
    const result = parse(name, texts.get(name)!);
    if (result.kind !== "parsed") continue;
    for (const { text: imported } of result.ast.imports) {
      // Where there is none, the resolver says so.
      const found = texts.has(imported) ? null : neighbour(imported, folder);
      if (found === null) continue;
      texts.set(imported, found.text);
      // A map is walked in the order in which it grows.
      folders.set(imported, folder);
    }
  }
  return { texts, folders };
}

/** @throws UsageError where nothing has that name, with what it may be, or all that have one */
export function named<T>(option: string, name: string | null, all: ReadonlyMap<string, T>): T {
  const names = [...all.keys()];
  if (name === null) throw new UsageError(`--${option}: no value; there are ${names.join(", ")}`);
  const found = all.get(name);
  if (found !== undefined) return found;
  const hint = didYouMean(name, names);
  throw new UsageError(`--${option}: ${JSON.stringify(name)}; ${hint ?? `there are ${names.join(", ")}`}`);
}

/** As `named`, for a type, an element, or a format of whole matrices in one of its storages: `I2_S.x86_128`. */
function endpointNamed(option: string, name: string | null, program: Program): Endpoint {
  const ends = new Map<string, Endpoint>();
  for (const [key, type] of program.types) ends.set(key, { kind: "type", type });
  for (const [key, element] of program.elements) ends.set(key, { kind: "element", element });
  for (const [key, tensor] of program.tensors) {
    for (const storage of tensor.storages) {
      const end = { kind: "tensor", tensor, storage } as const;
      if (!ends.has(key)) ends.set(key, end);
      if (storage !== "") ends.set(`${key}.${storage}`, end);
    }
  }
  return named(option, name, ends);
}

/**
 * The product that a command is told of by PRODUCT_OPTIONS and by the option `type`.
 * @throws UsageError naming the option whose name is not declared
 */
export function productNamed(
  values: Values<ProductOptions> & { readonly type: string | null },
  program: Program,
): Omit<Gemm, "accept"> {
  const { m, n, k } = values;
  return {
    activation: endpointNamed("activation", values.activation ?? "F16", program),
    weight: endpointNamed("type", values.type, program),
    accumulate: named("acc", values.acc ?? "F32", program.elements),
    out: named("out", values.out ?? "F32", program.elements),
    m,
    n,
    k,
  };
}
