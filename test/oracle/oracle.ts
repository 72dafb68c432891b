// What tests compare Lutra with: Python's gguf, ml_dtypes and numpy; llama.cpp through node-llama-cpp; real models.
// Each is a value or says why it is not there; `testWith` turns that into a skip by name, or a failure where CI is
// set. Every call runs in a process of its own under a time limit. Installed by setup.mjs, which `npm test` runs.

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "vitest";

import { modelFolders } from "../../src/app/models.ts";
import type { Unavailable } from "../../src/backend.ts";

const root: string = fileURLToPath(new URL("../../", import.meta.url));
const here: string = fileURLToPath(new URL(".", import.meta.url));

/** Long enough for any task in the tests on a busy machine; a hang must not hold up all of them. */
const TIME_LIMIT_MS = 240_000;
const OUTPUT_LIMIT = 2 ** 30;

function run(command: string, args: readonly string[], input: Uint8Array, limitMs: number): Buffer {
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, {
    input,
    timeout: limitMs,
    killSignal: "SIGKILL",
    maxBuffer: OUTPUT_LIMIT,
  });
  if (status === 0) return stdout;
  const reason = error?.message ?? signal ?? `exit status ${status}`;
  throw new Error(`${command} ${args.join(" ")}: ${reason}\n${stderr.toString()}`);
}

export interface Python {
  /** Runs a script with `input` on its standard input; its standard output. */
  run(script: string, input?: Uint8Array): Buffer;
}

/** The Python environment with gguf, ml_dtypes and numpy. */
export function python(): Python | Unavailable {
  const executable = join(root, ".venv/bin/python");
  if (!existsSync(join(root, ".venv/stamp"))) return { unavailable: "no .venv: run node test/oracle/setup.mjs" };
  return {
    run(script, input = new Uint8Array(0)) {
      const folder = mkdtempSync(join(tmpdir(), "lutra-python-"));
      try {
        const file = join(folder, "script.py");
        writeFileSync(file, script);
        return run(executable, [file], input, TIME_LIMIT_MS);
      } finally {
        rmSync(folder, { recursive: true });
      }
    },
  };
}

export interface VocabularyView {
  /** Token ids of each text, without BOS, control tokens in it as plain text. */
  readonly plain: readonly (readonly number[])[];
  /** The same with control tokens taken as such. */
  readonly special: readonly (readonly number[])[];
  /** Ids that end a generation, ascending. */
  readonly ends: readonly number[];
}

/** llama.cpp. Models are named by path; it takes one thread where none is named, because its threads spin. */
export interface Llama {
  /** How each model's vocabulary sees the texts; all in one process. */
  vocabularies(models: readonly string[], texts: readonly string[]): readonly VocabularyView[];
  /** For each token the whole next-token distribution after it, (vocabulary) probabilities. */
  probabilities(model: string, tokens: readonly number[], vocabulary: number): readonly Float32Array[];
  /** The `count` most likely tokens that follow, one after the other; end tokens do not stop it. */
  greedy(model: string, tokens: readonly number[], count: number, threads: number): readonly number[];
  /** Milliseconds from the start of a process to its first token after the prompt. */
  firstTokenMs(model: string, prompt: string, threads: number): number;
}

export function llama(): Llama | Unavailable {
  if (!existsSync(join(here, "node_modules/.stamp"))) {
    return { unavailable: "no node-llama-cpp: run node test/oracle/setup.mjs" };
  }
  const ask = (task: object): Buffer =>
    run(process.execPath, [join(here, "llama.mjs")], Buffer.from(JSON.stringify(task)), TIME_LIMIT_MS);
  const numbers = (task: object): number[] => JSON.parse(ask(task).toString());
  return {
    vocabularies: (paths, texts) => JSON.parse(ask({ kind: "vocabularies", models: paths, texts }).toString()),
    probabilities(model, tokens, vocabulary) {
      const bytes = ask({ kind: "probabilities", model, tokens, vocabulary });
      const all = new Float32Array(Uint8Array.from(bytes).buffer);
      return tokens.map((_, i) => all.subarray(i * vocabulary, (i + 1) * vocabulary));
    },
    greedy: (model, tokens, count, threads) => numbers({ kind: "greedy", model, tokens, count, threads }),
    firstTokenMs(model, prompt, threads) {
      const start = performance.timeOrigin + performance.now();
      const [first = Number.NaN] = numbers({ kind: "firstToken", model, prompt, threads });
      return first - start;
    },
  };
}

export interface Models {
  /** SmolLM2-135M-Instruct in Q4_1. */
  readonly smollm2: string;
  /** Text that the embedded model was not trained on. */
  readonly heldout: string;
}

/**
 * The path of a file that is too large for the repository: in the first folder of LUTRA_MODELS that has it, or in
 * shared/models beside the checkout where that names none.
 */
export function modelFile(name: string): { readonly path: string } | Unavailable {
  const named = modelFolders();
  const folders = named.length > 0 ? named : [join(root, "../shared/models")];
  const path = folders.map((folder) => join(folder, name)).find((candidate) => existsSync(candidate));
  return path === undefined
    ? { unavailable: `no ${name} in ${folders.join(", ")}; LUTRA_MODELS names its folder` }
    : { path };
}

/** Those of such files that tests read. */
export function models(): Models | Unavailable {
  const smollm2 = modelFile("smollm2-135m-instruct-q4_1.gguf");
  if ("unavailable" in smollm2) return smollm2;
  const heldout = modelFile("austen-heldout.txt");
  return "unavailable" in heldout ? heldout : { smollm2: smollm2.path, heldout: heldout.path };
}

/** The model that comes with the package. */
export const embeddedModel: string = join(root, "models/austen-5m-ternary.gguf");

/** A test that needs `thing`: skipped with the reason where it is unavailable; where CI is set it fails instead. */
export function testWith<T extends object>(
  thing: T | Unavailable,
  name: string,
  body: (thing: T) => void | Promise<void>,
): void {
  // oxlint-disable-next-line vitest/valid-title, vitest/expect-expect -- the name and the body are the caller's
  test(name, async (context) => {
    if ("unavailable" in thing) {
      if (process.env["CI"]) throw new Error(`not available, and CI is set: ${thing.unavailable}`);
      context.skip(thing.unavailable);
    } else {
      await body(thing);
    }
  });
}
