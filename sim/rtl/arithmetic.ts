// Integer blocks as gates: sums by compressor trees, adders, multipliers, multiplexers, shifters, counts of zeros.
// Each says what it computes in integers; nets are unsigned unless their parameter says signed.
// Not here: floats (float.ts), what units are made of them (lane.ts).
// Dadda, "Some schemes for parallel multipliers" (1965); Baugh and Wooley, "A two's complement parallel array
// multiplication algorithm" (1973); Sklansky, "Conditional-sum addition logic" (1960).

import { type Bit, type Circuit, constant, type Net, signExtended, zeroExtended } from "./circuit.ts";

/** How the last two rows of a sum are added: bit by bit, or in a logarithmic number of steps. */
export type AdderStyle = "ripple" | "prefix";

/** a + b + carry, with one bit more than a and b have. */
export function add(c: Circuit, a: Net, b: Net, carry: Bit, style: AdderStyle): Net {
  return style === "ripple" ? rippleAdd(c, a, b, carry) : prefixAdd(c, a, b, carry);
}

function rippleAdd(c: Circuit, a: Net, b: Net, carryIn: Bit): Net {
  let carry = carryIn;
  const sum = a.map((bit, i) => {
    const [s, next] = c.fullAdder(bit, b[i]!, carry);
    carry = next;
    return s;
  });
  return [...sum, carry];
}

function prefixAdd(c: Circuit, a: Net, b: Net, carryIn: Bit): Net {
  // Place 0 of generate and propagate is the carry that comes in.
  const half = c.xor(a, b, "half");
  let generate: Net = [carryIn, ...c.and(a, b, "generate")];
  let propagate: Net = [0, ...half];
  for (let span = 1; span < generate.length; span *= 2) {
    const upper = generate.flatMap((_, i) => ((i & span) === 0 ? [] : [i]));
    const lower = upper.map((i) => (i & ~(2 * span - 1)) + span - 1);
    const of = (net: Net, at: readonly number[]): Net => at.map((i) => net[i]!);
    const own = of(propagate, upper);
    const carried = c.or(of(generate, upper), c.and(own, of(generate, lower)), "generate");
    const passed = c.and(own, of(propagate, lower), "propagate");
    generate = replaced(generate, upper, carried);
    propagate = replaced(propagate, upper, passed);
  }
  return [...c.xor(half, generate.slice(0, -1), "added"), generate.at(-1)!];
}

function replaced(net: Net, at: readonly number[], by: Net): Net {
  const out = [...net];
  for (const [j, i] of at.entries()) out[i] = by[j]!;
  return out;
}

/** a - b modulo 2^width, and whether b <= a, both unsigned. */
export function subtract(
  c: Circuit,
  a: Net,
  b: Net,
  style: AdderStyle,
): { readonly difference: Net; readonly fits: Bit } {
  const sum = add(c, a, c.not(b), 1, style);
  return { difference: sum.slice(0, -1), fits: sum.at(-1)! };
}

/** Whether a > b. */
export function greater(c: Circuit, a: Net, b: Net): Bit {
  if (a.length === 0) return 0;
  // From pairs of halves: greater in the higher one, or equal there and greater in the lower one.
  let above: Net = c.and(a, c.not(b), "above");
  let equal: Net = c.not(c.xor(a, b, "differ"));
  while (above.length > 1) {
    const pairs = Math.floor(above.length / 2);
    const low = (net: Net): Net => Array.from({ length: pairs }, (_, i) => net[2 * i]!);
    const high = (net: Net): Net => Array.from({ length: pairs }, (_, i) => net[2 * i + 1]!);
    const rest = above.length % 2 === 1 ? [above.length - 1] : [];
    const [more, same] = [
      c.or(high(above), c.and(high(equal), low(above)), "above"),
      c.and(high(equal), low(equal), "equal"),
    ];
    [above, equal] = [
      [...more, ...rest.map((i) => above[i]!)],
      [...same, ...rest.map((i) => equal[i]!)],
    ];
  }
  return above[0]!;
}

/** Bits to be summed, by their power of two, with a constant, all modulo 2^width. */
export interface Columns {
  readonly width: number;
  readonly bits: Bit[][];
  constant: bigint;
}

export function columnsOf(width: number): Columns {
  return { width, bits: Array.from({ length: width }, () => []), constant: 0n };
}

