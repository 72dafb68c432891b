// The LMMA machine: runs encoded programs of src/lutcore, bit for bit as src/lutcore/exec.ts does in the modes paper and
// rtl. A workgroup runs one launch: its blocks one after the other, the warps of a block in turn up to their barriers.
// Lane 0 steps from instruction to instruction, checks what may stop the program, and counts; all lanes compute, each the
// numbers of other words. State lies in storage, so that a dispatch can leave off and the next one go on.
// Needs the prelude of src/gpu/prelude.ts, real.wgsl and lmma-compute.wgsl; src/gpu/lmma.ts fills the buffers.

const LANES = 64u;

struct Setup {
  /** The quirks of the mode rtl that are on; none of them is the mode paper. */
  quirks: u32,
  /** Instructions that a launch may execute before the dispatch leaves off. */
  turns: u32,
}

@group(0) @binding(0) var<uniform> setup: Setup;
/** Launches, then programs as they are encoded, each with an index of what its instructions refer to. */
@group(0) @binding(1) var<storage, read> given: array<u32>;
@group(0) @binding(2) var<storage, read_write> memory: array<u32>;
/** For each launch the states of a block's warps between dispatches, their registers and the memory that they share. */
@group(0) @binding(3) var<storage, read_write> scratch: array<u32>;
@group(0) @binding(4) var<storage, read_write> reports: array<u32>;

/** What all lanes do next: an instruction by its address, or one of these. */
const LEAVE = 0xffffffffu;
const BEGIN_BLOCK = 0xfffffffeu;

struct Task {
  at: u32,
  warp: u32,
  access: Access,
}

/** Of a load or a store: the first word in memory or scratch, and words from one piece to the next. */
struct Access {
  place: u32,
  stride: u32,
  is_shared: u32,
}

var<workgroup> task: Task;
/** The steps of the machine are lane 0's: of each warp its scalars, loops, written registers and where it is, */
var<workgroup> states: array<u32, MAX_WARPS * WARP_WORDS>;
/** what the launch's report says, */
var<workgroup> said: array<u32, REPORT_WORDS>;
/** and the words of the program's header, then those of the launch. */
var<workgroup> facts: array<u32, HEADER_WORDS + LAUNCH_WORDS>;

// Places of words, the same for all that a lane does.
var<private> header: u32;
var<private> index: u32;
var<private> report: u32;
var<private> warps: u32;
var<private> banks: u32;
var<private> shared_words: u32;
/** The present instruction, and the registers of its warp. */
var<private> code: vec4u;
var<private> bank: u32;

/** The registers and the shared memory of a block are zeros at its start; scalars are those of the launch. */
fn begin_block(lane: u32) {
  for (var word = banks + lane; word < banks + warps * bank_words() + shared_words; word += LANES) { scratch[word] = 0u; }
  for (var word = lane; word < warps * WARP_WORDS; word += LANES) {
    let scalar = word % WARP_WORDS;
    var value = 0u;
    if (scalar < WRITABLE_SCALARS) { value = facts[HEADER_WORDS + LAUNCH_PARAMETERS + scalar]; }
    if (scalar == SCALAR_BX) { value = said[REPORT_COLUMN]; }
    if (scalar == SCALAR_BY) { value = said[REPORT_ROW]; }
    if (scalar == SCALAR_WARP) { value = word / WARP_WORDS; }
    states[word] = value;
  }
}

fn bank_words() -> u32 { return facts[HEADER_REGISTERS] * REGISTER_WORDS; }

// --- what lane 0 does between: the steps of the machine ----------------------------------------------------------------

/** Of its words, `WAITS` is the address of the barrier at which it waits, counted from 1, and 0 where it has ended. */
fn warp_state(warp: u32) -> u32 { return warp * WARP_WORDS; }

fn stop(state: u32, at: u32, detail: u32, value: u32) {
  said[REPORT_STATE] = state;
  said[REPORT_AT] = at;
  said[REPORT_DETAIL] = detail;
  said[REPORT_VALUE] = value;
}

/** The next block of the launch: strips of columns, each strip row by row. */
fn place_block(block: u32) {
  let grid_x = facts[HEADER_GRID_X];
  let grid_y = facts[HEADER_GRID_Y];
  let swizzle = facts[HEADER_SWIZZLE];
  let first = block / (swizzle * grid_y) * swizzle;
  let width = min(swizzle, grid_x - first);
  let inside = block % (swizzle * grid_y);
  said[REPORT_COLUMN] = first + inside % width;
  said[REPORT_ROW] = inside / width;
}

/** From a warp that waits or has ended to the next one, or to the next round or block. */
fn next_warp(warp: u32) {
  if (warp + 1u < warps) {
    said[REPORT_WARP] = warp + 2u;
    return;
  }
  var waiting = warps;
  for (var w = 0u; w < warps && waiting == warps; w++) {
    if (states[warp_state(w) + WAITS] != 0u) { waiting = w; }
  }
  if (waiting == warps) {
    said[REPORT_BLOCK] += 1u;
    said[REPORT_WARP] = 0u;
    return;
  }
  let barrier = states[warp_state(waiting) + WAITS];
  for (var w = 0u; w < warps; w++) {
    let other = states[warp_state(w) + WAITS];
    if (other != barrier) {
      said[REPORT_WARP] = waiting + 1u;
      stop(IS_BARRIER, barrier - 1u, w, other);
      return;
    }
  }
  said[REPORT_WARP] = 1u;
}

