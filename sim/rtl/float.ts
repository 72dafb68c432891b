// Floats as gates: codes taken apart, products, and the aligned sum of any number of terms, rounded once.
// Each block equals the function of the same name in aligned.ts, which says what it computes.
// Not here: integers (arithmetic.ts), which terms a unit sums (lane.ts).

import type { Float } from "../../src/lutcore/number.ts";
import { type Codes, codesOf } from "./aligned.ts";
import {
  add,
  type AdderStyle,
  columnsOf,
  greater,
  include,
  includeProduct,
  includeSigned,
  inverted,
  leadingZeros,
  magnitude,
  plus,
  shiftLeft,
  shiftRight,
  subtract,
  total,
} from "./arithmetic.ts";
import { type Bit, type Circuit, constant, type Net, zeroExtended } from "./circuit.ts";
import { bitsFor, type Cut, type FloatOptions } from "./config.ts";

/** A term: (-1)^sign mantissa 2^(exponent - offset - places), and what else it may be. */
export interface Term {
  readonly sign: Bit;
  /** Unsigned. */
  readonly exponent: Net;
  readonly mantissa: Net;
  readonly nonzero: Bit;
  readonly infinite: Bit;
  readonly nan: Bit;
}

/** Terms of one kind. */
export interface Terms {
  readonly terms: readonly Term[];
  /** Taken off exponents. */
  readonly offset: number;
  /** Bits of the mantissas behind their point. */
  readonly places: number;
}

/** What all blocks of a unit have in common. */
export interface Floats {
  readonly circuit: Circuit;
  readonly options: FloatOptions;
  readonly style: AdderStyle;
  /** A register behind what is named, where the unit has one there. */
  cut(at: Cut, x: Net): Net;
}

/** A code as a term with the format's bias as offset and its fraction as places. */
export function unpacked({ circuit: c, options }: Floats, word: Net, float: Float): Term {
  const { exponentBits, fractionBits, top } = codesOf(float, options);
  const fraction = word.slice(0, fractionBits);
  const field = word.slice(fractionBits, fractionBits + exponentBits);
  const hidden = c.any(field, "hidden");
  const flush = options.subnormals === "flush";
  const kept = flush
    ? c.and(
        fraction,
        fraction.map(() => hidden),
        "fraction",
      )
    : fraction;
  const isSpecial =
    top === "ordinary" ? 0 : top === "special" ? c.all(field, "top") : c.all([...field, ...fraction], "top");
  const ieee = options.specials === "ieee";
  const isNan = !ieee || isSpecial === 0 ? 0 : top === "one special" ? isSpecial : c.any(fraction, "payload");
  const nan = c.and([isSpecial], [isNan], "nan")[0]!;
  return {
    sign: word.at(-1)!,
    // A field of 0 has the exponent of 1.
    exponent: [c.or([field[0]!], c.not([hidden]), "exponent")[0]!, ...field.slice(1)],
    mantissa: [...kept, hidden],
    nonzero: flush ? hidden : c.any(word.slice(0, -1), "nonzero"),
    infinite: c.and([isSpecial], c.not([nan]), "infinite")[0]!,
    nan,
  };
}

/** A term times 2^power, power unsigned. */
export function scaled({ circuit: c, style }: Floats, term: Term, power: Net): Term {
  if (power.length === 0) return term;
  const width = Math.max(term.exponent.length, power.length);
  const exponent = add(c, zeroExtended(term.exponent, width), zeroExtended(power, width), 0, style);
  return { ...term, exponent };
}

/** a b, whose offset and places are the sums of theirs. */
export function product({ circuit: c, style, options }: Floats, a: Term, b: Term): Term {
  const columns = columnsOf(a.mantissa.length + b.mantissa.length);
  includeProduct(c, columns, a.mantissa, b.mantissa);
  const nonzero = c.and([a.nonzero], [b.nonzero], "nonzero")[0]!;
  const infinite = c.or([a.infinite], [b.infinite], "infinite")[0]!;
  const given = c.or([a.nan], [b.nan], "nan")[0]!;
  const unclear = options.specials === "ieee" ? c.and([infinite], c.not([nonzero]), "nan")[0]! : 0;
  const nan = c.or([given], [unclear], "nan")[0]!;
  return {
    sign: c.xor([a.sign], [b.sign], "sign")[0]!,
    exponent: add(c, a.exponent, b.exponent, 0, style),
    mantissa: total(c, columns, style),
    nonzero,
    infinite: c.and([infinite], c.not([nan]), "infinite")[0]!,
    nan,
  };
}

