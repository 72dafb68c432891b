// How fast blocks become numbers in JavaScript: millions of values a second on one core, by the program that the compiler
// writes for each type. Prints a Markdown table; `node test/bench/decode.mjs Q4_0 IQ4_NL` takes these types alone.
// A median of rounds over one mebivalue of random bytes, after a warm-up; not a test, since machines are shared.

import { decode } from "../../dist/src/ladder/emit/codec.js";
import { standardProgram } from "../../dist/src/library.js";

const VALUES = 2 ** 20;
const ROUNDS = 15;

const { types } = standardProgram();
const names = process.argv.length > 2 ? process.argv.slice(2) : [...types.keys()];

console.log("| type | M values/s |\n|---|---|");
for (const name of names) {
  const type = types.get(name);
  if (type === undefined) {
    console.error(`${name}: no such type; there are ${[...types.keys()].join(", ")}`);
    process.exit(1);
  }
  const blocks = Math.ceil(VALUES / type.blockSize);
  const bytes = Uint8Array.from(
    { length: blocks * type.blockBytes },
    (_, i) => (Math.imul(i, 0x9e3779b1) >>> 21) & 255,
  );
  const out = new Float64Array(blocks * type.blockSize);
  decode(type, bytes, out);
  const times = Array.from({ length: ROUNDS }, () => {
    const start = performance.now();
    decode(type, bytes, out);
    return performance.now() - start;
  }).toSorted((a, b) => a - b);
  console.log(`| ${name} | ${(out.length / times[ROUNDS >> 1] / 1000).toPrecision(3)} |`);
}
