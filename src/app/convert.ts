// lutra convert: a model in another storage or container with not one value changed: parts put together, types with the
// same values, a matrix's bits in another order. The file appears under its name when it is complete, and not at all after
// an error or Ctrl-C. Not here: proofs and bytes (model/convert.ts, model/storage.ts), other values (quantize.ts).

import process from "node:process";
import { setImmediate } from "node:timers/promises";

import { createFile, openFile } from "../files.ts";
import { type Diagnostic, diagnosticJson, didYouMean } from "../ladder/diagnostic.ts";
import { prove, type Refutation, refutationDiagnostic } from "../ladder/prove/prove.ts";
import type { Claim, Program, Type } from "../ladder/type.ts";
import { findType, standardProgram } from "../library.ts";
import type { CarriedTypes } from "../model/carried.ts";
import {
  convertedContent,
  convertedPieces,
  type Lossless,
  losslessWay,
  type TensorPlan,
  typePlans,
} from "../model/convert.ts";
import { type Gguf, readGguf } from "../model/gguf.ts";
import { ggufSize } from "../model/gguf-writer.ts";
import { standIn, type Storage, storagePlan } from "../model/storage.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { bytes } from "./figures.ts";
import { printFindings } from "./findings.ts";
import { findModel } from "./models.ts";
import { escaped, makeProgress, peakMib, printJson, table } from "./terminal.ts";

const OPTIONS = {
  type: { kind: "texts", about: "FROM=TO: tensors of one type become another; may be given several times" },
  storage: { kind: "texts", about: "FORMAT.FROM=FORMAT.TO: the same bits in another order" },
  "types-from": { kind: "text", about: "a .ladder file that declares types of your own" },
  check: {
    kind: "choice",
    about: "whether all values are decoded before and after, and compared",
    choices: ["values", "none"],
    fallback: "values",
  },
  json: { kind: "flag", about: "one JSON object on stdout: what was proved, and sizes" },
} as const;

export const convert: Command = command({
  name: "convert",
  usage: ["convert in.gguf out.gguf [options]"],
  about: [
    "Changes how a model is stored, and not one of its values. Each conversion is proved before it is used: that",
    "the bits are the same, or that every value is. Where that holds for some scales alone, every block is looked",
    "at, and the first that is outside is named. What would have to be rounded is refused with a counter-example;",
    "lutra quantize rounds. Tensors that no option names stay as they are, byte for byte, and so do the metadata.",
    "A model in several parts becomes one file. A type of your own is carried in the file, as quantize does it; one",
    "that the file carries becomes a standard one where it has the same values.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra convert m-00001-of-00003.gguf m.gguf", "three parts into one file"],
    ["lutra convert m.gguf wide.gguf --type F16=F32 --type BF16=F32", "for a reader that knows F32 alone"],
    ["lutra convert m.gguf m8.gguf --type Q4_0=Q8_0", "the same values in more bits"],
    ["lutra convert prism.gguf m.gguf --type Q2_0_128=Q2_0", "PrismML's blocks of 128 as ggml's of 64"],
    ["lutra convert x86.gguf arm.gguf --storage I2_S.x86_128=I2_S.arm_64", "bitnet.cpp's files for another machine"],
  ],
  positionals: 2,
  run: convertModel,
});

async function convertModel(
  values: Values<typeof OPTIONS>,
  [input, output]: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  if (input === undefined) throw new UsageError("no model; see lutra convert --help");
  if (output === undefined) throw new UsageError("no name for the new file; see lutra convert --help");
  for (const path of [input, output]) {
    if (!path.endsWith(".safetensors")) continue;
    const what = path === input ? "read" : "written";
    throw new Error(`${path}: safetensors files are not ${what} yet; convert goes from GGUF to GGUF`);
  }
  const startMs = performance.now();
  const standard = standardProgram();
  const typeWishes = values.type.map((text) => wishOf("type", text));
  const storages = values.storage.map((text) => storagesOf(text, standard));
  const gguf = readGguf(openFile(findModel(input)), readingProgram(typeWishes, storages, standard), openFile);
  try {
    const plan = planOf(gguf, typeWishes, storages, { typesFrom: values["types-from"], standard });
    if (plan.kind === "refused") {
      if (values.json) printJson({ diagnostics: plan.diagnostics.map((one) => diagnosticJson(one, new Map())) });
      else if (plan.texts.length > 0) process.stderr.write(`${plan.texts.join("\n\n")}\n`);
      else printFindings(plan.diagnostics, new Map());
      return 1;
    }
    const content = convertedContent(gguf, plan.tensors, plan.carried, standard);
    const sink = createFile(output, ggufSize(content), gguf.weights.files);
    const progress = makeProgress("converting");
    try {
      const total = plan.tensors.reduce((sum, { tensor }) => sum + count(tensor.shape), 0);
      let done = 0;
      const pieces = convertedPieces(gguf, plan.tensors, content, {
        isChecked: values.check === "values",
        watch: ({ tensor }, added) => progress.update((done += added), total, tensor.name),
      });
      for await (const piece of pieces) {
        await setImmediate();
        if (signal.aborted) {
          process.stderr.write("interrupted; nothing was written\n");
          return 130;
        }
        sink.write(piece);
      }
      sink.commit();
    } finally {
      progress.clear();
      sink.abandon();
    }
    const report = reportOf(gguf, plan.tensors, ggufSize(content), {
      input,
      output,
      isChecked: values.check === "values",
    });
    if (values.json) printJson(report);
    else process.stdout.write(describe(report));
    const seconds = (performance.now() - startMs) / 1000;
    process.stderr.write(`${seconds.toFixed(1)} s, peak memory ${peakMib().toFixed(0)} MiB\n`);
    return 0;
  } finally {
    gguf.close();
  }
}

