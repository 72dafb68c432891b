// Builds the native CPU backend with the C++ compiler at hand: no Python, no gyp, nothing downloaded (Node's
// headers come from the package node-api-headers). Run by `npm install`; a failure there is not fatal, since the
// reference backend runs every model, and `lutra doctor` repeats what is missing.
//   node src/cpu/native/build.mjs [--if-needed]
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "../../..");
const output = join(root, "build", `lutra-${process.platform}-${process.arch}.node`);
const require = createRequire(import.meta.url);
const ifNeeded = process.argv.includes("--if-needed");

function fail(message) {
  console.error(`lutra: the native CPU backend was not built: ${message}`);
  console.error("lutra: models will run on the slow reference backend until it is (`lutra doctor` says how).");
  process.exit(ifNeeded ? 0 : 1);
}

function loads(file) {
  try {
    require(file);
    return true;
  } catch {
    return false;
  }
}

const sources = readdirSync(here).filter((name) => name.endsWith(".cpp"));
const newest = Math.max(...readdirSync(here).map((name) => statSync(join(here, name)).mtimeMs));
const isCheckout = existsSync(join(root, ".git"));
if (existsSync(output) && loads(output) && (ifNeeded && !isCheckout ? true : statSync(output).mtimeMs >= newest))
  process.exit(0);

const compiler = [process.env.CXX, "g++", "clang++", "c++"].find(
  (name) => name && spawnSync(name, ["--version"], { stdio: "ignore" }).status === 0,
);
if (process.platform === "win32")
  fail("Windows is not supported yet; use WSL (https://learn.microsoft.com/windows/wsl).");
if (!compiler)
  fail("no C++ compiler found; install one (Debian and Ubuntu: apt-get install g++) and run `npm rebuild lutra`.");

const includes = [require("node-addon-api").include_dir, require("node-api-headers").include_dir];
const flags = [
  ..."-std=c++20 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -pthread -Wall -Wextra".split(" "),
  "-DNAPI_VERSION=8",
  ...includes.flatMap((path) => ["-isystem", path]),
];
mkdirSync(join(root, "build"), { recursive: true });
const work = mkdtempSync(join(root, "build", "native-"));

function run(args) {
  return new Promise((resolve) => {
    const child = spawn(compiler, args, { stdio: ["ignore", "ignore", "pipe"] });
    let errors = "";
    child.stderr.on("data", (text) => (errors += text));
    child.on("close", (code) => resolve({ ok: code === 0, errors }));
  });
}

try {
  console.error(`lutra: building the native CPU backend with ${compiler} ...`);
  const queue = [...sources];
  const results = [];
  await Promise.all(
    Array.from({ length: availableParallelism() }, async () => {
      for (let name = queue.shift(); name; name = queue.shift())
        results.push(await run([...flags, "-c", join(here, name), "-o", join(work, `${basename(name, ".cpp")}.o`)]));
    }),
  );
  const linked = join(work, "lutra.node");
  const undefinedLater = process.platform === "darwin" ? ["-undefined", "dynamic_lookup"] : [];
  const objects = readdirSync(work).map((name) => join(work, name));
  if (results.every((r) => r.ok))
    results.push(
      await run([
        "-shared",
        "-pthread",
        "-static-libstdc++",
        "-static-libgcc",
        ...undefinedLater,
        ...objects,
        "-o",
        linked,
      ]),
    );
  const bad = results.find((r) => !r.ok);
  for (const { ok, errors } of results) if (ok && errors) process.stderr.write(errors);
  if (bad) {
    process.stderr.write(bad.errors);
    rmSync(work, { recursive: true });
    fail(`${compiler} failed (C++20 is needed: g++ 11 or clang++ 13 and later).`);
  }
  if (!loads(linked)) fail(`${linked} does not load into this Node (${process.version}).`);
  renameSync(linked, output); // whole or not at all
} finally {
  rmSync(work, { recursive: true, force: true });
}
