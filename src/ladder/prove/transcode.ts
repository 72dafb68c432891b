// Bytes of one format as bytes of another with the same values: what the prover has shown to be possible (embedding.ts),
// carried out. Each stored number of the target is fed by one of the source: its bits as they are, or by a table from
// codes to the codes of the same numbers. Both formats are compared value by value, once; then bits are moved.
// Not here: whether a conversion keeps anything (prove.ts); targets that are single elements (model/convert.ts).

import {
  elementKey,
  elementOf,
  type Form,
  formAt,
  inDoubles,
  type Leaf,
  leavesOf,
  LISTED_BITS,
  listedNumber,
  type Tree,
  treeText,
} from "./form.ts";
import type { Type } from "../type.ts";

export interface Transcoder {
  /** Values of the smallest run that is whole blocks of both. */
  readonly unitValues: number;
  /**
   * Whole units of the target for whole units of the source.
   * @throws RangeError where a number of the source is none of the target: the domain of the proof was not checked
   */
  transcode(bytes: Uint8Array): Uint8Array;
}

/**
 * The way from one type to another that a proof says keeps all values, as `repack` or `value`; null where the two do not
 * compute their values in the same sums and products, or where the data decide where a value lies.
 */
export function transcoderOf(from: Type, to: Type, guarantee: "repack" | "value"): Transcoder | null {
  const unitValues = leastCommonMultiple(from.blockSize, to.blockSize);
  const moves = new Map<string, Move>();
  for (let i = 0; i < unitValues; i++) {
    const [x, y] = [placed(from, i), placed(to, i)];
    if (x === null || y === null) return null;
    const pairs = guarantee === "repack" ? byOrder(x, y) : inParallel(x, y);
    if (pairs === null) return null;
    for (const pair of pairs) {
      const move = guarantee === "repack" ? bitsOfPair(pair) : moveOf(pair);
      if (move === null) return null;
      // Many values read one scale, which is moved once.
      moves.set(move.to.join(), move);
    }
  }
  const all = [...moves.values(), ...(guarantee === "repack" ? unreadMoves(from, to, unitValues, moves) : [])];
  const fromBytes = (unitValues / from.blockSize) * from.blockBytes;
  const toBytes = (unitValues / to.blockSize) * to.blockBytes;
  const copies = all.flatMap((move) => (move.table === null ? copiesOf(move) : []));
  const lookups = all.flatMap(({ table, ...move }) => (table === null ? [] : [{ ...move, table }])).map(lookupOf);
  return {
    unitValues,
    transcode(bytes) {
      const units = bytes.length / fromBytes;
      if (!Number.isInteger(units))
        throw new RangeError(
          `${bytes.length} bytes are no whole number of units of ${fromBytes} bytes of ${from.name}`,
        );
      const out = new Uint8Array(units * toBytes);
      // Move by move over all units, so that what a move is made of is looked up once.
      for (const { fromByte, fromBit, toByte, toBit, mask } of copies) {
        let target = toByte;
        for (let source = fromByte; source < bytes.length; source += fromBytes, target += toBytes)
          out[target]! |= ((bytes[source]! >> fromBit) & mask) << toBit;
      }
      for (const { gathers, scatters, table, label } of lookups) {
        for (let u = 0; u < units; u++) {
          let code = 0;
          for (let g = 0; g < gathers.length; g++) {
            const { byte, bit, mask, shift } = gathers[g]!;
            code |= ((bytes[u * fromBytes + byte]! >> bit) & mask) << shift;
          }
          const becomes = table[code]!;
          if (becomes < 0) throw new RangeError(`${to.name} has nothing for ${label} = ${code} of ${from.name}`);
          for (let s = 0; s < scatters.length; s++) {
            const { byte, bit, mask, shift } = scatters[s]!;
            out[u * toBytes + byte]! |= ((becomes >> shift) & mask) << bit;
          }
        }
      }
      return out;
    },
  };
}

