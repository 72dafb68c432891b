// The hyperparameters of a model, read from its metadata and checked against each other before anything is built.
// Not here: what is done with them (transformer.ts), the tokenizer's keys (tokenizer.ts).
// Key names: the GGUF specification; the rotary scalings as llama.cpp computes them (linear; YaRN, arXiv 2309.00071).

import { type Metadata, ModelError, quoted } from "./metadata.ts";

/** Rotary position embedding: `frequencies` of the pairs in radians per position, before any per-pair factors. */
export interface RotaryConfig {
  readonly pairing: "adjacent" | "split";
  readonly frequencies: readonly number[];
  /** Factor on the rotated numbers; 1 but for YaRN. */
  readonly magnitude: number;
}

export interface Config {
  readonly architecture: string;
  readonly name: string | null;
  readonly blocks: number;
  /** Width of the residual stream. */
  readonly width: number;
  readonly feedForward: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly normEps: number;
  readonly rotary: RotaryConfig;
  /** Whether the linears of queries, keys and values must have biases; others may have them. */
  readonly hasQkvBiases: boolean;
  /** Tokens that the model was trained to see at once. */
  readonly trainedContext: number;
}

/** What differs between architectures, one row each. */
const ARCHITECTURES: Readonly<Record<string, Architecture>> = {
  // GGUF stores q and k of llama models permuted so that pairs are adjacent.
  llama: { pairing: "adjacent", hasQkvBiases: false },
  // Qwen2 and 2.5 (arXiv 2407.10671, 2.2.1).
  qwen2: { pairing: "split", hasQkvBiases: true },
};
interface Architecture extends Pick<Config, "hasQkvBiases"> {
  readonly pairing: RotaryConfig["pairing"];
}

/** Above any model known (Llama 3.1 405B: 126 blocks, width 16,384, 128 heads, 53,248, 131,072), with room. */
const LIMITS = { blocks: 1024, width: 131_072, heads: 4096, feedForward: 1_048_576, context: 2 ** 24 } as const;

/** Far beyond any scaling of contexts in use (64), so that nothing overflows. */
const MAX_SCALING = 65_536;

/** Reads and checks the configuration. Throws ModelError that names file, key, value and what is allowed. */
export function readConfig(metadata: Metadata): Config {
  const architecture = metadata.string("general.architecture");
  const row = Object.hasOwn(ARCHITECTURES, architecture) ? ARCHITECTURES[architecture] : undefined;
  const fail = (field: string, value: unknown, allowed: string): never => {
    throw new ModelError(metadata.file, field, value, allowed);
  };
  if (row === undefined)
    return fail("general.architecture", quoted(architecture), `known: ${Object.keys(ARCHITECTURES).join(", ")}`);
  const key = (name: string): string => `${architecture}.${name}`;
  const count = (name: string, limit: number, absent?: number): number => {
    const value = absent === undefined ? metadata.integer(key(name)) : metadata.integer(key(name), absent);
    return value >= 1 && value <= limit ? value : fail(key(name), value, `1 to ${limit}`);
  };

  const blocks = count("block_count", LIMITS.blocks);
  const width = count("embedding_length", LIMITS.width);
  const feedForward = count("feed_forward_length", LIMITS.feedForward);
  const heads = count("attention.head_count", LIMITS.heads);
  const kvHeads = count("attention.head_count_kv", LIMITS.heads, heads);
  if (kvHeads > heads || heads % kvHeads !== 0)
    fail(key("attention.head_count_kv"), kvHeads, `a divisor of ${key("attention.head_count")}, which is ${heads}`);
  if (!metadata.has(key("attention.key_length")) && width % heads !== 0)
    fail(key("attention.head_count"), heads, `a divisor of ${key("embedding_length")}, which is ${width}`);
  const headDim = count("attention.key_length", LIMITS.width, width / heads);
  const valueDim = count("attention.value_length", LIMITS.width, headDim);
  if (valueDim !== headDim)
    fail(key("attention.value_length"), valueDim, `the same as ${key("attention.key_length")}, which is ${headDim}`);
  const normEps = metadata.number(key("attention.layer_norm_rms_epsilon"));
  if (!(normEps > 0 && normEps < 1)) fail(key("attention.layer_norm_rms_epsilon"), normEps, "more than 0, less than 1");
  if (!metadata.boolean(key("attention.causal"), true))
    fail(key("attention.causal"), false, "true: encoders are not supported");
  const experts = metadata.integer(key("expert_count"), 0);
  if (experts !== 0) fail(key("expert_count"), experts, "0: mixtures of experts are not supported");

  return {
    architecture,
    name: metadata.string("general.name", null),
    blocks,
    width,
    feedForward,
    heads,
    kvHeads,
    headDim,
    normEps,
    rotary: readRotary(metadata, key, row.pairing, headDim),
    hasQkvBiases: row.hasQkvBiases,
    trainedContext: count("context_length", LIMITS.context),
  };
}

