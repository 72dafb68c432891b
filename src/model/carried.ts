// Number types that a model file brings along: the .ladder texts that declare them, in its metadata, so that a file in
// a type of the user's own needs nothing else to be run.
//   lutra.ladder.source.<file name>  string: the text of one .ladder file; with all that it imports
//   lutra.ladder.type.<id>           string: the name of the type that tensors with this type id have
// Ids are counted from 19456 (0x4c00, far above ggml's) on. Such names mean nothing outside of the file, and types that
// come with Lutra keep their own ids. Not here: what the texts say (ladder/), tensors (gguf.ts).

import { renderDiagnostic } from "../ladder/diagnostic.ts";
import { resolveProgram } from "../ladder/resolve.ts";
import type { Type } from "../ladder/type.ts";
import type { GgufPair } from "./gguf-writer.ts";
import { type Metadata, ModelError, quoted } from "./metadata.ts";

/** Types with the texts that declare them. */
export interface CarriedTypes {
  /** By file name, as `import` spells it; complete, so that they resolve by themselves. */
  readonly texts: ReadonlyMap<string, string>;
  /** The first has id FIRST_CARRIED_ID, the next one more. */
  readonly types: readonly Type[];
}

/** The "L" of Lutra in the high byte; ggml's ids are below 100. */
export const FIRST_CARRIED_ID = 0x4c00;

const SOURCE = "lutra.ladder.source.";
const TYPE = "lutra.ladder.type.";

/** A model has a handful of types. */
const MAX_TYPES = 256;
/** As much as the language takes in one file, so that all of them together are resolved in a second. */
const MAX_TEXT = 256 * 1024;

/** Whether a key belongs to the carried types. */
export function isCarriedKey(key: string): boolean {
  return key.startsWith(SOURCE) || key.startsWith(TYPE);
}

/** The pairs that carry types in a file. */
export function carriedPairs({ texts, types }: CarriedTypes): readonly GgufPair[] {
  return [
    ...types.map(({ name }, n) => ({ key: `${TYPE}${FIRST_CARRIED_ID + n}`, type: "string", value: name })),
    ...[...texts].map(([file, value]) => ({ key: SOURCE + file, type: "string", value })),
  ];
}

/**
 * The types that a file carries by their ids; none where it carries none.
 * @param standard the types that come with Lutra, by id
 * @throws ModelError where ids are not the next from FIRST_CARRIED_ID on or taken, or where the texts do not declare
 * the types
 */
export function readCarried(
  metadata: Metadata,
  standard: { find(id: number): Type | undefined },
): ReadonlyMap<number, Type> {
  const { file } = metadata;
  const typeKeys = metadata.keys.filter((key) => key.startsWith(TYPE));
  const types = new Map<number, Type>();
  if (typeKeys.length === 0) return types;
  if (typeKeys.length > MAX_TYPES)
    throw new ModelError(file, `${TYPE}*`, `${typeKeys.length} types`, `a file carries at most ${MAX_TYPES}`);
  const texts = new Map<string, string>();
  let length = 0;
  for (const key of metadata.keys.filter((name) => name.startsWith(SOURCE))) {
    const text = metadata.string(key);
    length += text.length;
    if (length > MAX_TEXT)
      throw new ModelError(file, `${SOURCE}*`, "too long", `together they have at most ${MAX_TEXT} characters`);
    texts.set(key.slice(SOURCE.length), text);
  }
  const resolution = resolveProgram(texts);
  if (resolution.kind === "rejected") {
    const [first] = resolution.diagnostics;
    const line = first === undefined ? "" : renderDiagnostic(first, texts).split("\n", 1)[0]!;
    throw new ModelError(file, `${SOURCE}*`, line, "the texts must declare the file's types; make the file again");
  }
  for (const [n, key] of typeKeys.entries()) {
    const id = FIRST_CARRIED_ID + n;
    if (key !== `${TYPE}${id}`)
      throw new ModelError(file, "key", quoted(key), `the ids count from ${FIRST_CARRIED_ID}: ${TYPE}${id} comes here`);
    const owner = standard.find(id);
    if (owner !== undefined)
      throw new ModelError(file, key, quoted(metadata.string(key)), `the id ${id} belongs to ${owner.name}`);
    const name = metadata.string(key);
    const type = resolution.program.types.get(name);
    if (type === undefined)
      throw new ModelError(file, key, quoted(name), `the types declared in ${SOURCE}* have other names`);
    types.set(id, type);
  }
  return types;
}