/** Adds x 2^shift. */
export function include(columns: Columns, x: Net, shift = 0): void {
  for (const [i, bit] of x.entries()) if (bit !== 0) columns.bits[i + shift]?.push(bit);
}

/** Adds x 2^shift for x in two's complement: its highest bit weighs -1, which is the inverted bit less 1. */
export function includeSigned(c: Circuit, columns: Columns, x: Net, shift = 0): void {
  const top = x.length - 1;
  if (top + shift >= columns.width - 1) return include(columns, x, shift);
  include(columns, [...x.slice(0, top), ...c.not([x[top]!])], shift);
  columns.constant -= 1n << BigInt(top + shift);
}

/** Adds a b, unsigned. */
export function includeProduct(c: Circuit, columns: Columns, a: Net, b: Net): void {
  for (const [i, bit] of b.entries())
    include(
      columns,
      c.and(
        a,
        a.map(() => bit),
        "partial",
      ),
      i,
    );
}

/** Adds a b in two's complement: rows with one sign bit enter inverted, which constants make good (Baugh and Wooley). */
export function includeSignedProduct(c: Circuit, columns: Columns, a: Net, b: Net): void {
  const [p, q] = [a.length - 1, b.length - 1];
  for (const [j, bit] of b.entries()) {
    const row = c.and(
      a,
      a.map(() => bit),
      "partial",
    );
    const isLast = j === q;
    const [low, high] = [row.slice(0, p), [row[p]!]];
    include(columns, isLast ? c.not(low) : low, j);
    include(columns, isLast ? high : c.not(high), j + p);
  }
  // Each inverted bit at place s stands for 1 - bit, and was to be -bit: -2^s. Those of row q are places q to q + p - 1,
  // those of column p places p to p + q - 1.
  const run = (from: number, count: number): bigint => ((1n << BigInt(count)) - 1n) << BigInt(from);
  columns.constant -= run(q, p) + run(p, q);
}

/** Two rows with the same sum modulo 2^width, or fewer. @param most the height at which to stop; above 2 to go on later */
export function compress(c: Circuit, columns: Columns, most = 2): Columns {
  let now = columns.bits.map((bits) => [...bits]);
  // The constant is a row of its own.
  for (const [i, bit] of constant(columns.constant, columns.width).entries()) if (bit === 1) now[i]!.push(1);
  let heights = [2];
  const highest = Math.max(0, ...now.map(({ length }) => length));
  while (heights[0]! < highest) heights = [Math.floor((heights[0]! * 3) / 2), ...heights];
  for (const height of heights) {
    if (height < most || height >= Math.max(0, ...now.map(({ length }) => length))) continue;
    now = reduced(c, now, height);
  }
  return { width: columns.width, bits: now, constant: 0n };
}

/** One stage of Dadda's: no column is higher than `height` behind it, with as few adders as that takes. */
function reduced(c: Circuit, columns: readonly (readonly Bit[])[], height: number): Bit[][] {
  const out: Bit[][] = columns.map(() => []);
  for (const [i, bits] of columns.entries()) {
    // Known bits first: with them an adder is a gate or two.
    const waiting = bits.toSorted((a, b) => Number(typeof a !== "number") - Number(typeof b !== "number"));
    while (waiting.length + out[i]!.length > height) {
      const isHalf = waiting.length + out[i]!.length === height + 1;
      const [a, b] = [waiting.shift()!, waiting.shift()!];
      const [sum, carry] = c.fullAdder(a, b, isHalf ? 0 : waiting.shift()!);
      if (sum !== 0) out[i]!.push(sum);
      if (carry !== 0) out[i + 1]?.push(carry);
    }
    out[i]!.push(...waiting);
  }
  return out;
}

/** All columns one cycle later. */
export function cutColumns(c: Circuit, columns: Columns): Columns {
  const all = c.cut(columns.bits.flat());
  let next = 0;
  return { ...columns, bits: columns.bits.map((bits) => bits.map(() => all[next++]!)) };
}

/** The sum of columns of at most two bits, modulo 2^width. */
export function total(c: Circuit, columns: Columns, style: AdderStyle): Net {
  const { bits } = compress(c, columns);
  const row = (r: number): Net => bits.map((column) => column[r] ?? 0);
  return add(c, row(0), row(1), 0, style).slice(0, -1);
}

