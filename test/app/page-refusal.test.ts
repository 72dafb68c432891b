// What the page refuses, and that it says why and what would help: files and addresses that are no model, in the loader's
// own words; what there is no memory for; and browsers without WebGPU.

import fc from "fast-check";
import type { Page } from "playwright-core";
import { describe, expect } from "vitest";

import { load } from "../../src/load.ts";
import { testWith } from "../oracle/oracle.ts";
import { place } from "./lutra.ts";
import {
  browserAtHand,
  choose,
  done,
  fill,
  home,
  launch,
  otherOrigin,
  ready,
  refusal,
  statusOf,
  tinyBytes,
  unseen,
  until,
  visit,
  WEBGPU,
  workerBehind,
} from "./visit.ts";

describe("what is no model", () => {
  testWith(browserAtHand, "is refused with the loader's words, wherever the file is cut", async () => {
    const page = await visit();
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: tinyBytes.length - 1 }), async (length) => {
        const bytes = tinyBytes.slice(0, length);
        const path = place("cut.gguf", bytes);
        let words = "";
        try {
          load(path).close();
        } catch (error) {
          words = (error as Error).message.replace(path, "cut.gguf");
        }
        await page.evaluate("window.said.length = 0");
        await choose(page, { "cut.gguf": bytes });
        await until(page, 'window.said.some(({ kind }) => kind === "failed" || kind === "opened")');
        expect(await refusal(page)).toBe(words);
        expect(await statusOf(page)).toBe("No model is loaded.");
        expect(await page.locator("#generate").isDisabled()).toBe(true);
      }),
      { numRuns: 6, examples: [[0], [23], [24], [tinyBytes.length - 1]] },
    );
  });

  const addresses: readonly (readonly [what: string, path: string, words: (url: string) => string])[] = [
    [
      "that is not there",
      "/missing.gguf",
      (url) =>
        `${url}: the server answers 404 Not Found; the address of the file itself is needed, and one that needs no password`,
    ],
    [
      "of a site that lets no other read it",
      "/closed.gguf",
      (url) =>
        `${url}: no answer: the address is wrong, there is no connection, or its server does not let other sites' pages ` +
        "read it (CORS); download the file, and choose it here",
    ],
    [
      "that breaks off",
      "/half.gguf",
      (url) =>
        `${url}: the download broke off after 30000 of ${tinyBytes.length} bytes; try again, or download the file and choose it here`,
    ],
    ["of a page, which never ends", "/endless.html", (url) => `${url}: magic: "<!do"; a GGUF file begins with "GGUF"`],
  ];
  for (const [what, path, words] of addresses) {
    testWith(browserAtHand, `an address ${what} is refused with its reason`, async () => {
      const page = await visit();
      await page.locator("#url").fill(otherOrigin + path);
      await page.locator("#fetch").click();
      expect(await refusal(page)).toBe(words(otherOrigin + path));
      expect(await page.locator("#embedded").isEnabled()).toBe(true);
    });
  }

  testWith(browserAtHand, "a text that is no address of the web is not asked for", async () => {
    const page = await visit();
    for (const text of ["", "model.gguf", "ftp://example.org/model.gguf", "file:///model.gguf"]) {
      await page.locator("#url").fill(text);
      await page.locator("#fetch").click();
      expect(await statusOf(page)).toBe("No model is loaded.");
    }
  });

  testWith(browserAtHand, "a context that the GPU has no room for says what fits", async () => {
    const page = await visit();
    await page.locator("#context").fill("16777216");
    await page.locator("#embedded").click();
    expect(await refusal(page)).toMatch(
      /^keys of layer 0: \d+ bytes, .* has at most \d+ .*a shorter context fits \(--ctx\)$/,
    );
    await page.locator("#context").fill("32");
    await choose(page, { "tiny.gguf": tinyBytes });
    await until(page, '!document.getElementById("generate").disabled');
    expect(await page.locator("#facts").innerText()).toContain("32 tokens");
  });

  const faults: readonly (readonly [what: string, text: string, words: RegExp])[] = [
    [
      "memory of the GPU",
      'GPUDevice.prototype.popErrorScope = async () => new GPUOutOfMemoryError("");',
      /^.* has no \d+ MiB for .*; \d+ MiB are held already$/,
    ],
    [
      "memory of the browser",
      `addEventListener("message", () => {
        Float64Array = class { constructor() { throw new RangeError("Array buffer allocation failed"); } };
      });`,
      /^memory does not suffice \(Array buffer allocation failed\); a smaller model or context fits, or other pages may be closed$/,
    ],
    [
      "a file that stays as it was",
      'FileReaderSync.prototype.readAsArrayBuffer = () => { throw new DOMException("", "NotReadableError"); };',
      /^tiny.gguf: bytes 0 to \d+ cannot be read: the file was changed or removed since it was chosen, or memory does not suffice; choose it again$/,
    ],
  ];
  for (const [what, text, words] of faults) {
    testWith(browserAtHand, `a model for which there is not ${what} is refused with what would help`, async () => {
      const page = await visit({ prepare: workerBehind(text) });
      await choose(page, { "tiny.gguf": tinyBytes });
      expect(await refusal(page)).toMatch(words);
      expect(await page.locator("#embedded").isEnabled()).toBe(true);
    });
  }

  testWith(browserAtHand, "a prompt that does not fit the context says by how much", async () => {
    const page = await visit();
    await choose(page, { "tiny.gguf": tinyBytes });
    await ready(page);
    await fill(page, { prompt: "x".repeat(64) });
    await page.locator("#generate").click();
    expect(await refusal(page)).toBe(
      "the prompt has 65 tokens, but the context has room for 64; shorten the prompt or make the context larger (--ctx)",
    );
    await fill(page, { prompt: "x", "max-tokens": "2" });
    await page.locator("#generate").click();
    await done(page);
    expect(await page.locator("#failure").isHidden()).toBe(true);
  });
});

