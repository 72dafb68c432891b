// The LMMA machine on the command line: text and counts of a run, perplexity, programs of a matrix, traffic that is saved.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { describe, expect, test } from "vitest";

import { assemble } from "../../src/lutcore/asm.ts";
import { lavapipe } from "../gpu.ts";
import { embeddedModel, testWith } from "../oracle/oracle.ts";
import { folder, lutra, place } from "./lutra.ts";

const RUN = ["run", "Emma was not", "--temperature", "0", "--max-tokens", "4"];

describe("run", () => {
  test("generates text, and prints what each block did to stderr", () => {
    const { code, out, err } = lutra([...RUN, "--device", "lmma"]);
    expect(code, err).toBe(0);
    expect(out).toBe(lutra([...RUN, "--device", "reference"]).out);
    const lines = err.split("\n");
    expect(lines[0]).toMatch(/^ +launches +instructions +tables +lookups +passes +products +read +written +shared$/);
    expect(lines.slice(1, 9).map((line) => line.split(" ")[0])).toEqual([
      ...Array.from({ length: 6 }, (_, block) => `blk.${block}`),
      "others",
      "all",
    ]);
    expect(lines[9]).toMatch(/, lmma paper, int8 activations, exact tables, 1 thread$/);
  });

  test("with --json has the counts of each op, which are those of the table", () => {
    const { out, err } = lutra([...RUN, "--device", "lmma", "--json", "--mode", "rtl", "--act", "fp16"]);
    const { work, isa, text } = JSON.parse(out);
    expect(err).not.toContain("launches");
    expect(isa).toBe("rtl, fp16 activations, exact tables");
    expect(text).not.toBe("");
    const first = work.find(({ op }: { op: string }) => op === "attn_q");
    // A step for the prompt, of 4 tokens in a tile of 4 rows, and one for each of 3 tokens more: 256 x 256 ternary weights.
    expect(first).toMatchObject({ block: "blk.0", kind: "lookups", launches: 4 });
    expect(first.counts.lookups).toBe((4 + 3) * 256 * (256 / 4) * 2);
    expect(first.counts.instructions.lmma).toBe(4 * (256 / 64));
  });
});

testWith(await lavapipe(), "run: a GPU runs the same programs, with the same text and counts", () => {
  // The other driver of the tests would be taken before this one, and is far slower.
  const driver = process.env["VK_DRIVER_FILES"]?.split(":").find((path) => path.includes("lvp_icd"));
  const on = (device: string): { text: string; device: string; isa: string; work: unknown } => {
    const env = driver === undefined ? {} : { VK_DRIVER_FILES: driver };
    const { code, out, err } = lutra([...RUN, "--json", "--device", device], { env });
    expect(code, err).toBe(0);
    return JSON.parse(out);
  };
  const [here, there] = [on("lmma"), on("lmma-gpu")];
  expect(there).toMatchObject({ text: here.text, device: "lmma-gpu", work: here.work });
  expect(there.isa.startsWith(`${here.isa}, `)).toBe(true);
});

test("run: where no driver answers, the device lmma-gpu says what to install", () => {
  // A list of drivers that is empty, as where none is installed; Dawn says so beside.
  const env = { VK_DRIVER_FILES: place("no-driver.json", "{}"), VK_ICD_FILENAMES: "" };
  const { code, out, err } = lutra([...RUN, "--device", "lmma-gpu"], { env });
  expect([code, out]).toEqual([1, ""]);
  expect(err.trimEnd().split("\n").at(-1)).toBe(
    "lutra: device lmma-gpu: no adapter: no Vulkan, Metal or D3D12 driver answers; Debian and Ubuntu: apt-get install " +
      "mesa-vulkan-drivers libvulkan1, which compute on the CPU where there is no GPU",
  );
});

