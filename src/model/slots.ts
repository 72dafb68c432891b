// Many sequences over one session (continuous batching, Orca, OSDI'22): every step runs the next token of each sequence
// that draws, and pieces of the prompts that are still read, shared fairly. A sequence joins at any step and leaves at
// any step. A slot keeps what its cache holds, so that a prompt that begins in the same way is not read again.
// What a sequence gives does not depend on the others: kernels sum each row by itself, and each has its own sampler.
// Not here: what a sequence is (sequence.ts), how requests come (app/).

import type { Session } from "../backend.ts";
import { PREFILL_STEP } from "./generate.ts";
import type { Interruption } from "./interrupt.ts";
import { makeSequence, type Sequence, type SequenceEvent, type SequenceOptions } from "./sequence.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface SlotsOptions {
  /** Sequences at once: `plan.cache.slots`. */
  readonly slots: number;
  /** Requests that may wait for a slot. */
  readonly queue: number;
}

/** A sequence joined, with this many positions of its prompt found in the cache. */
export interface Started {
  readonly kind: "start";
  readonly reused: number;
}

export interface Slots extends AsyncDisposable {
  /**
   * Generates text after a prompt, as soon as a slot is free. Leaving the loop over the events ends it; so does the
   * signal, with reason "aborted", at the end of the step under way.
   * @throws QueueFull at once, where as many wait as may; the events reject as `generate` does
   */
  generate(
    prompt: Int32Array,
    options: SequenceOptions & { readonly signal?: Interruption },
  ): AsyncIterable<Started | SequenceEvent>;
  /** Sequences that have a slot, and those that wait for one. */
  readonly busy: number;
  readonly waiting: number;
  /** Sequences that would be taken now. */
  readonly room: number;
}

/** As many requests wait as may. */
export class QueueFull extends Error {
  override readonly name = "QueueFull";
}

/** Tokens of a step beside those being drawn: as many as one prompt alone is read by, so that nobody waits longer. */
const PROMPT_TOKENS = PREFILL_STEP;

/** A prompt takes over what another has left where at least this share of it is found, or else the oldest slot. */
const WORTHWHILE = 0.5;

interface Job {
  readonly prompt: Int32Array;
  readonly options: SequenceOptions & { readonly signal?: Interruption };
  readonly events: Channel<Started | SequenceEvent>;
}

/** A slot: what its cache holds, and when it was last in use. */
interface Slot {
  readonly index: number;
  held: readonly number[];
  usedAt: number;
}

/** A job in its slot. */
interface Live extends Job {
  readonly slot: Slot;
  readonly sequence: Sequence;
  /** While what follows from its logits is not known yet, a grammar is at work: steps go on without it. */
  isTaking: boolean;
}

