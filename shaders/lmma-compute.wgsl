// What the instructions of the LMMA machine compute and move: each lane works out other words of what an instruction
// writes. A number is a sum, of integers modulo 2^32 or of floats whose additions are rounded one after the other, and the
// instructions differ in what they sum. The order of roundings is that of the table in src/lutcore/isa.ts.
// Needs the prelude of src/gpu/prelude.ts, real.wgsl, and lmma.wgsl, which has the buffers and the steps of the machine.

/** The words of the instruction at an address. */
fn instruction(at: u32) -> vec4u {
  let first = header + HEADER_WORDS + at * INSTRUCTION_WORDS;
  return vec4u(given[first], given[first + 1u], given[first + 2u], given[first + 3u]);
}

/** The bits of a field of the present instruction. */
fn field(slot: vec3u) -> u32 {
  let shift = slot.x % 32u;
  var bits = code[slot.x / 32u] >> shift;
  if (shift + slot.y > 32u) { bits |= code[slot.x / 32u + 1u] << (32u - shift); }
  return extractBits(bits, 0u, slot.y);
}

/** What the code of a choice stands for: an element, a weight or a power of two. */
fn choice(slot: vec3u) -> u32 { return extractBits(slot.z, field(slot) * 4u, 4u); }

fn size(slot: vec3u) -> u32 { return 1u << choice(slot); }

fn element_log(element: u32) -> u32 { return extractBits(ELEMENT_LOGS, element * 4u, 4u); }

fn is_float(element: u32) -> bool { return element < FLOAT_COUNT; }

/** The bits of a number of the fragment at a register. */
fn number_at(place: u32, element: u32, at: u32) -> u32 {
  let byte = at << element_log(element);
  return extractBits(scratch[bank + place * REGISTER_WORDS + byte / 4u], byte % 4u * 8u, 8u << element_log(element));
}

fn signed_at(place: u32, element: u32, at: u32) -> i32 {
  return extractBits(i32(number_at(place, element, at)), 0u, 8u << element_log(element));
}

/** A number of a fragment, by its place, element and number there. */
struct Number {
  place: u32,
  element: u32,
  at: u32,
}

/** Without a rounding, also of integers. Of `zero` and `one`, 0 and 1. */
fn real_of_number(number: Number) -> Real {
  if (number.place >= REGISTER_COUNT) { return real(0u, u32(number.place == ONE), 0); }
  let bits = number_at(number.place, number.element, number.at);
  if (is_float(number.element)) { return real_of_code(number.element, bits); }
  return real_of_whole(extractBits(i32(bits), 0u, 8u << element_log(number.element)));
}

/** The nibble of a column in a slice, which is of one K-group and one plane. */
fn nibble_at(weights: u32, n: u32, slice: u32, column: u32) -> u32 {
  let at = slice * n + column;
  return extractBits(scratch[bank + weights * REGISTER_WORDS + at / 8u], at % 8u * 4u, 4u);
}

fn plane_count(weight: u32) -> u32 { return extractBits(PLANE_COUNTS, weight * 4u, 4u); }
fn plane_power(weight: u32, plane: u32) -> u32 { return extractBits(plane_powers(weight), plane * 4u, 4u); }

/** Whether a sum of activations takes one off, as its entry of a table says. Element 3 is always taken off. */
fn takes_off(entry: u32, j: u32) -> bool { return ((entry >> j) & 1u) == 0u; }

// --- sums of integers --------------------------------------------------------------------------------------------------

/** Sums of tables' integers over slices, for one column. `first` is the entry that the row's first table begins with. */
fn looked_up(table: u32, entry: u32, first: u32, weights: u32, weight: u32, n: u32, column: u32, slices: vec2u) -> i32 {
  let planes = plane_count(weight);
  var sum = 0i;
  for (var slice = slices.x; slice < slices.y; slice++) {
    let nibble = nibble_at(weights, n, slice, column);
    let kept = signed_at(table, entry, first + slice / planes * TABLE_ENTRIES + (nibble & 7u));
    sum += select(kept, -kept, nibble >= 8u) << plane_power(weight, slice % planes);
  }
  return sum;
}

