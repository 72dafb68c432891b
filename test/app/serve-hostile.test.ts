// Requests that mean harm, or are broken: each gets a clear error in bounded time, and the server goes on as before.

import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

import { embeddedModel } from "../oracle/oracle.ts";
import { lutra } from "./lutra.ts";
import { type Serving, startServer } from "./serving.ts";

let server: Serving;
beforeAll(async () => {
  server = await startServer(["--slots", "2", "--queue", "4", "--verbose"]);
});
afterEach(async () => {
  expect((await server.get("/health")).status).toBe(200);
});
afterAll(async () => {
  // The answer of before, after all of it.
  const { json } = await server.post("/v1/completions", { prompt: "Emma was not", max_tokens: 12, temperature: 0 });
  const run = lutra(["run", embeddedModel, "Emma was not", "--max-tokens", "12", "--temperature", "0", "--json"]);
  expect(json.choices[0].text).toBe(JSON.parse(run.out).text);
  expect((await server.stop()).code).toBe(0);
});

const CHAT = "/v1/chat/completions";
const TEXT = "/v1/completions";
const SAID = [{ role: "user", content: "x" }];

/** A schema within schemas. */
function nested(depth: number): object {
  return depth === 0 ? { type: "null" } : { type: "array", items: nested(depth - 1) };
}

const ofSchema = (schema: unknown): object => ({
  messages: SAID,
  max_tokens: 5,
  response_format: { type: "json_schema", json_schema: { name: "x", schema } },
});
const whole = "a whole number from";
const at = "response_format.json_schema.schema: #";

