// Yosys as Lutra runs it: the package @yowasp/yosys in a thread, for it blocks its event loop, or the program on PATH;
// at most two at once, with a limit of time, progress and a signal to stop. Results are kept in the person's cache.
// This file alone of sim/ touches files, processes and threads. Not here: what Yosys is told (script.ts), what a netlist
// is (netlist.ts).

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";

import { writeLiberty } from "./liberty.ts";
import type { Library } from "./library.ts";
import { FILES, gatesScript, type Flow, mapFiles, proofScript, type Source, synthesisScript } from "./script.ts";

/** Yosys could not do what it was told: its own words, or that it took too long. */
export class SynthesisError extends Error {
  override readonly name = "SynthesisError";
}

/** What is missing, and the command that gets it. */
export interface Unavailable {
  readonly unavailable: string;
}

/** A Yosys that can be run. */
export interface Yosys {
  /** As it states itself; areas differ by up to a fifth between versions. */
  readonly version: string;
  /** Runs a script over files; the files afterwards that `wanted` names, and what it printed. */
  run(job: Job): Promise<Output>;
}

interface Job {
  readonly script: string;
  readonly files: Readonly<Record<string, string>>;
  readonly wanted: readonly string[];
  readonly limits: Limits;
}

interface Output {
  readonly files: Readonly<Record<string, string>>;
  readonly log: string;
}

/** How long Yosys may take, and what is told meanwhile. */
export interface Limits {
  readonly timeMs: number;
  /** Aborted: Yosys is stopped, and the reason of the signal is thrown. */
  readonly signal: AbortSignal | null;
  /** Called as each command of the script begins: its pass, its number from 1, and of how many. */
  readonly progress: ((pass: string, index: number, of: number) => void) | null;
}

/** Ten minutes; nothing is told. */
export const USUAL_LIMITS: Limits = { timeMs: 600_000, signal: null, progress: null };

/** A netlist with everything that it follows from. */
export interface Netlisted {
  /** Yosys's JSON, one flat module. */
  readonly netlist: string;
  /** The same as Verilog; empty for unmapped gates. */
  readonly mapped: string;
  readonly version: string;
  /** SHA-256, hexadecimal. */
  readonly hashes: { readonly design: string; readonly script: string; readonly library: string };
  readonly cached: boolean;
}

// ---------------------------------------------------------------------------------------------------- which Yosys

/** The package, or the program where `native` asks for it or the package is absent. */
export async function openYosys(native: boolean): Promise<Yosys | Unavailable> {
  if (!native) {
    const packaged = await packagedYosys();
    if (packaged !== null) return packaged;
  }
  const version = await versionOfProgram();
  if (version !== null) return { version, run: (job) => atMostTwo(() => runProgram(job)) };
  return {
    unavailable: native
      ? "no yosys on PATH; install it, as with: apt-get install yosys"
      : "neither the package @yowasp/yosys nor yosys on PATH; get one with: npm install @yowasp/yosys",
  };
}

async function packagedYosys(): Promise<Yosys | null> {
  let url: string;
  let version: string;
  try {
    url = pathToFileURL(createRequire(import.meta.url).resolve("@yowasp/yosys")).href;
    const loaded = (await import(url)) as { readonly version: string };
    version = `Yosys ${loaded.version} (@yowasp/yosys)`;
  } catch {
    return null;
  }
  return { version, run: (job) => atMostTwo(() => runThread(url, job)) };
}

function versionOfProgram(): Promise<string | null> {
  return new Promise((resolve) => {
    const child = spawn("yosys", ["-V"], { stdio: ["ignore", "pipe", "ignore"] });
    let out = "";
    child.stdout.on("data", (part: Buffer) => (out += String(part)));
    child.on("error", () => resolve(null));
    child.on("close", (code) => resolve(code === 0 ? (/Yosys \S+/.exec(out)?.[0] ?? null) : null));
  });
}

// ---------------------------------------------------------------------------------------------------------- running

/** Each needs some 350 MB. */
const MAX_AT_ONCE = 2;
let running = 0;
const waiting: (() => void)[] = [];

async function atMostTwo<T>(work: () => Promise<T>): Promise<T> {
  if (running >= MAX_AT_ONCE) await new Promise<void>((resolve) => waiting.push(resolve));
  else running++;
  try {
    return await work();
  } finally {
    const next = waiting.shift();
    if (next === undefined) running--;
    else next();
  }
}

/**
 * The thread: plain JavaScript, since a thread begins with a file as Node reads it, and the sources are run as they are
 * in tests. It posts each piece that Yosys prints, then the files or the failure.
 */