/** A number of what an instruction on integers writes, modulo 2^32. */
fn whole_number(opcode: u32, at: u32) -> u32 {
  var start = ZERO;
  var place: u32;
  var element: u32;
  var first: u32;
  var terms: u32;
  switch (opcode) {
    case LUT: {
      place = field(LUT_FROM);
      element = choice(LUT_ACTIVATION);
      first = at / TABLE_ENTRIES * TABLE_K;
      terms = TABLE_K;
    }
    case LMMA: { start = field(LMMA_ADDEND); }
    case MMA: {
      start = field(MMA_ADDEND);
      place = field(MMA_LEFT);
      element = choice(MMA_ACTIVATION);
      terms = size(MMA_K);
      first = at / size(MMA_N) * terms;
    }
    case ASUM: {
      start = field(ASUM_ADDEND);
      place = field(ASUM_FROM);
      element = choice(ASUM_ACTIVATION);
      terms = size(ASUM_K);
      first = at * terms;
    }
    // clr
    default: { return 0u; }
  }
  var sum = 0i;
  if (start != ZERO) { sum = i32(number_at(start, INT32, at)); }
  if (opcode == LMMA) {
    let n = size(LMMA_N);
    let groups = size(LMMA_K) / TABLE_K;
    let weight = choice(LMMA_WEIGHT);
    let entries = at / n * groups * TABLE_ENTRIES;
    let slices = vec2u(0u, groups * plane_count(weight));
    let entry = choice(LMMA_ENTRY);
    sum += looked_up(field(LMMA_TABLE), entry, entries, field(LMMA_WEIGHTS), weight, n, at % n, slices);
  }
  for (var x = 0u; x < terms; x++) {
    let a = signed_at(place, element, first + x);
    var by = 1i;
    if (opcode == LUT) { by = select(1i, -1i, takes_off(at % TABLE_ENTRIES, x)); }
    if (opcode == MMA) { by = signed_at(field(MMA_RIGHT), choice(MMA_WEIGHT), at % size(MMA_N) * terms + x); }
    sum += a * by;
  }
  return u32(sum);
}

// --- sums of floats: a first number, then terms, each addition being rounded -----------------------------------------------

/** What the adder of a float makes of a number: subnormals are zeros, and NaN is infinity. */
fn flushed(x: Real, float: u32) -> Real {
  if (x.exponent == NAN_EXPONENT) { return infinite(x.sign); }
  if (x.exponent < 1 - bias(float)) { return zero(x.sign); }
  return x;
}

/** What a slice adds to a column of lmma: its entry times 2^power, with the nibble's sign, or what the quirks make of it. */
fn slice_term(slice: u32, at: u32, adder: u32) -> Real {
  let quirks = setup.quirks;
  let n = size(LMMA_N);
  let groups = size(LMMA_K) / TABLE_K;
  let entry = choice(LMMA_ENTRY);
  let weight = choice(LMMA_WEIGHT);
  let planes = plane_count(weight);
  let plane = slice % planes;
  let power = plane_power(weight, plane);
  let nibble = nibble_at(field(LMMA_WEIGHTS), n, slice, at % n);
  let table = at / n * groups + slice / planes;
  var word = number_at(field(LMMA_TABLE), entry, table * TABLE_ENTRIES + (nibble & 7u));
  let fraction = fraction_bits(entry);
  let sign = 1u << (exponent_bits(entry) + fraction);
  let exponents = sign - (1u << fraction);
  let exponent = word & exponents;
  let is_zero = (word & (sign - 1u)) == 0u;
  let adds = (quirks & EXPONENT_ADD) != 0u && (exponent != 0u || (quirks & ZERO_ENTRIES) != 0u);
  if (adds) { word = (word & ~exponents) | ((exponent + (power << fraction)) & exponents); }
  // The weight bit of element 0: a nibble whose sign is 1 holds the others negated.
  let is_first = ((nibble >> 3u) ^ (nibble & 1u)) == 1u;
  if (select(nibble >= 8u, is_first, (quirks & FIRST_SIGN) != 0u && is_zero)) { word ^= sign; }
  if ((quirks & WORD_SHIFT) != 0u) {
    // In the cycle of the first plane the register still holds the last one, of the product before.
    word = (word << plane_power(weight, (plane + planes - 1u) % planes)) & (sign | (sign - 1u));
  }
  var x = real_of_code(entry, word);
  if (!adds && x.significand != 0u && x.exponent < INFINITE_EXPONENT) {
    x.exponent += i32(power);
    // Terms are numbers of FP32.
    if (x.exponent > bias(FP32)) { x = infinite(x.sign); }
  }
  if ((quirks & FLUSH) != 0u) { x = flushed(x, adder); }
  return x;
}

