// How the machine computes: exactly, as the paper says, or as the public SystemVerilog does.
// Integers are the same in all three. Not here: the arithmetic (lut.ts, dense.ts).
// Sources: LUT Tensor Core (ISCA'25), equations 1 to 6; fp_lut_array_b_cycle_stage1.sv and _stage2.sv in
// Hamerlate/lut_tensor_core, whose adder is DW_fp_add with round to nearest even and ieee_compliance 0. What that setting
// does with subnormals and NaN is in the vendor's public description; the sign of its zeros and of opposite infinities is
// not, and is IEEE 754's here, opposite infinities giving the positive one.

/**
 * ideal: each result is the exact one, rounded once. paper: sums are rounded one addition after the other, K-groups
 * rising, in each the planes from the lowest up. rtl: the same, and lmma with what the circuit adds; without any of it,
 * rtl is paper.
 */
export type Mode = { readonly kind: "ideal" | "paper" } | { readonly kind: "rtl"; readonly quirks: Quirks };

/** What the public circuit does and the paper does not say, each to be switched on by itself. */
export interface Quirks {
  /** The adder has the format of the table, C_BIT = A_LUT_BIT, whatever lmma's accumulator is: FP16 for FP16. */
  readonly narrowSums: boolean;
  /** A plane's power is added to the exponent field, without a look at overflow: modulo 2^5 in FP16. */
  readonly exponentAdd: boolean;
  /** That is done to an exponent field of 0 as well: a zero becomes 2^(power - 15) of its sign in FP16. */
  readonly zeroEntries: boolean;
  /**
   * The sign bit is that of element 0, not of element 3. Tables then hold the sums with -a0 in place of those with -a3,
   * which are the same up to sign, but that a sum of opposites is +0 in both: it shows in the sign of a zero entry.
   */
  readonly firstSign: boolean;
  /** The adder takes subnormals as zeros and NaN as infinity, and gives neither. */
  readonly flush: boolean;
  /** Only in stage 2: the word of an entry is shifted left by the plane of the cycle before, bits falling off. */
  readonly wordShift: boolean;
}

export const STAGE1: Quirks = {
  narrowSums: true,
  exponentAdd: true,
  zeroEntries: true,
  firstSign: true,
  flush: true,
  wordShift: false,
};
export const STAGE2: Quirks = { ...STAGE1, wordShift: true };