const THREAD = `
const { parentPort, workerData } = require("node:worker_threads");
const decoder = new TextDecoder();
const print = (bytes) => { if (bytes) parentPort.postMessage({ text: decoder.decode(bytes, { stream: true }) }); };
import(workerData.url)
  .then(({ runYosys }) => runYosys(["-s", "script.ys"], workerData.files, { stdout: print, stderr: print }))
  .then((files) => parentPort.postMessage({ files }), (error) => parentPort.postMessage({ failed: String(error) }));
`;

type Message =
  | { readonly text: string }
  | { readonly files: Readonly<Record<string, string | Uint8Array | object>> }
  | { readonly failed: string };

function runThread(url: string, { script, files, wanted, limits }: Job): Promise<Output> {
  limits.signal?.throwIfAborted();
  const workerData = { url, files: { ...files, "script.ys": script } };
  const worker = new Worker(THREAD, { eval: true, workerData });
  const log = new Log(limits.progress, script);
  const ended = new Promise<Output>((resolve, reject) => {
    worker.on("message", (message: Message) => {
      if ("text" in message) log.add(message.text);
      else if ("failed" in message) reject(log.failure(message.failed));
      else {
        const text = (name: string): string => {
          const content = message.files[name];
          return typeof content === "string"
            ? content
            : content instanceof Uint8Array
              ? new TextDecoder().decode(content)
              : "";
        };
        resolve({ files: Object.fromEntries(wanted.map((name) => [name, text(name)])), log: log.text });
      }
    });
    worker.on("error", (error) => reject(log.failure(String(error))));
    worker.on("exit", () => reject(log.failure("its thread ended")));
  });
  return within(limits, ended, () => void worker.terminate()).finally(() => void worker.terminate());
}

function runProgram({ script, files, wanted, limits }: Job): Promise<Output> {
  limits.signal?.throwIfAborted();
  const folder = mkdtempSync(join(tmpdir(), "lutra-yosys-"));
  for (const [name, text] of Object.entries({ ...files, "script.ys": script })) writeFileSync(join(folder, name), text);
  const log = new Log(limits.progress, script);
  const child = spawn("yosys", ["-s", "script.ys"], { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  const ended = new Promise<Output>((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (part: Buffer) => log.add(String(part)));
    child.on("error", (error) => reject(log.failure(String(error))));
    child.on("close", (code) => {
      if (code !== 0) reject(log.failure(`exit code ${code}`));
      else
        resolve({
          files: Object.fromEntries(wanted.map((n) => [n, readFileSync(join(folder, n), "utf8")])),
          log: log.text,
        });
    });
  });
  return within(limits, ended, () => child.kill("SIGKILL")).finally(() =>
    rmSync(folder, { recursive: true, force: true }),
  );
}

/** The promise, unless the time is up or the signal says stop. */
async function within<T>({ timeMs, signal }: Limits, ended: Promise<T>, stop: () => void): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let abort: (() => void) | undefined;
  const cut = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(
        new SynthesisError(
          `Yosys took more than ${timeMs / 1000} s and was stopped; allow it more, or make the design smaller`,
        ),
      );
      stop();
    }, timeMs);
    abort = () => {
      reject(signal?.reason as Error);
      stop();
    };
    signal?.addEventListener("abort", abort);
  });
  try {
    return await Promise.race([ended, cut]);
  } finally {
    clearTimeout(timer);
    if (abort !== undefined) signal?.removeEventListener("abort", abort);
    ended.catch(() => undefined); // it fails as well where it has been cut
  }
}

/** What Yosys prints: the end of it is kept, and the passes are told. */
class Log {
  text = "";
  #line = "";
  readonly #progress: Limits["progress"];
  readonly #commands: number;
  static readonly #KEPT = 2 ** 20;

  constructor(progress: Limits["progress"], script: string) {
    this.#progress = progress;
    this.#commands = script.trim().split("\n").length;
  }

