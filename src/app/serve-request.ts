// What a request for text asks for: the fields of OpenAI's API, each with its limits, as prompts and options for the
// slots. Unknown fields are ignored, as clients send many; known ones with values that cannot be kept to are refused.
// Not here: generating (serve-answer.ts), tools (serve-tools.ts), schemas (serve-schema.ts).

import { ModelError } from "../model/metadata.ts";
import type { Sampling } from "../model/sampler.ts";
import type { SequenceOptions } from "../model/sequence.ts";
import type { Message } from "../model/template.ts";
import { SAMPLING_OPTIONS } from "./sampling.ts";
import { ApiError, bad, type Body, booleanIn, brief, given, integerIn, isObject, numberIn } from "./serve-error.ts";
import type { GrammarSource } from "./serve-grammar.ts";
import { refusalOf } from "./serve-schema.ts";
import type { Service } from "./serve-service.ts";
import { grammarOf, type Tools, toolsOf, withTools } from "./serve-tools.ts";

export interface TextRequest {
  readonly kind: "chat" | "completion";
  readonly prompts: readonly Int32Array[];
  /** Texts for each prompt. */
  readonly n: number;
  /** The seed is that of the first choice; the others count on. */
  readonly options: SequenceOptions;
  readonly grammar: GrammarSource | null;
  readonly tools: Tools | null;
  readonly isStreamed: boolean;
  /** Whether a last chunk has the usage. */
  readonly hasUsage: boolean;
}

const MAX_CHOICES = 16;
const MAX_STOPS = 4;
const MAX_STOP = 256;
const MAX_BIASES = 1024;
const MAX_MESSAGES = 4096;
/** As OpenAI's. */
const MAX_TOP_LOGPROBS = 20;
const MAX_LOGPROBS = 5;
/** OpenAI's default for completions; an answer in a chat may fill the context. */
const COMPLETION_TOKENS = 16;
const ROLES: ReadonlySet<unknown> = new Set(["system", "developer", "user", "assistant", "tool"]);

/** What is used where a request does not say. */
export const DEFAULTS: Omit<Sampling, "seed"> = {
  temperature: SAMPLING_OPTIONS.temperature.fallback,
  topK: SAMPLING_OPTIONS["top-k"].fallback,
  topP: SAMPLING_OPTIONS["top-p"].fallback,
  minP: SAMPLING_OPTIONS["min-p"].fallback,
  repeatPenalty: SAMPLING_OPTIONS["repeat-penalty"].fallback,
};

/** @throws ApiError */
export function chatRequest(body: Body, service: Service): TextRequest {
  const { template, templateStops, knowsTools } = service;
  const messages = messagesOf(body);
  const tools = toolsOf(body);
  const told = withTools(messages, tools, knowsTools);
  checkLength(service, "messages", lengthOf(told.messages));
  const kwargs = given(body, "chat_template_kwargs") ?? {};
  if (!isObject(kwargs)) throw bad("chat_template_kwargs", kwargs, "an object is needed");
  let prompt: Int32Array;
  try {
    prompt = template.prompt(told.messages, { ...kwargs, ...told.variables });
  } catch (error) {
    if (!(error instanceof ModelError)) throw error;
    throw new ApiError(400, `messages: ${error.message.replace(`${service.model.file}: `, "")}`, "messages");
  }
  const format = formatOf(body);
  if (format !== null && tools !== null)
    throw bad("response_format", body["response_format"], "not together with tools; leave one of them out");
  const likeliest = booleanIn(body, "logprobs", false) ? integerIn(body, "top_logprobs", 0, MAX_TOP_LOGPROBS, 0) : null;
  if (likeliest === null && given(body, "top_logprobs") !== undefined)
    throw bad("top_logprobs", body["top_logprobs"], "logprobs: true is needed with it");
  const most = integerIn(body, "max_completion_tokens", 1, 2 ** 24, integerIn(body, "max_tokens", 1, 2 ** 24, 2 ** 24));
  return {
    kind: "chat",
    ...commonOf(body, service, [prompt], likeliest, most, templateStops),
    grammar: format ?? (tools === null ? null : grammarOf(tools)),
    tools,
  };
}

/** @throws ApiError */
export function completionRequest(body: Body, service: Service): TextRequest {
  for (const name of ["suffix", "echo"]) {
    const value = given(body, name);
    if (value !== undefined && value !== false && value !== "") throw bad(name, value, "it is not supported");
  }
  const n = given(body, "n") ?? 1;
  const best = given(body, "best_of");
  if (best !== undefined && best !== n) throw bad("best_of", best, "it is not supported; n gives several texts");
  const likeliest = integerIn(body, "logprobs", 0, MAX_LOGPROBS, null);
  const prompts = tokenListsOf(body, "prompt", service, { special: true });
  return {
    kind: "completion",
    ...commonOf(body, service, prompts, likeliest, integerIn(body, "max_tokens", 1, 2 ** 24, COMPLETION_TOKENS), []),
    grammar: formatOf(body),
    tools: null,
  };
}

