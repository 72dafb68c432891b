// The README's table of speeds: products with one vector beside a plain read of the same bytes, then every comparison
// with llama.cpp and ONNX Runtime, one after the other, as Markdown with the command that makes each row.
//   node test/bench/table.mjs [--threads 1] [--rounds 5] [--only WORD]
// With the machine alone it takes some 25 minutes. Not here: how anything is timed (lutra bench).

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = fileURLToPath(new URL("../../", import.meta.url));
const { values } = parseArgs({
  options: {
    threads: { type: "string", default: "1" },
    rounds: { type: "string", default: "5" },
    only: { type: "string", default: "" },
  },
});

const { findModel } = await import(`${root}dist/src/app/models.js`);
const REAL = "smollm2-135m-instruct-q4_1.gguf";

const reads = [
  ...[1, 2, 3, 4].flatMap((bits) => ["4096", "11008"].map((m) => ["--bits", bits, "--m", m])),
  ["--bits", "4", "--group", "32"],
  ["--bits", "2", "--kernel", "ternary"],
  ...[1, 2, 4].map((bits) => ["--bits", bits, "--isa", "avx2"]),
];
const products = [2, 4, 8].flatMap((bits) =>
  [32, 128].flatMap((block) => [
    ...["4096", "11008"].map((m) => ["gemv", "--bits", bits, "--block", block, "--m", m]),
    ...(bits === 8 ? [] : ["32", "128"].map((batch) => ["gemm", "--bits", bits, "--block", block, "--batch", batch])),
  ]),
);
const layers = ["Q4_0", "Q4_K", "Q2_K", "TQ2_0", "TQ1_0", "Q8_0"].map((type) =>
  `layers --type ${type} --prompt 32 --tokens 16`.split(" "),
);
const models = [
  ...(existsSync(findModel(REAL)) ? [[REAL]] : []),
  ["--shape", "135M", "--type", "Q4_0"],
  ...["Q4_K", "Q2_K", "TQ2_0"].map((type) => ["--shape", "135M-256", "--type", type]),
  ...["Q4_0", "Q4_K", "Q2_K", "TQ2_0"].map((type) => ["--shape", "1B", "--type", type, "--tokens", "32"]),
];

console.log(`${new Date().toISOString().slice(0, 10)}, ${cpus()[0]?.model}, ${cpus().length} processors\n`);
const figure = (x) => (x === null ? "-" : x.toFixed(x < 10 ? 2 : x < 100 ? 1 : 0));

/** The lines of a benchmark; none, and a row with its error, where it fails. */
function linesOf(args) {
  const command = `lutra bench ${args.join(" ")}`;
  if (!command.includes(values.only)) return [];
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [`${root}dist/src/app/cli.js`, "bench", ...args, "--json"],
    {
      encoding: "utf8",
    },
  );
  if (status === 0)
    return stdout
      .trimEnd()
      .split("\n")
      .map((text) => ({ ...JSON.parse(text), command: `\`${command}\`` }));
  console.log(`| ${command} | ${stderr.trim()} |`);
  return [];
}

console.log("| product with one vector | us | share of a plain read | command |\n|---|---|---|---|");
for (const what of reads)
  for (const line of linesOf(["gemv", ...what.map(String), "--threads", values.threads, "--rounds", values.rounds])) {
    const { bits, group, m, k, isa, family, time_us: time, share, command } = line;
    const name = `W${bits} g${group} ${m} x ${k}, ${isa} ${family}`;
    const times = `${figure(time.median)} (${figure(time.min)} to ${figure(time.max)})`;
    console.log(`| ${name} | ${times} | ${(100 * share).toFixed(0)} % | ${command} |`);
  }

console.log("\n| case | Lutra | peer | ratio | share of the read | command |\n|---|---|---|---|---|---|");
for (const what of [...models, ...layers, ...products])
  for (const line of linesOf([
    "compare",
    ...what.map(String),
    "--threads",
    values.threads,
    "--rounds",
    values.rounds,
  ])) {
    const ratio =
      line.ratio === null
        ? "-"
        : `${line.ratio.toFixed(2)} (${line.ratio_min.toFixed(2)} to ${line.ratio_max.toFixed(2)})`;
    const peer = line.theirs === null ? line.peer.unavailable : `${figure(line.theirs)}, ${line.peer}`;
    const share = line.share === undefined ? "" : `${(100 * line.share).toFixed(0)} %`;
    const cells = [line.case, `${figure(line.ours)} ${line.unit}`, peer, ratio, share, line.command];
    console.log(`| ${cells.join(" | ")} |`);
  }
