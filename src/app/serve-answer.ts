// Answers in the forms of OpenAI's API: texts, calls, likelihoods and usage, whole or in chunks as they come.
// Not here: HTTP (serve-http.ts), what a request asks for (serve-request.ts), the generation itself (model/slots.ts).

import { randomUUID } from "node:crypto";

import type { Constraint, Generated, SequenceEvent } from "../model/sequence.ts";
import { QueueFull } from "../model/slots.ts";
import { ApiError } from "./serve-error.ts";
import { GrammarError } from "./serve-grammar.ts";
import type { TextRequest } from "./serve-request.ts";
import type { Service } from "./serve-service.ts";
import { makeToolReader, type ToolCall } from "./serve-tools.ts";

/** Tokens with their likelihoods, as the model drew them. */
type Likelihoods = NonNullable<Extract<SequenceEvent, { kind: "token" }>["likelihood"]>;

/** More of a choice. */
interface Delta {
  readonly text: string;
  readonly likelihoods: readonly Likelihoods[];
}

/** A choice at its end. */
interface Choice extends Delta {
  readonly calls: readonly ToolCall[];
  readonly finish: "stop" | "length" | "tool_calls";
  readonly generated: Generated;
  /** Tokens of the prompt, and how many of them were found in the cache. */
  readonly promptTokens: number;
  readonly cachedTokens: number;
}

/** Where chunks of a streamed answer go. */
export type Send = (chunk: object) => void;

/** Seconds after which one whose request was refused may try again. */
export const RETRY_S = 1;

/**
 * The answer to a request; where it is streamed, all of it goes to `send`, and nothing is returned.
 * @param signal ends the answer where it is: it then says "length", as one that was cut
 * @throws ApiError 400 for a grammar that is none, 429 where too many wait
 */
export async function answer(
  service: Service,
  request: TextRequest,
  signal: AbortSignal,
  send: Send,
): Promise<object | null> {
  const { prompts, n, isStreamed, kind } = request;
  const total = prompts.length * n;
  const constraints = await constraintsOf(service, request, total);
  const startMs = performance.now();
  const isChat = kind === "chat";
  const head = {
    id: `${isChat ? "chatcmpl" : "cmpl"}-${randomUUID().replaceAll("-", "")}`,
    object: isChat ? `chat.completion${isStreamed ? ".chunk" : ""}` : "text_completion",
    created: Math.floor(Date.now() / 1000),
    model: service.name,
  };
  const form = isChat ? CHAT : COMPLETION;
  const noUsage = request.hasUsage ? { usage: null } : {};
  // One choice that fails ends the others.
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  try {
    if (service.slots.room < total) throw tooMany(service);
    const jobs = Array.from({ length: total }, (_, index) =>
      begin(service, request, index, constraints[index], either),
    );
    let isFirst = true;
    const choices = jobs.map(async (events, index) => {
      const offsets = { at: 0 };
      const emit = (delta: Delta): void => {
        if (isFirst) service.metrics.firstToken((performance.now() - startMs) / 1000);
        isFirst = false;
        if (!isStreamed || (delta.text === "" && delta.likelihoods.length === 0)) return;
        send({ ...head, choices: [form.delta(service, index, delta, offsets)], ...noUsage });
      };
      if (isStreamed && isChat) send({ ...head, choices: [ROLE(index)], ...noUsage });
      const choice = await collect(events, request, emit);
      if (isStreamed) send({ ...head, choices: [form.last(index, choice)], ...noUsage });
      return choice;
    });
    for (const choice of choices) choice.catch(() => failed.abort());
    const done = await Promise.all(choices);
    const usage = usageOf(done, n);
    service.metrics.tokens({
      prompt: usage.prompt_tokens,
      cached: usage.prompt_tokens_details.cached_tokens,
      generated: usage.completion_tokens,
    });
    if (!isStreamed) return { ...head, choices: done.map((choice, i) => form.whole(service, i, choice)), usage };
    if (request.hasUsage) send({ ...head, choices: [], usage });
    return null;
  } catch (error) {
    failed.abort();
    throw error instanceof QueueFull ? tooMany(service) : error;
  } finally {
    for (const constraint of constraints) constraint.release();
  }
}

function tooMany({ slots }: Service): ApiError {
  const message = `${slots.busy} requests are answered and ${slots.waiting} wait already; try again later`;
  return new ApiError(429, message, null, "queue_full");
}

/** One for each choice, or none; what cannot be kept to is refused before anything is generated. */
async function constraintsOf(
  { grammars }: Service,
  { grammar, tools }: TextRequest,
  count: number,
): Promise<readonly (Constraint & { release(): void })[]> {
  if (grammar === null) return [];
  const made: (Constraint & { release(): void })[] = [];
  try {
    while (made.length < count) made.push(await grammars.constraint(grammar));
    return made;
  } catch (error) {
    for (const constraint of made) constraint.release();
    if (!(error instanceof GrammarError)) throw error;
    const param = tools === null ? "response_format" : "tools";
    throw new ApiError(400, `${param}: no grammar follows from it: ${error.message}`, param, "invalid_json_schema");
  }
}

function begin(
  { slots }: Service,
  { prompts, n, options }: TextRequest,
  index: number,
  constraint: Constraint | undefined,
  signal: AbortSignal,
): ReturnType<Service["slots"]["generate"]> {
  const prompt = prompts[Math.floor(index / n)] ?? new Int32Array(0);
  const seed = BigInt.asUintN(64, options.sampling.seed + BigInt(index));
  const sampling = { ...options.sampling, seed };
  return slots.generate(prompt, { ...options, sampling, signal, ...(constraint !== undefined && { constraint }) });
}