function commonOf(
  body: Body,
  service: Service,
  prompts: readonly Int32Array[],
  likeliest: number | null,
  maxTokens: number,
  stops: readonly string[],
): Omit<TextRequest, "kind" | "grammar" | "tools"> {
  const { tokenizer, slotCount, queue } = service;
  const { context } = service.model.plan.cache;
  const longest = Math.max(...prompts.map(({ length }) => length));
  if (longest > context)
    throw new ApiError(
      400,
      `the prompt has ${longest} tokens, but the context has room for ${context}; shorten it`,
      prompts.length === 1 && given(body, "messages") !== undefined ? "messages" : "prompt",
      "context_length_exceeded",
    );
  const n = integerIn(body, "n", 1, MAX_CHOICES, 1);
  const most = Math.min(MAX_CHOICES, slotCount + queue);
  if (n * prompts.length > most)
    throw bad("n", n, `with ${prompts.length} prompts that is more than ${most} texts, which are possible at once`);
  const seed = integerIn(body, "seed", 0, Number.MAX_SAFE_INTEGER, null);
  const bias = biasOf(body, tokenizer.pieces.length);
  const streamed = given(body, "stream_options") ?? {};
  if (!isObject(streamed)) throw bad("stream_options", streamed, "an object is needed");
  return {
    prompts,
    n,
    options: {
      sampling: {
        temperature: numberIn(body, "temperature", 0, 100, DEFAULTS.temperature),
        topK: integerIn(body, "top_k", 0, 2 ** 31 - 1, DEFAULTS.topK),
        topP: numberIn(body, "top_p", 0, 1, DEFAULTS.topP),
        minP: numberIn(body, "min_p", 0, 1, DEFAULTS.minP),
        repeatPenalty: numberIn(body, "repeat_penalty", 0.1, 10, DEFAULTS.repeatPenalty),
        frequencyPenalty: numberIn(body, "frequency_penalty", -2, 2, 0),
        presencePenalty: numberIn(body, "presence_penalty", -2, 2, 0),
        seed: seed === null ? (crypto.getRandomValues(new BigUint64Array(1))[0] ?? 0n) : BigInt(seed),
        ...(bias.size > 0 && { logitBias: bias }),
      },
      maxTokens,
      stop: [...stopsOf(body), ...stops],
      context,
      ...(likeliest !== null && { likeliest }),
    },
    isStreamed: booleanIn(body, "stream", false),
    hasUsage: booleanIn(streamed, "include_usage", false),
  };
}

/** A text or token ids, or several of either, as `prompt` and `input` have them. */
export function tokenListsOf(
  body: Body,
  name: string,
  service: Service,
  options: { readonly special: boolean },
): readonly Int32Array[] {
  const value = given(body, name);
  const { tokenizer } = service;
  const tokens = (item: unknown, place: string): Int32Array => {
    if (typeof item === "string") {
      if (item === "") throw bad(place, item, "a text of at least one character is needed");
      checkLength(service, place, item.length);
      return tokenizer.encode(item, options);
    }
    if (!Array.isArray(item) || item.length === 0) throw bad(place, item, "a text or a list of token ids is needed");
    const size = tokenizer.pieces.length;
    const wrong = item.findIndex((id) => !(Number.isInteger(id) && id >= 0 && id < size));
    if (wrong !== -1) throw bad(`${place}[${wrong}]`, item[wrong], `token ids are 0 to ${size - 1}`);
    return Int32Array.from(item as readonly number[]);
  };
  const isSeveral = Array.isArray(value) && value.length > 0 && typeof value[0] !== "number";
  if (!isSeveral) return [tokens(value, name)];
  const all: readonly unknown[] = value;
  if (all.length > MAX_CHOICES) throw bad(name, `${all.length} items`, `at most ${MAX_CHOICES} are possible at once`);
  return all.map((item, i) => tokens(item, `${name}[${i}]`));
}

/** Refuses what is certainly too long before time is spent on it: no token has more characters than the longest. */
function checkLength(service: Service, param: string, characters: number): void {
  const most = service.longestPiece * service.model.plan.cache.context;
  if (characters > most)
    throw new ApiError(
      400,
      `${param}: ${characters} characters; the context of ${service.model.plan.cache.context} tokens has no room for ` +
        `more than ${most}`,
      param,
      "context_length_exceeded",
    );
}

function lengthOf(messages: readonly Message[]): number {
  return messages.reduce((sum, { content }) => sum + content.length, 0);
}

function messagesOf(body: Body): readonly Message[] {
  const messages = given(body, "messages");
  if (!Array.isArray(messages) || messages.length === 0 || messages.length > MAX_MESSAGES)
    throw bad("messages", messages, `a list of 1 to ${MAX_MESSAGES} messages is needed`);
  const called = new Set<unknown>();
  return messages.map((message: unknown, i) => messageOf(message, `messages[${i}]`, called));
}