/** The entry of an index: a tree of choices between two, the lowest bit of the index first. */
export function select(c: Circuit, entries: readonly Net[], index: Net): Net {
  const [first] = entries;
  if (first === undefined || entries.length > 2 ** index.length)
    throw new Error(`${entries.length} entries and an index of ${index.length} bits`);
  let left = entries;
  for (const bit of index) {
    if (left.length === 1) break;
    const pairs = Math.ceil(left.length / 2);
    left = Array.from({ length: pairs }, (_, i) => {
      const odd = left[2 * i + 1];
      return odd === undefined ? left[2 * i]! : c.mux(bit, odd, left[2 * i]!, "entry");
    });
  }
  return left[0]!;
}

/** x 2^amount modulo 2^width, with `fill` in the places that become free. */
export function shiftLeft(c: Circuit, x: Net, amount: Net, fill: Bit): Net {
  return amount.reduce<Net>((now, bit, s) => {
    const by = 2 ** s;
    const moved = now.map((_, i) => (i < by ? fill : now[i - by]!));
    return c.mux(bit, moved, now, "left");
  }, x);
}

/** x / 2^amount, cut. @param sticky sets the lowest bit where any bit was lost */
export function shiftRight(c: Circuit, x: Net, amount: Net, sticky: boolean): Net {
  const far: Bit[] = [];
  let now = x;
  let lost: Bit = 0;
  for (const [s, bit] of amount.entries()) {
    const by = 2 ** s;
    // Places so high that nothing stays.
    if (by >= x.length) {
      far.push(bit);
      continue;
    }
    const moved = now.map((_, i) => now[i + by] ?? 0);
    if (sticky) lost = c.or([lost], c.and([bit], [c.any(now.slice(0, by), "lost")]), "lost")[0]!;
    now = c.mux(bit, moved, now, "right");
  }
  if (far.length > 0) {
    const gone = c.any(far, "gone");
    if (sticky) lost = c.or([lost], c.and([gone], [c.any(now, "rest")]), "lost")[0]!;
    const stays = c.not([gone])[0]!;
    now = c.and(
      now,
      now.map(() => stays),
      "right",
    );
  }
  return sticky ? [c.or([now[0]!], [lost], "sticky")[0]!, ...now.slice(1)] : now;
}

/** Zeros above the highest set bit; where there is none, all bits of the count are set. */
export function leadingZeros(c: Circuit, x: Net): { readonly count: Net; readonly isZero: Bit } {
  // Filled up below to a power of two, so that halves are alike.
  const levels = Math.max(1, Math.ceil(Math.log2(x.length)));
  const whole = [...Array.from({ length: 2 ** levels - x.length }, (): Bit => 0), ...x];
  let counts: readonly Net[] = whole.map(() => []);
  let zeros: Net = c.not(whole);
  while (counts.length > 1) {
    const pairs = counts.length / 2;
    const high = (i: number): number => 2 * i + 1;
    const [highZero, lowZero] = [
      Array.from({ length: pairs }, (_, i) => zeros[high(i)]!),
      Array.from({ length: pairs }, (_, i) => zeros[2 * i]!),
    ];
    counts = highZero.map((isZero, i) => [...c.mux(isZero, counts[2 * i]!, counts[high(i)]!, "count"), isZero]);
    zeros = c.and(highZero, lowZero, "zeros");
  }
  return { count: counts[0]!, isZero: zeros[0]! };
}

/** Conditionally negated but for the 1 that two's complement adds. */
export function inverted(c: Circuit, x: Net, negative: Bit, hint = "signed"): Net {
  return c.xor(
    x,
    x.map(() => negative),
    hint,
  );
}

/** |x| of two's complement, unsigned, with a bit less. */
export function magnitude(c: Circuit, x: Net, style: AdderStyle): Net {
  const sign = x.at(-1)!;
  const flipped = inverted(c, x.slice(0, -1), sign, "flipped");
  return add(c, flipped, constant(0n, flipped.length), sign, style).slice(0, -1);
}

/** x + value modulo 2^width in two's complement. @param isSigned how x is extended to the width */
export function plus(c: Circuit, x: Net, value: bigint, width: number, isSigned: boolean, style: AdderStyle): Net {
  const wide = isSigned ? signExtended(x, width) : zeroExtended(x, width);
  return value === 0n ? wide : add(c, wide, constant(value, width), 0, style).slice(0, -1);
}