/** The sum of integers that a share of tables adds to a column of lmmaq, before it is scaled. */
fn share_sum(share: u32, at: u32) -> i32 {
  let n = size(LMMAQ_N);
  let first = at / n * (size(LMMAQ_K) / TABLE_K) * TABLE_ENTRIES;
  let weight = choice(LMMAQ_WEIGHT);
  let slices = vec2u(share, share + 1u) * size(LMMAQ_SHARE) * plane_count(weight);
  return looked_up(field(LMMAQ_TABLE), INT8, first, field(LMMAQ_WEIGHTS), weight, n, at % n, slices);
}

/** What is added at step `x` of a sum: a number, or a product of two or three. */
fn term(opcode: u32, x: u32, at: u32, adder: u32) -> Real {
  var first: Number;
  var by_row = Number(ONE, FP32, 0u);
  var by_column = Number(ONE, FP32, 0u);
  switch (opcode) {
    case LMMA: { return slice_term(x, at, adder); }
    case LUT: { first = Number(field(LUT_FROM), choice(LUT_ACTIVATION), at / TABLE_ENTRIES * TABLE_K + x); }
    case ASUM: { first = Number(field(ASUM_FROM), choice(ASUM_ACTIVATION), at * size(ASUM_K) + x); }
    case MMA: {
      first = Number(field(MMA_LEFT), choice(MMA_ACTIVATION), at / size(MMA_N) * size(MMA_K) + x);
      by_column = Number(field(MMA_RIGHT), choice(MMA_WEIGHT), at % size(MMA_N) * size(MMA_K) + x);
    }
    case LMMAQ: {
      let shares = size(LMMAQ_K) / TABLE_K / size(LMMAQ_SHARE);
      by_column = Number(field(LMMAQ_SCALES), FP32, at / size(LMMAQ_N) * shares + x);
    }
    case SACC: {
      first = Number(field(SACC_FROM), choice(SACC_PRODUCT), at);
      by_row = Number(field(SACC_BY_ROW), FP32, at / size(SACC_N));
      by_column = Number(field(SACC_BY_COLUMN), FP32, at % size(SACC_N));
    }
    // zacc
    default: {
      first = Number(field(ZACC_SUMS), choice(ZACC_SUM), at / size(ZACC_N));
      by_row = Number(field(ZACC_BY_ROW), FP32, at / size(ZACC_N));
      by_column = Number(field(ZACC_BY_COLUMN), FP32, at % size(ZACC_N));
    }
  }
  var a: Real;
  if (opcode == LMMAQ) { a = real_of_whole(share_sum(x, at)); } else { a = real_of_number(first); }
  // The product of mma is exact, so that the sum is rounded once.
  if (opcode == MMA) { return times(a, real_of_number(by_column)); }
  if (opcode == LUT && takes_off(at % TABLE_ENTRIES, x)) { a.sign ^= SIGN; }
  if (opcode == LUT || opcode == ASUM) { return a; }
  for (var factor = 0u; factor < 2u; factor++) {
    var by = by_row;
    if (factor == 1u) { by = by_column; }
    a = rounded(times(rounded(a, FP32), real_of_number(by)), FP32);
  }
  return a;
}

/** A sum before its terms: -0 changes no term, not even in its sign. */
struct Sum {
  start: Real,
  terms: u32,
  /** What additions are rounded to, and what the result is. */
  adder: u32,
  out: u32,
}

