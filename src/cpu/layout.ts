// Which weights the native kernels take, in which form, and how many bytes that needs: the decisions that
// native/weights.h carries out. A type comes here as its derived structure, never by name.

import { UnsupportedOp, type WeightTensor } from "../backend.ts";
import { type FloatStructure, type MappedStructure, type MappedTerm, mappedStructureOf } from "../ladder/layout.ts";
import type { Type } from "../ladder/type.ts";

/** Activations are quantised in groups of this many values, so that k and the groups must be multiples of it. */
const ACTIVATION_GROUP = 16;
/** Rows of a tile. */
const TILE_ROWS = 32;

export type Use = "matrix" | "vector";

/** What a type's declaration derives to: see ladder/layout.ts. */
export type Derived = ReturnType<typeof mappedStructureOf>;

/** A structure as the kernels hold it: codes in 2, 4 or 8 bits, an integer zero point. */
export interface KernelStructure extends Omit<MappedStructure, "kind"> {
  readonly kind: "affine";
  /** Values of a block in the file. */
  readonly blockSize: number;
  readonly bits: 2 | 4 | 8;
  /** What each stored code becomes in memory, where codes stand for integers through a table. */
  readonly remap: readonly number[] | null;
}

/**
 * The structure by which the native code reads a tensor.
 * @throws UnsupportedOp where no kernel takes it, with tensor, type and reason
 */
export function usableStructure(tensor: WeightTensor, derived: Derived, use: Use): KernelStructure | FloatStructure {
  const { type, shape } = tensor;
  const refuse = (reason: string): never => {
    throw new UnsupportedOp(
      `tensor ${tensor.name} has type ${type.name}, which the CPU backend cannot run: ${reason}; --device reference can`,
    );
  };
  if (derived.kind === "float") return derived;
  if (derived.kind === "none") return refuse(derived.reason);
  // An affine structure is a mapped one without maps.
  const structure: MappedStructure =
    derived.kind === "mapped"
      ? derived
      : {
          ...derived,
          kind: "mapped",
          codes: { ...derived.codes, map: null },
          scale: withoutMap(derived.scale),
          offset: derived.offset && withoutMap(derived.offset),
        };
  const k = shape.at(-1) ?? 0;
  const { scale, offset, groupSize } = structure;
  const stored = Math.max(...[structure.codes, scale.codes, offset?.codes].map((c) => c?.bits ?? 0));
  if (stored > 8) return refuse(`it has codes of ${stored} bits, and the kernels take up to 8`);
  if (use === "matrix" && groupSize % ACTIVATION_GROUP !== 0)
    return refuse(
      `its scales hold for groups of ${groupSize} values, and the kernels take multiples of ${ACTIVATION_GROUP}`,
    );
  if (use === "matrix" && k % ACTIVATION_GROUP !== 0)
    return refuse(`its rows have ${k} values, and the kernels take multiples of ${ACTIVATION_GROUP}`);
  const { map } = structure.codes;
  const low = map === null ? 0 : Math.min(...map);
  const span = map === null ? 2 ** structure.codes.bits : Math.max(...map) - low + 1;
  if (span > 256) return refuse(`its codes stand for integers that lie ${span} apart, and the kernels take up to 256`);
  const lowered = {
    ...structure,
    kind: "affine" as const,
    blockSize: type.blockSize,
    bits: widthFor(span),
    remap: map === null ? null : map.map((value) => value - low),
    zero: structure.zero - low,
  };
  // Zero points are integers there: a fraction of a step moves into the offset.
  if (Number.isInteger(lowered.zero)) return lowered;
  if (offset !== null) return refuse(`it has a zero point of ${structure.zero} together with an offset`);
  return { ...lowered, zero: 0, offset: { ...scale, constant: -lowered.zero * scale.constant } };
}

function withoutMap(term: Omit<MappedTerm, "codes"> & { readonly codes: object | null }): MappedTerm {
  return { ...term, codes: term.codes && { ...(term.codes as NonNullable<MappedTerm["codes"]>), map: null } };
}

/** Bits for codes in [0, count). */
function widthFor(count: number): KernelStructure["bits"] {
  return count <= 4 ? 2 : count <= 16 ? 4 : 8;
}

/** Bytes of an (n, k) matrix as the kernels hold it: whole tiles, codes of 2, 4 or 8 bits, scales of f16 or f32. */
export function matrixBytes(structure: KernelStructure | FloatStructure, n: number, k: number): number {
  const rows = Math.ceil(n / TILE_ROWS) * TILE_ROWS;
  if (structure.kind === "float") return rows * k * (structure.format === "f32" ? 4 : 2);
  const { bits, scale, offset, groupSize } = structure;
  const blockBytes = blockScaleBytes(structure.blockSize / groupSize, [scale, ...(offset ? [offset] : [])]);
  return (rows * k * bits) / 8 + rows * (k / structure.blockSize) * blockBytes;
}

/** Of the scales and offsets of one row's block: f16 a group, f16 with an int8 a group, or f32 a group. */
function blockScaleBytes(groups: number, terms: readonly MappedTerm[]): number {
  if (terms.every(isHalf)) return terms.length * groups * 2;
  return terms.length * (terms.every(isTwoLevel) ? 2 + groups : groups * 4);
}

/** Vectors are f32 in memory. */
export function vectorBytes(n: number): number {
  return 4 * n;
}

/** One f16 field as it stands, which f16 holds exactly. */
function isHalf({ constant, fields, codes }: MappedTerm): boolean {
  return constant === 1 && fields.length === 1 && fields[0]?.format === "f16" && codes === null;
}

/** One f16 field, with either sign, times an integer of 8 bits a group. */
function isTwoLevel({ constant, fields, codes }: MappedTerm): boolean {
  if (Math.abs(constant) !== 1 || fields.length !== 1 || fields[0]?.format !== "f16") return false;
  if (codes === null || codes.map !== null) return false;
  return codes.bias >= 0 && codes.bias <= 128 && 2 ** codes.bits - 1 - codes.bias <= 127;
}

/** Bytes that the CPU backend holds for these tensors; the file's own for those that no kernel takes. */
export function memoryBytes(tensors: Iterable<WeightTensor>): number {
  const structures = new Map<Type, Derived>();
  let total = 0;
  for (const tensor of tensors) {
    const { type, shape } = tensor;
    if (!structures.has(type)) structures.set(type, mappedStructureOf(type));
    const structure = structures.get(type) as Derived;
    const [n = 0, k = 0] = shape;
    try {
      const isMatrix = shape.length === 2;
      const stored = usableStructure(tensor, structure, isMatrix ? "matrix" : "vector");
      total += isMatrix ? matrixBytes(stored, n, k) : vectorBytes(n);
    } catch (error) {
      if (!(error instanceof UnsupportedOp)) throw error;
      total += tensor.byteLength;
    }
  }
  return total;
}
