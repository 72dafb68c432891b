// The GPU backend: makes a plan's ops into dispatches once, with all their buffers, and runs them as one command buffer a
// step. What changes from step to step is a few numbers and the rows' tokens, slots and positions; only logits come back.
// Not here: kernels' texts (codegen.ts), weights on their way (upload.ts), the device (device.ts).

/// <reference types="@webgpu/types" />

import {
  type Backend,
  type Chunk,
  logitsByChunk,
  type Row,
  rowsOf,
  type Session,
  type Unavailable,
} from "../backend.ts";
import type { WeightSource } from "../backend.ts";
import type { Attention, Gemm, Op, Rope, ValueId } from "../ops.ts";
import type { Plan } from "../plan.ts";
import { ACTIVATION_GROUP, type Bodies, type Grid, type Kernel, Kernels } from "./codegen.ts";
import { type Gpu, type GpuSource, openGpu } from "./device.ts";
import { type Fusion, fusionOf } from "./fuse.ts";
import type { ChooseMethods } from "./method.ts";
import { type Part, SelfTests, WeightStore } from "./weights.ts";
import { USAGE } from "./upload.ts";

/** Rows that run at once: enough for weights to be read once for many, and for buffers of values to stay small. */
const ROWS = 128;
/** Rows of logits that run at once, where a binding has room for them. */
const LOGIT_ROWS = 32;
/** What stands for a row whose logits are not wanted (shaders/select.wgsl). */
const UNWANTED = 0xffff_ffff;
/** Rows and wanted rows, then nothing: uniforms come in 16 bytes. */
const STEP_BYTES = 16;
/** Token, slot, position, place among the wanted. */
const ROW_WORDS = 4;

/**
 * Opens the GPU backend on what a browser or Dawn offers.
 * @param bodies the files of shaders/ by their names without the ending
 * @param choose for an adapter by its description, how products of a matrix are computed; a rule decides where it is null
 */
export async function openGpuBackend(
  source: GpuSource,
  bodies: Bodies,
  choose: (adapter: string) => ChooseMethods = () => () => null,
): Promise<Backend | Unavailable> {
  const gpu = await openGpu(source);
  if ("unavailable" in gpu) return gpu;
  const { software, description } = gpu.adapter;
  const kernels = new Kernels(bodies, { software, subgroup: gpu.subgroup?.least ?? 0 }, choose(description));
  const tests = new SelfTests();
  return {
    name: "gpu",
    device: { name: gpu.adapter.description, isa: gpu.subgroup === null ? "webgpu" : "webgpu subgroups", threads: 1 },
    prepare: async (plan, weights, progress) => {
      const builder = new Builder(gpu, kernels, tests, plan, weights, progress);
      try {
        return await builder.build();
      } catch (error) {
        builder.free();
        throw error;
      }
    },
    [Symbol.asyncDispose]: () => gpu[Symbol.asyncDispose](),
  };
}

/** A kernel with its buffers. */
interface Dispatch {
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly grid: Grid;
  /** Whether only rows whose logits are wanted are left. */
  readonly selected: boolean;
  /** Numbers of rows for which it is this one, of several that do the same: [least, most]. */
  readonly rows: readonly [number, number];
}

/** Cosines and sines of the rows of a step, for all ropes with the same frequencies. */
interface Turns {
  readonly frequencies: readonly number[];
  readonly magnitude: number;
  readonly buffer: GPUBuffer;
}

/** What a session runs. */
interface Prepared {
  readonly dispatches: readonly Dispatch[];
  readonly turns: readonly Turns[];
  readonly step: GPUBuffer;
  readonly rows: GPUBuffer;
  readonly logits: GPUBuffer;
  readonly back: GPUBuffer;
  readonly logitRows: number;
  readonly vocabulary: number;
  readonly bytes: Session["bytes"];
}

