// One thread of lutra quantize: takes pieces of tensors, gives them back in their new type. The types are told once, so
// that what is derived from them is derived once.

import { parentPort, workerData } from "node:worker_threads";

import type { Type } from "../ladder/type.ts";
import { requantize } from "../model/quantize.ts";

/** A piece with its types as indices into the list that the thread was begun with. */
export interface Job {
  readonly from: number;
  readonly to: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

const types = workerData as readonly Type[];

parentPort?.on("message", ({ from, to, bytes }: Job) => {
  const result = requantize({ from: types[from]!, to: types[to]!, bytes });
  parentPort?.postMessage(result, [result.bytes.buffer as ArrayBuffer]);
});
