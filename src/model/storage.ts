// Matrices whose storage knows more than one row, and a scale behind them, from one storage of a tensor format to another:
// bitnet.cpp's I2_S, whose files do not say which of three they have. A matrix is taken apart into bands of rows that are
// stored one behind the other in both, so that memory is bounded; that they are is looked at, not believed.
// Not here: what the storages are (dsl/bitnet.ladder), files (convert.ts).

import type { WeightTensor } from "../backend.ts";
import { formAt } from "../ladder/prove/form.ts";
import type { Proof } from "../ladder/prove/prove.ts";
import { bindTensor, smallestShape } from "../ladder/tensor.ts";
import { transcoderOf } from "../ladder/prove/transcode.ts";
import type { Endpoint, Tensor, Type } from "../ladder/type.ts";
import { type TensorPlan } from "./convert.ts";
import type { Gguf } from "./gguf.ts";
import { ModelError, quoted } from "./metadata.ts";

/** A storage of a tensor format. */
export type Storage = Endpoint & { readonly kind: "tensor" };

/** bitnet.cpp gives a matrix of n weights n / 4 + 32 bytes; the scale is the first of the 32 (ggml_nbytes of its fork). */
const TAIL_BYTES = 32;

/**
 * A type that stands for a storage while a file is read: as many values in as many bytes, but for what lies behind the
 * matrix. Null where the format has buffers beside, which are tensors of their own.
 * @param id that files give it
 */
export function standIn({ tensor, storage }: Storage, id: number): Type | null {
  const shape = smallestShape(tensor, storage);
  if (shape === null) return null;
  const [one, two] = [1, 2].map((times) => bindTensor(tensor, storage, times * shape.rows, shape.columns));
  if (one?.kind !== "bound" || two?.kind !== "bound" || one.buffers.length > 1) return null;
  const values = shape.rows * shape.columns;
  const bytes = two.type.blockBytes - one.type.blockBytes;
  const shared = one.type.blockBytes - bytes;
  if (shared < 0 || shared > TAIL_BYTES) return null;
  const common = greatestCommonDivisor(values, bytes);
  const [blockSize, blockBytes] = [values / common, bytes / common];
  // Nobody decodes it: it has no fields, and its value is a constant.
  const value = { kind: "constant", significand: 0n, exponent: 0 } as const;
  return { name: tensor.name, blockSize, blockBytes, ids: new Map([["gguf", id]]), fields: [], value, reference: null };
}

/**
 * What becomes of a matrix that goes from one storage to another of the same format.
 * @throws ModelError where a storage does not allow its shape, or its bytes end too early
 */
export function storagePlan(
  gguf: Gguf,
  tensor: WeightTensor,
  from: Storage,
  to: Storage,
  { proof, id }: { readonly proof: Proof; readonly id: number },
): TensorPlan {
  const fail = (what: string, allowed: string): never => {
    const file = gguf.weights.files[tensor.file] ?? gguf.metadata.file;
    throw new ModelError(file, `tensor ${quoted(tensor.name)}`, what, allowed);
  };
  const columns = tensor.shape.at(-1)!;
  const rows = tensor.shape.slice(0, -1).reduce((product, length) => product * length, 1);
  const end = tensor.byteOffset + tensor.byteLength + TAIL_BYTES;
  const next = [...gguf.tensors.values()].find(
    (other) => other.file === tensor.file && other.byteOffset > tensor.byteOffset && other.byteOffset < end,
  );
  if (next !== undefined)
    fail(
      `ends before byte ${end}, where ${quoted(next.name)} begins at ${next.byteOffset}`,
      `it has ${TAIL_BYTES} bytes behind its codes`,
    );
  const wholes = [from, to].map(({ tensor: format, storage }) => {
    const binding = bindTensor(format, storage, rows, columns);
    if (binding.kind === "bound") return binding.type;
    return fail(
      `${rows} x ${columns}`,
      binding.diagnostics[0]?.message ?? `${nameOf({ tensor: format, storage })} does not allow it`,
    );
  });
  for (let band = 1; band <= rows; band++) {
    if (rows % band !== 0) continue;
    const parts = [from, to].map(({ tensor: format, storage }) => bindTensor(format, storage, band, columns));
    const [a, b] = parts.map((binding) => (binding.kind === "bound" ? binding.type : null));
    if (a === null || b === null || a === undefined || b === undefined) continue;
    const shared = wholes[0]!.blockBytes - tensor.byteLength;
    if (![a, b].every((part, p) => isBanded(wholes[p]!, part, { rows, band, shared }))) continue;
    const transcoder = transcoderOf(a, b, "repack");
    if (transcoder === null) break;
    const way = {
      from: a,
      to: b,
      proof,
      unitValues: a.blockSize,
      recode: (bytes: Uint8Array) => transcoder.transcode(bytes),
    };
    return { tensor, way, name: nameOf(to), id, tail: { bytes: TAIL_BYTES, shared } };
  }
  return fail(
    `${rows} x ${columns}`,
    `${nameOf(from)} and ${nameOf(to)} are not stored in bands of rows; nothing else is converted`,
  );
}

function nameOf({ tensor, storage }: { readonly tensor: Tensor; readonly storage: string }): string {
  return storage === "" ? tensor.name : `${tensor.name}.${storage}`;
}

/** Rows of a matrix at which bands are compared with the whole. */
const SAMPLES = 64;

/** Whether the bands of a matrix lie one behind the other, each as a matrix of its own, but for what lies behind all. */
function isBanded(
  whole: Type,
  part: Type,
  { rows, band, shared }: { readonly rows: number; readonly band: number; readonly shared: number },
): boolean {
  const bands = rows / band;
  const own = (part.blockBytes - shared) * 8;
  if (whole.blockBytes !== bands * (part.blockBytes - shared) + shared) return false;
  for (let s = 0; s < SAMPLES; s++) {
    const b = Math.floor((s * (bands - 1)) / (SAMPLES - 1));
    const within = (s * 7919) % part.blockSize;
    for (const i of [0, within, part.blockSize - 1]) {
      const [x, y] = [formAt(whole, b * part.blockSize + i), formAt(part, i)];
      if (x === null || y === null || x.leaves.length !== y.leaves.length) return false;
      for (const [l, { places }] of y.leaves.entries()) {
        const wanted = places?.map((place) => (place < own ? place + b * own : place + (bands - 1) * own));
        if (wanted === undefined || wanted.join() !== x.leaves[l]!.places?.join()) return false;
      }
    }
  }
  return true;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
