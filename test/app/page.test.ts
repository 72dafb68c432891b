// The page: what is built and served, models in the browser, and stopping them. What a model says there is held against the
// reference backend here. Not here: what the page refuses (page-refusal.test.ts), and for whom it is (page-access.test.ts).

import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { build } from "esbuild";
import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { load } from "../../src/load.ts";
import { openReference } from "../../src/reference.ts";
import { gguf } from "../model/write-gguf.ts";
import { embeddedModel, testWith } from "../oracle/oracle.ts";
import { place } from "./lutra.ts";
import { tiny } from "./tiny-model.ts";
import {
  BUILD,
  browserAtHand,
  built,
  choose,
  done,
  fill,
  home,
  lastGeneration,
  otherOrigin,
  ready,
  refusal,
  SERVE,
  serve,
  SLOW_MS,
  statusOf,
  tinyBytes,
  until,
  visit,
} from "./visit.ts";

/** What a server answers to a path as it stands, which `fetch` would tidy. */
function ask(
  path: string,
  method = "GET",
): Promise<{ status: number | undefined; type: string | undefined; body: string }> {
  const { hostname, port } = new URL(home);
  return new Promise((resolve, reject) => {
    const asked = request({ hostname, port, path, method }, (response) => {
      let body = "";
      response.on("data", (part: Buffer) => (body += part.toString("latin1")));
      response.on("end", () => resolve({ status: response.statusCode, type: response.headers["content-type"], body }));
    });
    asked.on("error", reject).end();
  });
}

describe("the built page", () => {
  test("imports nothing: neither of Node nor of a package that is not in it", async () => {
    for (const script of ["page.js", "worker.js"]) {
      const { metafile } = await build({
        stdin: { contents: readFileSync(join(built, script), "utf8") },
        bundle: true,
        format: "esm",
        external: ["*"],
        metafile: true,
        write: false,
        logLevel: "silent",
      });
      const imports = Object.values(metafile.outputs).flatMap((output) => output.imports);
      expect(imports, script).toEqual([]);
    }
  });

  test("has the model as it lies in the repository, and says its size", () => {
    const model = readFileSync(embeddedModel);
    expect(readFileSync(join(built, "austen-5m-ternary.gguf")).equals(model)).toBe(true);
    expect(readFileSync(join(built, "index.html"), "utf8")).toContain(`${(model.length / 2 ** 20).toFixed(1)} MiB;`);
  });

  test("is not written where its folder is a file", () => {
    const path = place("file", "");
    const { status, stderr } = spawnSync(process.execPath, [BUILD, path], { encoding: "utf8" });
    expect(status).toBe(1);
    expect(stderr).toBe(`lutra: the page was not built: EEXIST: file already exists, mkdir '${path}'\n`);
  });
});

