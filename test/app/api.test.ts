// The package as a program imports it.

import { expect, test } from "vitest";

import * as lutra from "../../src/index.ts";
import { embeddedModel } from "../oracle/oracle.ts";

test("exports what the README names, and nothing by accident", () => {
  expect(Object.keys(lutra).toSorted()).toEqual([
    "DEFAULT_CONTEXT",
    "DEVICES",
    "FileError",
    "ModelError",
    "UnsupportedOp",
    "generate",
    "load",
    "open",
    "perplexity",
  ]);
});

test("opens, prepares and generates for several sequences of one session", async () => {
  const model = lutra.load(embeddedModel, { context: 64, slots: 2 });
  const backend = await lutra.open("auto");
  if ("unavailable" in backend) throw new Error(backend.unavailable);
  const session = await backend.prepare(model.plan, model.weights);
  const tokenizer = await model.tokenizer();
  const sampling = { temperature: 0, topK: 40, topP: 1, minP: 0, repeatPenalty: 1, seed: 0n };

  const prompt = tokenizer.encode("Emma was not", { special: false });
  const texts: string[] = [];
  for (const slot of [0, 1, 0]) {
    let text = "";
    const options = { sampling, maxTokens: 12, stop: [], context: 64, slot };
    for await (const event of lutra.generate(session, tokenizer, prompt, options))
      if (event.kind === "text") text += event.text;
    texts.push(text);
  }
  expect(texts[0]).not.toBe("");
  expect(new Set(texts).size).toBe(1);
  expect(await model.template()).toBeNull();

  await session[Symbol.asyncDispose]();
  await backend[Symbol.asyncDispose]();
  model.close();
});

test.each([
  [{ context: 0 }, "context: 0; a whole number of at least 1 is needed"],
  [{ context: -5 }, "context: -5; a whole number of at least 1 is needed"],
  [{ context: 1.5 }, "context: 1.5; a whole number of at least 1 is needed"],
  [{ usualContext: NaN }, "usualContext: NaN; a whole number of at least 1 is needed"],
  [{ slots: 0 }, "slots: 0; a whole number of at least 1 is needed"],
])("load refuses %j in numbers", (options, message) => {
  expect(() => lutra.load(embeddedModel, options)).toThrow(new RangeError(message));
});

test("a file that is no model leaves no file open and names itself", () => {
  const readme = new URL("../../LICENSE", import.meta.url).pathname;
  expect(() => lutra.load(readme)).toThrow(lutra.ModelError);
  expect(() => lutra.load(readme)).toThrow(`${readme}: magic: `);
});
