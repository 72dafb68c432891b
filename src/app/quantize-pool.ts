// Threads for lutra quantize: each piece goes to the thread with the least to do. Quantising is all computing, and its
// pieces are independent, so that two threads take half the time of one; and the main thread stays free for Ctrl-C.

import { Worker } from "node:worker_threads";

import type { Type } from "../ladder/type.ts";
import type { Piece, Requantized } from "../model/quantize.ts";
import type { Job } from "./quantize-worker.ts";

export interface Pool extends AsyncDisposable {
  /** What `requantize` gives; the piece's bytes are gone afterwards. Rejects where a thread has failed. */
  run(piece: Piece): Promise<Requantized>;
}

interface Waiting {
  readonly resolve: (result: Requantized) => void;
  readonly reject: (error: unknown) => void;
}

interface Thread {
  readonly worker: Worker;
  /** Pieces that it has been given, in order; it answers in the same order. */
  readonly waiting: Waiting[];
}

/** @param types all that pieces will have */
export function makePool(threads: number, types: readonly Type[]): Pool {
  const all = Array.from({ length: threads }, () => startThread(types));
  return {
    run({ from, to, bytes }) {
      const { worker, waiting } = all.reduce((a, b) => (b.waiting.length < a.waiting.length ? b : a));
      const own = new Uint8Array(bytes); // of its own, since the memory goes with it
      const job: Job = { from: types.indexOf(from), to: types.indexOf(to), bytes: own };
      return new Promise((resolve, reject) => {
        waiting.push({ resolve, reject });
        worker.postMessage(job, [own.buffer]);
      });
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(all.map(({ worker }) => worker.terminate()));
    },
  };
}

function startThread(types: readonly Type[]): Thread {
  const worker = new Worker(new URL("quantize-worker.js", import.meta.url), { workerData: types });
  const waiting: Waiting[] = [];
  worker.on("message", (result: Requantized) => waiting.shift()?.resolve(result));
  worker.on("error", (error) => {
    for (const { reject } of waiting.splice(0)) reject(error);
  });
  return { worker, waiting };
}
