// The value of a type at one index as an expression of the intermediate form: fields and codes become reads of bits,
// indices become integers, and elements stay what they are declared as, to be rewritten for a machine (rewrite.ts).
// An arm of a choice that is not taken may ask for anything: places are kept within the block.
// Not here: the form (ir.ts), the loops that an index runs in (loops.ts).

import { exactNumber, toNumber } from "../exact.ts";
import { readsData } from "../expr.ts";
import { decide, type Float, type Graph, type Int, Refusal, type Test } from "./ir.ts";
import type { Bits, Condition, Field, Index, Type, Value } from "../type.ts";

const WORD = 2 ** 32;
/** Blocks of up to so many values are looked at value by value; larger ones are bound tensors, of which only some are. */
export const MAX_LISTED = 4096;

/** Some bits of a code: still in the block, or worked out. */
type Piece =
  | { readonly kind: "stored"; readonly at: Int; readonly width: number }
  | { readonly kind: "made"; readonly value: Int; readonly width: number };

/**
 * The value at index `i` of a block of the type, with its elements as they are declared.
 * @param holds what is known of a test; what is not becomes a choice
 * @throws Refusal where an index divides by what is no positive constant or what may be beyond 2^31, or a code has
 * more than 64 bits
 */
export function lowerValue(graph: Graph, type: Type, i: Int, holds: (test: Test) => boolean | null = decide): Float {
  const blockBits = 8 * type.blockBytes;

  const indexOf = (index: Index, at: Int): Int => {
    switch (index.kind) {
      case "constant":
        return graph.integer(index.value);
      case "variable":
        return at;
      case "stored": {
        const { field } = index;
        const { element } = field;
        if (element.bits > 32)
          throw new Refusal(`${field.name} is an index of ${element.bits} bits, and indices have at most 32`);
        const raw = graph.bits(placeOf(field, index.index, graph.integer(0), at, element.bits), element.bits);
        return element.kind === "int" ? integerOf(graph, raw, element.flip, element.zero) : raw;
      }
      case "choose":
        return graph.pick(testOf(index.condition, at), indexOf(index.yes, at), indexOf(index.no, at));
      case "binary": {
        const { operator } = index;
        const [left, right] = [indexOf(index.left, at), indexOf(index.right, at)];
        if (operator === "+") return graph.plus(left, right);
        if (operator === "-") return graph.plus(left, graph.times(right, graph.integer(-1)));
        if (operator === "*") return graph.times(left, right);
        keepsWithin(index.left, left);
        if (right.kind !== "integer" || (right.value < 1 && left.kind !== "integer"))
          throw new Refusal("an index of it divides by what is no positive constant");
        // An arm that is not taken may divide by anything; its value does not matter.
        if (right.value < 1) return graph.integer(0);
        return operator === "div" ? graph.quotient(left, right.value) : graph.remainder(left, right.value);
      }
    }
  };
  const testOf = ({ operator, left, right }: Condition, at: Int): Test => {
    const test = { operator, left: indexOf(left, at), right: indexOf(right, at) };
    keepsWithin(left, test.left);
    keepsWithin(right, test.right);
    return test;
  };

  /** The position of a bit; within the field or, where only an arm that is not taken may ask for more, the block. */
  const placeOf = (field: Field, index: Index, low: Int, at: Int, width: number): Int => {
    const asked = indexOf(index, at);
    const isChecked = type.blockSize <= MAX_LISTED && !readsData(index);
    const entry = isChecked ? asked : graph.entry(asked, field.count, field.name);
    const bit = graph.plus(graph.times(entry, graph.integer(field.element.bits)), low);
    return graph.clamp(graph.plus(bit, graph.integer(field.bit)), 0, blockBits - width);
  };

  const piecesOf = (bits: Bits, at: Int): readonly Piece[] => {
    switch (bits.kind) {
      case "slice": {
        const { field, element, width } = bits;
        return [{ kind: "stored", at: placeOf(field, element, indexOf(bits.low, at), at, width), width }];
      }
      case "concat":
        return joined([...piecesOf(bits.low, at), ...piecesOf(bits.high, at)]);
      case "code":
        return piecesOf(bits.code.bits, indexOf(bits.index, at));
      case "choose": {
        const test = testOf(bits.condition, at);
        const decided = holds(test);
        if (decided !== null) return piecesOf(decided ? bits.yes : bits.no, at);
        const [yes, no] = [wordsOf(piecesOf(bits.yes, at)), wordsOf(piecesOf(bits.no, at))];
        const low = graph.pick(test, yes.low, no.low);
        const parts: Piece[] = [{ kind: "made", value: low, width: Math.min(32, bits.width) }];
        if (yes.high !== null && no.high !== null)
          parts.push({ kind: "made", value: graph.pick(test, yes.high, no.high), width: bits.width - 32 });
        return parts;
      }
    }
  };
  /** Neighbouring bits as one piece. */
  const joined = (pieces: readonly Piece[]): readonly Piece[] => {
    const all: Piece[] = [];
    for (const piece of pieces) {
      const last = all.at(-1);
      if (
        last?.kind === "stored" &&
        piece.kind === "stored" &&
        holds({ operator: "==", left: graph.plus(last.at, graph.integer(last.width)), right: piece.at }) === true
      )
        all[all.length - 1] = { ...last, width: last.width + piece.width };
      else all.push(piece);
    }
    return all;
  };
  /** The pieces put together, the first lowest. */
  const wordsOf = (pieces: readonly Piece[]): { readonly low: Int; readonly high: Int | null } => {
    const words: Int[] = [];
    let have = 0;
    for (const piece of pieces) {
      for (let done = 0; done < piece.width;) {
        const width = Math.min(piece.width - done, 32 - (have % 32));
        const part =
          piece.kind === "stored"
            ? graph.bits(graph.plus(piece.at, graph.integer(done)), width)
            : graph.logic("&", graph.logic(">>", piece.value, graph.integer(done)), graph.integer(2 ** width - 1));
        const word = Math.floor(have / 32);
        const moved = graph.logic("<<", part, graph.integer(have % 32));
        words[word] = word === words.length ? moved : graph.logic("|", words[word]!, moved);
        have += width;
        done += width;
      }
    }
    if (have > 64) throw new Refusal(`a code of it has ${have} bits, and at most 64 are put together`);
    return { low: words[0] ?? graph.integer(0), high: words[1] ?? null };
  };

  const valueOf = (value: Value): Float => {
    switch (value.kind) {
      case "constant":
        return graph.number(toNumber(exactNumber(value.significand, value.exponent)));
      case "element": {
        const { field, index } = value;
        const { bits } = field.element;
        const at = placeOf(field, index, graph.integer(0), i, bits);
        const { low, high } = wordsOf([{ kind: "stored", at, width: bits }]);
        return graph.element(field.element, low, high, graph.integer(0));
      }
      case "code": {
        const { low, high } = wordsOf(piecesOf(value.code.bits, indexOf(value.index, i)));
        return unsignedOf(graph, low, high);
      }
      case "apply": {
        const { low, high } = wordsOf(piecesOf(value.bits, i));
        return graph.element(value.element, low, high, indexOf(value.lane, i));
      }
      case "negate":
        return graph.negate(valueOf(value.operand));
      case "binary":
        return graph.arithmetic(value.operator, valueOf(value.left), valueOf(value.right));
      case "choose": {
        const test = testOf(value.condition, i);
        const decided = holds(test);
        if (decided !== null) return valueOf(decided ? value.yes : value.no);
        return graph.pickFloat(test, valueOf(value.yes), valueOf(value.no));
      }
      case "round":
        throw new Error("a value is exact; round stands in a reference only");
    }
  };
  return valueOf(type.value);
}

/** That an index is no NaN where it is looked at: indexAt has none beyond 2^31, as no field has such an entry. */
function keepsWithin(index: Index, { least, most }: Int): void {
  if (index.kind === "binary" && (least < -(2 ** 31) || most > 2 ** 31))
    throw new Refusal("an index of it may go beyond 2^31 before it is divided or compared");
}

/** (code xor flip) - zero. */
export function integerOf(graph: Graph, code: Int, flip: number, zero: number): Int {
  const turned = flip === 0 ? code : graph.logic("^", code, graph.integer(flip));
  return graph.plus(turned, graph.integer(-zero));
}

/** An unsigned number of up to 64 bits. */
function unsignedOf(graph: Graph, low: Int, high: Int | null): Float {
  if (high === null) return graph.convert(low);
  const above = graph.arithmetic("*", graph.convert(high), graph.number(WORD));
  return graph.arithmetic("+", above, graph.convert(low));
}