function messageOf(message: unknown, place: string, called: Set<unknown>): Message {
  if (!isObject(message)) throw bad(place, message, "an object with role and content is needed");
  const role = given(message, "role");
  if (!ROLES.has(role)) throw bad(`${place}.role`, role, `roles are ${[...ROLES].join(", ")}`);
  const calls = role === "assistant" ? callsOf(message, place) : [];
  for (const { id } of calls) called.add(id);
  const content = contentOf(given(message, "content"), `${place}.content`, calls.length > 0);
  if (role === "tool") {
    const id = given(message, "tool_call_id");
    if (!called.has(id)) throw bad(`${place}.tool_call_id`, id, "no tool call before it has this id");
    return { role, content, tool_call_id: id };
  }
  const name = given(message, "name");
  if (name !== undefined && typeof name !== "string") throw bad(`${place}.name`, name, "a text is needed");
  return {
    role: role === "developer" ? "system" : (role as string),
    content,
    ...(name !== undefined && { name }),
    ...(calls.length > 0 && { tool_calls: calls }),
  };
}

function contentOf(content: unknown, place: string, mayBeAbsent: boolean): string {
  if (typeof content === "string") return content;
  if (content === undefined && mayBeAbsent) return "";
  if (!Array.isArray(content)) throw bad(place, content ?? null, "a text or a list of text parts is needed");
  const parts: readonly unknown[] = content;
  return parts
    .map((part, i) => {
      if (!isObject(part)) throw bad(`${place}[${i}]`, part, "an object is needed");
      const { type, text } = part;
      if (type !== "text") throw bad(`${place}[${i}].type`, type, 'this model reads parts of type "text" alone');
      if (typeof text !== "string") throw bad(`${place}[${i}].text`, text, "a text is needed");
      return text;
    })
    .join("");
}

/** Calls of an earlier answer, with their arguments as objects, as templates expect them. */
function callsOf(message: Body, place: string): readonly { readonly id: string; readonly [key: string]: unknown }[] {
  const calls = given(message, "tool_calls") ?? [];
  if (!Array.isArray(calls)) throw bad(`${place}.tool_calls`, calls, "a list is needed");
  return calls.map((call: unknown, i) => {
    const at = `${place}.tool_calls[${i}]`;
    const called = isObject(call) ? call["function"] : undefined;
    if (!isObject(call) || typeof call["id"] !== "string" || !isObject(called))
      throw bad(at, call, "an object with id and function is needed");
    const { name, arguments: text = "{}" } = called;
    if (typeof name !== "string") throw bad(`${at}.function.name`, name, "a text is needed");
    if (typeof text !== "string") throw bad(`${at}.function.arguments`, text, "a text is needed");
    let values: unknown;
    try {
      values = JSON.parse(text === "" ? "{}" : text);
    } catch {
      throw bad(`${at}.function.arguments`, text, "JSON is needed");
    }
    return { id: call["id"], type: "function", function: { name, arguments: values } };
  });
}

function stopsOf(body: Body): readonly string[] {
  const value = given(body, "stop") ?? [];
  const stops: readonly unknown[] = Array.isArray(value) ? value : [value];
  const isFine = (stop: unknown): stop is string =>
    typeof stop === "string" && stop.length >= 1 && stop.length <= MAX_STOP;
  if (stops.length > MAX_STOPS || !stops.every((stop) => isFine(stop)))
    throw bad("stop", value, `at most ${MAX_STOPS} texts of 1 to ${MAX_STOP} characters are possible`);
  return stops;
}

function biasOf(body: Body, vocabulary: number): ReadonlyMap<number, number> {
  const value = given(body, "logit_bias") ?? {};
  if (!isObject(value) || Object.keys(value).length > MAX_BIASES)
    throw bad("logit_bias", value, `an object of at most ${MAX_BIASES} token ids is needed`);
  return new Map(
    Object.entries(value).map(([key, bias]) => {
      const token = /^\d{1,9}$/.test(key) ? Number(key) : -1;
      if (token < 0 || token >= vocabulary)
        throw bad("logit_bias", key, `keys are token ids, from 0 to ${vocabulary - 1}`);
      if (!(typeof bias === "number" && Math.abs(bias) <= 100))
        throw bad(`logit_bias.${key}`, bias, "a number from -100 to 100 is needed");
      return [token, bias];
    }),
  );
}

/** What `response_format` holds the text to; null for plain text. */
function formatOf(body: Body): GrammarSource | null {
  const format = given(body, "response_format");
  if (format === undefined) return null;
  const type = isObject(format) ? format["type"] : undefined;
  if (!isObject(format) || type === "text") {
    if (type === "text") return null;
    throw bad("response_format", format, "an object is needed");
  }
  if (type === "json_object")
    return { kind: "schema", schema: JSON.stringify({ type: "object", additionalProperties: true }) };
  if (type !== "json_schema")
    throw bad("response_format.type", type, 'types are "text", "json_object" and "json_schema"');
  const declared = format["json_schema"];
  const schema = isObject(declared) ? declared["schema"] : undefined;
  const at = "response_format.json_schema.schema";
  const refusal = schema === undefined ? `${brief(schema)}; a JSON schema is needed` : refusalOf(schema);
  if (refusal !== null) throw new ApiError(400, `${at}: ${refusal}`, at, "invalid_json_schema");
  return { kind: "schema", schema: JSON.stringify(schema) };
}