// --- what is wanted -------------------------------------------------------------------------------------------------

interface Wish {
  /** As it was given, for messages. */
  readonly option: string;
  readonly from: string;
  readonly to: string;
}

function wishOf(name: "type" | "storage", text: string): Wish {
  const match = /^([^=]+)=([^=]+)$/.exec(text);
  if (match === null) throw new UsageError(`--${name}: ${JSON.stringify(text)}; FROM=TO is needed, as in Q4_0=Q8_0`);
  return { option: `--${name} ${text}`, from: match[1]!, to: match[2]! };
}

interface StorageWish {
  readonly option: string;
  readonly from: Storage;
  readonly to: Storage;
  /** What files call the format. */
  readonly id: number;
}

function storagesOf(text: string, { tensors }: Program): StorageWish {
  const { option, from, to } = wishOf("storage", text);
  const all = [...tensors.values()].flatMap((tensor) =>
    tensor.storages.map((storage) => ({ kind: "tensor", tensor, storage }) as const),
  );
  const named = (name: string): Storage => {
    const found = all.find(({ tensor, storage }) => storage !== "" && `${tensor.name}.${storage}` === name);
    if (found !== undefined) return found;
    const names = all.flatMap(({ tensor, storage }) => (storage === "" ? [] : [`${tensor.name}.${storage}`]));
    const hint = didYouMean(name, names) ?? `storages are ${names.join(", ")}`;
    throw new UsageError(`--storage: there is no storage ${JSON.stringify(name)}; ${hint}`);
  };
  const [a, b] = [named(from), named(to)];
  if (a.tensor !== b.tensor)
    throw new UsageError(`--storage: ${from} and ${to} are two formats; name two storages of one`);
  const [id] = a.tensor.ids.values();
  if (id === undefined) throw new UsageError(`--storage: ${a.tensor.name} has no id in GGUF files`);
  return { option, from: a, to: b, id };
}

/**
 * The types that the file may have. An id means what ggml says, but where a type is named that other tools write under
 * the same id; and a storage is read as a type that stands for it.
 */
function readingProgram(wishes: readonly Wish[], storages: readonly StorageWish[], standard: Program): Program {
  const types = new Map<string, Type>();
  for (const { from } of wishes) {
    const type = standard.types.get(from);
    const [id] = type?.ids.values() ?? [];
    if (type !== undefined && id !== undefined && !type.ids.has("gguf"))
      types.set(from, { ...type, ids: new Map([["gguf", id]]) });
  }
  for (const { from, id } of storages) {
    const type = standIn(from, id);
    if (type === null) throw new UsageError(`--storage: ${from.tensor.name} keeps parts of a matrix in other tensors`);
    types.set(type.name, type);
  }
  // The first of an id counts.
  return { ...standard, types: new Map([...types, ...[...standard.types].filter(([name]) => !types.has(name))]) };
}

type Plan =
  | { readonly kind: "plan"; readonly tensors: readonly TensorPlan[]; readonly carried: CarriedTypes }
  /** `texts` are findings about the person's own .ladder file, each several lines. */
  | { readonly kind: "refused"; readonly diagnostics: readonly Diagnostic[]; readonly texts: readonly string[] };

