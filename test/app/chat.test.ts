// lutra chat as a conversation of lines: turns, commands, history, a context that fills, Ctrl-C.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";

import { embeddedModel } from "../oracle/oracle.ts";
import { folder, lutra, place, startLutra } from "./lutra.ts";
import { tiny, withPairs } from "./tiny-model.ts";

/** Each turn in brackets; only the parity of roles is looked at, so that a lost turn is an error. */
const TEMPLATE =
  "{% for m in messages %}{% if m['role'] == 'user' and loop.index0 > 0 and messages[loop.index0 - 1]['role'] == 'user' %}" +
  "{{ raise_exception('two questions') }}{% endif %}[{{ m['role'][0] }}:{{ m['content'] }}]{% endfor %}" +
  "{% if add_generation_prompt %}[a:{% endif %}";
const TOKENS = (tiny.pairs.find(([key]) => key === "tokenizer.ggml.tokens")?.[2] ?? []) as readonly string[];
/** A model of random weights with a template, and no token that ends an answer: it says noise, the same for a seed. */
const model = place(
  "chat.gguf",
  withPairs([
    ["tokenizer.chat_template", "string", TEMPLATE],
    ["tokenizer.ggml.tokens", "string", [...TOKENS.slice(0, -1), "<|begin|>"]],
    ["tokenizer.ggml.eos_token_id", null],
  ]),
);
const ARGS = ["chat", model, "--seed", "1", "--max-tokens", "6", "--ctx", "2000"];

interface Saved {
  readonly messages: readonly { readonly role: string; readonly content: string }[];
}

let saves = 0;

/** A chat of these lines, and the messages that it had at its end. */
function chat(lines: readonly string[], args: readonly string[] = ARGS): { out: string; err: string; saved: Saved } {
  const path = join(folder, `talk-${saves++}.json`);
  const { code, out, err } = lutra(args, { input: `${[...lines, `/save ${path}`].join("\n")}\n` });
  expect(code, err).toBe(0);
  return { out, err, saved: JSON.parse(readFileSync(path, "utf8")) };
}

const said = ({ messages }: Saved, role: string): readonly string[] =>
  messages.filter((one) => one.role === role).map(({ content }) => content);

describe("a conversation", () => {
  test("has a turn for each line, and the answers alone on stdout", () => {
    const { out, saved } = chat(["one", "", "two", "three"]);
    expect(said(saved, "user")).toEqual(["one", "two", "three"]);
    expect(saved.messages.map(({ role }) => role).join(" ")).toBe("user assistant user assistant user assistant");
    expect(out).toBe(
      said(saved, "assistant")
        .map((text) => `${text}\n`)
        .join(""),
    );
    // An answer depends on what was said before.
    expect(chat(["zero", "two"]).saved.messages[3]).not.toEqual(saved.messages[3]);
    expect(chat(["one", "two", "three"]).saved).toEqual(saved);
  });

  test("has messages of several lines, by a backslash or between quotes", () => {
    const { saved } = chat(["one\\", "two", '"""', "three", "", "/reset", '"""', "four"]);
    expect(said(saved, "user")).toEqual(["one\ntwo", "three\n\n/reset", "four"]);
  });

  test("reads of its prompt what is new alone", () => {
    const { err } = chat(["one", "two", "/stats"]);
    const [, tokens, reused] = /^note: prompt (\d+) tokens, (\d+) of them in the cache, /m.exec(err) ?? [];
    expect(Number(reused)).toBeGreaterThan("[u:one]".length);
    // What is new, and at most the answer of six tokens: noise may come back as other tokens than were drawn.
    expect(Number(tokens) - Number(reused)).toBeLessThanOrEqual("][u:two][a:".length + 6 * "\ufffd".length * 3);
  });

  test("leaves the oldest messages out where the context is full, and says so", () => {
    const lines = Array.from({ length: 8 }, (_, i) => `this is line ${i} of many`);
    const { err, saved } = chat(lines, [...ARGS.slice(0, -1), "128", "--system", "keep me"]);
    expect(said(saved, "user")).toEqual(lines); // the chat remembers what the model no longer sees
    expect(err).toMatch(
      /^note: the context of 128 tokens is full: the model no longer sees the first \d+ messages \(--ctx makes it larger\)$/m,
    );
    expect(err).not.toMatch(/^lutra:/m);
  });

  test("refuses a message that is too long, and goes on", () => {
    const { err, saved } = chat(["x".repeat(500), "short"], [...ARGS.slice(0, -1), "128"]);
    expect(err).toMatch(
      /^lutra: the message is too long: the prompt has \d+ tokens, and of the context of 128 tokens 6 are for the answer; shorten it, or make the context larger \(--ctx\)$/m,
    );
    expect(said(saved, "user")).toEqual(["short"]);
  });
});