/** Whether all registers that the instruction reads were written to; those that it writes are marked. */
fn pass_registers(at: u32, state: u32) -> bool {
  for (var o = 0u; o < MAX_OPERANDS; o++) {
    let operand = index_word(at, o);
    let first = operand & 0xffffu;
    let behind = first + ((operand >> 16u) & 0xffu);
    let is_read = operand >> 31u == 0u;
    for (var r = first; r < behind && is_read; r++) {
      if (((states[state + WRITTEN + r / 32u] >> (r % 32u)) & 1u) == 0u) {
        stop(IS_UNWRITTEN, at, o, r);
        return false;
      }
    }
  }
  return true;
}

fn mark_registers(at: u32, state: u32) {
  for (var o = 0u; o < MAX_OPERANDS; o++) {
    let operand = index_word(at, o);
    let first = operand & 0xffffu;
    let behind = first + ((operand >> 16u) & 0xffu);
    let is_written = operand >> 31u == 1u;
    for (var r = first; r < behind && is_written; r++) { states[state + WRITTEN + r / 32u] |= 1u << (r % 32u); }
  }
}

/** What an access asks for: pieces of memory, `stride` bytes apart. */
struct Asked {
  space: u32,
  base: u32,
  offset: u32,
  stride: u32,
  pieces: u32,
  bytes: u32,
}

fn asked_by(at: u32) -> Asked {
  let rows = rows_of(at);
  let row_bytes = row_words_of(at) * 4u;
  var asked = Asked(0u, 0u, 0u, 0u, rows, row_bytes);
  switch (code.x & 0xffu) {
    case LD_MAT: {
      asked.space = field(LD_MAT_SPACE);
      asked.base = field(LD_MAT_BASE);
      asked.offset = field(LD_MAT_OFFSET);
      asked.stride = field(LD_MAT_STRIDE);
      // Of a transpose the columns lie in one piece.
      if (choice(LD_MAT_ORDER) == 1u) {
        asked.pieces = field(LD_MAT_COLUMNS);
        asked.bytes = rows * row_bytes / asked.pieces;
      }
    }
    case ST_MAT: {
      asked.space = field(ST_MAT_SPACE);
      asked.base = field(ST_MAT_BASE);
      asked.offset = field(ST_MAT_OFFSET);
      asked.stride = field(ST_MAT_STRIDE);
    }
    case LD_TAB: {
      asked.space = field(LD_TAB_SPACE);
      asked.base = field(LD_TAB_BASE);
      asked.offset = field(LD_TAB_OFFSET);
      asked.stride = field(LD_TAB_STRIDE);
    }
    case ST_TAB: {
      asked.space = field(ST_TAB_SPACE);
      asked.base = field(ST_TAB_BASE);
      asked.offset = field(ST_TAB_OFFSET);
      asked.stride = field(ST_TAB_STRIDE);
    }
    // ld.wgt
    default: {
      asked.space = field(LD_WGT_SPACE);
      asked.base = field(LD_WGT_BASE);
      asked.offset = field(LD_WGT_OFFSET);
    }
  }
  return asked;
}

/** Finds the place of a load or a store, all of which must be there. */
fn grants(at: u32, state: u32, access: ptr<function, Access>) -> bool {
  let asked = asked_by(at);
  let base = states[state + asked.base];
  let is_shared = asked.space == SHARED_SPACE;
  var start = banks + warps * bank_words();
  var length = facts[HEADER_SHARED];
  if (!is_shared) {
    start = facts[HEADER_WORDS + BUFFER_WORDS + 2u * asked.space];
    length = facts[HEADER_WORDS + BUFFER_WORDS + 2u * asked.space + 1u];
  }
  let first = base + asked.offset;
  // No sum or product here goes beyond 2^32: what is left of the memory bounds it.
  let room = length - min(first, length);
  let apart = (room - min(asked.bytes, room)) / max(asked.pieces - 1u, 1u);
  var fault = IS_RUNNING;
  if (first < base || asked.bytes > room || (asked.pieces > 1u && asked.stride > apart)) { fault = IS_OUTSIDE; }
  if (first % 4u != 0u) { fault = IS_OFF_A_WORD; }
  if (start == NO_BUFFER) { fault = IS_NO_BUFFER; }
  if (fault != IS_RUNNING) {
    stop(fault, at, 0u, base);
    return false;
  }
  if (is_shared) {
    let behind = first + (asked.pieces - 1u) * asked.stride + asked.bytes;
    said[REPORT_SHARED] = max(said[REPORT_SHARED], behind);
  }
  *access = Access(start + first / 4u, asked.stride / 4u, u32(is_shared));
  return true;
}

