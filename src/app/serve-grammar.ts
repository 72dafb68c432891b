// Constrained decoding: asks a thread (serve-grammar-worker.ts) which tokens may come next, one question at a time and
// each under a time limit. After a refusal or a silence the thread is begun anew, which the other constraints do not
// notice. Not here: which schemas are let in (serve-schema.ts), how a mask is used (model/sampler.ts).

import { Worker } from "node:worker_threads";

import type { Constraint } from "../model/sequence.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import type { GrammarAnswer, GrammarQuestion, GrammarSource, GrammarVocabulary } from "./serve-grammar-worker.ts";

export type { GrammarSource };

/** What cannot be made a grammar, and why; or a grammar that takes too long. */
export class GrammarError extends Error {
  override readonly name = "GrammarError";
}

export interface Grammars extends AsyncDisposable {
  /**
   * A constraint at its beginning; `release` it at the end.
   * @throws GrammarError where the source is none, or takes too long
   */
  constraint(source: GrammarSource): Promise<Constraint & { release(): void }>;
}

/** A grammar of a few thousand rules for 128,000 tokens takes some seconds on a slow machine; others milliseconds. */
const LIMIT_MS = 10_000;

/** @param model value of `tokenizer.ggml.model` */
export function makeGrammars(tokenizer: Tokenizer, model: string): Grammars {
  let vocabulary: GrammarVocabulary | null = null;
  let worker: Worker | null = null;
  let last: Promise<unknown> = Promise.resolve();
  let matchers = 0;

  function thread(): Worker {
    vocabulary ??= {
      pieces: tokenizer.pieces.map((piece, id) => (isControl(tokenizer, piece, id) ? "" : piece)),
      kind: model === "llama" ? "byte_fallback" : "byte_level",
      ends: [...tokenizer.ends],
    };
    return (worker ??= new Worker(new URL("serve-grammar-worker.js", import.meta.url), { workerData: vocabulary }));
  }

  async function end(): Promise<void> {
    const old = worker;
    worker = null;
    await old?.terminate();
  }

  function ask(question: GrammarQuestion): Promise<Int32Array> {
    const answer = last.then(async () => {
      const reply = await oneReply(thread(), question);
      if ("mask" in reply) return reply.mask;
      await end();
      throw new GrammarError(reply.refused);
    });
    last = answer.catch(() => undefined);
    return answer;
  }

  return {
    async constraint(source) {
      const matcher = matchers++;
      const tokens: number[] = [];
      const next = (): Promise<Int32Array> => {
        const mask = ask({ kind: "mask", matcher, source, tokens: Int32Array.from(tokens) });
        mask.catch(() => undefined); // it is awaited later, and may fail before
        return mask;
      };
      let mask = next();
      await mask;
      return {
        allowed: () => mask,
        accept(token) {
          tokens.push(token);
          // While the model computes, so does the grammar.
          mask = next();
        },
        release() {
          void last.then(() => worker?.postMessage({ kind: "forget", matcher } satisfies GrammarQuestion, []));
        },
      };
    },
    async [Symbol.asyncDispose]() {
      await end();
    },
  };
}

function oneReply(worker: Worker, question: GrammarQuestion): Promise<GrammarAnswer> {
  return new Promise((resolve) => {
    const refuse = (refused: string): void => done({ refused });
    const timer = setTimeout(() => refuse(`not compiled within ${LIMIT_MS / 1000} s; make it simpler`), LIMIT_MS);
    const failed = (error: Error): void => refuse(error.message);
    const exited = (): void => refuse("its thread has ended");
    const done = (reply: GrammarAnswer): void => {
      clearTimeout(timer);
      worker.off("message", done).off("error", failed).off("exit", exited);
      resolve(reply);
    };
    worker.on("message", done).on("error", failed).on("exit", exited);
    worker.postMessage(question, []);
  });
}

/** Whether a token has a text that is shown only where control tokens are asked for. */
function isControl(tokenizer: Tokenizer, piece: string, id: number): boolean {
  return piece.length > 1 && tokenizer.decode([id]) === "" && tokenizer.decode([id], { special: true }) === piece;
}
