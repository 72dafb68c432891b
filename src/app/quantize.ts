// lutra quantize: a model in another number type, also one of the person's own. The file appears under its name when it
// is complete, and not at all after an error or Ctrl-C.
// Not here: which tensor gets which type (model/quantize.ts), how (model/encode.ts), in which threads (quantize-pool.ts).

import { availableParallelism } from "node:os";
import process from "node:process";

import { createFile, openFile } from "../files.ts";
import type { Program, Type } from "../ladder/type.ts";
import { findType, standardProgram } from "../library.ts";
import { type CarriedTypes, FIRST_CARRIED_ID } from "../model/carried.ts";
import { encode } from "../model/encode.ts";
import { type Gguf, readGguf } from "../model/gguf.ts";
import { type GgufContent, ggufSize } from "../model/gguf-writer.ts";
import { type Assignment, assignTypes, quantizedContent, quantizedPieces } from "../model/quantize.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { bytes } from "./figures.ts";
import { findModel } from "./models.ts";
import { makePool } from "./quantize-pool.ts";
import { escaped, makeProgress, note, peakMib, printJson, table } from "./terminal.ts";

const OPTIONS = {
  type: { kind: "text", about: "the type that the matrices get, such as Q4_0" },
  "types-from": { kind: "text", about: "a .ladder file that declares types of your own" },
  "embedding-type": { kind: "text", about: "the type of the token embedding" },
  "output-type": { kind: "text", about: "the type of the output matrix" },
  threads: { kind: "integer", about: "threads; all that there are if not given", min: 1, max: 256, fallback: null },
  json: { kind: "flag", about: "one JSON object with sizes and errors on stdout" },
} as const;

export const quantize: Command = command({
  name: "quantize",
  usage: ["quantize in.gguf out.gguf --type T [options]"],
  about: [
    "Writes a model in another number type: any that Lutra knows, or one that a .ladder file of yours declares.",
    "Each number gets its nearest code, and each block the scales for which the squared error is smallest.",
    "Matrices get the type T; vectors stay. The token embedding and the output matrix, which decide much, become",
    "Q8_0 if they have more bits than that and T has fewer, and stay if they have no more; --embedding-type and",
    "--output-type say otherwise. Where one tensor is both, --embedding-type comes first. A matrix whose rows are",
    "no multiple of the type's block becomes Q8_0 if it has more bits, else it stays; a note says so.",
    "A file in a type of your own carries the .ladder text (in the keys lutra.ladder.*), so that lutra run and",
    "lutra inspect need nothing else. A file that is there already is replaced when the new one is complete.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra quantize model.gguf small.gguf --type Q4_K", "half the size of Q8_0"],
    ["lutra quantize model.gguf small.gguf --type Q4_0 --embedding-type Q4_0", "the embedding too"],
    ["lutra quantize model.gguf mine.gguf --types-from mine.ladder --type MY3", "a type of yours"],
    ['lutra run mine.gguf "Once"', "which runs as any other"],
  ],
  positionals: 2,
  run: quantizeModel,
});

async function quantizeModel(
  values: Values<typeof OPTIONS>,
  [input, output]: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  if (input === undefined) throw new UsageError("no model; see lutra quantize --help");
  if (output === undefined) throw new UsageError("no name for the new file; see lutra quantize --help");
  if (values.type === null) throw new UsageError("--type: no value; name the type that the matrices shall have");
  const startMs = performance.now();
  const standard = standardProgram();
  const gguf = readGguf(openFile(findModel(input)), standard, openFile);
  try {
    const types = wantedTypes(values, values.type, standard);
    if (types === null) return 1;
    const { type, embedding, output: outputType, carried } = types;
    const assignments = assignTypes(gguf, { type, embedding, output: outputType }, standard);
    tellMisfits(assignments);
    const content = quantizedContent(gguf, assignments, carried);
    const threads = values.threads ?? availableParallelism();
    const shares = await write(gguf, assignments, content, { output, threads, signal });
    if (shares === null) {
      process.stderr.write("interrupted; nothing was written\n");
      return 130;
    }
    const report = reportOf(gguf, content, shares, { input, output, type: type.name });
    if (values.json) printJson(report);
    else process.stdout.write(describe(report));
    const seconds = (performance.now() - startMs) / 1000;
    process.stderr.write(
      `${seconds.toFixed(1)} s, ${threads} ${threads === 1 ? "thread" : "threads"}, peak memory ${peakMib().toFixed(0)} MiB\n`,
    );
    return 0;
  } finally {
    gguf.close();
  }
}

