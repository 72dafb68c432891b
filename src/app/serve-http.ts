// The HTTP side of the server: who may ask, how much, for how long, and where requests go. Everything that comes is
// taken for hostile until it has been read within its limits. Prompts and answers are never logged.
// Not here: what requests mean (serve-request.ts) and how they are answered (serve-answer.ts).

import { createHash, timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { BlockList, isIP } from "node:net";

import { answer, RETRY_S } from "./serve-answer.ts";
import { ApiError, bad, type Body, booleanIn, envelope, given, isObject } from "./serve-error.ts";
import { CHAT_PAGE, CHAT_PAGE_POLICY } from "./serve-page.ts";
import { chatRequest, completionRequest, DEFAULTS, tokenListsOf } from "./serve-request.ts";
import type { Service } from "./serve-service.ts";
import { packageVersion } from "./version.ts";

export interface HttpOptions {
  readonly apiKey: string | null;
  /** Origin whose pages may ask, or "*"; none but the server's own where it is null. */
  readonly cors: string | null;
  readonly host: string;
  /** Longest time for one request. */
  readonly timeoutMs: number;
  /** Gets a line for each request: method, path, status and time. */
  readonly log: (line: string) => void;
}

/** Room for a long conversation with its tools; nothing longer fits a context. */
const MAX_BODY = 4 * 2 ** 20;
const MAX_JSON_DEPTH = 128;
/** A client that reads slower than the model writes gets so much ahead of it, and is then left. */
const MAX_UNREAD = 2 ** 20;
const LIMITS = {
  headersTimeout: 10_000,
  requestTimeout: 30_000,
  keepAliveTimeout: 5_000,
  connectionsCheckingInterval: 1_000,
  maxHeaderSize: 16_384,
} as const;
/** File descriptors are few on some systems; who waits for a slot holds one of these. */
const MAX_CONNECTIONS = 512;

/** What a handler has to do with. */
interface Exchange {
  readonly service: Service;
  readonly body: Body;
  readonly path: string;
  readonly signal: AbortSignal;
  readonly response: ServerResponse;
}

interface Route {
  readonly method: "GET" | "POST";
  /** Whether it is open to all, and needs no key. */
  readonly isOpen?: boolean;
  /** What is sent as JSON, or null where it has sent its answer itself. */
  handle(exchange: Exchange): Promise<object | null> | object | null;
}

const ROUTES: Readonly<Record<string, Route>> = {
  "/": { method: "GET", isOpen: true, handle: page },
  "/health": { method: "GET", isOpen: true, handle: () => ({ status: "ok" }) },
  "/metrics": { method: "GET", handle: metrics },
  "/props": { method: "GET", handle: props },
  "/v1/models": { method: "GET", handle: ({ service }) => ({ object: "list", data: [modelOf(service)] }) },
  "/v1/models/:name": { method: "GET", handle: oneModel },
  "/v1/chat/completions": { method: "POST", handle: (exchange) => generateText(exchange, chatRequest) },
  "/v1/completions": { method: "POST", handle: (exchange) => generateText(exchange, completionRequest) },
  "/v1/embeddings": { method: "POST", handle: embeddings },
  "/tokenize": { method: "POST", handle: tokenize },
  "/detokenize": { method: "POST", handle: detokenize },
};

/**
 * The server, not listening yet.
 * @param stopping ends the answers under way where they are
 */
export function makeServer(service: Service, options: HttpOptions, stopping: AbortSignal): Server {
  const server = createServer(LIMITS, (request, response) => {
    const startMs = performance.now();
    const path = pathOf(request);
    const gone = new AbortController();
    response.on("close", () => {
      const route = Object.hasOwn(ROUTES, routeOf(path)) ? routeOf(path) : "other";
      service.metrics.request(route, response.statusCode);
      gone.abort();
      const tookMs = (performance.now() - startMs).toFixed(0);
      options.log(`${request.method} ${route} ${response.statusCode} ${tookMs} ms`);
    });
    response.on("error", () => gone.abort());
    const signal = AbortSignal.any([gone.signal, stopping, AbortSignal.timeout(options.timeoutMs)]);
    serve(service, options, request, response, path, signal).catch((error: unknown) => {
      refuse(request, response, error);
    });
  });
  server.maxConnections = MAX_CONNECTIONS;
  return server;
}

async function serve(
  service: Service,
  options: HttpOptions,
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
  signal: AbortSignal,
): Promise<void> {
  checkOrigin(request, response, options);
  if (request.method === "OPTIONS" && options.cors !== null) {
    response.writeHead(204, {
      "access-control-allow-methods": "GET, POST",
      "access-control-allow-headers":
        request.headers["access-control-request-headers"] ?? "authorization, content-type",
      "access-control-max-age": "600",
    });
    response.end();
    return;
  }
  const route = Object.hasOwn(ROUTES, routeOf(path)) ? ROUTES[routeOf(path)] : undefined;
  if (route?.isOpen !== true) checkKey(request, options);
  if (route === undefined) throw new ApiError(404, `there is no ${path.slice(0, 200)} here`, null, "not_found");
  const method = request.method === "HEAD" ? "GET" : request.method;
  if (method !== route.method) {
    response.setHeader("allow", route.method);
    throw new ApiError(405, `${request.method} ${path}: it takes ${route.method}`);
  }
  const body = route.method === "POST" ? await bodyOf(request) : {};
  const result = await route.handle({ service, body, path, signal, response });
  if (result !== null) sendJson(response, 200, result);
}

/** The path of a request, without its query. */
function pathOf({ url }: IncomingMessage): string {
  return (url ?? "/").split("?", 1)[0] ?? "/";
}

function routeOf(path: string): string {
  return path.startsWith("/v1/models/") ? "/v1/models/:name" : path;
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");

/** Whether an address is reached from this machine alone. */
export function isLoopback(host: string): boolean {
  const kind = isIP(host);
  return host === "localhost" || (kind !== 0 && LOOPBACK.check(host, kind === 4 ? "ipv4" : "ipv6"));
}

/**
 * A page of elsewhere must not ask here in its reader's name: neither as itself, nor under a name of its own that it has
 * made to mean this machine (DNS rebinding).
 */
function checkOrigin({ headers }: IncomingMessage, response: ServerResponse, { cors, host }: HttpOptions): void {
  const name = (headers.host ?? "").replace(/:\d*$/, "").replace(/^\[(.*)\]$/, "$1");
  if (isLoopback(host) && !isLoopback(name) && name !== host)
    throw new ApiError(403, `the host ${JSON.stringify(name.slice(0, 100))} is not this server; ask for localhost`);
  const { origin } = headers;
  if (origin === undefined) return;
  if (cors === "*" || cors === origin) {
    response.setHeader("access-control-allow-origin", cors);
    if (cors !== "*") response.setHeader("vary", "origin");
    return;
  }
  if (origin !== `http://${headers.host}`)
    throw new ApiError(403, `pages of ${JSON.stringify(origin.slice(0, 100))} may not ask here; --cors lets them`);
}

function checkKey({ headers }: IncomingMessage, { apiKey }: HttpOptions): void {
  if (apiKey === null) return;
  const [, key] = /^Bearer +(.+)$/i.exec(headers.authorization ?? "") ?? [];
  const hash = (text: string): Buffer => createHash("sha256").update(text).digest();
  if (key === undefined || !timingSafeEqual(hash(key), hash(apiKey)))
    throw new ApiError(
      401,
      "the API key is missing or wrong; send it as Authorization: Bearer <key>",
      null,
      "invalid_api_key",
    );
}

async function bodyOf(request: IncomingMessage): Promise<Body> {
  const { "content-encoding": coding = "identity", "content-length": length = "0" } = request.headers;
  if (coding !== "identity") throw new ApiError(415, `content-encoding ${coding.slice(0, 50)}: send the body as it is`);
  const tooLarge = (): ApiError => new ApiError(413, `the body is larger than the ${MAX_BODY} bytes that are possible`);
  if (Number(length) > MAX_BODY) throw tooLarge();
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of request) {
    parts.push(part as Buffer);
    size += (part as Buffer).length;
    if (size > MAX_BODY) throw tooLarge();
  }
  let body: unknown;
  try {
    const json = new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(parts));
    if (depthOf(json) > MAX_JSON_DEPTH) throw new ApiError(400, `the body is nested more than ${MAX_JSON_DEPTH} deep`);
    body = JSON.parse(json);
  } catch (error) {
    if (error instanceof ApiError) throw error;
    // What V8 says of wrong JSON quotes it.
    throw new ApiError(400, "the body is not JSON in UTF-8");
  }
  if (!isObject(body)) throw new ApiError(400, "the body is JSON, but no object");
  return body;
}

