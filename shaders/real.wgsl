// Real numbers as three integers, with the arithmetic of IEEE 754 in them: what an adapter does with subnormals, NaN and
// fused operations of floats of its own does not matter. Sums, products and quotients are exact up to a bit that says that
// there is more, and are then rounded once, to nearest with ties to even.
// The formats are those of src/lutcore/number.ts, which src/gpu/prelude.ts says the bits of. Not here: what is computed.

const SIGN = 0x80000000u;

/**
 * significand * 2^(exponent - 31), the highest bit of the significand being set. Zeros, infinities and NaN have exponents
 * that no number has, of which the order is that of the sizes.
 */
struct Real {
  sign: u32,
  exponent: i32,
  significand: u32,
}

const ZERO_EXPONENT = -0x10000;
const INFINITE_EXPONENT = 0x10000;
const NAN_EXPONENT = 0x20000;

fn zero(sign: u32) -> Real { return Real(sign, ZERO_EXPONENT, 0u); }
fn infinite(sign: u32) -> Real { return Real(sign, INFINITE_EXPONENT, SIGN); }
fn not_a_number() -> Real { return Real(0u, NAN_EXPONENT, SIGN); }

/** whole * 2^scale. */
fn real(sign: u32, whole: u32, scale: i32) -> Real {
  if (whole == 0u) { return zero(sign); }
  let lead = countLeadingZeros(whole);
  return Real(sign, scale + 31 - i32(lead), whole << lead);
}

fn real_of_whole(x: i32) -> Real { return real(u32(x) & SIGN, u32(abs(x)), 0); }

fn exponent_bits(float: u32) -> u32 { return extractBits(EXPONENT_BITS, float * 4u, 4u); }
fn fraction_bits(float: u32) -> u32 { return extractBits(FRACTION_BITS, float * 5u, 5u); }
fn bias(float: u32) -> i32 { return (1i << (exponent_bits(float) - 1u)) - 1i; }
/** That the highest exponent holds numbers, and of codes only the last one NaN. */
fn is_finite_top(float: u32) -> bool { return ((FINITE_TOPS >> float) & 1u) == 1u; }

/** The first code, without its sign, that is no finite number: NaN where the top is finite, else infinity. */
fn end_code(float: u32) -> u32 {
  let fraction = fraction_bits(float);
  return (1u << (exponent_bits(float) + fraction)) - select(1u << fraction, 1u, is_finite_top(float));
}

/** The number that a float's code stands for. NaN keeps its sign. */
fn real_of_code(float: u32, number: u32) -> Real {
  let fraction = fraction_bits(float);
  let sign_place = exponent_bits(float) + fraction;
  let size = extractBits(number, 0u, sign_place);
  let sign = (number >> sign_place) << 31u;
  let end = end_code(float);
  if (size >= end) {
    let is_nan = size > end || is_finite_top(float);
    return Real(sign, select(INFINITE_EXPONENT, NAN_EXPONENT, is_nan), SIGN);
  }
  let field = size >> fraction;
  let significand = extractBits(size, 0u, fraction) | select(0u, 1u << fraction, field > 0u);
  return real(sign, significand, i32(max(field, 1u)) - bias(float) - i32(fraction));
}

/** x / 2^places to the nearest whole number, ties to even; places is 1 or more. */
fn shift_even(x: u32, places: u32) -> u32 {
  if (places > 32u) { return 0u; }
  // Half of it first, so that 32 places are two shifts.
  let kept = (x >> 1u) >> (places - 1u);
  let rest = x << (32u - places);
  return kept + select(0u, 1u, rest > SIGN || (rest == SIGN && (kept & 1u) == 1u));
}

/** The nearest number of a float, ties to even, were its exponents without end upwards. */
fn nearest(x: Real, float: u32) -> Real {
  // The lowest place that a subnormal has is that of the least exponent.
  let below = max(1 - bias(float) - x.exponent, 0);
  let places = min(u32(below), 32u) + 31u - fraction_bits(float);
  if (x.significand == 0u || x.exponent >= INFINITE_EXPONENT) { return x; }
  return real(x.sign, shift_even(x.significand, places), x.exponent - 31 + i32(places));
}