// --- types by name --------------------------------------------------------------------------------------------------

interface WantedTypes {
  readonly type: Type;
  readonly embedding: Type | null;
  readonly output: Type | null;
  readonly carried: CarriedTypes | null;
}

/** The types that the options name; null where their texts are wrong, which has been said then. */
function wantedTypes(values: Values<typeof OPTIONS>, main: string, standard: Program): WantedTypes | null {
  const texts = new Map<string, string>();
  const carried: Type[] = [];
  const byName = new Map<string, Type>();
  const find = (option: "type" | "embedding-type" | "output-type", name: string): Type | null => {
    const known = byName.get(name);
    if (known !== undefined) return known;
    const found = findType(name, values["types-from"], standard);
    if (found.kind === "unknown") throw new UsageError(`--${option}: ${found.reason}`);
    if (found.kind === "rejected") {
      process.stderr.write(`${found.diagnostics.join("\n\n")}\n`);
      return null;
    }
    const { type } = found;
    if (found.kind === "carried") {
      refuseTakenId(type, standard);
      for (const [file, text] of found.texts) texts.set(file, text);
      carried.push(type);
    }
    // A type that cannot be written is refused before anything is.
    encode(type, new Float64Array(type.blockSize), new Uint8Array(type.blockBytes));
    byName.set(name, type);
    return type;
  };
  const type = find("type", main);
  if (type === null) return null;
  const { "embedding-type": embedding, "output-type": output } = values;
  return {
    type,
    embedding: embedding === null ? null : find("embedding-type", embedding),
    output: output === null ? null : find("output-type", output),
    carried: carried.length === 0 ? null : { texts, types: carried },
  };
}

/** An id of a person's own type that ggml gives to another: files would say one thing and mean the other. */
function refuseTakenId({ name, ids }: Type, standard: Program): void {
  const id = ids.get("gguf");
  if (id === undefined) return;
  const owner = [...standard.types.values()].find((type) => type.ids.get("gguf") === id);
  if (owner !== undefined)
    throw new Error(`${name}: @gguf(${id}) is the id of ${owner.name}; leave it out, the file gives ${name} one`);
  note(`${name} gets an id of the file's own, ${FIRST_CARRIED_ID} or above, and not @gguf(${id})`);
}

/** One line for each way in which tensors did not fit. */
function tellMisfits(assignments: readonly Assignment[]): void {
  const lines = new Map<string, string[]>();
  for (const { tensor, type, misfit } of assignments) {
    if (misfit === null) continue;
    const fate = type === tensor.type ? `stay ${type.name}` : `become ${type.name}`;
    const key = `rows of ${tensor.shape.at(-1)} are no multiple of ${misfit.name}'s block of ${misfit.blockSize}: ${fate}`;
    lines.set(key, [...(lines.get(key) ?? []), tensor.name]);
  }
  for (const [line, names] of lines) {
    const more = names.length > 3 ? ` and ${names.length - 3} more` : "";
    note(escaped(`${line}: ${names.slice(0, 3).join(", ")}${more}`));
  }
}

// --- the work -------------------------------------------------------------------------------------------------------

/** What has become of the tensors of one new type. */
interface Share {
  readonly type: Type;
  tensors: number;
  parameters: number;
  /** Sums over those that have been quantised. */
  quantized: number;
  squaredError: number;
  squares: number;
}