/** How deep brackets nest, without those in texts. */
function depthOf(json: string): number {
  let [depth, deepest] = [0, 0];
  let isText = false;
  for (let i = 0; i < json.length; i++) {
    const c = json.charCodeAt(i);
    if (isText) {
      if (c === 0x5c) i++;
      else if (c === 0x22) isText = false;
    } else if (c === 0x22) isText = true;
    else if (c === 0x5b || c === 0x7b) deepest = Math.max(deepest, ++depth);
    else if (c === 0x5d || c === 0x7d) depth--;
  }
  return deepest;
}

function sendJson(response: ServerResponse, status: number, value: object): void {
  if (response.headersSent || response.destroyed) return;
  const bytes = Buffer.from(JSON.stringify(value));
  response.writeHead(status, { "content-type": "application/json", "content-length": bytes.length });
  response.end(bytes);
}

/** An error as its envelope; as an event where the answer has begun. The person's errors are ours to tell, others not. */
function refuse(request: IncomingMessage, response: ServerResponse, error: unknown): void {
  const known =
    error instanceof ApiError ? error : new ApiError(500, error instanceof Error ? error.message : String(error));
  if (response.headersSent) {
    response.end(`data: ${JSON.stringify(envelope(known))}\n\n`);
    return;
  }
  if (known.status === 429) response.setHeader("retry-after", String(RETRY_S));
  if (known.status === 401) response.setHeader("www-authenticate", "Bearer");
  // What is left of a body that was not read must not be taken for the next request.
  if (!request.complete) {
    response.setHeader("connection", "close");
    response.on("finish", () => request.destroy());
  }
  sendJson(response, known.status, envelope(known));
}

