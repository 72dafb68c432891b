// The public API of the package: re-exports only. A program opens a backend, loads a model, prepares the one with the
// other, and generates: `open`, `load`, `backend.prepare(model.plan, model.weights)`, `generate`.
// Sessions and backends are AsyncDisposable, which the libraries that TypeScript takes by itself do not declare yet.

/// <reference lib="esnext.disposable" preserve="true" />

export {
  type Backend,
  type Chunk,
  type Device,
  type Session,
  type Unavailable,
  UnsupportedOp,
  type WeightSource,
  type WeightTensor,
} from "./backend.ts";
export { FileError } from "./files.ts";
export { DEFAULT_CONTEXT, load, type LoadOptions, type Model } from "./load.ts";
export type { Config } from "./model/config.ts";
export {
  generate,
  type Generated,
  type GenerateEvent,
  type GenerateOptions,
  type StopReason,
} from "./model/generate.ts";
export { type Metadata, ModelError } from "./model/metadata.ts";
export { perplexity, type Perplexity, type PerplexityOptions } from "./model/perplexity.ts";
export type { Sampling } from "./model/sampler.ts";
export type { ChatTemplate, Message } from "./model/template.ts";
export type { Tokenizer, TokenStream } from "./model/tokenizer.ts";
export { DEVICES, open, type OpenOptions } from "./open.ts";
export type { Plan } from "./plan.ts";
