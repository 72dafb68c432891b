// A model ready for requests: its slots, tokenizer, template and grammars together, and its embeddings where wanted.
// Not here: HTTP (serve-http.ts), what requests ask for (serve-request.ts).

import { basename } from "node:path";

import type { Session } from "../backend.ts";
import { decode } from "../ladder/emit/codec.ts";
import type { Model } from "../load.ts";
import { chatml, CHATML_STOPS } from "../model/chatml.ts";
import { PREFILL_STEP } from "../model/generate.ts";
import { makeSlots, type Slots } from "../model/slots.ts";
import type { ChatTemplate } from "../model/template.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import type { Plan } from "../plan.ts";
import type { Engine } from "./engine.ts";
import { type Grammars, makeGrammars } from "./serve-grammar.ts";
import { makeMetrics, type Metrics } from "./serve-metrics.ts";

export interface Service extends AsyncDisposable {
  readonly model: Model;
  /** By which clients know the model. */
  readonly name: string;
  /** Unix time in seconds. */
  readonly createdS: number;
  readonly tokenizer: Tokenizer;
  /** The file's, or ChatML. */
  readonly template: ChatTemplate;
  /** Texts that end an answer beside its end tokens. */
  readonly templateStops: readonly string[];
  /** Whether the template takes tools in the form that serve-tools.ts reads. */
  readonly knowsTools: boolean;
  /** Characters of the longest token. */
  readonly longestPiece: number;
  readonly slots: Slots;
  readonly slotCount: number;
  readonly queue: number;
  readonly grammars: Grammars;
  readonly metrics: Metrics;
  /** The embedding of a sequence, (width), of length 1; null where they were not asked for. */
  readonly embed: ((tokens: Int32Array, signal: AbortSignal) => Promise<Float32Array>) | null;
}

export interface ServiceOptions {
  readonly queue: number;
  readonly embeddings: boolean;
}

export async function makeService(engine: Engine, { queue, embeddings }: ServiceOptions): Promise<Service> {
  const { model, backend } = engine;
  const [tokenizer, template, session] = await Promise.all([model.tokenizer(), model.template(), engine.session]);
  const embedding = embeddings ? await backend.prepare(hiddenPlan(model.plan), model.weights) : null;
  const slotCount = model.plan.cache.slots;
  const slots = makeSlots(session, tokenizer, { slots: slotCount, queue });
  const grammars = makeGrammars(tokenizer, model.metadata.string("tokenizer.ggml.model"));
  const source = model.metadata.string("tokenizer.chat_template", null) ?? "";
  return {
    model,
    name: basename(model.file).replace(/\.gguf$/, ""),
    createdS: Math.floor(Date.now() / 1000),
    tokenizer,
    template: template ?? chatml(tokenizer),
    templateStops: template === null ? CHATML_STOPS : [],
    knowsTools: source.includes("tools") && source.includes("<tool_call>"),
    longestPiece: tokenizer.pieces.reduce((longest, piece) => Math.max(longest, piece.length), 1),
    slots,
    slotCount,
    queue,
    grammars,
    metrics: makeMetrics(),
    embed: embedding === null ? null : embedder(embedding, model),
    async [Symbol.asyncDispose]() {
      await slots[Symbol.asyncDispose]();
      await grammars[Symbol.asyncDispose]();
      await embedding?.[Symbol.asyncDispose]();
    },
  };
}

/** The same model without its head: what it gives is the stream after the last block, before the last norm. */
function hiddenPlan(plan: Plan): Plan {
  const at = plan.ops.findIndex((op) => op.kind === "select");
  const select = plan.ops[at];
  if (select?.kind !== "select") throw new Error("the plan has no select, after which its head would begin");
  return { ...plan, ops: plan.ops.slice(0, at + 1), logits: select.out, cache: { ...plan.cache, slots: 1 } };
}

/** The mean of all tokens' normalised vectors, brought to length 1. */
function embedder(session: Session, model: Model): NonNullable<Service["embed"]> {
  const head = model.plan.ops.at(-1);
  if (head?.kind !== "gemm" || head.norm === null) throw new Error("the plan does not end with a norm and a head");
  const { norm } = head;
  const tensor = model.weights.tensor(norm.weight);
  if (tensor === undefined) throw new Error(`the model has no tensor ${norm.weight}`);
  const { width } = model.config;
  const weight = new Float64Array(width);
  decode(tensor.type, model.weights.read(tensor, 0, tensor.byteLength), weight);
  let last: Promise<unknown> = Promise.resolve();

  async function embed(tokens: Int32Array, signal: AbortSignal): Promise<Float32Array> {
    const sum = new Float64Array(width);
    for (let pos = 0; pos < tokens.length; pos += PREFILL_STEP) {
      signal.throwIfAborted();
      const piece = tokens.subarray(pos, pos + PREFILL_STEP);
      const [rows = new Float32Array(0)] = await session.step([{ slot: 0, pos, tokens: piece, logits: "all" }]);
      for (let at = 0; at < rows.length; at += width) {
        const row = rows.subarray(at, at + width);
        const square = row.reduce((total, x) => total + x * x, 0) / width;
        const factor = 1 / Math.sqrt(square + norm.eps);
        for (let i = 0; i < width; i++) sum[i] = sum[i]! + row[i]! * factor * weight[i]!;
      }
    }
    const length = Math.sqrt(sum.reduce((total, x) => total + x * x, 0));
    return Float32Array.from(sum, (x) => x / length);
  }

  // One after another: the session has one slot.
  return (tokens, signal) => {
    const work = last.then(() => embed(tokens, signal));
    last = work.catch(() => undefined);
    return work;
  };
}