/** Answers a request for text, whole or as server-sent events. */
async function generateText(
  { service, body, signal, response }: Exchange,
  read: typeof chatRequest,
): Promise<object | null> {
  const model = given(body, "model");
  if (model !== undefined && typeof model !== "string") throw bad("model", model, "a text is needed");
  const request = read(body, service);
  const slow = new AbortController();
  const write = (data: string): void => {
    if (response.destroyed) return;
    if (!response.headersSent)
      response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
    response.write(`data: ${data}\n\n`);
    if (response.writableLength > MAX_UNREAD) {
      slow.abort();
      response.destroy();
    }
  };
  const send = (chunk: object): void => write(JSON.stringify(chunk));
  const result = await answer(service, request, AbortSignal.any([signal, slow.signal]), send);
  if (result !== null) return result;
  write("[DONE]");
  response.end();
  // One who does not read the rest is left as well.
  response.socket?.setTimeout(LIMITS.requestTimeout, () => response.destroy());
  return null;
}

function modelOf({ name, createdS }: Service): object {
  return { id: name, object: "model", created: createdS, owned_by: "lutra" };
}

function oneModel({ service, path }: Exchange): object {
  const wanted = path.slice("/v1/models/".length);
  if (wanted === encodeURIComponent(service.name)) return modelOf(service);
  throw new ApiError(
    404,
    `there is no model ${JSON.stringify(wanted.slice(0, 100))}; ${service.name} is served`,
    "model",
    "model_not_found",
  );
}

