// A server of the built program, and completions streamed from it, for the benchmarks of serving (serve.mjs, soak.mjs).
// Not here: what is measured.

import { spawn } from "node:child_process";
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const cli = fileURLToPath(new URL("../../dist/src/app/cli.js", import.meta.url));
/** Tokens that end texts of the small model and of SmolLM2, so that answers have as many tokens as are asked for. */
const ENDLESS = { 0: -100, 2: -100 };

/** `lutra serve` on a free port, listening: its address, its process, and `stop`. */
export async function serve(model, args) {
  const child = spawn(process.execPath, [cli, "serve", model, "--port", "0", ...args], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  child.stderr.on("data", (part) => (said += part));
  const listening = once(createInterface({ input: child.stdout }), "line");
  const [url] = await Promise.race([
    listening,
    once(child, "exit").then(([code]) => Promise.reject(new Error(`lutra serve ended with ${code}: ${said}`))),
  ]);
  const stop = async () => {
    if (child.exitCode !== null) return;
    child.kill("SIGTERM");
    await once(child, "exit");
  };
  return { url, pid: child.pid, stop };
}

/**
 * A greedy completion, streamed: its text, the milliseconds to its first token and to its end, and its usage, which is null
 * where the stream was left after `leaveAfter` pieces of text.
 */
export async function complete(url, prompt, tokens, leaveAfter = Infinity) {
  const startMs = performance.now();
  const left = new AbortController();
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    signal: left.signal,
    body: JSON.stringify({
      model: "any",
      prompt,
      max_tokens: tokens,
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
      logit_bias: ENDLESS,
    }),
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  let [text, firstMs, usage, pieces] = ["", null, null, 0];
  try {
    for await (const line of linesOf(response.body)) {
      if (!line.startsWith("data: {")) continue;
      const data = JSON.parse(line.slice(6));
      if (data.error !== undefined) throw new Error(data.error.message);
      if (data.usage) usage = data.usage;
      for (const choice of data.choices) {
        if (choice.text === "") continue;
        firstMs ??= performance.now() - startMs;
        text += choice.text;
        if (++pieces >= leaveAfter) left.abort();
      }
    }
  } catch (error) {
    if (!left.signal.aborted) throw error;
  }
  return { text, firstMs, ms: performance.now() - startMs, usage };
}

/** Those of a body; readline's own iterator waits for ever where a body ends with an error. */
async function* linesOf(body) {
  let rest = "";
  for await (const part of body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + part).split("\n");
    rest = lines.pop();
    yield* lines;
  }
}

/** The middle of some numbers. */
export function median(numbers) {
  const sorted = numbers.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}
