// The package as its users get it: packed, installed into an empty folder without development or optional
// packages, and run; then the same without its binary, as on a machine that has no compiler, and built again there.

import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const root = fileURLToPath(new URL("../", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "lutra-package-"));
const installed = join(folder, "node_modules/lutra");
const binary = join(installed, `build/lutra-${process.platform}-${process.arch}.node`);

/** Uses what most programs use. Where a type were `any`, an expected error would not come, which is one itself. */
const PROGRAM = `
import { FileError, type Generated, generate, load, type Model, ModelError, open, type Session } from "lutra";

export async function continued(path: string): Promise<string> {
  const model: Model = load(path, { context: 64 });
  const backend = await open("auto", { threads: 1 });
  if ("unavailable" in backend) throw new Error(backend.unavailable);
  const session: Session = await backend.prepare(model.plan, model.weights);
  const tokenizer = await model.tokenizer();
  const prompt: Int32Array = tokenizer.encode("Emma was not", { special: false });
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repeatPenalty: 1, seed: 1n };
  const options = { sampling, maxTokens: 8, stop: [], context: model.plan.cache.context };
  let text = "";
  let end: Generated | null = null;
  for await (const event of generate(session, tokenizer, prompt, options))
    if (event.kind === "text") text += event.text;
    else if (event.kind === "end") end = event;
  await session[Symbol.asyncDispose]();
  await backend[Symbol.asyncDispose]();
  model.close();
  return \`\${text.trim()} \${end?.reason} \${end?.tokens.length}\`;
}

export function reason(error: unknown): string {
  return error instanceof ModelError ? error.field : error instanceof FileError ? error.message : "another";
}

export const wrong = [
  // @ts-expect-error -- a path is a text
  () => load(1),
  // @ts-expect-error -- there is no such option
  () => load("x.gguf", { contxt: 64 }),
];
`;

function run(
  command: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): { status: number | null; out: string; err: string } {
  const result = spawnSync(command, args, {
    cwd: folder,
    encoding: "utf8",
    env: { ...process.env, ...env },
    timeout: 240_000,
  });
  return { status: result.status, out: result.stdout, err: result.stderr };
}

function megabytes(path: string): number {
  const bytes = (at: string): number => {
    const info = statSync(at);
    return info.isDirectory() ? readdirSync(at).reduce((sum, name) => sum + bytes(join(at, name)), 0) : info.size;
  };
  return bytes(path) / 1e6;
}

describe("the packed package", () => {
  let files: readonly string[] = [];

  beforeAll(() => {
    const packed = spawnSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], {
      cwd: root,
      encoding: "utf8",
    });
    const [info] = JSON.parse(packed.stdout) as [{ filename: string; files: { path: string }[] }];
    files = info.files.map((file) => file.path);
    writeFileSync(join(folder, "package.json"), '{ "name": "user", "private": true }');
    const install = run("npm", [
      "install",
      "--omit=dev",
      "--omit=optional",
      "--no-audit",
      "--no-fund",
      join(folder, info.filename),
    ]);
    expect(install.status, install.err).toBe(0);
  });

  afterAll(() => rmSync(folder, { recursive: true }));

  test("carries code, types, declarations, model, binary and sources, and nothing of the tests", () => {
    for (const path of [
      "dist/src/index.js",
      "dist/src/index.d.ts",
      "dist/src/app/cli.js",
      "dsl/gguf.ladder",
      "LICENSE",
      "NOTICE",
      "README.md",
    ])
      expect(files).toContain(path);
    expect(files).toContain("models/austen-5m-ternary.gguf");
    expect(files).toContain(`build/lutra-${process.platform}-${process.arch}.node`);
    expect(files).toContain("src/cpu/native/addon.cpp");
    expect(files.filter((path) => path.startsWith("test/") || path.includes("node_modules"))).toEqual([]);
  });

  test("takes less than 60 MB with everything it needs", () => {
    const size = megabytes(join(folder, "node_modules"));
    expect(size).toBeGreaterThan(1);
    expect(size).toBeLessThan(60);
  });

  test("gives a working npx lutra", () => {
    const { status, out, err } = run("npx", [
      "lutra",
      "run",
      "Emma was not",
      "--max-tokens",
      "8",
      "--temperature",
      "0",
      "--json",
    ]);
    expect(status, err).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ tokens: 8, device: "cpu" });
  });

  test("is used by a strict TypeScript program, whose compiler needs no types of Node or of a browser", () => {
    writeFileSync(join(folder, "use.mts"), PROGRAM);
    writeFileSync(
      join(folder, "tsconfig.json"),
      JSON.stringify({
        compilerOptions: {
          strict: true,
          exactOptionalPropertyTypes: true,
          noUncheckedIndexedAccess: true,
          skipLibCheck: false,
          module: "nodenext",
          target: "es2022",
          lib: ["es2022"],
          types: [],
        },
        files: ["use.mts"],
      }),
    );
    const compiled = run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", folder]);
    expect([compiled.status, compiled.out]).toEqual([0, ""]);
    writeFileSync(
      join(folder, "main.mjs"),
      `import { continued } from "./use.mjs";
       console.log(await continued(${JSON.stringify(join(installed, "models/austen-5m-ternary.gguf"))}));`,
    );
    const { out, err } = run(process.execPath, ["main.mjs"]);
    expect(err).toBe("");
    expect(out).toMatch(/^\S.* length 8\n$/);
  });

  describe("on a machine without a C++ compiler", () => {
    const aside = `${binary}.aside`;
    // A PATH with node and npm alone.
    const PATH = mkdtempSync(join(tmpdir(), "lutra-path-"));

    beforeAll(() => {
      renameSync(binary, aside);
      cpSync(process.execPath, join(PATH, "node"));
    });

    afterAll(() => {
      rmSync(binary, { force: true });
      renameSync(aside, binary);
      rmSync(PATH, { recursive: true });
    });

    test("installing succeeds and says what is missing", () => {
      const { status, err } = run(join(PATH, "node"), [join(installed, "src/cpu/native/build.mjs"), "--if-needed"], {
        PATH,
        CXX: "",
      });
      expect(status).toBe(0);
      expect(err).toBe(
        "lutra: the native CPU backend was not built: no C++ compiler found; install one (Debian and Ubuntu: apt-get install g++) and run `npm rebuild lutra`.\n" +
          "lutra: models will run on the slow reference backend until it is (`lutra doctor` says how).\n",
      );
    });

    test("the reference backend runs the model, and every run says why it is slow", () => {
      const { status, out, err } = run("npx", [
        "lutra",
        "run",
        "Emma was not",
        "--max-tokens",
        "4",
        "--temperature",
        "0",
        "--json",
      ]);
      expect(status, err).toBe(0);
      expect(JSON.parse(out)).toMatchObject({ tokens: 4, device: "reference" });
      expect(err).toContain("the native CPU backend is not built: install a C++20 compiler");
    });

    test("with a compiler, npm rebuild builds it from source", () => {
      const { status, err } = run("npm", ["rebuild", "lutra"], {
        PATH: `${dirname(process.execPath)}${delimiter}${process.env["PATH"]}`,
      });
      expect(status, err).toBe(0);
      const after = run("npx", ["lutra", "run", "Emma was not", "--max-tokens", "4", "--temperature", "0", "--json"]);
      expect(JSON.parse(after.out)).toMatchObject({ device: "cpu" });
    });
  });
});
