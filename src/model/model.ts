// A model file as one value: its configuration and plan at once, its tokenizer when it is asked for.
// Opening reads the header only; weights are read by the backend that prepares the plan. Nothing is parsed twice.
// Bytes and number formats are handed in, so that a page opens models as a program does (load.ts is the latter's way).
// Not here: backends (open.ts), the loop over tokens (generate.ts).

import type { WeightSource, WeightTensor } from "../backend.ts";
import type { ByteSource } from "../files.ts";
import type { Program } from "../ladder/type.ts";
import type { Plan } from "../plan.ts";
import { type Config, readConfig } from "./config.ts";
import { type Gguf, readGguf } from "./gguf.ts";
import { type Metadata, ModelError } from "./metadata.ts";
import type { ChatTemplate } from "./template.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { planModel } from "./transformer.ts";

export interface LoadOptions {
  /** Positions of the cache, at least 1; the smaller of the trained context and `usualContext` where it is not given. */
  readonly context?: number;
  /** DEFAULT_CONTEXT where it is not given. */
  readonly usualContext?: number;
  /** Sequences that can be kept at once, at least 1; 1 where it is not given. */
  readonly slots?: number;
  /** Called as each part of opening is done: "number formats", "header", "plan". */
  readonly phase?: (name: string) => void;
}

/** An opened model. Close it when no session reads its weights any more. */
export interface Model {
  /** Absolute path, or the name where it is no file. */
  readonly file: string;
  readonly metadata: Metadata;
  readonly config: Config;
  readonly plan: Plan;
  readonly tensors: ReadonlyMap<string, WeightTensor>;
  /** What `Backend.prepare` takes beside the plan. */
  readonly weights: WeightSource;
  /** The tokenizer, built at the first call. Rejects with a ModelError where the vocabulary is damaged. */
  tokenizer(): Promise<Tokenizer>;
  /** The chat template, built at the first call; null where the file has none. Rejects as the tokenizer. */
  template(): Promise<ChatTemplate | null>;
  close(): void;
}

/** Enough for a conversation, and a cache that fits beside any model that fits. */
export const DEFAULT_CONTEXT = 4096;

/** The file whose types most models use alone; resolving it takes a third of the time that all files take. */
const COMMON_TYPES = "gguf.ladder";

/**
 * Opens a model and checks all of it but the weights' values.
 * @param name of a GGUF file, or of the first file of a split one, as `open` takes it
 * @param open opens the file, and the further files of a split model, which are named as the first but for a number
 * @param formats the types that come with Lutra: all of them, or those of the named .ladder files with what they import
 * @throws as `open` and `formats`, ModelError where it is no model that Lutra can run, RangeError for an option that is
 *   no whole number of at least 1
 */
export function openModel(
  name: string,
  open: (name: string) => ByteSource,
  formats: (roots?: readonly string[]) => Program,
  options: LoadOptions = {},
): Model {
  for (const option of ["context", "usualContext", "slots"] as const) {
    const value = options[option];
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1))
      throw new RangeError(`${option}: ${value}; a whole number of at least 1 is needed`);
  }
  const source = open(name);
  const program = formats([COMMON_TYPES]);
  options.phase?.("number formats");
  const gguf = readGguf(source, program, open, () => formats());
  options.phase?.("header");
  try {
    return modelOf(gguf, options);
  } catch (error) {
    gguf.close();
    throw error;
  }
}

function modelOf(gguf: Gguf, options: LoadOptions): Model {
  const { context, usualContext = DEFAULT_CONTEXT, slots = 1, phase } = options;
  const { metadata, weights } = gguf;
  const config = readConfig(metadata);
  const vocabulary = gguf.tensors.get("token_embd.weight")?.shape[0] ?? 0;
  const plan = planModel(gguf, config, vocabulary, {
    context: context ?? Math.min(config.trainedContext, usualContext),
    slots,
  });
  phase?.("plan");
  let tokenizer: Promise<Tokenizer> | null = null;
  let template: Promise<ChatTemplate | null> | null = null;
  const getTokenizer = (): Promise<Tokenizer> => (tokenizer ??= tokenizerOf(metadata, vocabulary));
  return {
    file: metadata.file,
    metadata,
    config,
    plan,
    tensors: gguf.tensors,
    weights,
    tokenizer: getTokenizer,
    template: () => (template ??= templateOf(metadata, getTokenizer())),
    close: () => gguf.close(),
  };
}

async function tokenizerOf(metadata: Metadata, vocabulary: number): Promise<Tokenizer> {
  const { loadTokenizer } = await import("./tokenizer.ts");
  const tokenizer = await loadTokenizer(metadata);
  const found = tokenizer.pieces.length;
  if (found !== vocabulary)
    throw new ModelError(
      metadata.file,
      "tokenizer.ggml.tokens",
      `${found} tokens`,
      `token_embd.weight has a row for each of ${vocabulary}`,
    );
  return tokenizer;
}

async function templateOf(metadata: Metadata, tokenizer: Promise<Tokenizer>): Promise<ChatTemplate | null> {
  if (!metadata.has("tokenizer.chat_template")) return null;
  const { loadTemplate } = await import("./template.ts");
  return loadTemplate(metadata, await tokenizer);
}