function planOf(
  gguf: Gguf,
  wishes: readonly Wish[],
  storages: readonly StorageWish[],
  { typesFrom, standard }: { readonly typesFrom: string | null; readonly standard: Program },
): Plan {
  const inFile = new Map([...gguf.tensors.values()].map(({ type }) => [type.name, type]));
  const ways = new Map<string, Lossless>();
  const carried = { texts: new Map<string, string>(), types: [] as Type[] };
  const diagnostics: Diagnostic[] = [];
  for (const { option, from, to } of wishes) {
    const source = inFile.get(from);
    if (source === undefined)
      throw new UsageError(
        `--type: the file has no tensor in ${JSON.stringify(from)}; it has ${[...inFile.keys()].join(", ")}`,
      );
    if (ways.has(from)) throw new UsageError(`--type: ${from} is given twice; once is enough`);
    const found = findType(to, typesFrom, standard);
    if (found.kind === "unknown") throw new UsageError(`--type: ${found.reason}`);
    if (found.kind === "rejected") return { kind: "refused", diagnostics: [], texts: found.diagnostics };
    if (found.kind === "carried") {
      for (const [file, text] of found.texts) carried.texts.set(file, text);
      if (!carried.types.some(({ name }) => name === to)) carried.types.push(found.type);
    }
    const type = carried.types.find(({ name }) => name === to) ?? found.type;
    const result = losslessWay(source, type, standard);
    if (result.kind === "lossless") ways.set(from, result.way);
    else diagnostics.push(refusal(option, result.claim, result.refutation, to));
  }
  if (diagnostics.length > 0) return { kind: "refused", diagnostics, texts: [] };
  const plans = typePlans(gguf, ways);
  const moved = new Map<string, TensorPlan>();
  for (const { option, from, to, id } of storages) {
    const claim: Claim = {
      from,
      to,
      guarantee: "repack",
      domain: [],
      by: null,
      span: { file: option, start: 0, end: 0 },
    };
    const proof = prove(claim, standard);
    if (proof.kind === "refutation")
      return { kind: "refused", diagnostics: [refusal(option, claim, proof, from.tensor.name)], texts: [] };
    const own = [...gguf.tensors.values()].filter(({ type }) => type.name === from.tensor.name);
    if (own.length === 0) throw new UsageError(`${option}: the file has no tensor in ${from.tensor.name}`);
    for (const tensor of own) moved.set(tensor.name, storagePlan(gguf, tensor, from, to, { proof, id }));
  }
  return { kind: "plan", tensors: plans.map((plan) => moved.get(plan.tensor.name) ?? plan), carried };
}

/** A refutation as a finding about an option. */
function refusal(option: string, claim: Claim, refutation: Refutation, to: string): Diagnostic {
  const found = refutationDiagnostic({ ...claim, span: { file: option, start: 0, end: 0 } }, refutation);
  return { ...found, suggestion: `convert keeps every value; lutra quantize --type ${to} writes the nearest` };
}

// --- the summary ----------------------------------------------------------------------------------------------------

/** All that is said, in JSON's names. */
interface Report {
  readonly input: string;
  readonly output: string;
  /** Files that the model was in. */
  readonly parts: number;
  readonly bytes_before: number;
  readonly bytes_after: number;
  readonly unchanged_tensors: number;
  /** Whether each value was compared. */
  readonly checked: boolean;
  readonly changes: readonly {
    readonly from: string;
    readonly to: string;
    readonly claim: string;
    readonly proof: string;
    readonly method: string;
    readonly tensors: number;
    readonly values: number;
  }[];
}

function reportOf(
  gguf: Gguf,
  plans: readonly TensorPlan[],
  size: number,
  { input, output, isChecked }: { readonly input: string; readonly output: string; readonly isChecked: boolean },
): Report {
  const changed = plans.flatMap((plan) => (plan.way === null ? [] : [{ ...plan, way: plan.way }]));
  const proofs = new Map(changed.map(({ way }) => [way.proof.id, way.proof]));
  return {
    input,
    output,
    parts: gguf.weights.files.length,
    bytes_before: gguf.weights.files.reduce((sum, path) => sum + sizeOf(path), 0),
    bytes_after: size,
    unchanged_tensors: plans.length - changed.length,
    checked: isChecked,
    changes: [...proofs.values()].map(({ id, claim, method }) => {
      const own = changed.filter(({ way }) => way.proof.id === id);
      const [first] = own;
      const values = own.reduce((sum, { tensor }) => sum + count(tensor.shape), 0);
      return { from: first!.tensor.type.name, to: first!.name, claim, proof: id, method, tensors: own.length, values };
    }),
  };
}

function sizeOf(path: string): number {
  const file = openFile(path);
  file.close();
  return file.size;
}

function describe(report: Report): string {
  const facts = [
    ["before", `${bytes(report.bytes_before)}${report.parts > 1 ? ` in ${report.parts} parts` : ""}`],
    ["after", bytes(report.bytes_after)],
    ["as they were", `${report.unchanged_tensors} ${report.unchanged_tensors === 1 ? "tensor" : "tensors"}`],
  ];
  const rows = report.changes.map(({ claim, method, tensors, values }) => [
    tensors,
    values,
    escaped(claim),
    escaped(method),
  ]);
  const checked = report.checked ? "each value compared with what it was" : "values not compared";
  const changes = rows.length === 0 ? "" : `\n${table([["tensors", "values", "proved", "how"], ...rows])}${checked}\n`;
  return `${table(facts)}${changes}`;
}

function count(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}
