// The slow, readable float64 backend: the living definition of every op. Weights are decoded exactly, nothing is
// quantised or fused, sums run in plain order. Every fast path is tested against this one.
// Not here: speed beyond keeping decoded rows in cache while all tokens of a step pass over them.

import {
  type Backend,
  type Chunk,
  logitsByChunk,
  type Row,
  rowsOf,
  type Session,
  type WeightSource,
} from "./backend.ts";
import { decode } from "./ladder/emit/codec.ts";
import type { Attention, Embed, Gemm, Norm, Op, Rope, Select } from "./ops.ts";
import type { Plan } from "./plan.ts";

/** Rows of weights that are decoded at a time: enough to hide the cost of a call, small enough for the cache. */
const ROWS_AT_ONCE = 32;

/** Milliseconds of computing after which the event loop gets its turn. */
const TURN_MS = 20;

/** Keys and values of one layer and slot, (position, width), grown as positions come. */
interface Stripe {
  keys: Float64Array;
  values: Float64Array;
}

/** What an op sees: the values of the step, its rows, weights and cache. */
interface Context {
  readonly plan: Plan;
  readonly rows: readonly Row[];
  /** (rows, width) of each value; shorter after a select. */
  readonly values: Float64Array[];
  readonly cache: Map<string, Stripe>;
  /** Decoded rows [begin, end) of a weight, (end - begin, k). */
  weight(name: string, begin: number, end: number): Float64Array;
  /** Lets the event loop run if it has waited long. */
  breathe(): Promise<void>;
}