/** A plan on its way to being executable. Everything is freed at once, when that fails or the session ends. */
class Builder {
  readonly #gpu: Gpu;
  readonly #kernels: Kernels;
  readonly #plan: Plan;
  readonly #fusion: Fusion;
  readonly #weights: WeightStore;
  readonly #held: GPUBuffer[] = [];
  readonly #dispatches: Dispatch[] = [];
  readonly #values: GPUBuffer[] = [];
  readonly #turns: Turns[] = [];
  readonly #cache = new Map<number, { readonly keys: GPUBuffer; readonly values: GPUBuffer }>();
  readonly #bytes = { cache: 0, scratch: 0 };
  #selected = false;

  constructor(
    gpu: Gpu,
    kernels: Kernels,
    tests: SelfTests,
    plan: Plan,
    weights: WeightSource,
    progress?: (done: number, total: number) => void,
  ) {
    this.#gpu = gpu;
    this.#kernels = kernels;
    this.#plan = plan;
    this.#fusion = fusionOf(plan);
    this.#weights = new WeightStore(gpu, kernels, tests, plan, weights, progress);
  }

  free(): void {
    this.#weights.free();
    for (const buffer of this.#held) this.#gpu.free(buffer);
  }

  async build(): Promise<Session> {
    const plan = this.#plan;
    const vocabulary = this.#width(plan.logits);
    const logitRows = Math.min(LOGIT_ROWS, Math.floor(this.#gpu.maxBindingBytes / (4 * vocabulary)));
    if (logitRows === 0)
      throw new RangeError(
        `logits of ${vocabulary} tokens are ${4 * vocabulary} bytes, and a binding of ${this.#gpu.adapter.description} ` +
          `has at most ${this.#gpu.maxBindingBytes} (maxStorageBufferBindingSize)`,
      );
    const step = await this.#scratch("step", STEP_BYTES, USAGE.uniform | USAGE.copyDst);
    const rows = await this.#scratch("rows", 4 * ROW_WORDS * ROWS);
    for (const [id, { name, width }] of plan.values.entries())
      this.#values.push(await this.#scratch(`value ${name}`, 4 * (id === plan.logits ? logitRows : ROWS) * width));
    const back = await this.#scratch("logits on their way", 4 * logitRows * vocabulary, USAGE.mapRead | USAGE.copyDst);
    const inputs = await this.#inputs();
    for (const [at, op] of plan.ops.entries()) await this.#make(op, at, { step, rows, ...inputs });
    const { bytes } = this.#weights.finish();
    const prepared = {
      dispatches: this.#dispatches,
      turns: this.#turns,
      step,
      rows,
      logits: this.#value(plan.logits),
      back,
      logitRows,
      vocabulary,
      bytes: { weights: bytes, ...this.#bytes },
    };
    return new GpuSession(this.#gpu, plan, prepared, () => this.free());
  }

  #width(id: ValueId): number {
    return this.#plan.values[id]?.width ?? 0;
  }

  #value(id: ValueId): GPUBuffer {
    const buffer = this.#values[id];
    if (buffer === undefined) throw new Error(`the plan has no value ${id}`);
    return buffer;
  }

  async #scratch(
    label: string,
    bytes: number,
    usage: number = USAGE.storage | USAGE.copyDst | USAGE.copySrc,
    kind: "scratch" | "cache" = "scratch",
  ): Promise<GPUBuffer> {
    const { maxBindingBytes, adapter } = this.#gpu;
    if (bytes > maxBindingBytes)
      throw new RangeError(
        `${label}: ${bytes} bytes, and a binding of ${adapter.description} has at most ${maxBindingBytes} ` +
          `(maxStorageBufferBindingSize)${kind === "cache" ? "; a shorter context fits (--ctx)" : ""}`,
      );
    const buffer = await this.#gpu.buffer(label, bytes, usage);
    this.#held.push(buffer);
    this.#bytes[kind] += buffer.size;
    return buffer;
  }

  /** Room for the widest input of a product, in both forms, and for the two products of a gate. */
  async #inputs(): Promise<Omit<Shared, "step" | "rows">> {
    let [widest, gate] = [1, 1];
    for (const op of this.#plan.ops) {
      if (op.kind !== "gemm") continue;
      widest = Math.max(widest, this.#width(op.input));
      if (op.epilogue.kind === "silu-mul") gate = Math.max(gate, this.#width(op.out[0] ?? -1));
    }
    const groups = Math.ceil(widest / ACTIVATION_GROUP);
    return {
      floats: await this.#scratch("inputs of products", 4 * ROWS * widest),
      codes: await this.#scratch("codes of inputs", ACTIVATION_GROUP * ROWS * groups),
      scales: await this.#scratch("scales of inputs", 4 * ROWS * groups),
      gates: [await this.#scratch("gate", 4 * ROWS * gate), await this.#scratch("what is gated", 4 * ROWS * gate)],
    };
  }

  async #add(kernel: Kernel, buffers: readonly GPUBuffer[]): Promise<void> {
    const pipeline = await this.#gpu.pipeline(kernel.text);
    const { text, grid, rows = [1, ROWS] } = kernel;
    const entries = text.bindings.map(({ binding }, b) => {
      const buffer = buffers[b];
      if (buffer === undefined) throw new Error(`${text.label}: no buffer for binding ${binding}`);
      return { binding, resource: { buffer } };
    });
    const group = this.#gpu.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
    this.#dispatches.push({ pipeline, group, grid, selected: this.#selected, rows });
  }

  async #make(op: Op, at: number, shared: Shared): Promise<void> {
    const { step, rows, floats, codes, scales, gates } = shared;
    const kernels = this.#kernels;
    const selected = this.#selected;
    switch (op.kind) {
      case "embed": {
        for (const { form, rows: total, pieces, buffers } of await this.#weights.matrices([op.weight]))
          await this.#add(kernels.embed(form, total, pieces[0]!), [step, rows, ...buffers, this.#value(op.out)]);
        return;
      }
      case "select":
        await this.#add(kernels.select(this.#width(op.input)), [
          step,
          rows,
          this.#value(op.input),
          this.#value(op.out),
        ]);
        this.#selected = true;
        return;
      case "gemm": {
        await this.#input(op, at, shared);
        const gated = op.epilogue.kind === "silu-mul";
        const biases: (GPUBuffer | null)[] = [];
        for (const { bias } of op.linears) biases.push(bias === null ? null : await this.#weights.vector(bias));
        const to = gated ? gates : op.out.map((out) => this.#value(out));
        const from = op.epilogue.kind === "add" ? this.#value(op.epilogue.from) : null;
        for (const part of await this.#weights.matrices(op.linears.map(({ weight }) => weight)))
          await this.#linear(part, shared, { to, from, biases });
        if (gated && !this.#fusion.straight.has(at)) {
          const out = op.out[0] ?? -1;
          await this.#add(kernels.gate(this.#width(out), selected), [step, ...gates, this.#value(out)]);
        }
        return;
      }
      case "rope": {
        if (this.#fusion.skipped.has(at)) return;
        const turns = await this.#turnsOf(op);
        await this.#add(kernels.rope(op), [step, turns, this.#value(op.value)]);
        return;
      }
      case "attention": {
        const { slots, context } = this.#plan.cache;
        const cache = await this.#cacheOf(op.layer, slots * op.kvHeads * context * Math.ceil(op.headDim / 2));
        const { q, k } = this.#fusion.turned.get(at) ?? { q: null, k: null };
        await this.#add(kernels.remember(op, context, k), [
          step,
          rows,
          k === null ? rows : await this.#turnsOf(k),
          this.#value(op.k),
          this.#value(op.v),
          cache.keys,
          cache.values,
        ]);
        const straight = this.#isStraight(op, at);
        const buffers = [
          step,
          rows,
          q === null ? rows : await this.#turnsOf(q),
          this.#value(op.q),
          cache.keys,
          cache.values,
          straight ? floats : this.#value(op.out),
          codes,
          scales,
        ];
        for (const kernel of kernels.attention(op, context, q, straight)) await this.#add(kernel, buffers);
      }
    }
  }

  /** Whether an attention makes its result ready for products itself: where groups of codes lie inside heads. */
  #isStraight({ headDim }: Attention, at: number): boolean {
    return this.#fusion.straight.has(at) && headDim % ACTIVATION_GROUP === 0;
  }

  /** Makes the input of products ready, where what has written it has not done so already. */
  async #input(op: Gemm, at: number, { step, floats, codes, scales, gates }: Shared): Promise<void> {
    const k = this.#width(op.input);
    const before = this.#plan.ops[at - 1];
    if (before?.kind === "attention" && this.#isStraight(before, at - 1)) return;
    const gated = before?.kind === "gemm" && this.#fusion.straight.has(at - 1);
    const eps = op.norm?.eps ?? null;
    const input = gated ? gates[0] : this.#value(op.input);
    const other = gated ? gates[1] : op.norm === null ? input : await this.#weights.vector(op.norm.weight);
    await this.#add(this.#kernels.activations(k, { eps, gated, selected: this.#selected }), [
      step,
      input,
      other,
      floats,
      codes,
      scales,
    ]);
  }