/** Writes the file; null where the signal has ended it. */
async function write(
  gguf: Gguf,
  assignments: readonly Assignment[],
  content: GgufContent,
  { output, threads, signal }: { readonly output: string; readonly threads: number; readonly signal: AbortSignal },
): Promise<readonly Share[] | null> {
  const shares = new Map<Type, Share>();
  for (const { tensor, type } of assignments) {
    const share = shares.get(type) ?? { type, tensors: 0, parameters: 0, quantized: 0, squaredError: 0, squares: 0 };
    share.tensors++;
    share.parameters += count(tensor.shape);
    shares.set(type, share);
  }
  const total = [...shares.values()].reduce((sum, { parameters }) => sum + parameters, 0);
  const sink = createFile(output, ggufSize(content), gguf.weights.files);
  const progress = makeProgress("quantizing");
  const types = [...new Set(assignments.flatMap(({ tensor, type }) => [tensor.type, type]))];
  const pool = makePool(threads, types);
  try {
    let done = 0;
    const pieces = quantizedPieces(gguf, assignments, content, {
      work: (piece) => pool.run(piece),
      atOnce: 2 * threads,
      watch({ tensor, type }, values, result) {
        progress.update((done += values), total, tensor.name);
        const share = shares.get(type);
        if (share === undefined || result === null) return;
        share.quantized += values;
        share.squaredError += result.squaredError;
        share.squares += result.squares;
      },
    });
    for await (const piece of pieces) {
      if (signal.aborted) return null;
      sink.write(piece);
    }
    sink.commit();
    return [...shares.values()];
  } finally {
    progress.clear();
    sink.abandon();
    await pool[Symbol.asyncDispose]();
  }
}

// --- the summary ----------------------------------------------------------------------------------------------------

/** All that is said, in JSON's names. */
interface Report {
  readonly input: string;
  readonly output: string;
  readonly type: string;
  readonly parameters: number;
  readonly bytes_before: number;
  readonly bytes_after: number;
  readonly bits_per_weight_before: number;
  readonly bits_per_weight_after: number;
  readonly types: readonly TypeReport[];
}

interface TypeReport {
  readonly type: string;
  readonly tensors: number;
  readonly parameters: number;
  readonly bytes: number;
  readonly bits_per_weight: number;
  /** Weights that were quantised; the others are as they were. */
  readonly quantized: number;
  /** Sum of (new - old)^2 over those. */
  readonly squared_error: number;
  /** That sum over the sum of old^2; null where nothing was quantised or all were zero. */
  readonly relative_error: number | null;
}

function reportOf(
  gguf: Gguf,
  content: GgufContent,
  shares: readonly Share[],
  names: Pick<Report, "input" | "output" | "type">,
): Report {
  const parameters = shares.reduce((sum, share) => sum + share.parameters, 0);
  const weights = (tensors: Iterable<{ readonly byteLength: number }>): number =>
    [...tensors].reduce((sum, { byteLength }) => sum + byteLength, 0);
  return {
    ...names,
    parameters,
    bytes_before: weights(gguf.tensors.values()),
    bytes_after: weights(content.tensors),
    bits_per_weight_before: (8 * weights(gguf.tensors.values())) / parameters,
    bits_per_weight_after: (8 * weights(content.tensors)) / parameters,
    types: shares.map((share) => {
      const { type, tensors, quantized, squaredError, squares } = share;
      const size = (share.parameters / type.blockSize) * type.blockBytes;
      return {
        type: type.name,
        tensors,
        parameters: share.parameters,
        bytes: size,
        bits_per_weight: (8 * size) / share.parameters,
        quantized,
        squared_error: squaredError,
        relative_error: squares > 0 ? squaredError / squares : null,
      };
    }),
  };
}

function describe(report: Report): string {
  const size = (byteCount: number, bits: number): string => `${bytes(byteCount)}, ${bits.toFixed(3)} bits per weight`;
  const facts = [
    ["before", size(report.bytes_before, report.bits_per_weight_before)],
    ["after", size(report.bytes_after, report.bits_per_weight_after)],
  ];
  const rows = report.types.map(({ type, tensors, parameters, bits_per_weight: bits, relative_error: error }) => [
    type,
    tensors,
    parameters,
    bits.toFixed(3).padStart(15),
    (error === null ? "as it was" : error.toExponential(3)).padStart(13),
  ]);
  const head = ["type", "tensors", "parameters", "bits per weight", "squared error"];
  return `${table(facts)}\n${table([head, ...rows])}`;
}

function count(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}
