// Checks (or with --write, mends) the format of the C++ sources with the clang-format that test/oracle/setup.mjs
// installs into .venv. Without it the check is left out, with a line that says so; where CI is set it fails.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const tool = `${root}.venv/bin/clang-format`;
const folder = `${root}src/cpu/native`;
const files = readdirSync(folder)
  .filter((name) => /\.(cpp|h)$/.test(name))
  .map((name) => `${folder}/${name}`);

if (!existsSync(tool)) {
  console.error(`C++ format not checked: no ${tool}; run node test/oracle/setup.mjs`);
  process.exit(process.env.CI ? 1 : 0);
}
const mode = process.argv.includes("--write") ? ["-i"] : ["--dry-run", "--Werror"];
process.exit(spawnSync(tool, [...mode, ...files], { stdio: "inherit" }).status ?? 1);