  /** Products of a part of matrices, with biases and what is added, each into the value of its matrix. */
  async #linear(part: Part, { step, floats, codes, scales }: Shared, { to, from, biases }: Outputs): Promise<void> {
    const { form, rows, pieces, buffers } = part;
    const ends = pieces.map((piece) => {
      const [out, bias] = [to[piece.matrix]!, biases[piece.matrix] ?? null];
      return { piece, out, bias, added: from === out ? null : from };
    });
    const outputs = ends.map(({ piece, bias, added }) => ({
      piece,
      bias: bias !== null,
      add: from === null ? ("nothing" as const) : added === null ? ("itself" as const) : ("other" as const),
    }));
    for (const kernel of this.#kernels.linear(form, rows, outputs, this.#selected))
      await this.#add(kernel, [
        step,
        ...buffers,
        ...(kernel.input === "codes" ? [codes, scales] : [floats]),
        ...ends.flatMap(({ out, bias, added }) => [out, bias, added].filter((buffer) => buffer !== null)),
      ]);
  }

  async #turnsOf({ frequencies, magnitude }: Rope): Promise<GPUBuffer> {
    const known = this.#turns.find((one) => one.frequencies === frequencies && one.magnitude === magnitude);
    if (known !== undefined) return known.buffer;
    const buffer = await this.#scratch("turns", 8 * ROWS * frequencies.length);
    this.#turns.push({ frequencies, magnitude, buffer });
    return buffer;
  }

  async #cacheOf(layer: number, words: number): Promise<{ readonly keys: GPUBuffer; readonly values: GPUBuffer }> {
    const known = this.#cache.get(layer);
    if (known !== undefined) return known;
    const half = (name: string): Promise<GPUBuffer> =>
      this.#scratch(`${name} of layer ${layer}`, 4 * words, USAGE.storage | USAGE.copyDst, "cache");
    const made = { keys: await half("keys"), values: await half("values") };
    this.#cache.set(layer, made);
    return made;
  }
}

