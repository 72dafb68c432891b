// From a configuration and the tensors of a file to a Plan. Every tensor is found by its GGUF name and checked for
// its shape here; one that the plan does not use is an error, because ignoring it would mean another model.
// Not here: arithmetic (ops.ts and the backends), hyperparameters (config.ts).

import { decode } from "../ladder/emit/codec.ts";
import type { Linear, Norm, Op, ValueId } from "../ops.ts";
import { makePlan, type Plan, type Value, type WeightUse } from "../plan.ts";
import type { Config, RotaryConfig } from "./config.ts";
import type { Gguf } from "./gguf.ts";
import { ModelError, quoted } from "./metadata.ts";

/** Tensors that some converters write and no forward pass reads: their content follows from the configuration. */
const UNUSED = /^blk\.\d+\.attn_rot_embd\.weight$/;

export interface PlanOptions {
  /** Positions of each sequence's cache. */
  readonly context: number;
  /** Sequences that can be kept at once. */
  readonly slots: number;
}

/**
 * The plan of a llama-style model: embedding; per block norm, attention with grouped keys, norm, gated feed-forward;
 * final norm and head (the embedding again where `output.weight` is absent). Linears may have biases; those
 * of queries, keys and values must where the architecture says so.
 * Throws ModelError for a tensor that is missing, of the wrong shape, or of no use.
 */
export function planModel(gguf: Gguf, config: Config, vocabulary: number, options: PlanOptions): Plan {
  const { width, feedForward, heads, kvHeads, headDim, blocks, normEps, hasQkvBiases } = config;
  const file = gguf.metadata.file;
  const values: Value[] = [];
  const ops: Op[] = [];
  const weights = new Map<string, WeightUse>();

  const value = (name: string, size: number): ValueId => values.push({ name, width: size }) - 1;
  const weight = (name: string, ...shape: number[]): string => {
    const tensor = gguf.tensors.get(name);
    if (tensor === undefined) throw new ModelError(file, `tensor ${name}`, "missing", "the architecture needs it");
    if (tensor.shape.join() !== shape.join())
      throw new ModelError(file, `tensor ${name}: dims`, dims(tensor.shape), `the configuration says ${dims(shape)}`);
    weights.set(name, { name, shape });
    return name;
  };
  const linear = (name: string, n: number, k: number, mustHaveBias = false): Linear => ({
    weight: weight(`${name}.weight`, n, k),
    bias: mustHaveBias || gguf.tensors.has(`${name}.bias`) ? weight(`${name}.bias`, n) : null,
  });
  const norm = (name: string): Norm => ({ weight: weight(`${name}.weight`, width), eps: normEps });

  const rotary = withFactors(gguf, config.rotary, weight);
  const stream = value("stream", width);
  const [q, k, v] = [value("q", heads * headDim), value("k", kvHeads * headDim), value("v", kvHeads * headDim)];
  const attended = value("attended", heads * headDim);
  const hidden = value("hidden", feedForward);

  ops.push({ kind: "embed", weight: weight("token_embd.weight", vocabulary, width), out: stream });
  for (let layer = 0; layer < blocks; layer++) {
    const block = `blk.${layer}`;
    ops.push(
      {
        kind: "gemm",
        input: stream,
        norm: norm(`${block}.attn_norm`),
        linears: [
          linear(`${block}.attn_q`, heads * headDim, width, hasQkvBiases),
          linear(`${block}.attn_k`, kvHeads * headDim, width, hasQkvBiases),
          linear(`${block}.attn_v`, kvHeads * headDim, width, hasQkvBiases),
        ],
        epilogue: { kind: "store" },
        out: [q, k, v],
      },
      { kind: "rope", value: q, heads, headDim, ...rotary },
      { kind: "rope", value: k, heads: kvHeads, headDim, ...rotary },
      { kind: "attention", layer, q, k, v, out: attended, heads, kvHeads, headDim, scale: 1 / Math.sqrt(headDim) },
      {
        kind: "gemm",
        input: attended,
        norm: null,
        linears: [linear(`${block}.attn_output`, width, heads * headDim)],
        epilogue: { kind: "add", from: stream },
        out: [stream],
      },
      {
        kind: "gemm",
        input: stream,
        norm: norm(`${block}.ffn_norm`),
        linears: [linear(`${block}.ffn_gate`, feedForward, width), linear(`${block}.ffn_up`, feedForward, width)],
        epilogue: { kind: "silu-mul" },
        out: [hidden],
      },
      {
        kind: "gemm",
        input: hidden,
        norm: null,
        linears: [linear(`${block}.ffn_down`, width, feedForward)],
        epilogue: { kind: "add", from: stream },
        out: [stream],
      },
    );
  }
  const last = value("last", width);
  const logits = value("logits", vocabulary);
  const head = gguf.tensors.has("output.weight")
    ? linear("output", vocabulary, width)
    : { weight: "token_embd.weight", bias: null };
  ops.push(
    { kind: "select", input: stream, out: last },
    {
      kind: "gemm",
      input: last,
      norm: norm("output_norm"),
      linears: [head],
      epilogue: { kind: "store" },
      out: [logits],
    },
  );

  for (const name of gguf.tensors.keys())
    if (!weights.has(name) && !UNUSED.test(name))
      throw new ModelError(
        file,
        "tensor",
        quoted(name),
        `a ${config.architecture} model of ${blocks} blocks has no such tensor`,
      );
  const cache = { layers: blocks, width: kvHeads * headDim, ...options };
  return makePlan({ values, ops, weights, logits, cache });
}

/** GGUF's order, the contiguous dimension first. */
function dims(shape: readonly number[]): string {
  return shape.toReversed().join(" x ");
}

/** Llama 3.1's long-context scaling comes as one divisor a pair, in a tensor. */
function withFactors(
  gguf: Gguf,
  rotary: RotaryConfig,
  weight: (name: string, ...shape: number[]) => string,
): RotaryConfig {
  const tensor = gguf.tensors.get("rope_freqs.weight");
  if (tensor === undefined) return rotary;
  weight(tensor.name, rotary.frequencies.length);
  const factors = new Float64Array(rotary.frequencies.length);
  decode(tensor.type, gguf.weights.read(tensor, 0, tensor.byteLength), factors);
  const bad = factors.findIndex((f) => !(f > 0 && Number.isFinite(f)));
  if (bad >= 0)
    throw new ModelError(gguf.metadata.file, `tensor ${tensor.name}: value ${bad}`, factors[bad], "a positive number");
  return { ...rotary, frequencies: rotary.frequencies.map((f, p) => f / (factors[p] ?? 1)) };
}
