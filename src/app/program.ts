// What commands speak of by name: the types, elements and devices that come with Lutra, and those of a person's own file.
// Not here: a type that a model file has to carry (library.ts), what .ladder texts mean (ladder/).

import { dirname } from "node:path";

import { readLadder, standardTexts } from "../files.ts";
import { didYouMean } from "../ladder/diagnostic.ts";
import { parse } from "../ladder/grammar.ts";
import type { Endpoint, Program } from "../ladder/type.ts";
import { neighbour } from "../library.ts";
import { UsageError } from "./command.ts";

/**
 * All that comes with Lutra, and a file of one's own with what it imports from its folder; texts by name.
 * @throws FileError where the file cannot be read
 */
export function textsWith(path: string | null): ReadonlyMap<string, string> {
  const texts = new Map(standardTexts().map((one) => [one.name, one.text]));
  if (path === null) return texts;
  const own = readLadder(path);
  texts.set(own.name, own.text);
  const open = [own];
  for (let source = open.pop(); source !== undefined; source = open.pop()) {
    const result = parse(source.name, source.text);
    if (result.kind !== "parsed") continue;
    for (const { text: name } of result.ast.imports) {
      // Where there is none, the resolver says so.
      const found = texts.has(name) ? null : neighbour(name, dirname(path));
      if (found === null) continue;
      texts.set(name, found.text);
      open.push(found);
    }
  }
  return texts;
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
export function endpointNamed(option: string, name: string | null, program: Program): Endpoint {
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
