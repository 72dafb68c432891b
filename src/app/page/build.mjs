// Builds the page: two scripts with all that they import, the texts of dsl/ and shaders/, the parser generator's own
// bundle, the embedded model, and the licences of what is in there.
//   node src/app/page/build.mjs [folder]    writes them into the folder (build/page), which any web server can serve
// Not here: a server (serve.mjs).

import { Buffer } from "node:buffer";
import { mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const root = fileURLToPath(new URL("../../../", import.meta.url));

/** The first versions with WebGPU in workers (machine.ts). */
const BROWSERS = ["chrome113", "edge113", "firefox141", "safari26"];

/** What is served as it lies in the repository, by its name in the page. */
const COPIED = {
  "index.html": join(here, "index.html"),
  "page.css": join(here, "page.css"),
  "austen-5m-ternary.gguf": join(root, "models/austen-5m-ternary.gguf"),
  "chevrotain.min.mjs": join(root, "node_modules/chevrotain/lib/chevrotain.min.mjs"),
  "LICENSE.txt": join(root, "LICENSE"),
  "NOTICE.txt": join(root, "NOTICE"),
};

/** Packages in the scripts, with the text of their licence; chevrotain's bundle has lodash-es in it. */
const LICENSES = {
  chevrotain: "LICENSE.txt",
  "lodash-es": "LICENSE",
  "@huggingface/jinja": "LICENSE",
  "@huggingface/tokenizers": "LICENSE",
};

/** What a worker lacks, for the one name that is asked for (ladder/token.ts): a bundle that lies beside the script. */
const RESOLVE = "const lutraBeside = (name) => new URL(`entry/${name}`, import.meta.url).href;";

/** @type {import("esbuild").Plugin} the module lutra:texts (texts.d.ts) */
const bundledTexts = {
  name: "texts",
  setup(context) {
    context.onResolve({ filter: /^lutra:texts$/ }, ({ path }) => ({ path, namespace: "texts" }));
    context.onLoad({ filter: /.*/, namespace: "texts" }, async () => {
      const lines = [
        await mapOf("ladder", "dsl", ".ladder", ".ladder"),
        await mapOf("shaders", "shaders", ".wgsl", ""),
      ];
      return { contents: lines.join("\n"), resolveDir: root, loader: "js" };
    });
  },
};

/**
 * A module's export: the texts of a folder by their names, whose ending becomes another.
 * @param {string} name
 * @param {string} folder
 * @param {string} ending
 * @param {string} kept
 */
async function mapOf(name, folder, ending, kept) {
  const files = (await readdir(join(root, folder))).filter((file) => file.endsWith(ending)).toSorted();
  const imports = files.map((file, i) => `import ${name}${i} from "./${folder}/${file}";`);
  const pairs = files.map((file, i) => `[${JSON.stringify(file.slice(0, -ending.length) + kept)}, ${name}${i}]`);
  return `${imports.join("\n")}\nexport const ${name} = new Map([${pairs.join(", ")}]);`;
}

/**
 * All files of the page.
 * @returns {Promise<ReadonlyMap<string, Uint8Array>>} contents by name
 */
export async function pageFiles() {
  const { outputFiles } = await build({
    entryPoints: [join(here, "page.ts"), join(here, "worker.ts")],
    bundle: true,
    format: "esm",
    platform: "browser",
    target: BROWSERS,
    minify: true,
    legalComments: "eof",
    loader: { ".ladder": "text", ".wgsl": "text" },
    define: { "import.meta.resolve": "lutraBeside" },
    banner: { js: RESOLVE },
    plugins: [bundledTexts],
    tsconfig: join(here, "tsconfig.json"),
    outdir: "/",
    write: false,
    logLevel: "silent",
  });
  const files = new Map(outputFiles.map(({ path, contents }) => [path.replace(/^.*[/\\]/, ""), contents]));
  for (const [name, path] of Object.entries(COPIED)) files.set(name, await readFile(path));
  files.set("packages.txt", await licenses());
  return files;
}

async function licenses() {
  const texts = Object.entries(LICENSES).map(async ([name, file]) => {
    const text = await readFile(join(root, "node_modules", name, file), "utf8");
    return `${name}\n\n${text.trim()}\n`;
  });
  return Buffer.from((await Promise.all(texts)).join(`\n${"-".repeat(80)}\n\n`));
}

/**
 * Writes the page; each file is there whole or not at all.
 * @param {string} folder
 */
async function writePage(folder) {
  await mkdir(folder, { recursive: true });
  for (const [name, bytes] of await pageFiles()) {
    const part = join(folder, `.${name}.part`);
    await writeFile(part, bytes);
    await rename(part, join(folder, name));
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const folder = resolve(process.argv[2] ?? join(root, "build/page"));
  try {
    await writePage(folder);
    console.log(`The page is in ${folder}; serve it by https, or on this computer.`);
  } catch (error) {
    console.error(`lutra: the page was not built: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  }
}
