// The page in a real browser, for its tests: Debian's Chromium without a window, whose WebGPU is SwiftShader, a program on
// the CPU; the page as it is built and served; and another site, with models and what is none. One of each for a file.
// Not here: what is to be seen (page*.test.ts).

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect } from "vitest";

import type { Unavailable } from "../../src/backend.ts";
import { gguf } from "../model/write-gguf.ts";
import { root } from "./lutra.ts";
import { tiny } from "./tiny-model.ts";

export const SERVE: string = join(root, "src/app/page/serve.mjs");
export const BUILD: string = join(root, "src/app/page/build.mjs");

/** Kernels are compiled and run on the CPU, beside other work. */
export const SLOW_MS = 60_000;

/** Those of a machine without a window, a sandbox of its own or a network. */
const CHROMIUM = [
  "--no-sandbox",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-default-apps",
  "--no-first-run",
];
/** Without it Chromium on Linux has no adapter that computes on the CPU. */
export const WEBGPU = "--enable-unsafe-webgpu";

export interface Chromium {
  readonly executablePath: string;
}

function findChromium(): Chromium | Unavailable {
  const paths = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
  const executablePath = paths.find((path) => existsSync(path));
  return executablePath === undefined
    ? { unavailable: "no Chromium in /usr/bin: apt-get install --no-install-recommends chromium" }
    : { executablePath };
}

/** Or why there is none. */
export const browserAtHand: Chromium | Unavailable = findChromium();

export function launch(...flags: string[]): Promise<Browser> {
  if ("unavailable" in browserAtHand) throw new Error(browserAtHand.unavailable);
  return chromium.launch({ ...browserAtHand, headless: true, args: [...CHROMIUM, ...flags] });
}

/** The page's server, which is one for all tests, at its address. */
let server: ChildProcess | null = null;
export let home = "";
let browser: Browser | null = null;
/** What went wrong in a page without a person's being told. */
export const unseen: string[] = [];