fn moves(opcode: u32) -> bool {
  return opcode == LD_MAT || opcode == LD_TAB || opcode == LD_WGT || opcode == ST_MAT || opcode == ST_TAB;
}

/** Goes on to what all lanes have to do. */
fn next_task(turns: ptr<function, u32>) -> Task {
  let nowhere = Access(0u, 0u, 0u);
  let leave = Task(LEAVE, 0u, nowhere);
  let blocks = facts[HEADER_GRID_X] * facts[HEADER_GRID_Y];
  while (said[REPORT_STATE] == IS_RUNNING) {
    if (said[REPORT_WARP] == 0u) {
      let block = said[REPORT_BLOCK];
      if (block == blocks) {
        said[REPORT_STATE] = IS_ENDED;
        return leave;
      }
      place_block(block);
      said[REPORT_WARP] = 1u;
      return Task(BEGIN_BLOCK, 0u, nowhere);
    }
    let warp = said[REPORT_WARP] - 1u;
    let state = warp_state(warp);
    let at = states[state + AT];
    if (at == facts[HEADER_LENGTH]) {
      states[state + WAITS] = 0u;
      next_warp(warp);
      continue;
    }
    if (*turns == 0u) { return leave; }
    *turns -= 1u;
    if (said[REPORT_LEFT] == 0u) {
      stop(IS_LIMIT, at, 0u, 0u);
      return leave;
    }
    said[REPORT_LEFT] -= 1u;
    reports[report + REPORT_WORDS + at] += 1u;
    code = instruction(at);
    var next = at + 1u;
    switch (code.x & 0xffu) {
      case LEA: {
        let left = states[state + field(LEA_LEFT)] * field(LEA_FACTOR);
        states[state + field(LEA_TO)] = left + states[state + field(LEA_RIGHT)] + field(LEA_ADDEND);
      }
      case LOOP: {
        let rounds = states[state + field(LOOP_COUNT)] + field(LOOP_TIMES);
        if (rounds == 0u) {
          next = end_of(at) + 1u;
        } else {
          let depth = states[state + DEPTH];
          states[state + STARTS + depth] = next;
          states[state + ROUNDS + depth] = rounds;
          states[state + DEPTH] = depth + 1u;
        }
      }
      case END: {
        let inner = states[state + DEPTH] - 1u;
        let rounds = states[state + ROUNDS + inner] - 1u;
        states[state + ROUNDS + inner] = rounds;
        if (rounds > 0u) {
          next = states[state + STARTS + inner];
        } else {
          states[state + DEPTH] = inner;
        }
      }
      case BAR: {
        states[state + WAITS] = at + 1u;
        states[state + AT] = next;
        next_warp(warp);
        continue;
      }
      default: {
        var access = nowhere;
        if (!pass_registers(at, state)) { return leave; }
        if (moves(code.x & 0xffu) && !grants(at, state, &access)) { return leave; }
        mark_registers(at, state);
        states[state + AT] = next;
        return Task(at, warp, access);
      }
    }
    states[state + AT] = next;
  }
  return leave;
}

/** From the dispatch before, or from the start. */
fn take_up(lane: u32) {
  let first = facts[HEADER_WORDS + LAUNCH_SCRATCH];
  for (var word = lane; word < warps * WARP_WORDS; word += LANES) { states[word] = scratch[first + word]; }
  for (var word = lane; word < REPORT_WORDS; word += LANES) { said[word] = reports[report + word]; }
}

fn leave_off(lane: u32) {
  let first = facts[HEADER_WORDS + LAUNCH_SCRATCH];
  for (var word = lane; word < warps * WARP_WORDS; word += LANES) { scratch[first + word] = states[word]; }
  for (var word = lane; word < REPORT_WORDS; word += LANES) { reports[report + word] = said[word]; }
}

@compute @workgroup_size(LANES)
fn lmma(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let launch = group.x * LAUNCH_WORDS;
  header = given[launch + LAUNCH_PROGRAM];
  for (var word = lane; word < HEADER_WORDS + LAUNCH_WORDS; word += LANES) {
    facts[word] = given[select(launch + word - HEADER_WORDS, header + word, word < HEADER_WORDS)];
  }
  workgroupBarrier();
  index = facts[HEADER_WORDS + LAUNCH_INDEX];
  report = facts[HEADER_WORDS + LAUNCH_REPORT];
  warps = facts[HEADER_WARPS];
  banks = facts[HEADER_WORDS + LAUNCH_SCRATCH] + warps * WARP_WORDS;
  shared_words = (facts[HEADER_SHARED] + 3u) / 4u;
  take_up(lane);
  workgroupBarrier();
  var turns = setup.turns;
  loop {
    if (lane == 0u) { task = next_task(&turns); }
    let now = workgroupUniformLoad(&task);
    if (now.at == LEAVE) { break; }
    if (now.at == BEGIN_BLOCK) {
      begin_block(lane);
    } else {
      code = instruction(now.at);
      bank = banks + now.warp * bank_words();
      execute(now.at, now.access, lane);
    }
    // Also a barrier for what lies in the memory of the workgroup.
    workgroupBarrier();
    storageBarrier();
  }
  leave_off(lane);
}
