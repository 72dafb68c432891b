// What the page and its worker say to each other: data that can be cloned, one union for each way.
// Not here: who answers what (worker.ts), how it is shown (page.ts).

import type { Generated } from "../../model/generate.ts";
import type { Sampling } from "../../model/sampler.ts";

/** Where a model comes from. */
export type Origin =
  /** One file, or all parts of a split model. */
  | { readonly kind: "files"; readonly files: readonly File[] }
  /** Absolute, http or https. */
  | { readonly kind: "url"; readonly url: string };

/** What is to be generated, as `lutra run` has it. */
export interface Request {
  readonly prompt: string;
  /** No chat template, and control tokens in the prompt count. */
  readonly isRaw: boolean;
  readonly sampling: Sampling;
  /** Null for the usual number. */
  readonly maxTokens: number | null;
}

/** A worker opens one model in its life, so that ending it frees all of the device's memory. */
export type ToWorker =
  | { readonly kind: "open"; readonly origin: Origin; readonly context: number | null }
  | { readonly kind: "generate"; readonly request: Request }
  /** Ends the generation under way. */
  | { readonly kind: "stop" };

/** The adapter, for people. */
export interface Machine {
  /** As much as the browser tells: "nvidia ampere". */
  readonly name: string;
  /** Whether it is a program that computes on the CPU. */
  readonly isSoftware: boolean;
  /** Those that the kernels may use: "shader-f16", "subgroups". */
  readonly features: readonly string[];
  /** Bytes of one buffer that a kernel can be handed at once. */
  readonly bindingBytes: number;
}

/** An opened model, for people. */
export interface ModelFacts {
  /** As it calls itself, or its file's name. */
  readonly name: string;
  readonly architecture: string;
  readonly parameters: number;
  /** Number types of its matrices, by descending share of bytes. */
  readonly types: readonly string[];
  readonly weightBytes: number;
  readonly cacheBytes: number;
  readonly context: number;
  /** Whether a prompt is a message, for which the file has a template. */
  readonly isChat: boolean;
  readonly loadMs: number;
}

export type FromWorker =
  /** First of all. */
  | { readonly kind: "machine"; readonly machine: Machine }
  /** In place of the former: there is no WebGPU; why, and what would help. */
  | { readonly kind: "unavailable"; readonly reason: string }
  /** `total` null: not known. */
  | { readonly kind: "progress"; readonly what: string; readonly done: number; readonly total: number | null }
  | { readonly kind: "opened"; readonly facts: ModelFacts }
  | { readonly kind: "prefill"; readonly done: number; readonly total: number }
  /** More of the text; tokens drawn so far, and those after the first per second. */
  | { readonly kind: "text"; readonly text: string; readonly tokens: number; readonly tps: number | null }
  | { readonly kind: "ended"; readonly generated: Generated }
  /** Opening or generating came to nothing. */
  | { readonly kind: "failed"; readonly message: string };