/** The reference backend; always available. */
export function openReference(): Backend {
  return {
    name: "reference",
    device: { name: "reference", isa: "float64", threads: 1 },
    prepare: (plan, weights) => Promise.resolve(new ReferenceSession(plan, weights)),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

class ReferenceSession implements Session {
  readonly #plan: Plan;
  readonly #weights: WeightSource;
  readonly #cache = new Map<string, Stripe>();

  constructor(plan: Plan, weights: WeightSource) {
    this.#plan = plan;
    this.#weights = weights;
  }

  get bytes(): Session["bytes"] {
    let cache = 0;
    for (const { keys, values } of this.#cache.values()) cache += keys.byteLength + values.byteLength;
    return { weights: 0, cache, scratch: 0 };
  }

  async step(batch: readonly Chunk[]): Promise<readonly Float32Array[]> {
    const plan = this.#plan;
    let turn = performance.now();
    const context: Context = {
      plan,
      rows: rowsOf(plan, batch),
      values: plan.values.map(() => new Float64Array(0)),
      cache: this.#cache,
      weight: (name, begin, end) => decodeRows(this.#weights, name, begin, end),
      breathe: async () => {
        if (performance.now() - turn < TURN_MS) return;
        await new Promise((resolve) => setTimeout(resolve, 0));
        turn = performance.now();
      },
    };
    for (const op of plan.ops) await runOp(op, context);
    const vocabulary = plan.values[plan.logits]?.width ?? 0;
    return logitsByChunk(batch, Float32Array.from(valueOf(context, plan.logits)), vocabulary);
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#cache.clear();
    return Promise.resolve();
  }
}

function decodeRows(weights: WeightSource, name: string, begin: number, end: number): Float64Array {
  const tensor = weights.tensor(name);
  if (tensor === undefined) throw new Error(`the model has no tensor ${name}`);
  const k = tensor.shape.at(-1) ?? 0;
  const rowBytes = (k / tensor.type.blockSize) * tensor.type.blockBytes;
  const out = new Float64Array((end - begin) * k);
  decode(tensor.type, weights.read(tensor, begin * rowBytes, (end - begin) * rowBytes), out);
  return out;
}

const RUN: { readonly [K in Op["kind"]]: (op: Extract<Op, { kind: K }>, context: Context) => void | Promise<void> } = {
  embed,
  select,
  gemm,
  rope,
  attention,
};

function runOp<K extends Op["kind"]>(op: Extract<Op, { kind: K }>, context: Context): void | Promise<void> {
  return (RUN[op.kind] as (op: Extract<Op, { kind: K }>, context: Context) => void | Promise<void>)(op, context);
}

function valueOf(context: Context, id: number): Float64Array {
  const value = context.values[id];
  if (value === undefined) throw new Error(`the plan has no value ${id}`);
  return value;
}

function widthOf(context: Context, id: number): number {
  return context.plan.values[id]?.width ?? 0;
}

function embed(op: Embed, context: Context): void {
  const width = widthOf(context, op.out);
  const out = new Float64Array(context.rows.length * width);
  context.rows.forEach((row, r) => out.set(context.weight(op.weight, row.token, row.token + 1), r * width));
  context.values[op.out] = out;
}

function select(op: Select, context: Context): void {
  const width = widthOf(context, op.input);
  const input = valueOf(context, op.input);
  const wanted = context.rows.flatMap((row, r) => (row.wanted ? [r] : []));
  const out = new Float64Array(wanted.length * width);
  wanted.forEach((r, i) => out.set(input.subarray(r * width, (r + 1) * width), i * width));
  context.values[op.out] = out;
}

/** x * weight / sqrt(mean(x^2) + eps), row by row. */
function normalize(input: Float64Array, k: number, norm: Norm, weight: Float64Array): Float64Array {
  const out = new Float64Array(input.length);
  for (let at = 0; at < input.length; at += k) {
    let sum = 0;
    for (let i = 0; i < k; i++) sum += (input[at + i] ?? 0) ** 2;
    const factor = 1 / Math.sqrt(sum / k + norm.eps);
    for (let i = 0; i < k; i++) out[at + i] = (input[at + i] ?? 0) * factor * (weight[i] ?? 0);
  }
  return out;
}

/** out(m,n) = a(m,k) . w(n,k)^T + bias */
async function linear(
  context: Context,
  a: Float64Array,
  k: number,
  weight: string,
  bias: string | null,
): Promise<Float64Array> {
  const n = context.plan.weights.get(weight)?.shape[0] ?? 0;
  const m = a.length / k;
  const out = new Float64Array(m * n);
  if (m === 0) return out;
  for (let begin = 0; begin < n; begin += ROWS_AT_ONCE) {
    const end = Math.min(begin + ROWS_AT_ONCE, n);
    const w = context.weight(weight, begin, end);
    for (let t = 0; t < m; t++)
      for (let row = 0; row < end - begin; row++) out[t * n + begin + row] = dot(a, t * k, w, row * k, k);
    await context.breathe();
  }
  if (bias !== null) {
    const b = context.weight(bias, 0, 1);
    for (let i = 0; i < out.length; i++) out[i] = (out[i] ?? 0) + (b[i % n] ?? 0);
  }
  return out;
}

/** Four partial sums, so that the processor need not wait for each addition. */
function dot(a: Float64Array, aAt: number, b: Float64Array, bAt: number, length: number): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = 0;
  for (; i + 4 <= length; i += 4) {
    s0 += (a[aAt + i] as number) * (b[bAt + i] as number);
    s1 += (a[aAt + i + 1] as number) * (b[bAt + i + 1] as number);
    s2 += (a[aAt + i + 2] as number) * (b[bAt + i + 2] as number);
    s3 += (a[aAt + i + 3] as number) * (b[bAt + i + 3] as number);
  }
  for (; i < length; i++) s0 += (a[aAt + i] as number) * (b[bAt + i] as number);
  return s0 + s1 + (s2 + s3);
}

async function gemm(op: Gemm, context: Context): Promise<void> {
  const k = widthOf(context, op.input);
  const raw = valueOf(context, op.input);
  const input = op.norm === null ? raw : normalize(raw, k, op.norm, context.weight(op.norm.weight, 0, 1));
  const products: Float64Array[] = [];
  for (const { weight, bias } of op.linears) products.push(await linear(context, input, k, weight, bias));
  const { epilogue } = op;
  switch (epilogue.kind) {
    case "store":
      op.out.forEach((id, i) => (context.values[id] = products[i] as Float64Array));
      break;
    case "add": {
      const from = valueOf(context, epilogue.from);
      op.out.forEach((id, i) => (context.values[id] = (products[i] as Float64Array).map((x, j) => x + (from[j] ?? 0))));
      break;
    }
    case "silu-mul": {
      const [gate, up] = products as [Float64Array, Float64Array];
      context.values[op.out[0] as number] = gate.map((g, j) => (g / (1 + Math.exp(-g))) * (up[j] ?? 0));
      break;
    }
  }
}

function rope(op: Rope, context: Context): void {
  const value = valueOf(context, op.value);
  const pairs = op.frequencies.length;
  context.rows.forEach((row, r) => {
    for (let head = 0; head < op.heads; head++) {
      const base = (r * op.heads + head) * op.headDim;
      op.frequencies.forEach((frequency, p) => {
        const a = base + (op.pairing === "adjacent" ? 2 * p : p);
        const b = base + (op.pairing === "adjacent" ? 2 * p + 1 : p + pairs);
        const cosine = Math.cos(row.position * frequency) * op.magnitude;
        const sine = Math.sin(row.position * frequency) * op.magnitude;
        const x = value[a] ?? 0;
        const y = value[b] ?? 0;
        value[a] = x * cosine - y * sine;
        value[b] = x * sine + y * cosine;
      });
    }
  });
}

/** The stripe of a layer and slot with room for `positions` positions. */
function stripeOf(context: Context, layer: number, slot: number, positions: number): Stripe {
  const { width } = context.plan.cache;
  const key = `${layer}.${slot}`;
  const old = context.cache.get(key);
  if (old !== undefined && old.keys.length >= positions * width) return old;
  const grow = (from: Float64Array | undefined): Float64Array => {
    const to = new Float64Array(Math.max(positions, 64, (2 * (from?.length ?? 0)) / width) * width);
    if (from !== undefined) to.set(from);
    return to;
  };
  const stripe = { keys: grow(old?.keys), values: grow(old?.values) };
  context.cache.set(key, stripe);
  return stripe;
}

async function attention(op: Attention, context: Context): Promise<void> {
  const { headDim: d, kvHeads, heads } = op;
  const width = kvHeads * d;
  const [q, k, v] = [valueOf(context, op.q), valueOf(context, op.k), valueOf(context, op.v)];
  const out = new Float64Array(q.length);
  context.rows.forEach((row, r) => {
    const stripe = stripeOf(context, op.layer, row.slot, row.position + 1);
    stripe.keys.set(k.subarray(r * width, (r + 1) * width), row.position * width);
    stripe.values.set(v.subarray(r * width, (r + 1) * width), row.position * width);
  });
  for (const [r, row] of context.rows.entries()) {
    const { keys, values } = stripeOf(context, op.layer, row.slot, row.position + 1);
    for (let head = 0; head < heads; head++) {
      const at = (r * heads + head) * d;
      const shared = Math.floor((head * kvHeads) / heads) * d;
      const scores = new Float64Array(row.position + 1);
      for (let p = 0; p <= row.position; p++) scores[p] = dot(q, at, keys, p * width + shared, d) * op.scale;
      const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
      let total = 0;
      for (let p = 0; p <= row.position; p++) total += scores[p] = Math.exp((scores[p] as number) - largest);
      for (let p = 0; p <= row.position; p++) {
        const share = (scores[p] as number) / total;
        const from = p * width + shared;
        for (let i = 0; i < d; i++) out[at + i] = (out[at + i] as number) + share * (values[from + i] as number);
      }
    }
    await context.breathe();
  }
  context.values[op.out] = out;
}
