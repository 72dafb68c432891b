// lutra serve: a model behind OpenAI's HTTP API, until a signal ends it. The address goes to stdout, all else to stderr.
// Not here: HTTP (serve-http.ts), the model's side (serve-service.ts).

import type { Server } from "node:http";
import process from "node:process";

import { DEFAULT_CONTEXT } from "../load.ts";
import { unlessAborted } from "../model/interrupt.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { type Engine, ENGINE_OPTIONS, naming, startEngine } from "./engine.ts";
import { embedded, findModel } from "./models.ts";
import { makePhases } from "./phases.ts";
import { isLoopback, makeServer } from "./serve-http.ts";
import { makeService, type Service } from "./serve-service.ts";
import { note } from "./terminal.ts";

const OPTIONS = {
  ...ENGINE_OPTIONS,
  ctx: {
    ...ENGINE_OPTIONS.ctx,
    about: `tokens of context of each slot; the model's, but no more than ${DEFAULT_CONTEXT}`,
  },
  host: { kind: "text", about: "address to listen on (127.0.0.1); others need an API key" },
  port: { kind: "integer", about: "port to listen on; 0: any that is free", min: 0, max: 65_535, fallback: 8080 },
  slots: { kind: "integer", about: "requests that are answered at once", min: 1, max: 64, fallback: 4 },
  queue: { kind: "integer", about: "requests that may wait for a slot", min: 0, max: 10_000, fallback: 64 },
  timeout: {
    kind: "integer",
    about: "seconds for a request; the answer is cut then",
    min: 1,
    max: 86_400,
    fallback: 600,
  },
  "api-key": { kind: "text", about: "key that clients must send; LUTRA_API_KEY sets it too, unseen by others" },
  cors: { kind: "text", about: "origin whose pages may ask, or *; none if not given" },
  embeddings: { kind: "flag", about: "serve embeddings too; holds the weights a second time" },
} as const;

export const serve: Command = command({
  name: "serve",
  usage: ["serve [options] [model.gguf]"],
  about: [
    "Serves a model to clients of OpenAI's API: /v1/chat/completions, /v1/completions, /v1/models,",
    "/v1/embeddings; streaming, tools, JSON schemas, likelihoods. Also /health, /metrics (Prometheus),",
    "/tokenize, /detokenize, /props, and a chat page at /. Without a model it is the small one that",
    "comes with Lutra. A model without a chat template gets ChatML. Requests share the steps of the",
    "model, and what a slot has read is not read again by a request that begins with it. An answer",
    "that --timeout or the end of the server cuts says `length`. SIGINT or SIGTERM ends the server",
    "once its answers are done, or after ten seconds; a second one at once. Prompts are not logged.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra serve", "http://127.0.0.1:8080, for a first look"],
    ["lutra serve model.gguf --slots 8 --ctx 2048", "eight requests at once"],
    ["LUTRA_API_KEY=secret lutra serve model.gguf --host 0.0.0.0", "for other machines"],
  ],
  positionals: 1,
  run: serveModel,
});

/** Time for answers to end by themselves. */
const GRACE_MS = 10_000;

async function serveModel(
  values: Values<typeof OPTIONS>,
  [name]: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  const host = values.host ?? "127.0.0.1";
  const apiKey = values["api-key"] ?? process.env["LUTRA_API_KEY"] ?? null;
  if (apiKey === "") throw new UsageError("--api-key: it is empty; a key of at least one character is needed");
  if (apiKey === null && !isLoopback(host))
    throw new UsageError(
      `--host ${host}: others can reach it, so that --api-key (or LUTRA_API_KEY) is needed; without a key, 127.0.0.1 is possible`,
    );
  const phases = makePhases();
  phases.step("Node and imports");
  const file = name === undefined ? embedded.file : findModel(name);
  const stop = terminated(signal);
  const engine = await startEngine(file, values, { usualContext: DEFAULT_CONTEXT, phases, slots: values.slots });
  const service = await unlessAborted(naming(engine.model.file, makeService(engine, values)), stop);
  if (service === "aborted") return 0;
  const cut = new AbortController();
  const server = makeServer(
    service,
    {
      apiKey,
      cors: values.cors,
      host,
      timeoutMs: 1000 * values.timeout,
      log: (line) => (values.verbose ? process.stderr.write(`${line}\n`) : undefined),
    },
    cut.signal,
  );
  await listen(server, host, values.port);
  if (values.verbose) phases.print();
  announce(server, host, engine, service, apiKey !== null);
  await new Promise<void>((resolve) => {
    if (stop.aborted) resolve();
    stop.addEventListener("abort", () => resolve(), { once: true });
  });
  await shutDown(server, cut);
  await service[Symbol.asyncDispose]();
  await engine[Symbol.asyncDispose]();
  return 0;
}

/** Aborted by Ctrl-C or SIGTERM; whichever comes next kills, as if nobody had listened. */
function terminated(interrupted: AbortSignal): AbortSignal {
  const controller = new AbortController();
  const end = (): void => {
    if (controller.signal.aborted) process.exit(1);
    controller.abort();
  };
  process.on("SIGTERM", end);
  interrupted.addEventListener("abort", end, { once: true });
  return controller.signal;
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error) => reject(new Error(`cannot listen on ${host} port ${port}: ${error.message}`)));
    server.listen(port, host, resolve);
  });
}

function announce(
  server: Server,
  host: string,
  { backend, model }: Engine,
  { name, slotCount }: Service,
  isKeyed: boolean,
): void {
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  process.stdout.write(`http://${host.includes(":") ? `[${host}]` : host}:${port}\n`);
  const { device } = backend;
  const { context } = model.plan.cache;
  note(
    `${name} on ${device.name} ${device.isa}: ${slotCount} slots of ${context} tokens${isKeyed ? ", with an API key" : ""}; ` +
      "Ctrl-C ends it",
  );
}

/** Takes no more requests, lets those under way end, and cuts them after a while. */
async function shutDown(server: Server, cut: AbortController): Promise<void> {
  const closed = new Promise((resolve) => server.close(resolve));
  server.closeIdleConnections();
  const timer = setTimeout(() => cut.abort(), GRACE_MS);
  // Connections whose answer has ended stay open for the next request, unless somebody closes them.
  const sweep = setInterval(() => {
    server.closeIdleConnections();
    if (cut.signal.aborted) setTimeout(() => server.closeAllConnections(), 1000).unref();
  }, 100);
  await closed;
  clearTimeout(timer);
  clearInterval(sweep);
}