  add(text: string): void {
    this.text = (this.text + text).slice(-Log.#KEPT);
    const lines = (this.#line + text).split("\n");
    this.#line = (lines.pop() ?? "").slice(-4096);
    for (const line of lines) {
      const pass = /^(\d+)\. Executing (\w+)/.exec(line);
      if (pass !== null) this.#progress?.(pass[2]!, Number(pass[1]), this.#commands);
    }
  }

  failure(how: string): SynthesisError {
    const said = this.text.split("\n").filter((line) => line.includes("ERROR: "));
    const why =
      said.length > 0 ? said.at(-1)!.trim() : `${how}; the last of its log: ${this.text.trim().split("\n").at(-1)}`;
    return new SynthesisError(`Yosys: ${why}`, { cause: new Error(this.text.slice(-4000)) });
  }
}

// ----------------------------------------------------------------------------------------------------- what it does

/**
 * Maps Verilog to the library's cells.
 * @param cache folder of kept results, or null for none
 * @throws SynthesisError where Yosys refuses the design or takes too long
 */
export function synthesise(
  yosys: Yosys,
  source: Source,
  library: Library,
  flow: Flow,
  limits: Limits,
  cache: string | null,
): Promise<Netlisted> {
  const liberty = writeLiberty(library);
  return cached(yosys, source, liberty, synthesisScript(source, flow), mapFiles(library), limits, cache);
}

/** The design in Yosys's own gates, before any library; as `synthesise` otherwise. */
export function toGates(yosys: Yosys, source: Source, limits: Limits, cache: string | null): Promise<Netlisted> {
  return cached(yosys, source, "", gatesScript(source), {}, limits, cache);
}

/** How many points were compared, and how many of them proven equal. */
export interface Proof {
  readonly proven: number;
  readonly unproven: number;
}

/**
 * Proves a mapped netlist equal to the Verilog that it was made of, by induction over all inputs and states.
 * @throws SynthesisError where Yosys cannot read one of them
 */
export async function proveEqual(
  yosys: Yosys,
  source: Source,
  library: Library,
  mapped: string,
  limits: Limits,
): Promise<Proof> {
  const files = { [FILES.design]: source.verilog, [FILES.library]: writeLiberty(library), [FILES.mapped]: mapped };
  const { log } = await yosys.run({ script: proofScript(source), files, wanted: [], limits });
  const counts = /Of those cells (\d+) are proven and (\d+) are unproven/.exec(log);
  if (counts === null) throw new SynthesisError(`Yosys: no result of the proof in its log: ${log.slice(-200)}`);
  return { proven: Number(counts[1]), unproven: Number(counts[2]) };
}

async function cached(
  yosys: Yosys,
  source: Source,
  liberty: string,
  script: string,
  maps: Readonly<Record<string, string>>,
  limits: Limits,
  cache: string | null,
): Promise<Netlisted> {
  const hashes = {
    design: sha256(source.verilog),
    script: sha256(JSON.stringify([script, maps])),
    library: sha256(liberty),
  };
  const key = sha256(JSON.stringify([hashes, source.top, yosys.version]));
  const known = cache === null ? null : readKept(cache, key);
  if (known !== null) return { ...known, version: yosys.version, hashes, cached: true };
  const { files } = await yosys.run({
    script,
    files: { ...maps, [FILES.design]: source.verilog, ...(liberty === "" ? {} : { [FILES.library]: liberty }) },
    wanted: liberty === "" ? [FILES.netlist] : [FILES.netlist, FILES.mapped],
    limits,
  });
  const made: Kept = { netlist: files[FILES.netlist] ?? "", mapped: files[FILES.mapped] ?? "" };
  if (cache !== null) keepResult(cache, key, made);
  return { ...made, version: yosys.version, hashes, cached: false };
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

// ------------------------------------------------------------------------------------------------------------ cache

type Kept = Pick<Netlisted, "netlist" | "mapped">;

/** Where results are kept, as the XDG base directory specification has it. */
export function cacheFolder(): string {
  const cache = process.env["XDG_CACHE_HOME"];
  return join(cache?.startsWith("/") ? cache : join(homedir(), ".cache"), "lutra", "synthesis");
}

/** A kept result; null where there is none, or its text is not what was written. */
function readKept(folder: string, key: string): Kept | null {
  try {
    const known: unknown = JSON.parse(readFileSync(join(folder, `${key}.json`), "utf8"));
    if (typeof known !== "object" || known === null) return null;
    const { netlist, mapped, check } = known as Record<string, unknown>;
    if (typeof netlist !== "string" || typeof mapped !== "string") return null;
    return check === sha256(`${key}\n${netlist}\n${mapped}`) ? { netlist, mapped } : null;
  } catch {
    return null;
  }
}

/** A result that cannot be kept is no error: it is made again. */
function keepResult(folder: string, key: string, { netlist, mapped }: Kept): void {
  const file = join(folder, `${key}.json`);
  const temporary = `${file}.${process.pid}.${crypto.randomUUID().slice(0, 8)}`;
  try {
    mkdirSync(folder, { recursive: true });
    writeFileSync(temporary, JSON.stringify({ netlist, mapped, check: sha256(`${key}\n${netlist}\n${mapped}`) }));
    renameSync(temporary, file);
  } catch {
    rmSync(temporary, { force: true });
  }
}