/** A stored number of the source and that of the target which it becomes, with what is made of each. */
interface Pair {
  readonly from: { readonly leaf: Leaf; readonly index: number; readonly tree: Tree };
  readonly to: { readonly leaf: Leaf; readonly index: number; readonly tree: Tree };
}

/** Positions of bits, the least significant first; `table` is null where the bits stay as they are. */
interface Move {
  readonly label: string;
  readonly from: readonly number[];
  readonly to: readonly number[];
  readonly table: Int32Array | null;
}

/** The form of value i of consecutive blocks, its bits counted from the first block on. */
function placed(type: Type, i: number): Form | null {
  const form = formAt(type, i % type.blockSize);
  const start = Math.floor(i / type.blockSize) * type.blockBytes * 8;
  if (form === null || form.leaves.some(({ places }) => places === null)) return null;
  const leaves = form.leaves.map((leaf) => ({ ...leaf, places: leaf.places!.map((place) => place + start) }));
  return { ...form, leaves };
}

/** A repack keeps the bits of each stored number, in the order in which a value reads them. */
function byOrder(x: Form, y: Form): readonly Pair[] | null {
  if (x.leaves.length !== y.leaves.length) return null;
  return x.leaves.map((leaf, index) => {
    const tree = { kind: "leaf", leaf: index } as const;
    return { from: { leaf, index, tree }, to: { leaf: y.leaves[index]!, index, tree } };
  });
}

/** The largest parts of both trees that read one stored number each, in the same place of the same sums and products. */
function inParallel(x: Form, y: Form): readonly Pair[] | null {
  const pairs: Pair[] = [];
  const visit = (a: Tree, b: Tree): boolean => {
    const [inA, inB] = [leavesOf(a), leavesOf(b)];
    if (inA.size === 1 && inB.size === 1) {
      const [[p], [q]] = [[...inA], [...inB]];
      pairs.push({
        from: { leaf: x.leaves[p!]!, index: p!, tree: a },
        to: { leaf: y.leaves[q!]!, index: q!, tree: b },
      });
      return true;
    }
    if (inA.size <= 1 || inB.size <= 1) return inA.size === inB.size && treeText(a) === treeText(b);
    if (a.kind === "negate" && b.kind === "negate") return visit(a.operand, b.operand);
    if (a.kind !== "binary" || b.kind !== "binary" || a.operator !== b.operator) return false;
    return visit(a.left, b.left) && visit(a.right, b.right);
  };
  return visit(x.tree, y.tree) ? pairs : null;
}

const tables = new Map<string, Int32Array>();

function bitsOfPair({ from, to }: Pair): Move | null {
  const same = from.leaf.bits === to.leaf.bits;
  return same ? { label: from.leaf.label, from: from.leaf.places!, to: to.leaf.places!, table: null } : null;
}

/** Null where the numbers are too many to be listed and not stored in the same way. */
function moveOf({ from, to }: Pair): Move | null {
  const [a, b] = [meaning(from), meaning(to)];
  if (a === b) return bitsOfPair({ from, to });
  if (from.leaf.bits > LISTED_BITS || to.leaf.bits > LISTED_BITS) return null;
  const key = `${a} = ${b}`;
  let table = tables.get(key);
  if (table === undefined) tables.set(key, (table = tableOf(from, to)));
  return { label: from.leaf.label, from: from.leaf.places!, to: to.leaf.places!, table };
}

/** What a part makes of its codes, as text. */
function meaning({ leaf, tree }: Pair["from"]): string {
  return `${elementKey(elementOf(leaf))}.${leaf.lane} ${treeText(tree).replaceAll(/#\d+/g, "#")}`;
}

/** For each code of the source that of the same number in the target, the lowest of several; -1 where there is none. */
function tableOf(from: Pair["from"], to: Pair["to"]): Int32Array {
  const codes = new Map<number | "-0", number>();
  for (const [code, number] of numbersOf(to).entries()) if (!codes.has(number)) codes.set(number, code);
  return Int32Array.from(numbersOf(from), (number) => codes.get(number) ?? -1);
}

