// lutra chat: a conversation on a terminal, or of the lines of a file. Answers go to stdout, all else to stderr.
// A line is a turn; the whole conversation is the model's prompt each time, and what its cache holds is not read again.
// Not here: the generation (model/slots.ts), how a conversation becomes a prompt (model/template.ts).

import { existsSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import process from "node:process";
import { createInterface, type Interface } from "node:readline";

import { didYouMean } from "../ladder/diagnostic.ts";
import { DEFAULT_CONTEXT } from "../load.ts";
import { unlessAborted } from "../model/interrupt.ts";
import type { Generated, SequenceOptions } from "../model/sequence.ts";
import { makeSlots, type Slots } from "../model/slots.ts";
import type { ChatTemplate, Message } from "../model/template.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { type Engine, ENGINE_OPTIONS, naming, startEngine } from "./engine.ts";
import { rate } from "./figures.ts";
import { findModel } from "./models.ts";
import { makePhases } from "./phases.ts";
import { SAMPLING_OPTIONS, samplingOf } from "./sampling.ts";
import { harmless, note } from "./terminal.ts";

const OPTIONS = {
  ...ENGINE_OPTIONS,
  ctx: { ...ENGINE_OPTIONS.ctx, about: `tokens of context; the model's, but no more than ${DEFAULT_CONTEXT}` },
  "max-tokens": {
    kind: "integer",
    about: "tokens of an answer at most; what the context has room for",
    min: 1,
    max: 2 ** 24,
    fallback: null,
  },
  ...SAMPLING_OPTIONS,
  seed: { kind: "u64", about: "repeats a conversation" },
  system: { kind: "text", about: "system message" },
} as const;

/** What a line that begins with / does. */
const COMMANDS = {
  "/reset": "begins anew; the system message stays",
  "/system TEXT": "sets the system message, and begins anew",
  "/save FILE": "writes the conversation as JSON",
  "/stats": "how fast the last answer was, and how full the context is",
  "/help": "these commands",
  "/exit": "ends; so does the end of the input",
} as const;

export const chat: Command = command({
  name: "chat",
  usage: ["chat [options] model.gguf"],
  about: [
    "A conversation with a model that has a chat template. A line is a message; a line that ends with \\",
    'goes on in the next one, and """ on lines of their own stand around a message of several lines.',
    "Ctrl-C stops an answer; where there is none, it ends the chat. When the context is full, the oldest",
    "messages are left out, and you are told so. Lines of a file or a pipe do as well as a terminal.",
    "",
    "in the chat:",
    ...Object.entries(COMMANDS).map(([name, about]) => `  ${name.padEnd(14)}${about}`),
  ],
  options: OPTIONS,
  examples: [
    ["lutra chat model.gguf", "talk"],
    ['lutra chat model.gguf --system "Answer in French."', "with a system message"],
    ["lutra chat model.gguf --seed 1 < questions.txt", "repeatable"],
  ],
  positionals: 1,
  run: chatWith,
});

/** Tokens that an answer shall have room for, of a small context a quarter. */
const USUAL_ROOM = 256;

async function chatWith(
  values: Values<typeof OPTIONS>,
  [name]: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  if (name === undefined) throw new UsageError("no model; name a file, as in lutra chat model.gguf");
  const phases = makePhases();
  phases.step("Node and imports");
  const engine = await startEngine(findModel(name), values, { usualContext: DEFAULT_CONTEXT, phases });
  const { model } = engine;
  const template = await model.template();
  if (template === null)
    throw new Error(`${model.file} has no chat template: it goes on with a text, and does not answer; use lutra run`);
  const ready = await naming(model.file, unlessAborted(Promise.all([model.tokenizer(), engine.session]), signal));
  if (ready === "aborted") return 130;
  if (values.verbose) phases.print();
  const [tokenizer, session] = ready;
  const slots = makeSlots(session, tokenizer, { slots: 1, queue: 0 });
  await converse(makeConversation(engine, template, slots, values));
  await slots[Symbol.asyncDispose]();
  await engine[Symbol.asyncDispose]();
  return 0;
}

/** Reads turns and answers them, until the input or the person ends. */
async function converse(conversation: Conversation): Promise<void> {
  const { stdin, stdout } = process;
  const isTerminal = stdin.isTTY && stdout.isTTY;
  const lines = createInterface({ input: stdin, ...(isTerminal && { output: stdout }), prompt: "> " });
  let answering: AbortController | null = null;
  const interrupt = (): void => (answering === null ? lines.close() : answering.abort());
  // Here Ctrl-C means the answer; the program's own reaction would be the second meaning of the same key.
  process.removeAllListeners("SIGINT");
  process.on("SIGINT", interrupt);
  lines.on("SIGINT", interrupt);
  if (isTerminal) note("/help names the commands; Ctrl-C stops an answer, and then the chat");
  for await (const turn of turnsOf(lines, isTerminal)) {
    if (/^\/\w/.test(turn)) {
      if (!conversation.command(turn)) break;
      continue;
    }
    if (turn.trim() === "") continue;
    answering = new AbortController();
    await conversation.answer(turn, answering.signal);
    answering = null;
  }
  lines.close();
}

/** Messages out of lines: one each, but for those that go on. */
async function* turnsOf(lines: Interface, isTerminal: boolean): AsyncGenerator<string, void, undefined> {
  const pending: string[] = [];
  const input = { isEnded: false };
  let wake = (): void => undefined;
  lines.on("line", (line) => {
    pending.push(line);
    wake();
  });
  lines.on("close", () => {
    input.isEnded = true;
    wake();
  });
  const nextLine = async (prompt: string): Promise<string | null> => {
    if (isTerminal && pending.length === 0 && !input.isEnded) {
      lines.setPrompt(prompt);
      lines.prompt();
    }
    while (pending.length === 0 && !input.isEnded) await new Promise<void>((done) => (wake = done));
    return pending.shift() ?? null;
  };
  for (let line = await nextLine("> "); line !== null; line = await nextLine("> ")) {
    const parts: string[] = [];
    if (line.trim() === '"""') {
      for (let part = await nextLine("… "); part !== null && part.trim() !== '"""'; part = await nextLine("… "))
        parts.push(part);
    } else {
      let part: string | null = line;
      for (; part?.endsWith("\\"); part = await nextLine("… ")) parts.push(part.slice(0, -1));
      if (part !== null) parts.push(part);
    }
    yield parts.join("\n");
  }
}

interface Conversation {
  /** Does what a line that begins with / says; false where that is to end. */
  command(line: string): boolean;
  /** Answers a message on stdout. */
  answer(text: string, signal: AbortSignal): Promise<void>;
}

function makeConversation(
  { model }: Engine,
  template: ChatTemplate,
  slots: Slots,
  values: Values<typeof OPTIONS>,
): Conversation {
  const { context } = model.plan.cache;
  const maxTokens = values["max-tokens"] ?? context;
  let seed = values.seed ?? crypto.getRandomValues(new BigUint64Array(1))[0] ?? 0n;
  let system = values.system;
  let messages: Message[] = [];
  /** Messages, from the first on, that the context has no room for any more. */
  let left = 0;
  let last: { readonly generated: Generated; readonly reused: number } | null = null;
  /** Files that this chat has written, and may write again. */
  const saved = new Set<string>();

  const all = (from: number): readonly Message[] => [
    ...(system === null ? [] : [{ role: "system", content: system }]),
    ...messages.slice(from),
  ];

  /** The prompt for all messages, or for as many of the last ones as leave room for an answer. */
  function promptOf(): Int32Array {
    const room = Math.min(maxTokens, USUAL_ROOM, Math.floor(context / 4));
    const before = left;
    let prompt = template.prompt(all(left));
    while (prompt.length > context - room) {
      // A question goes with its answer, and the one that is asked stays.
      if (left + 2 > messages.length - 1)
        throw new Error(
          `the message is too long: the prompt has ${prompt.length} tokens, and of the context of ${context} tokens ` +
            `${room} are for the answer; shorten it, or make the context larger (--ctx)`,
        );
      left += 2;
      prompt = template.prompt(all(left));
    }
    if (left > before)
      note(
        `the context of ${context} tokens is full: the model no longer sees the first ${left} messages (--ctx makes it larger)`,
      );
    return prompt;
  }

  function optionsOf(): SequenceOptions {
    const sampling = samplingOf(values, seed);
    seed = BigInt.asUintN(64, seed + 1n);
    return { sampling, maxTokens, stop: [], context };
  }

  async function generate(signal: AbortSignal): Promise<string> {
    const prompt = promptOf();
    let text = "";
    let reused = 0;
    try {
      for await (const event of slots.generate(prompt, { ...optionsOf(), signal })) {
        if (event.kind === "start") reused = event.reused;
        if (event.kind !== "token" && event.kind !== "end") continue;
        text += event.text;
        process.stdout.write(process.stdout.isTTY ? harmless(event.text) : event.text);
        if (event.kind === "end") last = { generated: event.generated, reused };
      }
    } finally {
      if (text !== "") process.stdout.write("\n");
    }
    if (last?.generated.reason === "aborted") note("stopped");
    if (last?.generated.isContextFull) note(`the answer ends here: the context of ${context} tokens is full`);
    return text;
  }

  function save(name: string): void {
    if (name === "") return note("/save: name a file, as in /save talk.json");
    const path = resolve(name);
    if (existsSync(path) && !saved.has(path)) return note(`/save: ${path} exists already; name another file`);
    const temporary = `${path}.${process.pid}.tmp`;
    try {
      writeFileSync(temporary, `${JSON.stringify({ model: model.file, messages: all(0) }, null, 2)}\n`);
      renameSync(temporary, path);
    } catch (error) {
      rmSync(temporary, { force: true });
      return note(`/save: ${(error as Error).message}`);
    }
    saved.add(path);
    note(`saved ${messages.length} messages in ${path}`);
  }

  function stats(): void {
    if (last === null) return note("/stats: there is no answer yet");
    const { prefillTps, decodeTps, tokens, promptTokens } = last.generated;
    note(
      `prompt ${promptTokens} tokens, ${last.reused} of them in the cache, the others at ${rate(prefillTps)} tokens/s; ` +
        `answer ${tokens.length} tokens at ${rate(decodeTps)} tokens/s; context ${promptTokens + tokens.length} of ${context}`,
    );
  }

  return {
    command(line) {
      const [, name = "", rest = ""] = /^(\S+)\s*([^]*)$/.exec(line) ?? [];
      switch (name) {
        case "/exit":
          return false;
        case "/reset":
        case "/system":
          if (name === "/system") system = rest === "" ? null : rest;
          [messages, left, last] = [[], 0, null];
          note(system === null ? "a new conversation" : "a new conversation, with the system message");
          break;
        case "/save":
          save(rest);
          break;
        case "/stats":
          stats();
          break;
        case "/help":
          for (const [key, about] of Object.entries(COMMANDS)) process.stderr.write(`  ${key.padEnd(14)}${about}\n`);
          break;
        default: {
          const known = Object.keys(COMMANDS).map((key) => key.split(" ", 1)[0] ?? key);
          note(`there is no command ${name}; ${didYouMean(name, known) ?? `commands are ${known.join(", ")}`}`);
        }
      }
      return true;
    },
    async answer(text, signal) {
      messages.push({ role: "user", content: text });
      try {
        const answered = await generate(signal);
        if (answered === "") {
          messages.pop();
          if (!signal.aborted) note("the model ended its answer before it began; your message is left out");
        } else messages.push({ role: "assistant", content: answered });
      } catch (error) {
        // The next message may do better: the conversation is as it was.
        messages.pop();
        process.stderr.write(`lutra: ${(error as Error).message}\n`);
      }
    },
  };
}