fn sum_of(opcode: u32, at: u32) -> Sum {
  var start = Number(ZERO, FP32, at);
  var sum = Sum(zero(SIGN), 0u, FP32, FP32);
  switch (opcode) {
    case LUT: {
      sum.terms = TABLE_K;
      sum.out = choice(LUT_ENTRY);
    }
    case LMMA: {
      start.place = field(LMMA_ADDEND);
      start.element = choice(LMMA_ACCUMULATE);
      sum.terms = size(LMMA_K) / TABLE_K * plane_count(choice(LMMA_WEIGHT));
      sum.adder = select(start.element, choice(LMMA_ENTRY), (setup.quirks & NARROW_SUMS) != 0u);
      sum.out = choice(LMMA_OUT);
    }
    case LMMAQ: {
      start.place = field(LMMAQ_ADDEND);
      sum.terms = size(LMMAQ_K) / TABLE_K / size(LMMAQ_SHARE);
      sum.out = choice(LMMAQ_OUT);
    }
    case MMA: {
      start.place = field(MMA_ADDEND);
      start.element = choice(MMA_ACCUMULATE);
      sum.terms = size(MMA_K);
      sum.adder = start.element;
      sum.out = choice(MMA_OUT);
    }
    case ASUM: {
      start.place = field(ASUM_ADDEND);
      sum.terms = size(ASUM_K);
    }
    case CVT: {
      start = Number(field(CVT_FROM), choice(CVT_SOURCE), at);
      sum.out = choice(CVT_TARGET);
    }
    case SACC: {
      start.place = field(SACC_ADDEND);
      sum.terms = 1u;
    }
    // zacc
    default: {
      start.place = field(ZACC_ADDEND);
      sum.terms = 1u;
    }
  }
  // These add nothing where they have nothing to add to; a product does, and 0 takes its sign from -0.
  let adds_nothing = start.place == ZERO && (opcode == LUT || opcode == SACC || opcode == ZACC);
  if (!adds_nothing) { sum.start = real_of_number(start); }
  return sum;
}

/** A number of what an instruction on floats writes. */
fn float_number(opcode: u32, at: u32) -> u32 {
  let sum = sum_of(opcode, at);
  let flushes = opcode == LMMA && (setup.quirks & FLUSH) != 0u;
  var x = sum.start;
  if (opcode == LMMA) { x = rounded(x, sum.adder); }
  if (flushes) { x = flushed(x, sum.adder); }
  for (var i = 0u; i < sum.terms; i++) {
    x = rounded(plus(x, term(opcode, i, at, sum.adder)), sum.adder);
    if (flushes) { x = flushed(x, sum.adder); }
  }
  return code_of(x, sum.out);
}

// --- what all lanes do ---------------------------------------------------------------------------------------------------

/** What the index says of the present instruction. */
fn index_word(at: u32, word: u32) -> u32 { return given[index + at * INDEX_WORDS + word]; }
fn rows_of(at: u32) -> u32 { return index_word(at, MAX_OPERANDS); }
fn row_words_of(at: u32) -> u32 { return index_word(at, MAX_OPERANDS + 1u) / 4u; }
fn element_of(at: u32) -> u32 { return index_word(at, MAX_OPERANDS + 2u); }
fn end_of(at: u32) -> u32 { return index_word(at, MAX_OPERANDS + 2u); }
/** The register of the first operand, which is what is loaded, stored or computed. */
fn register_of(at: u32) -> u32 { return index_word(at, 0u) & 0xffffu; }

fn compute(opcode: u32, at: u32, lane: u32) {
  let element = element_of(at);
  let bits = 8u << element_log(element);
  let numbers = 4u >> element_log(element);
  let words = rows_of(at) * row_words_of(at);
  let to = bank + register_of(at) * REGISTER_WORDS;
  let sums_floats = is_float(element) && opcode != CLR;
  for (var word = lane; word < words; word += LANES) {
    var together = 0u;
    for (var i = 0u; i < numbers; i++) {
      var number: u32;
      if (sums_floats) {
        number = float_number(opcode, word * numbers + i);
      } else {
        number = whole_number(opcode, word * numbers + i);
      }
      together = insertBits(together, number, i * bits, bits);
    }
    scratch[to + word] = together;
  }
}