/** The same, and infinity for what is beyond the largest. Not for floats whose top is finite. */
fn rounded(x: Real, float: u32) -> Real {
  let near = nearest(x, float);
  if (near.exponent > bias(float) && near.exponent < INFINITE_EXPONENT) { return infinite(x.sign); }
  return near;
}

/** The code of the nearest number of a float; NaN is the positive quiet one. */
fn code_of(x: Real, float: u32) -> u32 {
  let near = nearest(x, float);
  let fraction = fraction_bits(float);
  let end = end_code(float);
  let nan = end + select(1u << (fraction - 1u), 0u, is_finite_top(float));
  if (near.exponent == NAN_EXPONENT) { return nan; }
  let sign = x.sign >> (31u - exponent_bits(float) - fraction);
  if (near.significand == 0u) { return sign; }
  let least = 1 - bias(float);
  let field = max(near.exponent - least, 0);
  // The leading bit counts as 1 in the exponent; a subnormal has none.
  let size = (u32(min(field, 256)) << fraction) + (near.significand >> (31u - fraction + u32(max(least - near.exponent, 0))));
  if (size >= end || field > 255) { return select(end | sign, nan, is_finite_top(float)); }
  return size | sign;
}

/** x >> places, the lowest bit being set where bits fell off. */
fn shift_sticky(x: u32, places: u32) -> u32 {
  if (places > 31u) { return select(0u, 1u, x != 0u); }
  let kept = x >> places;
  return kept | select(0u, 1u, kept << places != x);
}

/** Of numbers of at most 24 bits, exact up to a lowest bit that says that there is more. */
fn plus(a: Real, b: Real) -> Real {
  let a_larger = a.exponent > b.exponent || (a.exponent == b.exponent && a.significand >= b.significand);
  var large = b;
  var small = a;
  if (a_larger) {
    large = a;
    small = b;
  }
  let differ = a.sign != b.sign;
  // One place for a carry.
  let x = large.significand >> 1u;
  let y = shift_sticky(small.significand, u32(large.exponent - small.exponent) + 1u);
  let sum = select(x + y, x - y, differ);
  if (large.exponent >= INFINITE_EXPONENT) {
    let is_nan = large.exponent == NAN_EXPONENT || (small.exponent == INFINITE_EXPONENT && differ);
    if (is_nan) { return not_a_number(); }
    return large;
  }
  if (sum == 0u) { return zero(a.sign & b.sign); }
  return real(large.sign, sum, large.exponent - 30);
}

/** Of numbers of at most 24 bits; exact where these are 16 bits or fewer, else as a sum is. */
fn times(a: Real, b: Real) -> Real {
  let sign = a.sign ^ b.sign;
  let larger = max(a.exponent, b.exponent);
  if (larger >= INFINITE_EXPONENT) {
    if (larger == NAN_EXPONENT || min(a.exponent, b.exponent) == ZERO_EXPONENT) { return not_a_number(); }
    return infinite(sign);
  }
  // Halves of 12 bits; the product has 47 or 48 bits.
  let a_high = a.significand >> 20u;
  let a_low = (a.significand >> 8u) & 0xfffu;
  let b_high = b.significand >> 20u;
  let b_low = (b.significand >> 8u) & 0xfffu;
  let middle = a_high * b_low + a_low * b_high;
  let low = a_low * b_low + ((middle & 0xfffu) << 12u);
  let high = a_high * b_high + (middle >> 12u) + (low >> 24u);
  let rest = low & 0xffffffu;
  // The upper 31 of 48 bits, and one for what is below.
  let product = (high << 8u) | ((rest >> 17u) << 1u) | select(0u, 1u, (rest & 0x1ffffu) != 0u);
  return real(sign, product, a.exponent + b.exponent - 30);
}

/** Of positive numbers of at most 24 bits; as a sum is. */
fn over(a: Real, b: Real) -> Real {
  let divisor = b.significand >> 8u;
  var rest = a.significand >> 8u;
  var quotient = 0u;
  for (var bit = 0u; bit < 31u; bit++) {
    quotient <<= 1u;
    if (rest >= divisor) {
      rest -= divisor;
      quotient |= 1u;
    }
    rest <<= 1u;
  }
  return real(0u, (quotient << 1u) | select(0u, 1u, rest != 0u), a.exponent - b.exponent - 31);
}