function numbersOf({ leaf, index, tree }: Pair["from"]): readonly (number | "-0")[] {
  const compute = inDoubles(tree);
  const numbers = new Float64Array(index + 1);
  return Array.from({ length: 2 ** leaf.bits }, (_, code) => {
    numbers[index] = listedNumber(elementOf(leaf), code, leaf.lane);
    const number = compute(numbers);
    // A map takes -0 for 0, and all NaN for one.
    return Object.is(number, -0) ? "-0" : number;
  });
}

/** The bits that no value reads, into the field of the same name. */
function unreadMoves(from: Type, to: Type, values: number, moves: ReadonlyMap<string, Move>): readonly Move[] {
  const read = new Set([...moves.values()].flatMap((move) => move.from));
  const written = new Set([...moves.values()].flatMap((move) => move.to));
  return from.fields.flatMap((field) => {
    const other = to.fields.find(({ name }) => name === field.name);
    if (other === undefined) return [];
    const own = bitsOf(from, field, values).filter((bit) => !read.has(bit));
    const free = bitsOf(to, other, values).filter((bit) => !written.has(bit));
    // Of fields that values read, what is left over is of no meaning.
    if (own.length !== free.length || own.length < field.count * field.element.bits) return [];
    return [{ label: field.name, from: own, to: free, table: null }];
  });
}

function bitsOf({ blockSize, blockBytes }: Type, field: Type["fields"][number], values: number): readonly number[] {
  const { bit, count, element } = field;
  return Array.from({ length: values / blockSize }, (_, b) => b * blockBytes * 8 + bit).flatMap((first) =>
    Array.from({ length: count * element.bits }, (_, k) => first + k),
  );
}

// --- bits in bytes --------------------------------------------------------------------------------------------------

/** Bits of a code from bit `shift` on that lie in one byte, from bit `bit` on. */
interface Slice {
  readonly byte: number;
  readonly bit: number;
  readonly mask: number;
  readonly shift: number;
}

function slicesOf(places: readonly number[]): readonly Slice[] {
  const slices: Slice[] = [];
  for (const [shift, place] of places.entries()) {
    const [byte, bit] = [Math.floor(place / 8), place % 8];
    const last = slices.at(-1);
    const width = last === undefined ? 0 : Math.log2(last.mask + 1);
    if (last !== undefined && last.byte === byte && last.bit + width === bit)
      slices[slices.length - 1] = { ...last, mask: 2 * last.mask + 1 };
    else slices.push({ byte, bit, mask: 1, shift });
  }
  return slices;
}

interface Copy {
  readonly fromByte: number;
  readonly fromBit: number;
  readonly toByte: number;
  readonly toBit: number;
  readonly mask: number;
}

/** The same bits from one place to another, as many at a time as lie in one byte on both sides. */
function copiesOf({ from, to }: Pick<Move, "from" | "to">): readonly Copy[] {
  const copies: Copy[] = [];
  for (const [k, place] of from.entries()) {
    const [fromByte, fromBit, toByte, toBit] = [place >> 3, place & 7, to[k]! >> 3, to[k]! & 7];
    const last = copies.at(-1);
    const width = last === undefined ? 0 : Math.log2(last.mask + 1);
    const continues =
      last !== undefined &&
      last.fromByte === fromByte &&
      last.toByte === toByte &&
      last.fromBit + width === fromBit &&
      last.toBit + width === toBit;
    if (continues) copies[copies.length - 1] = { ...last, mask: 2 * last.mask + 1 };
    else copies.push({ fromByte, fromBit, toByte, toBit, mask: 1 });
  }
  return copies;
}

function lookupOf({ label, from, to, table }: Move & { readonly table: Int32Array }): {
  readonly label: string;
  readonly gathers: readonly Slice[];
  readonly scatters: readonly Slice[];
  readonly table: Int32Array;
} {
  return { label, gathers: slicesOf(from), scatters: slicesOf(to), table };
}

function leastCommonMultiple(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y !== 0) [x, y] = [y, x % y];
  return (a / x) * b;
}
