// Installs what tests compare Lutra with: a Python environment (.venv) and the package in this folder.
// Each has a stamp, the hash of what was asked for, so that a second run does nothing. A failure is told and is not
// fatal: the tests that need it are skipped by name, or fail where CI is set (oracle.ts).

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const venv = fileURLToPath(new URL("../../.venv/", import.meta.url));

function run(command, args, cwd) {
  const { status, error, stdout, stderr } = spawnSync(command, args, { cwd, encoding: "utf8", timeout: 900_000 });
  if (status === 0) return;
  const last = `${stdout ?? ""}\n${stderr ?? ""}`.trim().split("\n").slice(-3).join(" | ");
  throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? last}`);
}

function install(what, wanted, stamp, steps) {
  const hash = createHash("sha256").update(readFileSync(wanted)).digest("hex");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === hash) {
    console.log(`oracles: ${what} is installed`);
    return;
  }
  console.log(`oracles: installing ${what} ...`);
  try {
    steps();
    writeFileSync(stamp, hash);
    console.log(`oracles: ${what} is installed`);
  } catch (error) {
    console.error(`oracles: ${what} could not be installed; tests that need it are skipped\n  ${error.message}`);
  }
}

install("the Python environment", `${here}requirements.txt`, `${venv}stamp`, () => {
  rmSync(venv, { recursive: true, force: true });
  run("python3", ["-m", "venv", venv], here);
  run(
    `${venv}bin/python`,
    ["-m", "pip", "install", "--disable-pip-version-check", "--only-binary", ":all:", "-r", `${here}requirements.txt`],
    here,
  );
});

// No scripts: both come with their binaries, and what the scripts would fetch beyond those is for GPUs.
install(
  "node-llama-cpp and onnxruntime-node (900 MB)",
  `${here}package-lock.json`,
  `${here}node_modules/.stamp`,
  () => {
    run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], here);
  },
);
