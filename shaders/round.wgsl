// F32 to the code of a narrower float, to the nearest, ties to even, in integers alone: what an adapter does with
// subnormals, NaN and infinity in floats does not matter here. The same as encode in src/ladder/encode.ts, but that
// NaN is the quiet one.
// Needs the round part of the prelude.

fn round_out(x: f32) -> u32 {
  let word = bitcast<u32>(x);
  let size = word & 0x7fffffffu;
  let sign = (word >> 31u) << (OUT_BITS - 1u);
  if (size > 0x7f800000u) { return OUT_NAN; }
  if (size == 0x7f800000u) { return OUT_INFINITY | sign; }
  let power = size >> 23u;
  let significand = (size & 0x7fffffu) | select(0u, 0x800000u, power > 0u);
  // Below the exponent field of 1 a number keeps fewer bits: those of a subnormal.
  let wanted = i32(max(power, 1u)) - 127 + OUT_BIAS;
  let field = max(wanted, 1);
  let drop = u32(field - wanted) + 23u - OUT_MANTISSA;
  var kept = 0u;
  if (drop < 32u) {
    kept = significand >> drop;
    let rest = significand - (kept << drop);
    let middle = 1u << (drop - 1u);
    if (rest > middle || (rest == middle && (kept & 1u) == 1u)) { kept += 1u; }
  }
  // A carry out of the mantissa is the next exponent, as it has to be.
  let code = (u32(field - 1) << OUT_MANTISSA) + kept;
  if (code >= OUT_END) { return OUT_BEYOND | sign; }
  if (code == 0u && !OUT_MINUS_ZERO) { return 0u; }
  return code | sign;
}