describe("options that would have no effect are refused before the model is read", () => {
  const model = place("no-model.gguf", "not a model");
  const text = place("some.txt", "It was a very fine evening.");
  const [onCpu, onLmma] = ["it is for cpu", "it is for lmma, lmma-gpu"];

  test.each([
    ["cpu", ["--mode", "rtl"], `--mode rtl: no effect with --device cpu; ${onLmma}`],
    ["cpu", ["--act", "int8"], `--act int8: no effect with --device cpu; ${onLmma}`],
    ["auto", ["--act", "fp16"], `--act fp16: no effect with --device auto; ${onLmma}`],
    ["reference", ["--mode", "paper"], `--mode paper: no effect with --device reference; ${onLmma}`],
    [
      "reference",
      ["--tables", "exact"],
      "--tables exact: no effect with --device reference; it is for cpu, lmma, lmma-gpu",
    ],
    ["reference", ["--threads", "1"], `--threads 1: no effect with --device reference; ${onCpu}`],
    ["gpu", ["--mode", "ideal"], `--mode ideal: no effect with --device gpu; ${onLmma}`],
    ["gpu", ["--isa", "avx2"], `--isa avx2: no effect with --device gpu; ${onCpu}`],
    ["lmma", ["--isa", "avx2"], `--isa avx2: no effect with --device lmma; ${onCpu}`],
    ["lmma", ["--threads", "2"], `--threads 2: no effect with --device lmma; ${onCpu}`],
    ["lmma", ["--fast-aggregation", "4"], `--fast-aggregation 4: no effect with --device lmma; ${onCpu}`],
    ["lmma-gpu", ["--threads", "2"], `--threads 2: no effect with --device lmma-gpu; ${onCpu}`],
    [
      "lmma-gpu",
      ["--mode", "ideal"],
      "--mode ideal: not with --device lmma-gpu: it needs numbers that are wider than a GPU's; --mode paper or rtl, or --device lmma",
    ],
    [
      "auto",
      ["--tables", "int8-table"],
      "--tables int8-table: not with --device auto: its kernels have one scale for 8 tables; --tables int8-group, or --device lmma",
    ],
    [
      "cpu",
      ["--tables", "exact", "--fast-aggregation", "2"],
      "--fast-aggregation 2: no effect with --tables exact, where nothing is looked up",
    ],
  ])("%s, %j", (device, options, message) => {
    const wrong = { code: 2, out: "", err: `lutra: ${message}\n` };
    expect(lutra(["run", model, "x", "--device", device, ...options])).toEqual(wrong);
    expect(lutra(["eval", "perplexity", model, text, "--device", device, ...options])).toEqual(wrong);
  });

  test("--no-tune, which only run has", () => {
    expect(lutra(["run", model, "x", "--device", "lmma", "--no-tune"])).toEqual({
      code: 2,
      out: "",
      err: `lutra: --no-tune: no effect with --device lmma; ${onCpu}\n`,
    });
  });

  test("and auto is the CPU where one is given that is the CPU's", () => {
    const { code, out, err } = lutra([...RUN, "--json", "--isa", "scalar", "--threads", "1", "--tables", "exact"]);
    expect(code, err).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ device: "cpu", isa: "scalar", threads: 1 });
  });
});

test("eval: perplexity on the machine is that of the CPU's int8 products to three digits", () => {
  const text = place("text.txt", "It was a very fine evening, and they walked to the village before tea. ".repeat(12));
  const on = (...device: string[]): number => {
    const args = [
      "eval",
      "perplexity",
      embeddedModel,
      text,
      "--ctx",
      "32",
      "--tokens",
      "64",
      "--json",
      "--tables",
      "exact",
    ];
    const { out, err, code } = lutra([...args, ...device]);
    expect(code, err).toBe(0);
    return JSON.parse(out).perplexity;
  };
  const cpu = on("--device", "cpu", "--isa", "scalar");
  expect(Math.abs(on("--device", "lmma") / cpu - 1)).toBeLessThan(0.005);
});

test("compile --target lmma writes programs that assemble, and that the manifest lists", () => {
  const out = join(folder, "q4");
  const { code, err } = lutra(["compile", "--type", "Q4_0", "--n", "512", "--k", "512", "--target", "lmma", "-o", out]);
  expect(code, err).toBe(0);
  const { files } = JSON.parse(readFileSync(join(out, "manifest.json"), "utf8"));
  expect(files.map(({ name }: { name: string }) => name)).toEqual(["norm-and-tables.lmma", "product.lmma"]);
  for (const { name } of files) {
    const text = readFileSync(join(out, name), "utf8");
    const assembled = assemble(text);
    expect(assembled.kind, name).toBe("program");
    if (assembled.kind !== "program") continue;
    const kinds = assembled.program.code.map((i) => i.kind);
    expect(kinds.includes("lut")).toBe(name === "norm-and-tables.lmma");
    expect(kinds.includes("lmma")).toBe(name === "product.lmma");
  }
});

test("explain shows what the split and the fusion save", () => {
  const args = ["explain", "--type", "Q4_0", "--device", "lut_tensor_core", "--m", "1"];
  const { out } = lutra([...args, "--top", "0"]);
  const { lmma } = JSON.parse(lutra([...args, "--json"]).out);
  expect(lmma.map(({ kind }: { kind: string }) => kind)).toEqual(["repeated", "split", "fused"]);
  const [repeated, split, fused] = lmma;
  const moved = ({ read, written }: { read: number; written: number }): number => read + written;
  // A table for each four of 4096 activations; activations of 16 bits are neither stored nor loaded where norms make tables.
  expect([split.tables, fused.tables, moved(split) - moved(fused)]).toEqual([1024, 1024, 2 * 2 * 4096]);
  expect(out.trimEnd().split("\n").at(-1)).toBe(
    `the split saves ${repeated.tables - 1024} tables and saves ${moved(repeated) - moved(split)} bytes; ` +
      "the fusion saves 16384 bytes",
  );
  expect(lutra(["explain", "--type", "Q4_0", "--device", "x86_avx2"]).out).not.toContain("LMMA");
});
