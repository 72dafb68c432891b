// Functions that a model may call. The call is written as Hermes and Qwen models do, `<tool_call>{"name": ...,
// "arguments": ...}</tool_call>`: a template that knows tools in that form is told of them, any other model by a system
// message. What must be a call is held to it by a grammar. Not here: the grammar's working (serve-grammar.ts).

import { randomUUID } from "node:crypto";

import type { Message } from "../model/template.ts";
import { ApiError, bad, type Body, given, isObject } from "./serve-error.ts";
import type { GrammarSource } from "./serve-grammar.ts";
import { refusalOf } from "./serve-schema.ts";

/** A function as clients declare it. */
interface Tool {
  readonly name: string;
  readonly description: string | null;
  /** JSON schema of the arguments' object. */
  readonly parameters: Body;
}

/** The tools of a request, and whether one must be called: auto, any, or none but the one that is left in `tools`. */
export interface Tools {
  readonly tools: readonly Tool[];
  readonly choice: "auto" | "required";
  readonly isParallel: boolean;
}

export interface ToolCall {
  readonly id: string;
  readonly type: "function";
  readonly function: { readonly name: string; readonly arguments: string };
}

const BEGIN = "<tool_call>";
const END = "</tool_call>";
const MAX_TOOLS = 128;

/**
 * `tools`, `tool_choice` and `parallel_tool_calls`; null where there are none, or none may be called.
 * @throws ApiError
 */
export function toolsOf(body: Body): Tools | null {
  for (const old of ["functions", "function_call"])
    if (given(body, old) !== undefined)
      throw bad(old, body[old], "it is no longer supported; use tools and tool_choice");
  const all = given(body, "tools") ?? [];
  if (!Array.isArray(all) || all.length > MAX_TOOLS)
    throw bad("tools", all, `a list of at most ${MAX_TOOLS} tools is needed`);
  const tools = all.map((tool: unknown, i) => toolOf(tool, `tools[${i}]`));
  const twice = tools.find(({ name }, i) => tools.findIndex((other) => other.name === name) !== i);
  if (twice !== undefined) throw bad("tools", twice.name, "each function is declared once");
  const choice = given(body, "tool_choice") ?? (tools.length === 0 ? "none" : "auto");
  const isParallel = given(body, "parallel_tool_calls") !== false;
  if (choice === "none") return null;
  if (tools.length === 0) throw bad("tool_choice", choice, "there are no tools to choose from");
  if (choice === "auto" || choice === "required") return { tools, choice, isParallel };
  const wanted = isObject(choice) && isObject(choice["function"]) ? choice["function"]["name"] : undefined;
  const only = tools.filter(({ name }) => name === wanted);
  if (only.length === 0)
    throw bad(
      "tool_choice",
      choice,
      `"none", "auto", "required" or a function is needed, of ${tools.map(({ name }) => name).join(", ")}`,
    );
  return { tools: only, choice: "required", isParallel: false };
}

function toolOf(tool: unknown, place: string): Tool {
  const declared = isObject(tool) && tool["type"] === "function" ? tool["function"] : undefined;
  if (!isObject(declared)) throw bad(place, tool, '{"type": "function", "function": {...}} is needed');
  const { name, description = null, parameters = { type: "object", properties: {} } } = declared;
  if (typeof name !== "string" || !/^[\w.-]{1,64}$/.test(name))
    throw bad(`${place}.function.name`, name, "1 to 64 letters, digits, dots, underscores or dashes are needed");
  if (description !== null && typeof description !== "string")
    throw bad(`${place}.function.description`, description, "a text is needed");
  const at = `${place}.function.parameters`;
  if (!isObject(parameters)) throw bad(at, parameters, "a JSON schema of an object is needed");
  const refusal = refusalOf(parameters);
  if (refusal !== null) throw new ApiError(400, `${at}: ${refusal}`, at, "invalid_json_schema");
  return { name, description, parameters };
}

/** What holds the text to calls: from the first on where one must come, and else once one has begun. */
export function grammarOf({ tools, choice, isParallel }: Tools): GrammarSource {
  const tags = tools.map(({ name, parameters }) => ({
    begin: `${BEGIN}\n{"name": ${JSON.stringify(name)}, "arguments": `,
    schema: JSON.stringify(parameters),
    end: `}\n${END}`,
  }));
  return { kind: "tags", tags, trigger: BEGIN, isRequired: choice === "required", isOne: !isParallel };
}

/**
 * Messages and variables for a template.
 * @param isKnown whether the template takes tools, and their calls and results, in messages; else they are put into texts
 */
export function withTools(
  messages: readonly Message[],
  tools: Tools | null,
  isKnown: boolean,
): { readonly messages: readonly Message[]; readonly variables: Readonly<Record<string, unknown>> } {
  const declared = (tools?.tools ?? []).map((tool) => ({ type: "function", function: { ...tool } }));
  if (isKnown) return { messages, variables: tools === null ? {} : { tools: declared } };
  const plain = messages.map((message): Message => {
    const calls = (message["tool_calls"] ?? []) as readonly { readonly function: object }[];
    if (message.role === "tool")
      return { role: "user", content: `<tool_response>\n${message.content}\n</tool_response>` };
    if (calls.length === 0) return message;
    const texts = calls.map((call) => `${BEGIN}\n${JSON.stringify(call.function)}\n${END}`);
    return { role: message.role, content: [message.content, ...texts].filter((text) => text !== "").join("\n") };
  });
  if (tools === null) return { messages: plain, variables: {} };
  const [first, ...rest] = plain;
  const system = first?.role === "system" ? [first.content] : [];
  const told =
    `You may call functions. These are declared, in JSON:\n${declared.map((tool) => JSON.stringify(tool)).join("\n")}\n` +
    `A call is written so: ${BEGIN}\n{"name": <name>, "arguments": <object>}\n${END}`;
  const others = system.length === 0 ? plain : rest;
  return { messages: [{ role: "system", content: [...system, told].join("\n\n") }, ...others], variables: {} };
}

/** Parts an answer into text, which passes at once, and calls, which come at the end. */
export interface ToolReader {
  /** What of the text can be shown. */
  push(text: string): string;
  /** The calls, and what was held back but is none. */
  end(): { readonly text: string; readonly calls: readonly ToolCall[] };
}

export function makeToolReader(): ToolReader {
  let held = "";
  return {
    push(text) {
      held += text;
      let at = held.indexOf(BEGIN);
      if (at === -1) {
        // The end of the text may be a beginning.
        at = Math.max(0, held.length - BEGIN.length + 1);
        while (at < held.length && !BEGIN.startsWith(held.slice(at))) at++;
      }
      const shown = held.slice(0, at);
      held = held.slice(at);
      return shown;
    },
    end() {
      const calls: ToolCall[] = [];
      const text = held.replaceAll(/<tool_call>([^]*?)<\/tool_call>/g, (whole, inner: string) => {
        const call = callOf(inner);
        if (call === null) return whole;
        calls.push(call);
        return "";
      });
      // Beside calls that are whole, one that was cut is nothing to show.
      return { text: calls.length > 0 ? text.replace(/<tool_call>[^]*$/, "").trim() : text, calls };
    },
  };
}

function callOf(text: string): ToolCall | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (!isObject(value) || typeof value["name"] !== "string") return null;
  const { name, arguments: given_ = {} } = value;
  if (!isObject(given_)) return null;
  const id = `call_${randomUUID().replaceAll("-", "").slice(0, 24)}`;
  return { id, type: "function", function: { name, arguments: JSON.stringify(given_) } };
}
