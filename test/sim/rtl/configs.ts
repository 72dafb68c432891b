// Legal configurations of small units, for properties.

import fc from "fast-check";

const pick = <T>(...choices: readonly T[]): fc.Arbitrary<T> => fc.constantFrom(...choices);

/** Of one kind of number. */
function unit(isFloat: boolean, accumulates: boolean): fc.Arbitrary<object> {
  return pick("mac", "add", "lut", "lut-conventional", "unpu").chain((kind) => {
    const table = kind !== "mac" && kind !== "add";
    const made = kind === "unpu" || kind === "lut-conventional";
    return fc.record(
      {
        kind: fc.constant(kind),
        activation: isFloat ? pick("fp16", "bf16", "fp8-e4m3", "fp8-e5m2") : pick("int8", "int16"),
        m: pick(1, 2),
        n: pick(1, 2),
        k: isFloat && made ? pick(1, 2) : pick(1, 2, 3),
        ...(kind === "mac" ? {} : { weightBits: fc.integer({ min: 1, max: 5 }) }),
        accumulator: isFloat ? pick("fp16", "fp32") : pick("int16", "int20", "int24", "int32", "int48"),
        ...(kind === "mac"
          ? {}
          : { shift: isFloat ? pick("accumulator", "exponent") : pick("accumulator", "operand") }),
        adder: pick("ripple", "prefix"),
        pipeline: fc.integer({
          min: 0,
          max: table && !accumulates ? 1 : isFloat ? (kind === "add" ? 3 : 4) : kind === "mac" ? 2 : 1,
        }),
        ...(isFloat
          ? {
              float: fc.record(
                {
                  rounding: pick("nearest-even", "toward-zero"),
                  subnormals: pick("flush", "keep"),
                  specials: pick("none", "infinity", "ieee"),
                  window: fc.integer({ min: 4, max: 40 }),
                  sticky: fc.boolean(),
                },
                { requiredKeys: [] },
              ),
            }
          : {}),
        registers: fc
          .record(
            {
              weights: kind === "mac" ? pick("none", "all") : pick("none", "plane", "all"),
              accumulator: fc.constant(accumulates),
              doubleBuffer: fc.boolean(),
              [table ? "tables" : "operands"]: fc.boolean(),
            },
            { requiredKeys: ["weights", "accumulator"] },
          )
          // There must be a register to double.
          .filter(({ doubleBuffer, weights }) => doubleBuffer !== true || weights !== "none"),
      },
      { requiredKeys: ["kind", "activation", "k", "registers"] },
    );
  });
}

export const configs: fc.Arbitrary<object> = fc
  .record({ isFloat: fc.boolean(), accumulates: fc.boolean() })
  .chain(({ isFloat, accumulates }) => unit(isFloat, accumulates));
