// A process for hostile.test.ts: damages a model file in many ways, each from a seed and its number, and takes every
// one as far as it goes: opening, plan, tokenizer, template, weights into native memory, one step.
//   node test/app/hostile.mjs FILE COPY SEED FIRST COUNT ISA[,ISA...]
// Lines on stdout, all JSON: {rssMib} when it is ready and idle; {number} as each begins; and at its end {stage} that it
// reached, with {error} where it is not one of the errors that a damaged file may have; at last {maxRssMib}.
// Not here: limits of time and memory, which only somebody outside can hold a process to.

import { readFileSync, writeFileSync, writeSync } from "node:fs";

import { FileError, load, ModelError, open, UnsupportedOp } from "../../dist/src/index.js";

const [file, copy, seed, first, count, isas] = process.argv.slice(2);
const whole = readFileSync(file);
/** Where each key's value and each tensor's shape, type and offset begin; the header ends some bytes after the last. */
const FIELDS = fieldsOf(file);
const HEADER = Math.max(...FIELDS) + 64;
/** What counts, lengths, offsets, ids and dimensions are worst at. */
const EXTREMES = [0n, 1n, 2n, 7n, 31n, 65_536n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];

const tell = (fact) => writeSync(1, `${JSON.stringify(fact)}\n`);

function fieldsOf(path) {
  const model = load(path);
  const after = (name, bytes) => whole.indexOf(name) + Buffer.byteLength(name) + bytes;
  const fields = [
    ...model.metadata.keys.map((key) => after(key, 4)),
    ...[...model.tensors.keys()].map((t) => after(t, 4)),
  ];
  model.close();
  return fields;
}

/** Whole numbers below a limit, from the seed and a case's number (mulberry32). */
function generator(number) {
  let state = (Number(seed) + Math.imul(number, 0x9e3779b1)) | 0;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit);
  };
}

/** One to three changes; the last kind cuts the file short. */
function damaged(below) {
  let bytes = Buffer.from(whole);
  for (let changes = 1 + below(3); changes > 0; changes--) {
    const places = [FIELDS[below(FIELDS.length)] + 4 * below(6), below(HEADER), below(bytes.length)];
    const at = Math.min(places[below(places.length)], bytes.length - 1);
    switch (below(8)) {
      case 0:
      case 1:
        bytes[at] ^= 1 << below(8);
        break;
      case 2:
        bytes[at] = below(256);
        break;
      case 3:
      case 4: {
        const width = below(2) === 0 ? 4 : 8;
        const value = EXTREMES[below(EXTREMES.length)];
        for (let i = 0; i < width && at + i < bytes.length; i++)
          bytes[at + i] = Number((value >> BigInt(8 * i)) & 255n);
        break;
      }
      case 5: {
        // Bytes from elsewhere: a well-formed string or number in the place of another.
        const length = 1 + below(64);
        const from = below(Math.min(HEADER, bytes.length));
        bytes.copy(bytes, at, from, Math.min(from + length, bytes.length));
        break;
      }
      case 6: {
        const length = 1 + below(16);
        const inserted =
          below(2) === 0 ? [bytes.subarray(at, at + length), bytes.subarray(at)] : [bytes.subarray(at + length)];
        bytes = Buffer.concat([bytes.subarray(0, at), ...inserted]);
        break;
      }
      default:
        if (below(4) === 0) bytes = bytes.subarray(0, below(bytes.length + 1));
    }
    if (bytes.length === 0) break;
  }
  return bytes;
}

/** Takes a file as far as it goes; calls `reached` after each stage. */
async function use(path, backend, reached) {
  const model = load(path);
  try {
    reached("loaded");
    const tokenizer = await model.tokenizer();
    const tokens = tokenizer.encode("the thing <|endoftext|>", { special: true });
    reached("tokenized");
    const template = await model.template();
    template?.prompt([{ role: "user", content: "the thing" }]);
    reached("templated");
    const session = await backend.prepare(model.plan, model.weights);
    try {
      reached("prepared");
      const { context } = model.plan.cache;
      await session.step([{ slot: 0, pos: 0, tokens: tokens.subarray(0, Math.min(8, context)), logits: "all" }]);
      reached("stepped");
    } finally {
      await session[Symbol.asyncDispose]();
    }
  } finally {
    model.close();
  }
}

const backends = await Promise.all(isas.split(",").map((isa) => open("cpu", { isa, threads: 1 })));
await use(file, backends[0], () => undefined); // all that is imported on demand belongs to the idle process
tell({ rssMib: process.resourceUsage().maxRSS / 1024 });
for (let number = Number(first); number < Number(first) + Number(count); number++) {
  tell({ number });
  writeFileSync(copy, damaged(generator(number)));
  let stage = "refused";
  try {
    await use(copy, backends[number % backends.length], (next) => (stage = next));
    tell({ stage });
  } catch (error) {
    const isTyped = error instanceof ModelError || error instanceof FileError || error instanceof UnsupportedOp;
    tell(isTyped ? { stage } : { stage, error: error?.stack ?? String(error) });
  }
}
tell({ maxRssMib: process.resourceUsage().maxRSS / 1024 });
