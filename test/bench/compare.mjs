// Speed of Lutra beside llama.cpp (node-llama-cpp) on the same file, threads and tokens, interleaved, each run in a
// process of its own: prefill of 128 tokens, greedy decoding of 64, and process start to first token.
//   node test/bench/compare.mjs MODEL.gguf [--threads 1,2] [--rounds 5] [--json]
// One line a case: medians, and the median, least and largest of the ratios round by round (above 1: Lutra is better).
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const PREFILL = 128;
const DECODE = 64;
const PROMPT = "The capital of France is";
const root = fileURLToPath(new URL("../../", import.meta.url));

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: "string", default: "1,2" },
    rounds: { type: "string", default: "5" },
    json: { type: "boolean", default: false },
    child: { type: "string" },
  },
});
const [model] = positionals;
if (!model) {
  console.error("usage: node test/bench/compare.mjs MODEL.gguf [--threads 1,2] [--rounds 5] [--json]");
  process.exit(2);
}

/** Token ids that every vocabulary of at least 2,048 has; which ones does not matter for speed. */
const TOKENS = Array.from({ length: PREFILL }, (_, i) => 300 + ((i * 7919) % 1700));

if (values.child) await measureOurs(Number(values.child));
else compare();

/** Prints [prefill, decode] tokens/s of Lutra, measured like the "speed" task of test/oracle/llama.mjs. */
async function measureOurs(threads) {
  const { load, open } = await import(`${root}dist/index.js`);
  const loaded = load(model, { context: PREFILL + DECODE + 16 });
  const backend = await open("cpu", { threads });
  if ("unavailable" in backend) throw new Error(backend.unavailable);
  const session = await backend.prepare(loaded.plan, loaded.weights);
  const argmax = (logits) => logits.reduce((best, x, i) => (x > logits[best] ? i : best), 0);
  const step = async (pos, tokens, logits) => {
    const [out] = await session.step([{ slot: 0, pos, tokens: Int32Array.from(tokens), logits }]);
    return logits === "last" ? argmax(out) : -1;
  };
  let found = [];
  for (let pass = 0; pass < 2; pass++) {
    const start = performance.now();
    await step(0, TOKENS, "none");
    const filled = performance.now();
    let token = await step(PREFILL, [TOKENS[0]], "last");
    const first = performance.now();
    for (let i = 1; i <= DECODE; i++) token = await step(PREFILL + i, [token], "last");
    found = [PREFILL / ((filled - start) / 1000), DECODE / ((performance.now() - first) / 1000)];
  }
  console.log(JSON.stringify(found));
}

function run(args, input = "") {
  const { status, stdout, stderr, error } = spawnSync(process.execPath, args, {
    input,
    encoding: "utf8",
    timeout: 240_000,
  });
  if (status !== 0) throw new Error(`${args.join(" ")}: ${error?.message ?? stderr}`);
  return JSON.parse(stdout);
}

function compare() {
  if (!existsSync(`${root}test/oracle/node_modules/.stamp`)) {
    console.error("lutra: peer node-llama-cpp is not installed; run node test/oracle/setup.mjs");
    process.exit(1);
  }
  const peer = (task) => run([`${root}test/oracle/llama.mjs`], JSON.stringify({ model, ...task }));
  const cases = [];
  for (const threads of values.threads.split(",").map(Number)) {
    const speed = Array.from({ length: Number(values.rounds) }, () => ({
      ours: run([fileURLToPath(import.meta.url), model, "--child", String(threads)]),
      theirs: peer({ kind: "speed", tokens: TOKENS, count: DECODE, threads }),
    }));
    cases.push(
      summary(
        `prefill ${PREFILL}`,
        threads,
        "tokens/s",
        speed.map((r) => [r.ours[0], r.theirs[0]]),
      ),
    );
    cases.push(
      summary(
        `decode ${DECODE}`,
        threads,
        "tokens/s",
        speed.map((r) => [r.ours[1], r.theirs[1]]),
      ),
    );
    const firsts = Array.from({ length: Number(values.rounds) }, () => {
      const cli = [`${root}dist/app/cli.js`, "run", model, PROMPT, "--raw", "--json", "--max-tokens", "1"];
      const ours = run([...cli, "--temperature", "0", "--threads", String(threads)]).first_token_ms;
      const start = performance.timeOrigin + performance.now();
      const theirs = peer({ kind: "firstToken", prompt: PROMPT, threads })[0] - start;
      return [ours, theirs];
    });
    cases.push(summary("first token", threads, "ms", firsts));
  }
  for (const c of cases) {
    if (values.json) console.log(JSON.stringify(c));
    else {
      const [ours, theirs] = [c.ours, c.theirs].map((x) => x.toFixed(c.unit === "ms" ? 0 : 1));
      const ratios = [c.ratio, c.ratio_min, c.ratio_max].map((x) => x.toFixed(2));
      console.log(
        `${c.case.padEnd(12)} ${c.threads} threads: ${ours.padStart(7)} ${c.unit}, llama.cpp ${theirs.padStart(7)}, ` +
          `ratio ${ratios[0]} (${ratios[1]} to ${ratios[2]})`,
      );
    }
  }
}

/** Ratios are of speed: for times, theirs over ours. */
function summary(name, threads, unit, pairs) {
  const ratios = pairs.map(([ours, theirs]) => (unit === "ms" ? theirs / ours : ours / theirs));
  return {
    case: name,
    threads,
    ours: median(pairs.map(([ours]) => ours)),
    peer: "node-llama-cpp",
    theirs: median(pairs.map(([, theirs]) => theirs)),
    ratio: median(ratios),
    ratio_min: Math.min(...ratios),
    ratio_max: Math.max(...ratios),
    unit,
  };
}

function median(list) {
  const sorted = list.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