/** Loads or stores words, row by row; or loads a matrix whose columns are the rows of memory. */
fn transfer(opcode: u32, at: u32, access: Access, lane: u32) {
  let row_words = row_words_of(at);
  let bank_place = bank + register_of(at) * REGISTER_WORDS;
  let is_shared = access.is_shared == 1u;
  let is_store = opcode == ST_MAT || opcode == ST_TAB;
  let turns = opcode == LD_MAT && choice(LD_MAT_ORDER) == 1u;
  // A word at a time, or the numbers that make one.
  let log = select(2u, element_log(element_of(at)), turns);
  let bits = 8u << log;
  let numbers = 4u >> log;
  for (var word = lane; word < rows_of(at) * row_words; word += LANES) {
    var together = 0u;
    for (var i = 0u; i < numbers; i++) {
      var piece = word / row_words;
      var byte = word % row_words * 4u;
      if (turns) {
        let columns = row_words * numbers;
        piece = (word * numbers + i) % columns;
        byte = ((word * numbers + i) / columns) << log;
      }
      let place = access.place + piece * access.stride + byte / 4u;
      if (is_store) {
        let stored = scratch[bank_place + word];
        if (is_shared) { scratch[place] = stored; } else { memory[place] = stored; }
      } else {
        var loaded: u32;
        if (is_shared) { loaded = scratch[place]; } else { loaded = memory[place]; }
        together = insertBits(together, loaded >> (byte % 4u * 8u), i * bits, bits);
      }
    }
    if (!is_store) { scratch[bank_place + word] = together; }
  }
}

/** Numbers to integers with a scale for each `count` of them, which one lane does. */
fn quantise(opcode: u32, at: u32, lane: u32) {
  let is_table = opcode == LUTQ;
  let count = select(size(QUANT_GROUP), size(LUTQ_SHARE) * TABLE_ENTRIES, is_table);
  let source = select(field(QUANT_FROM), field(LUTQ_FROM), is_table);
  let element = select(FP32, choice(LUTQ_ENTRY), is_table);
  let scales = select(field(QUANT_SCALES), field(LUTQ_SCALES), is_table);
  let log = element_log(element_of(at));
  let bits = 8u << log;
  let most = real_of_whole((1i << (bits - 1u)) - 1i);
  let numbers = 4u >> log;
  let to = bank + register_of(at) * REGISTER_WORDS;
  for (var group = lane; group < rows_of(at) * row_words_of(at) * numbers / count; group += LANES) {
    var largest = zero(0u);
    // First the largest number, then what they become.
    var inverse = zero(0u);
    for (var round = 0u; round < 2u; round++) {
      var together = 0u;
      for (var i = group * count; i < (group + 1u) * count; i++) {
        let x = rounded(real_of_number(Number(source, element, i)), FP32);
        if (round == 0u) {
          let is_larger =
            x.exponent > largest.exponent || (x.exponent == largest.exponent && x.significand > largest.significand);
          if (is_larger) { largest = Real(0u, x.exponent, x.significand); }
        } else {
          let scaled = rounded(times(x, inverse), FP32);
          // To a whole number, ties to even; -1 and below in the exponent is a half and less.
          let size = i32(shift_even(scaled.significand, u32(31 - max(scaled.exponent, -2))));
          let whole = select(size, -size, scaled.sign != 0u);
          together = insertBits(together, u32(whole), i % numbers * bits, bits);
          if (i % numbers == numbers - 1u) {
            scratch[to + i / numbers] = together;
          }
        }
      }
      if (round == 0u) {
        var scale = zero(0u);
        if (largest.exponent >= INFINITE_EXPONENT) {
          scale = not_a_number();
        } else if (largest.significand != 0u) {
          inverse = rounded(over(most, largest), FP32);
          // Of a largest number that is so small, all are taken for zeros.
          if (inverse.exponent >= INFINITE_EXPONENT) { inverse = zero(0u); } else { scale = over(largest, most); }
        }
        scratch[bank + scales * REGISTER_WORDS + group] = code_of(scale, FP32);
      }
    }
  }
}

fn execute(at: u32, access: Access, lane: u32) {
  let opcode = code.x & 0xffu;
  switch (opcode) {
    case LD_MAT, LD_TAB, LD_WGT, ST_MAT, ST_TAB: { transfer(opcode, at, access, lane); }
    case LUTQ, QUANT: { quantise(opcode, at, lane); }
    default: { compute(opcode, at, lane); }
  }
}