/** Starts a server; its address. */
export async function serve(...args: string[]): Promise<{ readonly child: ChildProcess; readonly url: string }> {
  const child = spawn(process.execPath, [SERVE, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const line = await new Promise<string>((resolve, reject) => {
    child.stdout.once("data", (text: Buffer) => resolve(String(text)));
    child.once("exit", (code) => reject(new Error(`${SERVE} ended with ${code}`)));
  });
  const [url] = /http:\S+/.exec(line) ?? [];
  if (url === undefined) throw new Error(`the server says ${JSON.stringify(line)}`);
  return { child, url };
}

/** Opens the page in a window of its own, once it knows whether there is a GPU. */
export async function visit(
  options: {
    in?: Browser;
    at?: string;
    prepare?: (page: Page) => Promise<unknown>;
  } = {},
): Promise<Page> {
  const { at = home, prepare } = options;
  const from = options.in ?? browser;
  if (from === null) throw new Error("no browser");
  const page = await from.newPage({ viewport: { width: 1200, height: 900 } });
  page.setDefaultTimeout(SLOW_MS);
  page.on("pageerror", (error) => unseen.push(error.message));
  page.on("console", (message) => {
    // Of downloads that fail the browser writes a line, and the page tells the person.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource"))
      unseen.push(message.text());
  });
  // What the worker says is kept, for its numbers; the page gets it all the same.
  await page.addInitScript(`
    window.said = [];
    window.Worker = class extends Worker {
      constructor(...args) {
        super(...args);
        this.addEventListener("message", ({ data }) => window.said.push(data));
      }
    };
  `);
  await prepare?.(page);
  await page.goto(at);
  await until(page, 'document.getElementById("status").textContent !== "Looking for a GPU."');
  return page;
}

/** Lets the page's worker begin with a text, as in a browser that has other faults than this one. */
export function workerBehind(text: string): (page: Page) => Promise<unknown> {
  const body = `${text}\n${readFileSync(join(built, "worker.js"), "utf8")}`;
  return (page) => page.route("**/worker.js", (route) => route.fulfill({ contentType: "text/javascript", body }));
}

/** Waits for a condition; not by Playwright's own means, which the page's policy forbids. */
export async function until(page: Page, condition: string, limitMs: number = SLOW_MS): Promise<void> {
  for (const end = performance.now() + limitMs; !(await page.evaluate<boolean>(condition));) {
    if (performance.now() > end) {
      const news = await page.locator("#news").innerText();
      throw new Error(`not after ${limitMs} ms: ${condition}; the page says ${JSON.stringify(news)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export const statusOf = (page: Page): Promise<string | null> => page.locator("#status").textContent();

/** Waits until the model is ready; an error of the page is one here. */
export async function ready(page: Page): Promise<void> {
  await until(page, '!document.getElementById("generate").disabled || !document.getElementById("failure").hidden');
  expect(await page.locator("#failure").textContent()).toBe("");
}

/** Chooses files by the file picker. */
export function choose(page: Page, files: Readonly<Record<string, Uint8Array>>): Promise<void> {
  const payload = Object.entries(files).map(([name, bytes]) => ({
    name,
    mimeType: "application/octet-stream",
    buffer: Buffer.from(bytes),
  }));
  return page.locator("#files").setInputFiles(payload);
}

/** The page's message about what has failed, once the page has it. */
export async function refusal(page: Page): Promise<string | null> {
  await page.locator("#failure").waitFor();
  return page.locator("#failure").textContent();
}

export async function fill(page: Page, values: Readonly<Record<string, string>>): Promise<void> {
  await page.locator("#options").evaluate((details) => (details.open = true));
  for (const [id, value] of Object.entries(values)) await page.locator(`#${id}`).fill(value);
}

export async function done(page: Page): Promise<void> {
  await until(page, '/^(Done|Stopped)/.test(document.getElementById("status").textContent)');
}

interface Said {
  readonly kind: string;
  readonly text?: string;
  readonly generated?: { readonly tokens: Readonly<Record<string, number>> };
}

/** The tokens of the last generation, and in how many pieces its text came. */
export async function lastGeneration(
  page: Page,
): Promise<{ readonly tokens: readonly number[]; readonly pieces: number }> {
  const said = await page.evaluate<readonly Said[]>(
    "window.said.map((one) => one.generated ? { ...one, generated: { tokens: { ...one.generated.tokens } } } : one)",
  );
  const from = said.findLastIndex(({ kind }) => kind === "prefill");
  return {
    tokens: Object.values(said.at(-1)?.generated?.tokens ?? {}),
    pieces: said.slice(from).filter(({ kind }) => kind === "text").length,
  };
}

/** A model file that is quick to run. */
export const tinyBytes: Uint8Array = gguf(tiny);
/** The same behind a text that is longer than what downloads are kept in (blob.ts). */
const longBytes = gguf({ ...tiny, pairs: [...tiny.pairs, ["general.description", "string", "x".repeat(2 ** 24 + 1)]] });

// --- the build and the server --------------------------------------------------------------------------------------------

/** The folder of the built page. */
export const built: string = mkdtempSync(join(tmpdir(), "lutra-page-"));
let elsewhere: Server | null = null;
/** Of the other site. */
export let otherOrigin = "";

beforeAll(async () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [BUILD, built], { encoding: "utf8" });
  expect([status, stdout, stderr]).toEqual([
    0,
    `The page is in ${built}; serve it by https, or on this computer.\n`,
    "",
  ]);
  const started = await serve("--port", "0");
  server = started.child;
  home = started.url;
  elsewhere = createServer(answer).listen(0, "127.0.0.1");
  await new Promise((resolve) => elsewhere?.once("listening", resolve));
  otherOrigin = `http://127.0.0.1:${(elsewhere.address() as AddressInfo).port}`;
  if (!("unavailable" in browserAtHand)) browser = await launch(WEBGPU);
});

afterAll(async () => {
  await browser?.close();
  server?.kill();
  elsewhere?.closeAllConnections();
  elsewhere?.close();
  rmSync(built, { recursive: true });
});

afterEach(async () => {
  for (const context of browser?.contexts() ?? []) await context.close();
  expect(unseen.splice(0)).toEqual([]);
});

/** Another site. */
function answer({ url }: { readonly url?: string | undefined }, response: ServerResponse): void {
  const open = { "Access-Control-Allow-Origin": "*" };
  switch (url) {
    case "/tiny.gguf":
      response.writeHead(200, { ...open, "Content-Length": tinyBytes.length }).end(tinyBytes);
      break;
    case "/long.gguf":
      response.writeHead(200, open).end(longBytes);
      break;
    case "/closed.gguf":
      response.writeHead(200).end(tinyBytes);
      break;
    case "/half.gguf":
      response.writeHead(200, { ...open, "Content-Length": tinyBytes.length });
      response.write(tinyBytes.subarray(0, 30_000), () => setTimeout(() => response.destroy(), 200));
      break;
    case "/silent.gguf":
      response.writeHead(200, { ...open, "Content-Length": tinyBytes.length });
      response.write(tinyBytes.subarray(0, 30_000));
      break;
    case "/endless.html": {
      response.writeHead(200, open);
      const more = (): void => void (response.destroyed || response.write("<!doctype html>".padEnd(10_000), more));
      more();
      break;
    }
    default:
      response.writeHead(404, open).end();
  }
}