describe("a command", () => {
  test("/reset and /system begin anew", () => {
    const { saved } = chat(["one", "/reset", "two"], [...ARGS, "--system", "A"]);
    expect(saved.messages.slice(0, 2)).toEqual([
      { role: "system", content: "A" },
      { role: "user", content: "two" },
    ]);
    const other = chat(["one", "/system be brief", "two"]).saved;
    expect(other.messages[0]).toEqual({ role: "system", content: "be brief" });
    expect(said(other, "user")).toEqual(["two"]);
  });

  test("/save writes no file that others have written, and its own again", () => {
    const theirs = place("theirs.json", "theirs");
    const own = join(folder, "own.json");
    const { err } = chat([`/save ${theirs}`, "/save", `/save ${folder}/none/x`, `/save ${own}`, "one", `/save ${own}`]);
    expect(readFileSync(theirs, "utf8")).toBe("theirs");
    expect(err).toContain(`note: /save: ${theirs} exists already; name another file\n`);
    expect(err).toContain("note: /save: name a file, as in /save talk.json\n");
    expect(err).toMatch(/note: \/save: ENOENT: .*none\/x/);
    expect((JSON.parse(readFileSync(own, "utf8")) as Saved).messages).toHaveLength(2);
  });

  test("/exit ends, /help tells, and an unknown one does neither", () => {
    const path = join(folder, "after.json");
    const { code, err } = lutra(ARGS, { input: `/help\n/rest\n/stats\n/exit\n/save ${path}\n` });
    expect(code).toBe(0);
    expect(existsSync(path)).toBe(false);
    expect(err).toContain("  /save FILE    writes the conversation as JSON\n");
    expect(err).toContain('note: there is no command /rest; did you mean "/reset"?\n');
    expect(err).toContain("note: /stats: there is no answer yet\n");
  });
});

test("a model without a template is no model for chat, and the error names run", () => {
  expect(lutra(["chat", embeddedModel])).toMatchObject({
    code: 1,
    err: `lutra: ${embeddedModel} has no chat template: it goes on with a text, and does not answer; use lutra run\n`,
  });
  expect(lutra(["chat"])).toEqual({
    code: 2,
    out: "",
    err: "lutra: no model; name a file, as in lutra chat model.gguf\n",
  });
});

describe("Ctrl-C", () => {
  test("stops an answer and keeps the chat; where there is no answer it ends the chat", async () => {
    const { child, ended } = startLutra(["chat", model, "--seed", "1", "--ctx", "200000", "--max-tokens", "100000"]);
    child.stdin.write("one\n");
    await new Promise((resolve) => child.stdout.once("data", resolve));
    child.kill("SIGINT");
    await new Promise<void>((resolve) => {
      child.stderr.on("data", (part) => String(part).includes("note: stopped") && resolve());
    });
    const path = join(folder, "stopped.json");
    const kept = new Promise<void>((resolve) => {
      child.stderr.on("data", (part) => String(part).includes("note: saved") && resolve());
    });
    child.stdin.write(`/save ${path}\n`);
    await kept;
    expect((JSON.parse(readFileSync(path, "utf8")) as Saved).messages).toHaveLength(2);
    child.kill("SIGINT");
    expect(await ended).toMatchObject({ code: 0, signal: null });
  });
});