/** The slots of a session; whoever makes them leaves the session to them until they are disposed. */
export function makeSlots(
  session: Session,
  tokenizer: Pick<Tokenizer, "ends" | "stream">,
  { slots: count, queue }: SlotsOptions,
): Slots {
  const slots: readonly Slot[] = Array.from({ length: count }, (_, index) => ({ index, held: [], usedAt: 0 }));
  const waiting: Job[] = [];
  const live = new Set<Live>();
  let steps = 0;
  let isClosed = false;
  let running: Promise<void> | null = null;

  /** Ends a job where it is; what its cache holds stays of use, unless its numbers are in doubt. */
  function leave(one: Live, outcome: SequenceEvent | Error): void {
    live.delete(one);
    one.slot.held = outcome instanceof Error ? [] : one.sequence.cached;
    one.slot.usedAt = steps;
    finish(one, outcome);
  }

  function join(job: Job): void {
    const taken = new Set([...live].map(({ slot }) => slot));
    const free = slots.filter((slot) => !taken.has(slot));
    const shared = (slot: Slot): number => commonPrefix(slot.held, job.prompt);
    const best = free.reduce((a, b) => (shared(b) > shared(a) ? b : a));
    const oldest = free.reduce((a, b) => (b.usedAt < a.usedAt ? b : a));
    const slot = shared(best) >= WORTHWHILE * job.prompt.length ? best : oldest;
    // At least one token must be run for its logits.
    const reused = Math.min(shared(slot), job.prompt.length - 1);
    try {
      const sequence = makeSequence(tokenizer, job.prompt, job.options, Math.max(0, reused));
      live.add({ ...job, slot, sequence, isTaking: false });
      job.events.push({ kind: "start", reused });
    } catch (error) {
      job.events.fail(error);
    }
  }

  /** What the next step runs: tokens that are drawn first, then equal pieces of prompts; of short ones all. */
  function gather(): readonly { one: Live; chunk: ReturnType<Sequence["next"]> }[] {
    const ready = [...live].filter(({ isTaking }) => !isTaking);
    const drawing = ready.filter(({ sequence }) => sequence.promptLeft === 0);
    const reading = ready
      .filter(({ sequence }) => sequence.promptLeft > 0)
      .toSorted((a, b) => a.sequence.promptLeft - b.sequence.promptLeft);
    let room = PROMPT_TOKENS;
    return [...drawing, ...reading].map((one, i) => {
      if (i < drawing.length) return { one, chunk: one.sequence.next(1) };
      const chunk = one.sequence.next(Math.floor(room / (ready.length - i)));
      room = Math.max(0, room - chunk.tokens.length);
      return { one, chunk };
    });
  }

  async function take(one: Live, logits: Float32Array): Promise<void> {
    one.isTaking = true;
    try {
      for (const event of await one.sequence.take(logits)) {
        if (event.kind === "end") leave(one, event);
        else one.events.push(event);
      }
    } catch (error) {
      leave(one, asError(error));
    }
    one.isTaking = false;
  }

  async function run(): Promise<void> {
    const taking = new Set<Promise<void>>();
    for (;;) {
      const isGone = ({ options, events }: Job): boolean =>
        isClosed || events.isAbandoned || options.signal?.aborted === true;
      for (const one of live) if (!one.isTaking && isGone(one)) leave(one, one.sequence.abort());
      for (const job of waiting.filter(isGone)) {
        waiting.splice(waiting.indexOf(job), 1);
        finish(job, ABORTED);
      }
      while (live.size < count && waiting.length > 0) join(waiting.shift()!);
      if (live.size === 0) return;
      const batch = gather();
      if (batch.length === 0) {
        await Promise.race(taking);
        continue;
      }
      let results: readonly Float32Array[];
      try {
        results = await session.step(batch.map(({ one, chunk }) => ({ slot: one.slot.index, ...chunk })));
      } catch (error) {
        for (const { one } of batch) leave(one, asError(error));
        continue;
      }
      steps++;
      const added = batch.map(({ one }, i) => {
        const work = take(one, results[i] ?? new Float32Array(0)).finally(() => taking.delete(work));
        taking.add(work);
        return work;
      });
      // A grammar is usually done by now; one that is not must hold up nobody else.
      await (batch.some(({ one }) => one.options.constraint !== undefined)
        ? Promise.race([Promise.all(added), aMoment()])
        : Promise.all(added));
    }
  }

  function start(): void {
    running ??= run().finally(() => {
      running = null;
      if (waiting.length > 0) start();
    });
  }

  return {
    generate(prompt, options) {
      if (isClosed) throw new Error("the slots are closed; nothing more is generated");
      if (waiting.length >= queue && live.size + waiting.length >= count)
        throw new QueueFull(`${waiting.length} requests wait already; try again later`);
      const job: Job = { prompt, options, events: makeChannel() };
      waiting.push(job);
      start();
      return job.events.iterate();
    },
    get busy() {
      return live.size;
    },
    get waiting() {
      return waiting.length;
    },
    get room() {
      return Math.max(0, count - live.size + queue - waiting.length);
    },
    async [Symbol.asyncDispose]() {
      isClosed = true;
      await running;
    },
  };
}

/** What a request gets that never had a slot. */
const ABORTED: SequenceEvent = {
  kind: "end",
  text: "",
  generated: {
    reason: "aborted",
    isContextFull: false,
    tokens: new Int32Array(0),
    promptTokens: 0,
    prefillTps: null,
    decodeTps: null,
    firstTokenAtMs: null,
  },
};

function finish({ events }: Job, outcome: SequenceEvent | Error): void {
  if (outcome instanceof Error) return events.fail(outcome);
  events.push(outcome);
  events.close();
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}

function commonPrefix(held: readonly number[], prompt: Int32Array): number {
  let length = 0;
  while (length < held.length && length < prompt.length && held[length] === prompt[length]) length++;
  return length;
}

/** A turn of the event loop. */
function aMoment(): Promise<void> {
  return new Promise((resolve) => void setTimeout(resolve, 0));
}

/** Events from the loop over steps to the one who waits for them. */
interface Channel<T> {
  push(event: T): void;
  close(): void;
  fail(error: unknown): void;
  /** Nobody listens any more. */
  readonly isAbandoned: boolean;
  iterate(): AsyncGenerator<T, void, undefined>;
}

function makeChannel<T>(): Channel<T> {
  const events: T[] = [];
  let end: { readonly error: unknown } | "closed" | null = null;
  let isAbandoned = false;
  let wake = (): void => undefined;
  async function* iterate(): AsyncGenerator<T, void, undefined> {
    try {
      for (;;) {
        for (let event = events.shift(); event !== undefined; event = events.shift()) yield event;
        if (end === "closed") return;
        if (end !== null) throw end.error;
        await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      isAbandoned = true;
    }
  }
  return {
    push(event) {
      events.push(event);
      wake();
    },
    close() {
      end = "closed";
      wake();
    },
    fail(error) {
      end ??= { error };
      wake();
    },
    get isAbandoned() {
      return isAbandoned;
    },
    iterate,
  };
}