/** Reads a choice to its end; `emit` gets what can be shown as it comes, and the rest is in the result as well. */
async function collect(
  events: ReturnType<Service["slots"]["generate"]>,
  { tools, options }: TextRequest,
  emit: (delta: Delta) => void,
): Promise<Choice> {
  const reader = tools === null ? null : makeToolReader();
  const likelihoods: Likelihoods[] = [];
  let [text, promptTokens, cachedTokens] = ["", 0, 0];
  for await (const event of events) {
    if (event.kind === "start") cachedTokens = event.reused;
    else if (event.kind === "prefill") promptTokens = event.total;
    else {
      const shown = reader === null ? event.text : reader.push(event.text);
      text += shown;
      const one = event.kind === "token" && event.likelihood !== null ? [event.likelihood] : [];
      likelihoods.push(...one);
      if (event.kind === "token") {
        emit({ text: shown, likelihoods: one });
        continue;
      }
      const rest = reader?.end() ?? { text: "", calls: [] };
      text += rest.text;
      if (shown + rest.text !== "") emit({ text: shown + rest.text, likelihoods: [] });
      const isCut = event.generated.reason === "length" || event.generated.reason === "aborted";
      const finish = rest.calls.length > 0 ? "tool_calls" : isCut ? "length" : "stop";
      const { generated } = event;
      return { text, likelihoods, calls: rest.calls, finish, generated, promptTokens, cachedTokens };
    }
  }
  throw new Error(`the events of a sequence of at most ${options.maxTokens} tokens had no end`);
}

interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/** A prompt counts once, however many texts follow it. */
function usageOf(choices: readonly Choice[], n: number): Usage {
  const firsts = choices.filter((_, i) => i % n === 0);
  const prompt_tokens = firsts.reduce((sum, { promptTokens }) => sum + promptTokens, 0);
  const cached_tokens = firsts.reduce((sum, { cachedTokens }) => sum + cachedTokens, 0);
  const completion_tokens = choices.reduce((sum, { generated }) => sum + generated.tokens.length, 0);
  const total_tokens = prompt_tokens + completion_tokens;
  return { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details: { cached_tokens } };
}

/** How choices look, whole and in chunks. */
interface Form {
  whole(service: Service, index: number, choice: Choice): object;
  /** @param offsets characters that were sent before, which it counts */
  delta(service: Service, index: number, delta: Delta, offsets: { at: number }): object;
  last(index: number, choice: Choice): object;
}

const ROLE = (index: number): object => ({
  index,
  delta: { role: "assistant", content: "" },
  logprobs: null,
  finish_reason: null,
});

const CHAT: Form = {
  whole: (service, index, { text, calls, likelihoods, finish }) => ({
    index,
    message: {
      role: "assistant",
      content: text === "" && calls.length > 0 ? null : text,
      refusal: null,
      ...(calls.length > 0 && { tool_calls: calls }),
    },
    logprobs: chatLogprobs(service, likelihoods),
    finish_reason: finish,
  }),
  delta: (service, index, { text, likelihoods }) => ({
    index,
    delta: { content: text },
    logprobs: chatLogprobs(service, likelihoods),
    finish_reason: null,
  }),
  last: (index, { calls, finish }) => ({
    index,
    delta: calls.length === 0 ? {} : { tool_calls: calls.map((call, i) => ({ index: i, ...call })) },
    logprobs: null,
    finish_reason: finish,
  }),
};

const COMPLETION: Form = {
  whole: (service, index, { text, likelihoods, finish }) => ({
    index,
    text,
    logprobs: completionLogprobs(service, likelihoods, { at: 0 }),
    finish_reason: finish,
  }),
  delta: (service, index, { text, likelihoods }, offsets) => ({
    index,
    text,
    logprobs: completionLogprobs(service, likelihoods, offsets),
    finish_reason: null,
  }),
  last: (index, { finish }) => ({ index, text: "", logprobs: null, finish_reason: finish }),
};

const UTF8 = new TextEncoder();

/** `choices[].logprobs` of a chat; bytes are null for a token that is a part of a character. */
function chatLogprobs({ tokenizer }: Service, all: readonly Likelihoods[]): object | null {
  if (all.length === 0) return null;
  const one = ({ token, logprob }: Likelihoods["drawn"]): object => {
    const text = tokenizer.decode([token], { special: true });
    return { token: text, logprob, bytes: text.includes("\ufffd") ? null : [...UTF8.encode(text)] };
  };
  const content = all.map(({ drawn, likeliest }) => ({ ...one(drawn), top_logprobs: likeliest.map(one) }));
  return { content, refusal: null };
}

function completionLogprobs(
  { tokenizer }: Service,
  all: readonly Likelihoods[],
  offsets: { at: number },
): object | null {
  if (all.length === 0) return null;
  const texts = all.map(({ drawn }) => tokenizer.decode([drawn.token], { special: true }));
  const text_offset = texts.map((text) => {
    offsets.at += text.length;
    return offsets.at - text.length;
  });
  return {
    tokens: texts,
    token_logprobs: all.map(({ drawn }) => drawn.logprob),
    top_logprobs: all.map(({ likeliest }) =>
      Object.fromEntries(
        likeliest.map(({ token, logprob }) => [tokenizer.decode([token], { special: true }), logprob]),
      ),
    ),
    text_offset,
  };
}