describe("npm run page", () => {
  test("serves the files of the built page, each with its type", async () => {
    const names = readdirSync(built);
    expect(names.length).toBeGreaterThan(5);
    const types = new Map<string, string | undefined>();
    for (const name of names) {
      const { status, type, body } = await ask(`/${name}?x=1`);
      types.set(name, type);
      expect([name, status, body.length]).toEqual([name, 200, statSync(join(built, name)).size]);
    }
    expect(types.get("index.html")).toBe("text/html; charset=utf-8");
    expect(types.get("worker.js")).toBe("text/javascript; charset=utf-8");
    expect(types.get("chevrotain.min.mjs")).toBe("text/javascript; charset=utf-8");
    expect((await ask("/")).body).toBe((await ask("/index.html")).body);
  });

  test("serves nothing else, whatever the path", async () => {
    const names = new Set(readdirSync(built));
    const steps = fc.constantFrom(
      "..",
      ".",
      "%2e%2e",
      "..%2f",
      "src",
      "package.json",
      "etc",
      "passwd",
      "page.ts",
      "\\",
      "",
    );
    const paths = fc.array(fc.oneof(steps, fc.webPath({ size: "small" })), { maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(paths, async (parts) => {
        const path = `/${parts.join("/")}`;
        const [plain = ""] = path.split("?");
        fc.pre(plain !== "/" && !names.has(plain.slice(1)));
        const { status, body } = await ask(path);
        expect([status, body]).toEqual([404, "there is no such file; the page is at /\n"]);
      }),
      { numRuns: 200 },
    );
    for (const path of ["/../package.json", "/%2e%2e/package.json", "//etc/passwd", "/constructor", "/__proto__"])
      expect([path, (await ask(path)).status]).toEqual([path, 404]);
  });

  test("answers GET and HEAD alone", async () => {
    expect(await ask("/", "HEAD")).toEqual({ status: 200, type: "text/html; charset=utf-8", body: "" });
    expect(await ask("/", "POST")).toMatchObject({ status: 405, body: "only GET and HEAD are answered\n" });
  });

  const refused = (...args: string[]): readonly [number | null, string] => {
    const { status, stderr } = spawnSync(process.execPath, [SERVE, ...args], { encoding: "utf8", timeout: SLOW_MS });
    return [status, stderr];
  };

  test("says when its port is in use, and how to take another", () => {
    const { port } = new URL(home);
    expect(refused("--port", port)).toEqual([
      1,
      `lutra: port ${port} of 127.0.0.1 is in use; npm run page -- --port ${Number(port) + 1} takes another, --port 0 any\n`,
    ]);
  });

  test("says what a port is", () => {
    const wanted = "a whole number from 0 to 65535 is needed";
    expect(refused("--port", "80a")).toEqual([1, `lutra: --port: "80a"; ${wanted}\n`]);
    expect(refused("--port", "65536")).toEqual([1, `lutra: --port: "65536"; ${wanted}\n`]);
    expect(refused("--prot", "1")).toEqual([1, "lutra: Unknown option '--prot'; only --port <n> can be given\n"]);
  });

  test("stops at once with Ctrl-C, also while somebody is connected", async () => {
    const { child, url } = await serve("--port", "0");
    await (await fetch(url, { headers: { connection: "keep-alive" } })).text();
    const fromMs = performance.now();
    const ended = new Promise((resolve) => child.once("exit", (code, signal) => resolve([code, signal])));
    child.kill("SIGINT");
    expect(await ended).toEqual([0, null]);
    expect(performance.now() - fromMs).toBeLessThan(1000);
  });
});

describe("a model in the browser", () => {
  testWith(browserAtHand, "the embedded one streams text whose every token is right", async () => {
    const page = await visit();
    await page.locator("#embedded").click();
    await ready(page);
    const facts = await page.locator("#facts").innerText();
    for (const fact of ["Lutra Austen 5M", "llama", "5.246 M", "TQ2_0, Q8_0", "256 tokens"])
      expect(facts).toContain(fact);
    const prompt = "It is a truth universally acknowledged";
    await fill(page, { prompt, temperature: "0", "max-tokens": "12" });
    await page.locator("#generate").click();
    await done(page);
    expect(await statusOf(page)).toBe("Done: as many tokens as were asked for.");
    expect(await page.locator("#speed").textContent()).toMatch(
      /^[\d.]+ tokens\/s \(12\); prompt [\d.]+ tokens\/s \(\d+\)$/,
    );

    const { tokens, pieces } = await lastGeneration(page);
    expect(tokens).toHaveLength(12);
    expect(pieces).toBeGreaterThan(6); // as it comes, and not at the end
    const model = load(embeddedModel);
    const tokenizer = await model.tokenizer();
    expect(await page.locator("#text").textContent()).toBe(prompt + tokenizer.decode(tokens));

    // Sums of floats in another order may make another of two tokens the best: a token is right when the reference
    // gives it a logit of at most 0.3 less than its best, which is what whole models on the GPU are held to.
    const before = tokenizer.encode(prompt, { special: false });
    const session = await openReference().prepare(model.plan, model.weights);
    const all = Int32Array.from([...before, ...tokens]);
    const [logits = new Float32Array(0)] = await session.step([{ slot: 0, pos: 0, tokens: all, logits: "all" }]);
    const vocabulary = tokenizer.pieces.length;
    for (const [i, token] of tokens.entries()) {
      const row = logits.subarray((before.length + i - 1) * vocabulary, (before.length + i) * vocabulary);
      expect(row.reduce((a, b) => Math.max(a, b)) - row[token]!, `token ${i}`).toBeLessThanOrEqual(0.3);
    }
    model.close();
  });

  testWith(browserAtHand, "a seed repeats its text, and another gives another", async () => {
    const page = await visit();
    await choose(page, { "tiny.gguf": tinyBytes });
    await ready(page);
    const texts: (readonly number[])[] = [];
    for (const seed of ["7", "7", "8"]) {
      await fill(page, { prompt: "the", temperature: "1", "max-tokens": "8", seed });
      await page.locator("#generate").click();
      await done(page);
      texts.push((await lastGeneration(page)).tokens);
    }
    expect(texts[1]).toEqual(texts[0]);
    expect(texts[2]).not.toEqual(texts[0]);
  });

  testWith(browserAtHand, "all parts of a split one are chosen together", async () => {
    const part = (no: number): Uint8Array =>
      gguf({
        pairs: [
          ...(no === 0 ? tiny.pairs : []),
          ["split.no", "u16", no],
          ["split.count", "u16", 2],
          ["split.tensors.count", "i32", tiny.tensors.length],
        ],
        tensors: no === 0 ? tiny.tensors.slice(0, 3) : tiny.tensors.slice(3),
      });
    const [one, two] = ["tiny-00001-of-00002.gguf", "tiny-00002-of-00002.gguf"];
    const page = await visit();
    await choose(page, { [one]: part(0) });
    expect(await refusal(page)).toBe(
      `${one}: split.count: 2; a shard is missing: ${two} is not here; choose all parts of the model together`,
    );
    await choose(page, { [two]: part(1), [one]: part(0), "zebra.gguf": tinyBytes });
    await until(page, 'document.getElementById("failure").textContent.startsWith("3 files")');
    expect(await refusal(page)).toBe(`3 files were chosen, and ${one} needs 2 in all; choose one model`);
    await choose(page, { [two]: part(1), [one]: part(0) });
    await until(page, '!document.getElementById("generate").disabled');
    expect(await page.locator("#failure").isHidden()).toBe(true);
  });

  testWith(
    browserAtHand,
    "one with a chat template takes a message, or with --raw the beginning of a text",
    async () => {
      const template = "{% for m in messages %}{{ m.content }}!{% endfor %}";
      const chat = gguf({ ...tiny, pairs: [...tiny.pairs, ["tokenizer.chat_template", "string", template]] });
      const page = await visit();
      await choose(page, { "chat.gguf": chat });
      await ready(page);
      await fill(page, { prompt: "ab", temperature: "0", "max-tokens": "1" });
      expect(await page.locator("#prompt-label").textContent()).toBe("Message");
      const speed = page.locator("#speed");
      await page.locator("#generate").click();
      await done(page);
      // The token that begins a sequence, "a", "b" and the template's "!".
      expect(await speed.textContent()).toMatch(/prompt [\d.]+ tokens\/s \(4\)$/);
      expect((await page.locator("#text").textContent())?.startsWith("ab")).toBe(false);
      await page.locator("#raw").check();
      await page.locator("#generate").click();
      await until(page, 'document.getElementById("speed").textContent.endsWith("(3)")');
      expect((await page.locator("#text").textContent())?.startsWith("ab")).toBe(true);
    },
  );

  testWith(browserAtHand, "one by its address, in several pieces, is the same as from a file", async () => {
    const page = await visit();
    const tokensOf = async (): Promise<readonly number[]> => {
      await ready(page);
      expect(await page.locator("#facts").innerText()).toContain("tiny");
      await fill(page, { prompt: "the", temperature: "0", "max-tokens": "8" });
      await page.locator("#generate").click();
      await done(page);
      return (await lastGeneration(page)).tokens;
    };
    await choose(page, { "tiny.gguf": tinyBytes });
    const tokens = await tokensOf();
    expect(tokens).toHaveLength(8);
    await page.locator("#url").fill(`${otherOrigin}/long.gguf`);
    await page.locator("#fetch").click();
    expect(await tokensOf()).toEqual(tokens);
  });
});

describe("stopping", () => {
  testWith(browserAtHand, "a text takes less than a second, and leaves the model ready", async () => {
    const page = await visit();
    await page.locator("#embedded").click();
    await ready(page);
    for (const way of ["button", "Escape"]) {
      await page.locator("#prompt").press("Control+Enter");
      await until(page, '/tokens/.test(document.getElementById("speed").textContent)');
      const fromMs = performance.now();
      if (way === "button") await page.locator("#stop").click();
      else await page.keyboard.press("Escape");
      await until(page, 'document.getElementById("status").textContent.startsWith("Stopped")');
      expect(performance.now() - fromMs).toBeLessThan(1000);
      expect(await statusOf(page)).toBe("Stopped.");
      expect(await page.locator("#generate").isEnabled()).toBe(true);
    }
  });

  testWith(browserAtHand, "a model on its way takes less than a second, and another can be loaded", async () => {
    const page = await visit();
    await page.locator("#url").fill(`${otherOrigin}/silent.gguf`);
    await page.locator("#fetch").click();
    await until(page, 'document.getElementById("status").textContent === "Downloading."');
    const fromMs = performance.now();
    await page.locator("#stop").click();
    expect(await statusOf(page)).toBe("Stopped. No model is loaded.");
    expect(performance.now() - fromMs).toBeLessThan(1000);
    await choose(page, { "tiny.gguf": tinyBytes });
    await ready(page);
    expect(await page.locator("#facts").innerText()).toContain("tiny");
  });

  testWith(browserAtHand, "a worker that hangs is ended, and says what that costs", async () => {
    const page = await visit();
    await choose(page, { "tiny.gguf": tinyBytes });
    await ready(page);
    // The page's messages come to nothing from here on.
    await page.evaluate("Worker.prototype.postMessage = () => undefined");
    await page.locator("#generate").click();
    await page.locator("#stop").click();
    await until(page, 'document.getElementById("status").textContent.startsWith("Stopped")', 1000);
    expect(await statusOf(page)).toBe(
      "Stopped. The GPU did not answer in time, so that the model has to be loaded again.",
    );
    await until(page, '!document.getElementById("embedded").disabled');
    expect(await page.locator("#generate").isDisabled()).toBe(true);
  });
});