describe("a browser without WebGPU", () => {
  /** What the page says; it offers nothing to load then. */
  async function wordsOf(page: Page, gpu = "none that this page can use"): Promise<string | null> {
    const words = await refusal(page);
    expect(await statusOf(page)).toBe("Models cannot run here.");
    expect(await page.locator("#machine").innerText()).toContain(gpu);
    for (const id of ["embedded", "files", "url", "fetch", "generate", "stop"])
      expect(await page.locator(`#${id}`).isDisabled(), id).toBe(true);
    return words;
  }

  /** The same in a browser with these flags. */
  async function wordsAt(at: string, ...flags: string[]): Promise<string | null> {
    const other = await launch(...flags);
    try {
      return await wordsOf(await visit({ in: other, at }));
    } finally {
      await other.close();
    }
  }

  testWith(browserAtHand, "that cannot run the page's worker says so", async () => {
    const page = await visit({ prepare: workerBehind('throw new Error("too old");') });
    expect(await wordsOf(page, "not known yet")).toBe(
      "The worker of this page failed: Uncaught Error: too old; load the page again.",
    );
    expect(unseen.splice(0)).toEqual(["too old"]);
  });

  testWith(browserAtHand, "that finds no GPU is told of drivers and flags", async () => {
    expect(await wordsAt(home)).toBe(
      "This browser has WebGPU, but finds no GPU for it. A newer graphics driver may help, and so may turning hardware " +
        "acceleration on in the browser's settings. Chrome and Edge on Linux need a Vulkan driver (Debian and Ubuntu: " +
        "apt install mesa-vulkan-drivers), and with some GPUs the flag chrome://flags/#enable-unsafe-webgpu; " +
        "chrome://gpu says what is missing.",
    );
  });

  testWith(browserAtHand, "that is too old is told which are not", async () => {
    // Chromium has it always; a line before the worker takes it away.
    const page = await visit({ prepare: workerBehind("delete WorkerNavigator.prototype.gpu;") });
    expect(await wordsOf(page)).toBe(
      "This browser has no WebGPU. Chrome and Edge have it from 113 on (Android: 121; Linux: 144), Safari from 26 on, " +
        "Firefox from 141 on Windows and 145 on Macs with Apple silicon.",
    );
  });

  testWith(browserAtHand, "because the page comes by http is told of https", async () => {
    const { port } = new URL(home);
    const at = `http://lutra.example:${port}`;
    expect(await wordsAt(`${at}/`, WEBGPU, "--host-resolver-rules=MAP lutra.example 127.0.0.1")).toBe(
      `Browsers have WebGPU only for pages that come by https, or from this computer; this one comes from ${at}. Open it ` +
        "by https, or run it on this computer with npm run page.",
    );
  });
});