/** Where products go, by their matrices. */
interface Outputs {
  readonly to: readonly GPUBuffer[];
  readonly from: GPUBuffer | null;
  readonly biases: readonly (GPUBuffer | null)[];
}

/** Buffers that all ops share. */
interface Shared {
  readonly step: GPUBuffer;
  readonly rows: GPUBuffer;
  readonly floats: GPUBuffer;
  readonly codes: GPUBuffer;
  readonly scales: GPUBuffer;
  readonly gates: readonly [GPUBuffer, GPUBuffer];
}

class GpuSession implements Session {
  readonly #gpu: Gpu;
  readonly #plan: Plan;
  readonly #prepared: Prepared;
  readonly #free: () => void;
  /** Steps run one after another, in the order of their calls. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(gpu: Gpu, plan: Plan, prepared: Prepared, free: () => void) {
    this.#gpu = gpu;
    this.#plan = plan;
    this.#prepared = prepared;
    this.#free = free;
  }

  get bytes(): Session["bytes"] {
    return this.#prepared.bytes;
  }

  async step(batch: readonly Chunk[]): Promise<readonly Float32Array[]> {
    const rows = rowsOf(this.#plan, batch);
    const { vocabulary } = this.#prepared;
    const out = new Float32Array(rows.filter((row) => row.wanted).length * vocabulary);
    const turn = this.#last.then(async () => {
      let at = 0;
      for (const piece of piecesOf(rows, this.#prepared.logitRows)) at += await this.#run(piece, out.subarray(at));
    });
    this.#last = turn.catch(() => undefined);
    await turn;
    return logitsByChunk(batch, out, vocabulary);
  }

  /** Runs at most ROWS rows; the number of logits that it has put into `out`. */
  async #run(rows: readonly Row[], out: Float32Array): Promise<number> {
    const { device } = this.#gpu;
    const { dispatches, turns, logits, back, vocabulary } = this.#prepared;
    const wanted = rows.filter((row) => row.wanted).length;
    device.queue.writeBuffer(this.#prepared.step, 0, Uint32Array.of(rows.length, wanted));
    let next = 0;
    const words = rows.flatMap((row) => [row.token, row.slot, row.position, row.wanted ? next++ : UNWANTED]);
    device.queue.writeBuffer(this.#prepared.rows, 0, Uint32Array.from(words));
    for (const turn of turns) device.queue.writeBuffer(turn.buffer, 0, turnsOf(turn, rows));
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const { pipeline, group, grid, selected, rows: range } of dispatches) {
      const live = selected ? wanted : rows.length;
      if (live < range[0] || live > range[1]) continue;
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...grid(live));
    }
    pass.end();
    const bytes = 4 * wanted * vocabulary;
    if (bytes > 0) encoder.copyBufferToBuffer(logits, 0, back, 0, bytes);
    device.queue.submit([encoder.finish()]);
    if (bytes === 0) {
      await this.#gpu.settle(device.queue.onSubmittedWorkDone());
      return 0;
    }
    await this.#gpu.settle(back.mapAsync(1, 0, bytes)); // GPUMapMode.READ
    out.set(new Float32Array(back.getMappedRange(0, bytes)));
    back.unmap();
    return wanted * vocabulary;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#last;
    this.#free();
  }
}

/** Rows in runs that fit: at most ROWS, and so many whose logits are wanted. */
function piecesOf(rows: readonly Row[], logitRows: number): readonly (readonly Row[])[] {
  const pieces: Row[][] = [];
  let wanted = logitRows + 1;
  for (const row of rows) {
    if (row.wanted) wanted++;
    if (wanted > logitRows || (pieces.at(-1)?.length ?? ROWS) === ROWS) {
      pieces.push([]);
      wanted = Number(row.wanted);
    }
    pieces.at(-1)!.push(row);
  }
  return pieces;
}

/** (rows, pairs) cosines and sines, in double precision until they are stored. */
function turnsOf({ frequencies, magnitude }: Turns, rows: readonly Row[]): Float32Array<ArrayBuffer> {
  const out = new Float32Array(2 * rows.length * frequencies.length);
  let at = 0;
  for (const { position } of rows)
    for (const frequency of frequencies) {
      out[at++] = Math.cos(position * frequency) * magnitude;
      out[at++] = Math.sin(position * frequency) * magnitude;
    }
  return out;
}