describe("a field that cannot be kept to is named:", () => {
  test.each<[string, object, string]>([
    [CHAT, {}, "messages: undefined; a list of 1 to 4096 messages is needed"],
    [CHAT, { messages: [] }, "messages: []; a list of 1 to 4096 messages is needed"],
    [CHAT, { messages: ["x"] }, 'messages[0]: "x"; an object with role and content is needed'],
    [
      CHAT,
      { messages: [{ role: "wizard", content: "x" }] },
      'messages[0].role: "wizard"; roles are system, developer, user, assistant, tool',
    ],
    [
      CHAT,
      { messages: [{ role: "user", content: null }] },
      "messages[0].content: null; a text or a list of text parts is needed",
    ],
    [
      CHAT,
      { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "file:///etc/passwd" } }] }] },
      'messages[0].content[0].type: "image_url"; this model reads parts of type "text" alone',
    ],
    [
      CHAT,
      { messages: [{ role: "tool", content: "x", tool_call_id: "call_1" }] },
      'messages[0].tool_call_id: "call_1"; no tool call before it has this id',
    ],
    [
      CHAT,
      {
        messages: [
          { role: "assistant", tool_calls: [{ id: "a", type: "function", function: { name: "f", arguments: "{" } }] },
        ],
      },
      'messages[0].tool_calls[0].function.arguments: "{"; JSON is needed',
    ],
    [CHAT, { messages: SAID, model: ["a"] }, 'model: ["a"]; a text is needed'],
    [CHAT, { messages: SAID, functions: [] }, "functions: []; it is no longer supported; use tools and tool_choice"],
    [CHAT, { messages: SAID, tool_choice: "required" }, 'tool_choice: "required"; there are no tools to choose from'],
    [
      CHAT,
      { messages: SAID, tools: [{ type: "function", function: { name: "a b" } }] },
      'tools[0].function.name: "a b"; 1 to 64 letters, digits, dots, underscores or dashes are needed',
    ],
    [
      CHAT,
      {
        messages: SAID,
        tools: [{ type: "function", function: { name: "f" } }],
        tool_choice: { type: "function", function: { name: "g" } },
      },
      'tool_choice: {"type":"function","function":{"name":"g"}}; "none", "auto", "required" or a function is needed, of f',
    ],
    [CHAT, { messages: SAID, top_logprobs: 3 }, "top_logprobs: 3; logprobs: true is needed with it"],
    [CHAT, { messages: SAID, logprobs: true, top_logprobs: 21 }, `top_logprobs: 21; ${whole} 0 to 20 is needed`],
    [
      CHAT,
      { messages: SAID, response_format: { type: "xml" } },
      'response_format.type: "xml"; types are "text", "json_object" and "json_schema"',
    ],
    [TEXT, {}, "prompt: undefined; a text or a list of token ids is needed"],
    [TEXT, { prompt: "" }, 'prompt: ""; a text of at least one character is needed'],
    [TEXT, { prompt: [1, 2048] }, "prompt[1]: 2048; token ids are 0 to 2047"],
    [TEXT, { prompt: [1, -1] }, "prompt[1]: -1; token ids are 0 to 2047"],
    [TEXT, { prompt: [[1], [2, 0.5]] }, "prompt[1][1]: 0.5; token ids are 0 to 2047"],
    [TEXT, { prompt: Array.from({ length: 17 }, () => "x") }, 'prompt: "17 items"; at most 16 are possible at once'],
    [TEXT, { prompt: "x", max_tokens: -1 }, `max_tokens: -1; ${whole} 1 to 16777216 is needed`],
    [TEXT, { prompt: "x", max_tokens: 1e18 }, `max_tokens: 1000000000000000000; ${whole} 1 to 16777216 is needed`],
    [TEXT, { prompt: "x", max_tokens: "5" }, `max_tokens: "5"; ${whole} 1 to 16777216 is needed`],
    [TEXT, { prompt: "x", temperature: -1 }, "temperature: -1; a number from 0 to 100 is needed"],
    [TEXT, { prompt: "x", temperature: 1e308 }, "temperature: 1e+308; a number from 0 to 100 is needed"],
    [TEXT, { prompt: "x", temperature: "hot" }, 'temperature: "hot"; a number from 0 to 100 is needed'],
    [TEXT, { prompt: "x", top_k: 2 ** 31 }, `top_k: 2147483648; ${whole} 0 to 2147483647 is needed`],
    [TEXT, { prompt: "x", top_p: 1.5 }, "top_p: 1.5; a number from 0 to 1 is needed"],
    [TEXT, { prompt: "x", frequency_penalty: 3 }, "frequency_penalty: 3; a number from -2 to 2 is needed"],
    [TEXT, { prompt: "x", n: 1e6 }, `n: 1000000; ${whole} 1 to 16 is needed`],
    [TEXT, { prompt: "x", n: 7 }, "n: 7; with 1 prompts that is more than 6 texts, which are possible at once"],
    [TEXT, { prompt: "x", seed: 2 ** 64 }, `seed: 18446744073709552000; ${whole} 0 to 9007199254740991 is needed`],
    [TEXT, { prompt: "x", seed: -5 }, `seed: -5; ${whole} 0 to 9007199254740991 is needed`],
    [TEXT, { prompt: "x", stop: [""] }, 'stop: [""]; at most 4 texts of 1 to 256 characters are possible'],
    [
      TEXT,
      { prompt: "x", stop: Array.from({ length: 5 }, () => "a") },
      'stop: ["a","a","a","a","a"]; at most 4 texts of 1 to 256 characters are possible',
    ],
    [TEXT, { prompt: "x", logit_bias: { 2048: 1 } }, 'logit_bias: "2048"; keys are token ids, from 0 to 2047'],
    [TEXT, { prompt: "x", logit_bias: { 5: 101 } }, "logit_bias.5: 101; a number from -100 to 100 is needed"],
    [TEXT, { prompt: "x", stream: 1 }, "stream: 1; true or false is needed"],
    [TEXT, { prompt: "x", echo: true }, "echo: true; it is not supported"],
    [TEXT, { prompt: "x", logprobs: 6 }, `logprobs: 6; ${whole} 0 to 5 is needed`],
    ["/tokenize", { content: 5 }, "content: 5; a text is needed"],
    ["/detokenize", { tokens: [99_999] }, "tokens[0][0]: 99999; token ids are 0 to 2047"],
  ])("%s %j", async (path, body, message) => {
    const { status, json } = await server.post(path, body);
    expect(json.error.message).toBe(message);
    expect([status, json.error.type]).toEqual([400, "invalid_request_error"]);
    expect(json.error.param).toBeTypeOf("string");
  });

  test("numbers that JSON does not have are no JSON", async () => {
    const { status, json } = await server.post(TEXT, '{"prompt": "x", "temperature": NaN}');
    expect([status, json.error.message]).toEqual([400, "the body is not JSON in UTF-8"]);
  });
});

