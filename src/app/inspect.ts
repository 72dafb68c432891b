// lutra inspect: what is in a model file, and what running it will take; nothing is run.

import process from "node:process";

import type { WeightTensor } from "../backend.ts";
import { memoryBytes } from "../cpu/layout.ts";
import { DEFAULT_CONTEXT, load, type Model } from "../load.ts";
import { quoted } from "../model/metadata.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { bytes } from "./figures.ts";
import { findModel } from "./models.ts";
import { escaped, printJson, table } from "./terminal.ts";

const OPTIONS = {
  tensors: { kind: "flag", about: "every tensor with its type, shape and size" },
  json: { kind: "flag", about: "one JSON object on stdout" },
} as const;

export const inspect: Command = command({
  name: "inspect",
  usage: ["inspect [options] model.gguf"],
  about: [
    "Says what a model file holds: configuration, vocabulary, tensors by type, bits per weight, and the memory",
    "that weights and cache will take. The whole header is checked, so that a file that passes can be run.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra inspect model.gguf", "for people"],
    ["lutra inspect model.gguf --tensors --json", "for programs"],
  ],
  positionals: 1,
  run: inspectModel,
});

/** All that is said, in JSON's names. */
interface Report {
  readonly file: string;
  readonly architecture: string;
  readonly name: string | null;
  readonly parameters: number;
  /** In the file. */
  readonly weight_bytes: number;
  /** In the memory of the CPU backend. */
  readonly memory_weight_bytes: number;
  readonly bits_per_weight: number;
  /** Over the tensors with two dimensions only. */
  readonly bits_per_matrix_weight: number;
  readonly layers: number;
  readonly width: number;
  readonly feed_forward: number;
  readonly heads: number;
  readonly kv_heads: number;
  readonly head_dim: number;
  readonly trained_context: number;
  readonly default_context: number;
  readonly vocabulary: number;
  readonly tokenizer: string;
  readonly pre_tokenizer: string | null;
  readonly chat_template: boolean;
  readonly cache_bytes_default: number;
  readonly cache_bytes_trained: number;
  readonly types: readonly TypeShare[];
}

/** The tensors of one type. */
interface TypeShare {
  readonly type: string;
  readonly tensors: number;
  readonly parameters: number;
  readonly bytes: number;
}

async function inspectModel(values: Values<typeof OPTIONS>, positionals: readonly string[]): Promise<number> {
  const [path] = positionals;
  if (path === undefined) throw new UsageError("no model; name a file, as in lutra inspect model.gguf");
  const model = load(findModel(path));
  try {
    await model.tokenizer(); // a vocabulary that is damaged is an error here too
    const report = reportOf(model);
    const tensors = [...model.tensors.values()].map((tensor) => ({
      name: tensor.name,
      type: tensor.type.name,
      shape: tensor.shape,
      bytes: tensor.byteLength,
    }));
    if (values.json) {
      printJson({ ...report, ...(values.tensors && { tensors }) });
    } else {
      process.stdout.write(describe(report));
      const rows = tensors.map(({ name, type, shape, bytes: size }) => [name, type, shape.join(" x "), size]);
      if (values.tensors) process.stdout.write(`\n${table([["tensor", "type", "shape", "bytes"], ...rows])}`);
    }
    return 0;
  } finally {
    model.close();
  }
}

function reportOf(model: Model): Report {
  const { config, metadata, plan } = model;
  const tensors = [...model.tensors.values()];
  const parameters = sum(tensors, count);
  const weightBytes = sum(tensors, (tensor) => tensor.byteLength);
  const matrices = tensors.filter((tensor) => tensor.shape.length === 2);
  // K and V of each position and layer, as the CPU backend keeps them: in f16.
  const cacheBytes = (context: number): number => 2 * 2 * config.blocks * plan.cache.width * context;
  const context = Math.min(config.trainedContext, DEFAULT_CONTEXT);
  return {
    file: model.file,
    architecture: config.architecture,
    name: config.name,
    parameters,
    weight_bytes: weightBytes,
    memory_weight_bytes: memoryBytes(tensors),
    bits_per_weight: (8 * weightBytes) / parameters,
    bits_per_matrix_weight: (8 * sum(matrices, (tensor) => tensor.byteLength)) / sum(matrices, count),
    layers: config.blocks,
    width: config.width,
    feed_forward: config.feedForward,
    heads: config.heads,
    kv_heads: config.kvHeads,
    head_dim: config.headDim,
    trained_context: config.trainedContext,
    default_context: context,
    vocabulary: plan.values[plan.logits]?.width ?? 0,
    tokenizer: metadata.string("tokenizer.ggml.model"),
    pre_tokenizer: metadata.string("tokenizer.ggml.pre", null),
    chat_template: metadata.has("tokenizer.chat_template"),
    cache_bytes_default: cacheBytes(context),
    cache_bytes_trained: cacheBytes(config.trainedContext),
    types: [...new Set(tensors.map((tensor) => tensor.type.name))].map((type) => {
      const own = tensors.filter((tensor) => tensor.type.name === type);
      return {
        type,
        tensors: own.length,
        parameters: sum(own, count),
        bytes: sum(own, (tensor) => tensor.byteLength),
      };
    }),
  };
}

function count(tensor: WeightTensor): number {
  return tensor.shape.reduce((product, length) => product * length, 1);
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}

function describe(report: Report): string {
  const { default_context: usual, trained_context: trained } = report;
  const cache = `${bytes(report.cache_bytes_default)} for ${usual} tokens`;
  const facts = [
    ["file", escaped(report.file)],
    ["name", report.name === null ? "-" : escaped(quoted(report.name))],
    ["architecture", report.architecture],
    ["parameters", countOf(report.parameters)],
    ["bits per weight", `${report.bits_per_weight.toFixed(2)} (matrices ${report.bits_per_matrix_weight.toFixed(2)})`],
    ["layers", `${report.layers} of width ${report.width}, feed-forward ${report.feed_forward}`],
    ["heads", `${report.heads} of ${report.head_dim}, ${report.kv_heads} for keys and values`],
    ["trained context", `${trained} tokens`],
    ["vocabulary", `${report.vocabulary} tokens, ${report.tokenizer} (${preTokenizer(report)})`],
    ["chat template", report.chat_template ? "yes" : "no"],
    ["memory: weights", bytes(report.memory_weight_bytes)],
    ["memory: cache", usual === trained ? cache : `${cache}, ${bytes(report.cache_bytes_trained)} for ${trained}`],
  ];
  const types = report.types.map(({ type, tensors, parameters, bytes: size }) => [
    type,
    tensors,
    countOf(parameters).padStart(10),
    bytes(size).padStart(10),
  ]);
  return `${table(facts)}\n${table([["type", "tensors", "parameters", "      size"], ...types])}`;
}

/** A vocabulary of another kind than gpt2 may say anything here. */
function preTokenizer({ pre_tokenizer: name }: Report): string {
  if (name === null) return "no pre-tokenizer";
  return /^[\w.-]{1,40}$/.test(name) ? name : escaped(quoted(name));
}

/** Parameters with four digits: "134.5 M". */
function countOf(parameters: number): string {
  const power = Math.min(3, Math.floor(Math.log10(parameters) / 3));
  return power === 0 ? `${parameters}` : `${(parameters / 1000 ** power).toPrecision(4)} ${" kMB"[power]}`;
}
