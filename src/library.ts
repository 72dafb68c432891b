// The .ladder texts at hand: those that come with Lutra, and a person's own with all that they import.
// Here a type is found by its name, together with the texts that a model file in that type has to carry.
// Not here: what the texts mean (ladder/), how a file carries them (model/carried.ts).

import { dirname, join } from "node:path";

import { FileError, readLadder, type SourceText, standardTexts } from "./files.ts";
import { didYouMean, renderDiagnostic } from "./ladder/diagnostic.ts";
import { parse } from "./ladder/grammar.ts";
import { resolveProgram } from "./ladder/resolve.ts";
import type { Program, Type } from "./ladder/type.ts";

/** What a name stands for. */
export type FoundType =
  /** Every reader of GGUF files knows it by its id. */
  | { readonly kind: "standard"; readonly type: Type }
  /** A file in this type carries these texts, by name: that which declares it, and all that it imports. */
  | { readonly kind: "carried"; readonly type: Type; readonly texts: ReadonlyMap<string, string> }
  /** The texts are wrong; each diagnostic is several lines for people. */
  | { readonly kind: "rejected"; readonly diagnostics: readonly string[] }
  /** The reason says what has that name instead, what may be meant, or which types there are. */
  | { readonly kind: "unknown"; readonly reason: string };

/**
 * What comes with Lutra: all of it, or the named files with what they import.
 * @throws FileError where the package's dsl folder is missing, Error where it is damaged
 */
export function standardProgram(roots?: readonly string[]): Program {
  const texts = new Map(standardTexts().map(({ name, text }) => [name, text]));
  const resolution = resolveProgram(texts, roots);
  if (resolution.kind === "program") return resolution.program;
  const [diagnostic] = resolution.diagnostics;
  throw new Error(
    `the .ladder files of this installation are damaged: ${diagnostic && renderDiagnostic(diagnostic, texts)}`,
  );
}

/**
 * The type of that name: of a person's own file where one is given and declares it, else of those that come with Lutra.
 * @param path of a `.ladder` file, which may import standard files and others of its folder; or null
 * @throws FileError where a file cannot be read
 */
export function findType(name: string, path: string | null, standard: Program): FoundType {
  const library = standardTexts();
  const own = path === null ? null : readLadder(path);
  // An own file may have the name of a standard one; what it imports under that name is then itself, which is refused.
  const sources = own === null ? library : [own, ...library.filter((text) => text.name !== own.name)];
  const home = own !== null && declares(own, name) ? own : null;
  if (own !== null && (home !== null || !standard.types.has(name))) {
    const texts = withImports(own, sources, dirname(path ?? ""));
    const resolution = resolveProgram(texts);
    if (resolution.kind === "rejected")
      return { kind: "rejected", diagnostics: resolution.diagnostics.map((d) => renderDiagnostic(d, texts)) };
    const type = resolution.program.types.get(name);
    return type === undefined ? unknown(name, [resolution.program, standard]) : { kind: "carried", type, texts };
  }
  const type = standard.types.get(name);
  if (type === undefined) return unknown(name, [standard]);
  if (type.ids.has("gguf")) return { kind: "standard", type };
  const declaring = library.find((text) => declares(text, name));
  if (declaring === undefined) return unknown(name, [standard]);
  return { kind: "carried", type, texts: withImports(declaring, library, null) };
}

function unknown(name: string, programs: readonly Program[]): FoundType {
  const quoted = JSON.stringify(name);
  for (const { elements, tensors } of programs) {
    if (tensors.has(name))
      return { kind: "unknown", reason: `${quoted} is a format of whole matrices; models are stored in blocks` };
    if (elements.has(name))
      return {
        kind: "unknown",
        reason: `${quoted} is an element; models are stored in blocks, or elements of whole bytes`,
      };
  }
  const names = [...new Set(programs.flatMap(({ types }) => [...types.keys()]))];
  const hint = didYouMean(name, names) ?? `types are ${names.join(", ")}`;
  return { kind: "unknown", reason: `there is no type ${quoted}; ${hint}` };
}

function declares({ name: file, text }: SourceText, name: string): boolean {
  const result = parse(file, text);
  return result.kind === "parsed" && result.ast.declarations.some((declaration) => declaration.name.text === name);
}

/** A text with all that it imports, directly or not; imports that nobody has are left for the resolver to report. */
function withImports(
  start: SourceText,
  sources: readonly SourceText[],
  folder: string | null,
): ReadonlyMap<string, string> {
  const texts = new Map([[start.name, start.text]]);
  const open = [start];
  for (let source = open.pop(); source !== undefined; source = open.pop()) {
    const result = parse(source.name, source.text);
    if (result.kind !== "parsed") continue;
    for (const { text: name } of result.ast.imports) {
      if (texts.has(name)) continue;
      const imported = sources.find((text) => text.name === name) ?? neighbour(name, folder);
      if (imported === null) continue;
      texts.set(name, imported.text);
      open.push(imported);
    }
  }
  return texts;
}

/**
 * The text that an import of this name means in a folder: a file of the same folder, since an import never leads out
 * of it; null where there is none, or no folder.
 * @throws FileError where it is there and cannot be read
 */
export function neighbour(name: string, folder: string | null): SourceText | null {
  if (folder === null || !/^[\w-][\w.-]*\.ladder$/.test(name)) return null;
  try {
    return { ...readLadder(join(folder, name)), name };
  } catch (error) {
    if (error instanceof FileError && error.message.endsWith("no such file")) return null;
    throw error;
  }
}
