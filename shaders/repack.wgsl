// Codes as a file has them, in the order that kernels read: carries out the packing descriptor of
// src/ladder/emit/packing.ts, which comes as tables, so that one pipeline serves all types.
// A lane makes one word: for each value whose bits lie in it, the stored code is gathered from the bytes of its block, looked
// up where codes stand for other integers, and its part put in place. Not here: scales and offsets (src/gpu/upload.ts).

struct Packing {
  /** Rows of this piece of the matrix, and the number of its first. */
  rows: u32,
  first: u32,
  columns: u32,
  block_values: u32,
  /** Bits. */
  block_bits: u32,
  row_bits: u32,
  flip: u32,
  /** Whether codes stand for other integers, which lie behind the pieces. */
  has_map: u32,
  /** u = (times * v - subtract) mod 2^width. */
  times: u32,
  subtract: u32,
  mask: u32,
  unit_values: u32,
  unit_words: u32,
  units_per_row: u32,
  tile_rows: u32,
  /** Pieces of a value's code. */
  pieces: u32,
  /** Values with a part in each word of a unit. */
  values_per_word: u32,
  /** Where in the tables the map and the places begin. */
  map: u32,
  places: u32,
}

@group(0) @binding(0) var<uniform> packing: Packing;
/** Whole rows as the file has them. */
@group(0) @binding(1) var<storage, read> bytes: array<u32>;
/**
 * For each value of a block its pieces: bit in the block, width and place in the code from bits 0, 20 and 24 on, width 0
 * where there is no more; the map; for each word of a unit its places: value of the unit, first bit and width of the part,
 * and its place in the word from bits 0, 16, 21 and 26 on, width 0 where there is no more.
 */
@group(0) @binding(2) var<storage, read> tables: array<u32>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;

fn bits(word: u32, first: u32, width: u32) -> u32 { return (word >> first) & ((1u << width) - 1u); }

/** What is stored for value k of a row of the piece. */
fn stored(row: u32, k: u32) -> u32 {
  let base = row * packing.row_bits + k / packing.block_values * packing.block_bits;
  let own = k % packing.block_values * packing.pieces;
  var code = 0u;
  for (var p = 0u; p < packing.pieces; p++) {
    let piece = tables[own + p];
    let at = base + bits(piece, 0u, 20u);
    code |= bits(bytes[at / 32u], at % 32u, bits(piece, 20u, 4u)) << (piece >> 24u);
  }
  code ^= packing.flip;
  if (packing.has_map == 1u) { code = tables[packing.map + code]; }
  return (packing.times * code - packing.subtract) & packing.mask;
}

@compute @workgroup_size(64)
fn repack(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) all: vec3u) {
  let index = id.x + id.y * all.x * 64u;
  let word = index % packing.unit_words;
  let unit = index / packing.unit_words % packing.units_per_row;
  let row = index / packing.unit_words / packing.units_per_row;
  if (row >= packing.rows) { return; }
  var made = 0u;
  for (var p = 0u; p < packing.values_per_word; p++) {
    let place = tables[packing.places + word * packing.values_per_word + p];
    let k = unit * packing.unit_values + bits(place, 0u, 16u);
    let width = bits(place, 21u, 5u);
    if (width > 0u && k < packing.columns) {
      made |= bits(stored(row, k) >> bits(place, 16u, 5u), 0u, width) << (place >> 26u);
    }
  }
  let n = packing.first + row;
  let tile = n / packing.tile_rows * packing.units_per_row + unit;
  codes[(tile * packing.tile_rows + n % packing.tile_rows) * packing.unit_words + word] = made;
}