/** The code of the sum of terms and of an addend, which has the result's format but may be doubled. */
export function sum(f: Floats, { terms, offset, places }: Terms, addend: Term | null, to: Float): Net {
  const { circuit: c, options, style } = f;
  const codes = codesOf(to, options);
  const { bias, fractionBits } = codes;
  // Exponents are counted so that the result's field of 1 is 1; terms lie `delta` higher than they count themselves.
  const delta = bias - offset;
  const widest = Math.max(1, ...terms.map(({ exponent }) => exponent.length));
  const most = Math.max(2 ** widest - 1 + Math.max(delta, -offset, 0), 2 ** (addend?.exponent.length ?? 1));
  const width = bitsFor(most + Math.abs(delta) + 1);
  const wide = (x: Net): Net => zeroExtended(x, width);
  const floor = wide(addend?.exponent ?? [1]);
  const { exponent: largest, nonzero } = largestOf(c, terms, widest);
  const candidate = plus(c, largest, BigInt(delta), width + 1, false, style);
  const isLarger = c.and(
    [nonzero],
    c.and(c.not([candidate.at(-1)!]), [greater(c, candidate.slice(0, -1), floor)], "larger"),
    "larger",
  )[0]!;
  const anchor = c.mux(isLarger, candidate.slice(0, -1), floor, "anchor");
  const anchorOfTerms = plus(c, anchor, BigInt(-delta), width, false, style);

  const aligned = terms.map(({ sign, exponent, mantissa }) => {
    const { difference } = subtract(c, anchorOfTerms, wide(exponent), style);
    return { sign, size: alignedSize(f, mantissa, places, difference) };
  });
  if (addend !== null) {
    const { difference } = subtract(c, anchor, wide(addend.exponent), style);
    aligned.push({ sign: addend.sign, size: alignedSize(f, addend.mantissa, fractionBits, difference) });
  }
  const bound = aligned.reduce((bounds, { size }) => bounds + 2 ** (size.length - options.window), 0);
  const integerBits = bitsFor(bound);
  const columns = columnsOf(integerBits + options.window + 1);
  for (const { sign, size } of aligned) {
    const both = f.cut("align", [...size, sign]);
    const [s, t] = [both.at(-1)!, both.slice(0, -1)];
    includeSigned(c, columns, [...inverted(c, t, s), s]);
    include(columns, [s]);
  }
  const exact = f.cut("sum", total(c, columns, style));
  const special = specialOf(f, addend === null ? terms : [...terms, addend]);
  const allNegative = c.all(
    aligned.map(({ sign }) => sign),
    "negative",
  );
  return packed(f, { exact, anchor, integerBits, allNegative, special }, codes);
}

/** The largest exponent of those that are not zero. */
function largestOf(
  c: Circuit,
  terms: readonly Term[],
  width: number,
): { readonly exponent: Net; readonly nonzero: Bit } {
  const [only] = terms;
  if (only !== undefined && terms.length === 1) return { exponent: only.exponent, nonzero: only.nonzero };
  let left = terms.map(({ exponent, nonzero }) => {
    const x = zeroExtended(exponent, width);
    return c.and(
      x,
      x.map(() => nonzero),
      "masked",
    );
  });
  while (left.length > 1) {
    left = Array.from({ length: Math.ceil(left.length / 2) }, (_, i) => {
      const [a, b] = [left[2 * i]!, left[2 * i + 1]];
      return b === undefined ? a : c.mux(greater(c, b, a), b, a, "largest");
    });
  }
  return {
    exponent: left[0]!,
    nonzero: c.any(
      terms.map(({ nonzero }) => nonzero),
      "nonzero",
    ),
  };
}

/** A mantissa `shift` places lower, in `window` places behind the point. */
function alignedSize({ circuit: c, options }: Floats, mantissa: Net, places: number, shift: Net): Net {
  const { window, sticky } = options;
  const below = Math.max(0, window - places);
  const padded = [...constant(0n, below), ...mantissa];
  const shifted = shiftRight(c, padded, shift, sticky);
  const spare = Math.max(0, places - window);
  const kept = shifted.slice(spare);
  if (spare === 0 || !sticky) return kept;
  const lost = c.any(shifted.slice(0, spare), "lost");
  return [c.or([kept[0]!], [lost], "sticky")[0]!, ...kept.slice(1)];
}

/** What infinities and NaN make of the sum: whether it is one, and its code. */
interface Special {
  readonly nan: Bit;
  readonly infinite: Bit;
  readonly negative: Bit;
}