function readRotary(
  metadata: Metadata,
  key: (name: string) => string,
  pairing: RotaryConfig["pairing"],
  headDim: number,
): RotaryConfig {
  const fail = (name: string, value: unknown, allowed: string): never => {
    throw new ModelError(metadata.file, key(name), value, allowed);
  };
  const dims = metadata.integer(key("rope.dimension_count"), headDim);
  if (dims < 2 || dims > headDim || dims % 2 !== 0)
    fail("rope.dimension_count", dims, `an even number from 2 to ${headDim}`);
  const base = metadata.number(key("rope.freq_base"), 10_000);
  if (!(base > 1 && Number.isFinite(base))) fail("rope.freq_base", base, "more than 1");

  const positive = (name: string, absent: number, most: number): number => {
    const value = metadata.number(key(name), absent);
    return value > 0 && value <= most ? value : fail(name, value, `more than 0, at most ${most}`);
  };
  // A factor without a type is linear scaling, of files older than the type.
  const factor = positive("rope.scaling.factor", positive("rope.scale_linear", 1, MAX_SCALING), MAX_SCALING);
  const scaling = metadata.string(key("rope.scaling.type"), factor === 1 ? "none" : "linear");
  const exact = Array.from({ length: dims / 2 }, (_, p) => base ** ((-2 * p) / dims));
  switch (scaling) {
    case "none":
      return { pairing, frequencies: exact, magnitude: 1 };
    case "linear":
      return { pairing, frequencies: exact.map((f) => f / factor), magnitude: 1 };
    case "yarn": {
      const trained = metadata.integer(
        key("rope.scaling.original_context_length"),
        metadata.integer(key("context_length")),
      );
      if (trained < 1) fail("rope.scaling.original_context_length", trained, "1 or more");
      const magnitude = positive("rope.scaling.attn_factor", 1, MAX_SCALING);
      // As the specification of the keys has them; llama.cpp takes 32 and 1 whatever the file says.
      const fast = positive("rope.scaling.yarn_beta_fast", 32, MAX_SCALING);
      const slow = positive("rope.scaling.yarn_beta_slow", 1, MAX_SCALING);
      const turning = (turns: number): number =>
        (dims * Math.log(trained / (turns * 2 * Math.PI))) / (2 * Math.log(base));
      const low = Math.max(0, Math.floor(turning(fast)));
      const high = Math.min(dims - 1, Math.ceil(turning(slow)));
      // Pairs that turn fast keep their frequency, slow ones are interpolated, those between are mixed.
      const frequencies = exact.map((f, p) => {
        const kept = 1 - Math.min(1, Math.max(0, (p - low) / Math.max(0.001, high - low)));
        return (f / factor) * (1 - kept) + f * kept;
      });
      return { pairing, frequencies, magnitude: magnitude * (1 + 0.1 * Math.log(factor)) };
    }
    default:
      return fail("rope.scaling.type", quoted(scaling), "known: none, linear, yarn");
  }
}
