// lutra compile: kernels for a matrix product of any declared types, as text with a manifest, in a folder of one's own.
// Files appear whole, the manifest last, and none before all are written; those of these names that are there are
// replaced, as compilers do.
// Not here: the kernels (ladder/emit/compile.ts).

import { createHash } from "node:crypto";
import { mkdirSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import process from "node:process";

import { FileError, shaderTexts } from "../files.ts";
import {
  compile as compileProduct,
  type CompileRequest,
  type CompileTarget,
  type Manifest,
} from "../ladder/emit/compile.ts";
import { resolveProgram } from "../ladder/resolve.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { bytes } from "./figures.ts";
import { printFindings } from "./findings.ts";
import { writeAll } from "./folder.ts";
import { lmmaProduct } from "./lmma.ts";
import { named, PRODUCT_OPTIONS, productNamed, readTexts } from "./program.ts";
import { escaped, printJson } from "./terminal.ts";

const OPTIONS = {
  type: { kind: "text", about: "number type of the weights, such as Q4_0" },
  ...PRODUCT_OPTIONS,
  target: { kind: "choice", about: "what is written", choices: ["wgsl", "cpu", "lmma"], fallback: "wgsl" },
  device: { kind: "text", about: "machine, as a device of a .ladder file names it" },
  method: {
    kind: "choice",
    about: "how weights and activations meet",
    choices: ["auto", "decode", "dot", "lookup"],
    fallback: "auto",
  },
  output: { kind: "text", about: "folder for the files; made if it is not there", short: "o" },
  json: { kind: "flag", about: "the manifest as one JSON object on stdout too" },
} as const;

/** The machine whose description decides where --device names none. */
const DEVICES: Readonly<Record<CompileTarget, string>> = {
  wgsl: "webgpu",
  cpu: "x86_avx2",
  lmma: "lut_tensor_core",
};

export const compile: Command = command({
  name: "compile",
  usage: ["compile [file.ladder] --type name -o folder [options]"],
  about: [
    "Writes a kernel for out(m,n) = activations(m,k) . weights(n,k)^T, both sides in any declared type: those",
    "that come with Lutra, and those of a .ladder file of yours. wgsl is a module for WebGPU, cpu a C++17 text",
    "without headers of its own, lmma the data that a machine of table lookups needs, with programs in assembly",
    "for the product after a norm, where k is a multiple of 16. manifest.json says what is computed, what rounds",
    "where and by how much at most, which proofs that rests on, the buffers with their layouts, how a file's bytes",
    "become a packed layout, and how the kernel is called. Methods: decode turns values into floats, dot multiplies",
    "integer codes, lookup takes sums of activations from tables; auto is what the scheduler finds best for the",
    "machine (lutra explain says why). Files that are there already are replaced.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra compile --type Q4_0 -o q4", "F16 activations, one row, WGSL"],
    ["lutra compile --type Q4_0 --activation Q8_0 --target cpu -o q4q8", "integer products in C++"],
    ["lutra compile --type TQ2_0 --method lookup -o ternary", "tables of activations"],
    ["lutra compile mine.ladder --type Mine --target lmma -o mine", "a type of yours, for LMMA"],
  ],
  positionals: 1,
  run: compileKernel,
});

// oxlint-disable-next-line require-await -- every command is asynchronous
async function compileKernel(values: Values<typeof OPTIONS>, [path]: readonly string[]): Promise<number> {
  if (values.output === null) throw new UsageError("-o: no value; name the folder that the files shall lie in");
  const { texts } = readTexts(path === undefined ? [] : [path]);
  const resolution = resolveProgram(texts);
  if (resolution.kind === "rejected") {
    printFindings(resolution.diagnostics, texts);
    return 1;
  }
  const { program } = resolution;
  const target = values.target as CompileTarget;
  const request: CompileRequest = {
    ...productNamed(values, program),
    target,
    device: named("device", values.device ?? DEVICES[target], program.devices),
    method: values.method === "auto" ? null : (values.method as Manifest["method"]),
    program,
  };
  const compiled = compileProduct(request, target === "wgsl" ? shaderTexts() : new Map());
  if (compiled.kind === "refused") throw new Error(compiled.reason);
  const programs = target === "lmma" ? (lmmaProduct(request, request.device)?.texts ?? []) : [];
  const files = [...compiled.files, ...programs];
  const manifest = {
    ...compiled.manifest,
    files: files.map(({ name, text }) => ({
      name,
      bytes: Buffer.byteLength(text),
      sha256: createHash("sha256").update(text).digest("hex"),
    })),
  };
  makeFolder(values.output);
  const written = [...files, { name: "manifest.json", text: `${JSON.stringify(manifest, null, 2)}\n` }];
  writeAll(values.output, written, path === undefined ? [] : [path]);
  if (values.json) printJson(manifest);
  else
    process.stdout.write(
      summary(
        manifest,
        values.output,
        written.map(({ name }) => name),
      ),
    );
  return 0;
}

/** Makes a folder and those above it. One by one, since Node's own recursion never ends in some places, as in /proc. */
function makeFolder(path: string): void {
  const isFolder = (at: string): boolean => statSync(at, { throwIfNoEntry: false })?.isDirectory() === true;
  try {
    const missing: string[] = [];
    for (let at = resolve(path); !isFolder(at); at = dirname(at)) missing.unshift(at);
    for (const folder of missing) mkdirSync(folder);
  } catch (error) {
    const code = codeOf(error);
    const why =
      code === "EEXIST" || code === "ENOTDIR"
        ? "there is a file of that name; name a folder"
        : `no folder can be made there (${code})`;
    throw new FileError(`${path}: ${why}`, { cause: error });
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : String(error);
}

/** What has been compiled, for people. */
function summary(
  { gemm, method, schedule, guarantee, sizes, proofs }: Manifest,
  folder: string,
  names: readonly string[],
): string {
  const { activation, weight, accumulate, out, m, n, k } = gemm;
  const plan =
    schedule === null
      ? ""
      : `, that of the plan ${schedule.name} (estimated ${(schedule.time_ns / 1000).toFixed(1)} us); tiles and layout are the kernel's own`;
  const { relative_error: relative, absolute_error: absolute, absolute_magnitude: size } = guarantee;
  // Some multiples of the least normal number, by which sums of ordinary size are not told apart, are in the manifest
  // alone; not so what the operands multiply.
  const small = size === "1" ? "" : `${absolute.toExponential(1)} (${size}) + `;
  const error =
    relative === 0 ? "exact" : `error at most ${small}${relative.toExponential(1)} of ${guarantee.magnitude}`;
  // The bound is that of the sum; what the result loses on top of it stands with its element.
  const stored = out === accumulate ? "" : `, before the sum goes to ${guarantee.out}`;
  const lines = [
    `out(${m},${n}) in ${out} = ${activation}(${m},${k}) . ${weight}(${n},${k})^T, summed in ${accumulate}`,
    `method ${method}${plan}`,
    `${guarantee.text}; ${error}${stored}`,
    `weights ${bytes(sizes.weights)}, activations ${bytes(sizes.activations)}, out ${bytes(sizes.out)}`,
    ...proofs.map(({ id, claim }) => `proof ${id}  ${claim}`),
    `written: ${names.map((name) => join(folder, name)).join(", ")}`,
  ];
  return lines.map((line) => `${escaped(line)}\n`).join("");
}