function specialOf({ circuit: c, options }: Floats, all: readonly Term[]): Special {
  const infinities = (negative: boolean): Bit =>
    c.any(
      all.map(({ infinite, sign }) => c.and([infinite], negative ? [sign] : c.not([sign]), "infinite")[0]!),
      "infinite",
    );
  const given = c.any(
    all.map(({ nan }) => nan),
    "nan",
  );
  const [plusOne, minusOne] = [infinities(false), infinities(true)];
  const opposite = options.specials === "ieee" ? c.and([plusOne], [minusOne], "nan") : [0 as const];
  return {
    nan: c.or([given], opposite, "nan")[0]!,
    infinite: c.or([plusOne], [minusOne], "infinite")[0]!,
    negative: c.not([plusOne])[0]!,
  };
}

/** A sum before it is rounded. */
interface Exact {
  /** Two's complement, `window` places behind the point. */
  readonly exact: Net;
  readonly anchor: Net;
  readonly integerBits: number;
  readonly allNegative: Bit;
  readonly special: Special;
}

/** Normalised, rounded, and made a code. */
function packed(f: Floats, { exact, anchor, integerBits, allNegative, special }: Exact, codes: Codes): Net {
  const { circuit: c, options, style } = f;
  const { exponentBits, fractionBits } = codes;
  const isNegative = exact.at(-1)!;
  const size = magnitude(c, exact, style);
  // Room for the fraction, a guard and something below it.
  const wide = [...constant(0n, Math.max(0, fractionBits + 3 - size.length)), ...size];
  const { count, isZero } = leadingZeros(c, size);
  const keep = options.subnormals === "keep";
  // The field of a sum with no leading zero is anchor + integerBits - 1.
  const width = Math.max(anchor.length, count.length, exponentBits) + 2;
  const highest = plus(c, anchor, BigInt(integerBits - (keep ? 2 : 1)), width, false, style);
  const { difference: left, fits } = subtract(c, highest, zeroExtended(count, width), style);
  const limit = highest.slice(0, count.length);
  const shifted = shiftLeft(c, wide, keep ? c.mux(fits, count, limit, "shift") : count, 0);
  const hidden = shifted.at(-1)!;
  const field = keep
    ? add(
        c,
        c.and(
          left,
          left.map(() => fits),
          "field",
        ),
        constant(0n, width),
        hidden,
        style,
      ).slice(0, -1)
    : left;
  const first = shifted.length - 1 - fractionBits;
  const guard = shifted[first - 1]!;
  const rest = c.any(shifted.slice(0, first - 1), "rest");
  const state = f.cut("normalise", [guard, rest, ...shifted.slice(first, -1), ...field]);
  const [guardBit, restBit] = [state[0]!, state[1]!];
  const code = state.slice(2);
  const up = options.rounding === "toward-zero" ? 0 : c.and([guardBit], c.or([restBit], [code[0]!], "odd"), "up")[0]!;
  const rounded = add(c, code, constant(0n, code.length), up, style).slice(0, -1);
  const whole = rounded.slice(fractionBits);
  const below = rounded.at(-1)!;
  const isSmall = keep ? 0 : c.or([below], c.not([c.any(whole, "normal")]), "small")[0]!;
  const high = c.any(whole.slice(exponentBits, -1), "high");
  const isTop =
    codes.top === "ordinary"
      ? 0
      : c.all(
          codes.top === "special" ? whole.slice(0, exponentBits) : rounded.slice(0, fractionBits + exponentBits),
          "top",
        );
  const isLarge = c.or([high], [isTop], "large")[0]!;
  const bits = exponentBits + fractionBits;
  const finite = c.mux(isLarge, constant(codes.beyond, bits), rounded.slice(0, bits), "finite");
  const vanishes = c.not(c.or([isZero], [isSmall], "vanishes"))[0]!;
  const kept = c.and(
    finite,
    finite.map(() => vanishes),
    "kept",
  );
  const sign = c.mux(isZero, [allNegative], [isNegative], "sign")[0]!;
  const { nan, infinite, negative } = special;
  const isOne = codes.top === "one special";
  const top = constant(isOne ? codes.nan : codes.largest + 1n, bits);
  const infinity = [...top, isOne && options.specials === "ieee" ? (0 as const) : negative];
  const orInfinite = c.mux(infinite, infinity, [...kept, sign], "infinity");
  return c.mux(nan, [...constant(codes.nan, bits), 0], orInfinite, "result");
}