function page({ response }: Exchange): null {
  response.writeHead(200, {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": CHAT_PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
  });
  response.end(CHAT_PAGE);
  return null;
}

function metrics({ service, response }: Exchange): null {
  const { slots, slotCount } = service;
  response.writeHead(200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" });
  response.end(service.metrics.text({ slots: slotCount, slots_busy: slots.busy, requests_waiting: slots.waiting }));
  return null;
}

/** As llama-server's, as far as it applies; paths of this machine are nobody's business. */
function props({ service }: Exchange): object {
  const { model, tokenizer, name, slotCount } = service;
  const piece = (id: number | null): string => (id === null ? "" : (tokenizer.pieces[id] ?? ""));
  const { temperature, topK: top_k, topP: top_p, minP: min_p, repeatPenalty: repeat_penalty } = DEFAULTS;
  return {
    default_generation_settings: {
      n_ctx: model.plan.cache.context,
      params: { temperature, top_k, top_p, min_p, repeat_penalty },
    },
    total_slots: slotCount,
    model_alias: name,
    chat_template: model.metadata.string("tokenizer.chat_template", null) ?? "chatml",
    bos_token: piece(tokenizer.bos),
    eos_token: piece(tokenizer.eos),
    build_info: `lutra ${packageVersion()}`,
  };
}

function tokenize({ service, body }: Exchange): object {
  const { content } = body;
  if (typeof content !== "string") throw bad("content", content, "a text is needed");
  const special = booleanIn(body, "parse_special", false);
  const isBegun = booleanIn(body, "add_special", false);
  const { tokenizer } = service;
  const ids = [...tokenizer.encode(content, isBegun ? { special } : { special, bos: false })];
  if (!booleanIn(body, "with_pieces", false)) return { tokens: ids };
  return { tokens: ids.map((id) => ({ id, piece: tokenizer.decode([id], { special: true }) })) };
}

function detokenize({ service, body }: Exchange): object {
  const tokens = given(body, "tokens");
  if (Array.isArray(tokens) && tokens.length === 0) return { content: "" };
  const [ids = new Int32Array(0)] = tokenListsOf({ tokens: [tokens] }, "tokens", service, { special: false });
  return { content: service.tokenizer.decode(ids) };
}

async function embeddings({ service, body, signal }: Exchange): Promise<object> {
  const { embed, model } = service;
  if (embed === null)
    throw new ApiError(
      501,
      "embeddings are served with lutra serve --embeddings, which holds the weights a second time",
    );
  const format = given(body, "encoding_format") ?? "float";
  if (format !== "float" && format !== "base64") throw bad("encoding_format", format, '"float" or "base64" is needed');
  const { width } = model.config;
  const size = given(body, "dimensions") ?? width;
  if (size !== width) throw bad("dimensions", size, `the model's are ${width}`);
  const inputs = tokenListsOf(body, "input", service, { special: false });
  const { context } = model.plan.cache;
  const data: object[] = [];
  for (const [index, tokens] of inputs.entries()) {
    if (tokens.length > context)
      throw new ApiError(
        400,
        `input ${index} has ${tokens.length} tokens, but the context has room for ${context}`,
        "input",
        "context_length_exceeded",
      );
    const vector = await embed(tokens, signal);
    const embedding = format === "float" ? [...vector] : Buffer.from(vector.buffer).toString("base64");
    data.push({ object: "embedding", index, embedding });
  }
  const tokens = inputs.reduce((sum, { length }) => sum + length, 0);
  return { object: "list", data, model: service.name, usage: { prompt_tokens: tokens, total_tokens: tokens } };
}