describe("a schema that cannot be kept to is refused, and never passed over:", () => {
  test.each<[string, unknown, string]>([
    ["no schema", undefined, "response_format.json_schema.schema: undefined; a JSON schema is needed"],
    ["a list", [], `${at}: a schema is an object`],
    [
      "an unknown type",
      { type: "person" },
      `${at}/type: "person"; types are object, array, string, number, integer, boolean, null`,
    ],
    [
      "a keyword that grammars have not",
      { type: "number", multipleOf: 3 },
      `${at}/multipleOf: this keyword is not supported; type, enum, const, properties, required, additionalProperties, items, prefixItems, minItems, maxItems, minLength, maxLength, pattern, minimum, maximum, exclusiveMinimum, exclusiveMaximum, anyOf, oneOf, $ref, $defs, definitions, format are`,
    ],
    [
      "keywords of which one would count",
      { type: "object", properties: {}, anyOf: [{ type: "object" }] },
      `${at}: anyOf beside type; both in one schema are not supported`,
    ],
    ["a keyword without its type", { minLength: 3 }, `${at}: minLength without type; a schema names its type`],
    [
      "a required name that is none",
      { type: "object", properties: {}, required: ["a"] },
      `${at}/required: "a" is not among the properties`,
    ],
    [
      "a reference to elsewhere",
      { $ref: "http://127.0.0.1:1/schema" },
      `${at}/$ref: "http://127.0.0.1:1/schema"; references into the schema itself, as "#/$defs/name", are supported`,
    ],
    ["a reference to nothing", { $ref: "#/$defs/a" }, `${at}/$ref: "#/$defs/a"; there is no such schema`],
    [
      "references in a circle",
      { $defs: { a: { $ref: "#/$defs/b" }, b: { $ref: "#/$defs/a" } }, $ref: "#/$defs/a" },
      `${at}/$defs/a/$ref: "#/$defs/b" leads back to itself`,
    ],
    ["a name that every object has", { $ref: "#/__proto__" }, `${at}/$ref: "#/__proto__"; there is no such schema`],
    [
      "a broken expression",
      { type: "string", pattern: "((" },
      `${at}/pattern: Invalid regular expression: /((/u: Unterminated group`,
    ],
    [
      "an expression of too many states",
      { type: "string", pattern: "^((a{1,200}){1,200})$" },
      `${at}/pattern: more than 4096 repetitions`,
    ],
    [
      "too many items",
      { type: "array", items: { type: "null" }, minItems: 1e9 },
      `${at}/minItems: 1000000000; a whole number from 0 to 4096 is needed`,
    ],
    [
      "too many values",
      { enum: Array.from({ length: 1e5 }, (_, i) => i) },
      `${at}/enum: it must be a list of 1 to 1000 values`,
    ],
    ["too deep", nested(40), `${at}${"/items".repeat(33)}: more than 32 schemas within each other`],
    [
      "a format that is unknown",
      { type: "string", format: "zzz" },
      `${at}/format: "zzz"; formats are date, time, date-time, duration, email, hostname, ipv4, ipv6, uri, uri-reference, uri-template, uuid, json-pointer, relative-json-pointer`,
    ],
  ])("%s", async (_, schema, message) => {
    const { status, json } = await server.post(CHAT, ofSchema(schema));
    expect(json.error.message).toBe(message);
    expect([status, json.error.code]).toEqual([400, schema === undefined ? "invalid_json_schema" : json.error.code]);
  });

  test("what the grammar's compiler alone refuses, while others go on", async () => {
    const good = { type: "array", items: { type: "boolean" }, minItems: 9, maxItems: 9 };
    const bad = { type: "array", items: { type: "null" }, minItems: 5, maxItems: 2 };
    const [one, two, three] = await Promise.all([
      server.post(CHAT, { ...ofSchema(good), max_tokens: 120, seed: 1 }),
      server.post(CHAT, ofSchema(bad)),
      server.post(CHAT, { ...ofSchema(good), max_tokens: 120, seed: 2 }),
    ]);
    expect([two.status, two.json.error.message]).toEqual([
      400,
      "response_format: no grammar follows from it: minItems is greater than maxItems: 5 > 2",
    ]);
    for (const { json } of [one, three]) expect(JSON.parse(json.choices[0].message.content)).toHaveLength(9);
  });

  test("and one that has no end is compiled", async () => {
    const node = { type: "object", properties: { next: { $ref: "#" } }, additionalProperties: false };
    const { status, json } = await server.post(CHAT, { ...ofSchema(node), max_tokens: 20, temperature: 0 });
    expect(status).toBe(200);
    expect(json.choices[0].message.content).toMatch(/^\{/);
  });

  test("and the largest that are let in take little time", async () => {
    const startMs = performance.now();
    for (const schema of [
      { type: "string", pattern: "^[a-z]{4096}$" },
      { type: "string", maxLength: 4096 },
      { type: "array", items: { type: "array", items: { type: "null" }, minItems: 4096 }, minItems: 4096 },
      { enum: Array.from({ length: 1000 }, (_, i) => `value ${i}`) },
      { type: "string", pattern: "^(a|aa)*(a*)*b$" },
    ]) {
      const { status } = await server.post(CHAT, ofSchema(schema));
      expect([200, 400]).toContain(status);
    }
    expect(performance.now() - startMs).toBeLessThan(30_000);
  });
});

describe("a body", () => {
  const message = async (body: string | Uint8Array, headers = {}): Promise<[number, string]> => {
    const { status, json } = await server.post(TEXT, body, headers);
    return [status, json.error.message];
  };

  test("that is no JSON object is refused", async () => {
    for (const body of ["", "{", "prompt=x", new Uint8Array([0xff, 0xfe]), Buffer.from('{"prompt":"\xff"}', "latin1")])
      expect(await message(body)).toEqual([400, "the body is not JSON in UTF-8"]);
    for (const body of ["[]", "5", "null", '"x"'])
      expect(await message(body)).toEqual([400, "the body is JSON, but no object"]);
  });

  test("that is too large is refused: by what it says of itself, and by what comes", async () => {
    const allowed = "the body is larger than the 4194304 bytes that are possible";
    const { text, ms } = await server.raw(
      `POST ${TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{`,
    );
    expect(text).toMatch(/^HTTP\/1\.1 413 /);
    expect(text).toContain(allowed);
    expect(ms).toBeLessThan(5000);
    const part = "x".repeat(2 ** 18);
    const chunk = `${part.length.toString(16)}\r\n${part}\r\n`;
    const endless = await server.raw(
      `POST ${TEXT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n`,
      () => chunk,
    );
    expect(endless.text === "" || endless.text.startsWith("HTTP/1.1 413 ")).toBe(true);
    expect(endless.ms).toBeLessThan(20_000);
  });

  test("that is nested 10,000 deep, or compressed, is refused", async () => {
    const deep = `{"prompt": ${"[".repeat(10_000)}${"]".repeat(10_000)}}`;
    expect(await message(deep)).toEqual([400, "the body is nested more than 128 deep"]);
    const bomb = gzipSync(Buffer.alloc(2 ** 24));
    expect(await message(bomb, { "content-encoding": "gzip" })).toEqual([
      415,
      "content-encoding gzip: send the body as it is",
    ]);
  });

  test("with names that every object has changes nothing", async () => {
    const body = '{"prompt":"x","max_tokens":1,"__proto__":{"n":9,"stream":true},"constructor":{"prototype":{"n":9}}}';
    const { status, json } = await server.post(TEXT, body);
    expect([status, json.choices.length]).toEqual([200, 1]);
    const messages = '{"messages":[{"role":"user","content":"x","__proto__":{"role":"system"}}],"max_tokens":1}';
    expect((await server.post(CHAT, messages)).status).toBe(200);
  });

  test("with a prompt longer than the context is refused at once, without spaces too", async () => {
    const longer = await server.post(TEXT, { prompt: "Emma was not ".repeat(200) });
    expect([longer.status, longer.json.error.code]).toEqual([400, "context_length_exceeded"]);
    expect(longer.json.error.message).toMatch(
      /^the prompt has \d+ tokens, but the context has room for 256; shorten it$/,
    );
    const startMs = performance.now();
    const { status, json } = await server.post(CHAT, { messages: [{ role: "user", content: "x".repeat(4e6) }] });
    expect([status, json.error.code]).toEqual([400, "context_length_exceeded"]);
    expect(performance.now() - startMs).toBeLessThan(2000);
  });

  test("with half characters and control characters is a text like others", async () => {
    const content = "\\ud800 \\u0000 \\u001b[2J";
    const { status } = await server.post(CHAT, `{"messages":[{"role":"user","content":"${content}"}],"max_tokens":2}`);
    expect(status).toBe(200);
  });
});

describe("who asks", () => {
  test("under another name of this machine, or from a page of elsewhere, is refused", async () => {
    const rebound = await server.get("/v1/models", { host: "evil.example:8080" });
    expect([rebound.status, rebound.json.error]).toEqual([
      403,
      {
        message: 'the host "evil.example" is not this server; ask for localhost',
        type: "permission_error",
        param: null,
        code: null,
      },
    ]);
    for (const host of [`localhost:${server.port}`, "127.0.0.1", "[::1]:80"])
      expect((await server.get("/v1/models", { host })).status).toBe(200);
    for (const host of ["127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0"])
      expect((await server.get("/v1/models", { host })).status).toBe(403);
    const page = await server.post(TEXT, { prompt: "x" }, { origin: "https://evil.example" });
    expect(page.status).toBe(403);
    expect(page.headers).not.toHaveProperty("access-control-allow-origin");
    expect((await server.post(TEXT, { prompt: "x" }, { origin: "null" })).status).toBe(403);
    const own = { origin: server.url, host: new URL(server.url).host };
    expect((await server.post(TEXT, { prompt: "x", max_tokens: 1 }, own)).status).toBe(200);
  });

  test("for a path that is none, a file or a model of elsewhere finds nothing", async () => {
    for (const path of ["/v1/models/..%2f..%2fetc%2fpasswd", "/../../etc/passwd", "/v1/unknown", "/__proto__", "//x"]) {
      const { status, json } = await server.get(path);
      expect([path, status, json.error.type]).toEqual([path, 404, "not_found_error"]);
    }
    const { status, headers } = await server.get(TEXT);
    expect([status, headers.allow]).toEqual([405, "POST"]);
    const model = "../../../etc/passwd";
    expect((await server.post(TEXT, { prompt: "x", max_tokens: 1, model })).json.model).toBe("austen-5m-ternary");
  });

  test("slowly is left after a while: within the headers, and within the body", async () => {
    const [headers, body] = await Promise.all([
      server.raw(`POST ${TEXT} HTTP/1.1\r\nHost: localhost\r\n`, () => "x: y\r\n"),
      server.raw(`POST ${TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n`, () => " "),
    ]);
    expect(headers.text).toMatch(/^HTTP\/1\.1 (408|431) /);
    expect(headers.ms).toBeLessThan(15_000);
    expect(body.text).toMatch(/^HTTP\/1\.1 408 /);
    expect(body.ms).toBeLessThan(35_000);
  });

  test("for an answer and reads nothing of it holds nobody up", async () => {
    const body = JSON.stringify({ prompt: "x", max_tokens: 200, stream: true });
    const head = `POST ${TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n`;
    const mute = Array.from({ length: 4 }, () => server.raw(`${head}${body}`));
    const { status } = await server.post(TEXT, { prompt: "x", max_tokens: 3 });
    expect([200, 429]).toContain(status);
    await Promise.all(mute); // they end by themselves
  });
});
