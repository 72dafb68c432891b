// How lutra serve is started, guarded and ended: keys, other origins, the queue, the time limit, signals.

import OpenAI from "openai";
import { describe, expect, test } from "vitest";

import { lutra } from "./lutra.ts";
import { type Serving, startServer } from "./serving.ts";

const TEXT = "/v1/completions";
/** Longer than any test here, and does not end by itself: the model's token that ends a text, 0, is as good as impossible. */
const LONG = { prompt: "x", temperature: 1, max_tokens: 190_000, stream: true, logit_bias: { "0": -100 } };

async function withServer(args: readonly string[], use: (server: Serving) => Promise<void>): Promise<void> {
  const server = await startServer(args);
  try {
    await use(server);
  } finally {
    server.kill("SIGKILL");
  }
}

/** A stream under way: the text so far, and its end. */
async function streaming(server: Serving, body: object = LONG): Promise<{ text: string; ended: Promise<string> }> {
  const response = await fetch(`${server.url}${TEXT}`, { method: "POST", body: JSON.stringify(body) });
  expect(response.status).toBe(200);
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  const first = await reader.read();
  const rest = async (): Promise<string> => {
    let text = first.value ?? "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return text;
      text += value;
    }
  };
  return { text: first.value ?? "", ended: rest() };
}

const finishOf = (events: string): unknown =>
  JSON.parse(events.split("\n\n").at(-3)!.slice("data: ".length)).choices[0].finish_reason;

test("an address that others reach needs a key, and says so", () => {
  expect(lutra(["serve", "--host", "0.0.0.0"])).toEqual({
    code: 2,
    out: "",
    err:
      "lutra: --host 0.0.0.0: others can reach it, so that --api-key (or LUTRA_API_KEY) is needed; " +
      "without a key, 127.0.0.1 is possible\n",
  });
  expect(lutra(["serve", "--api-key="])).toEqual({
    code: 2,
    out: "",
    err: "lutra: --api-key: it is empty; a key of at least one character is needed\n",
  });
});

test("a key is asked for everywhere but at /health and the page, and --cors lets one origin ask", async () => {
  const origin = "https://page.example";
  await withServer(["--host", "0.0.0.0", "--api-key", "secret", "--cors", origin], async (server) => {
    for (const path of ["/health", "/"]) expect((await server.get(path)).status).toBe(200);
    for (const path of ["/v1/models", "/metrics", "/props", "/nothing"])
      expect((await server.get(path)).status).toBe(401);
    for (const key of ["Bearer", "Bearer wrong", "Basic secret", "Bearer secret2", "secret"])
      expect((await server.get("/v1/models", { authorization: key })).status).toBe(401);
    const refused = await server.post(TEXT, "{");
    expect(refused.json.error).toEqual({
      message: "the API key is missing or wrong; send it as Authorization: Bearer <key>",
      type: "authentication_error",
      param: null,
      code: "invalid_api_key",
    });
    const client = new OpenAI({ baseURL: `http://127.0.0.1:${server.port}/v1`, apiKey: "secret" });
    expect((await client.models.list()).data).toHaveLength(1);
    const authorization = "Bearer secret";
    // The key makes the name of the host of no importance.
    expect((await server.get("/v1/models", { authorization, host: "lutra.example" })).status).toBe(200);
    const allowed = await server.get("/v1/models", { authorization, origin });
    expect([allowed.status, allowed.headers["access-control-allow-origin"]]).toEqual([200, origin]);
    expect((await server.get("/v1/models", { authorization, origin: "https://other.example" })).status).toBe(403);
    const preflight = await fetch(`http://127.0.0.1:${server.port}${TEXT}`, { method: "OPTIONS", headers: { origin } });
    expect([preflight.status, preflight.headers.get("access-control-allow-methods")]).toEqual([204, "GET, POST"]);
  });
});

describe("the queue", () => {
  test("that is full refuses with 429, and when to come again; who waits is served in turn", async () => {
    await withServer(["--slots", "1", "--queue", "1", "--ctx", "200000"], async (server) => {
      const first = await streaming(server, { ...LONG, max_tokens: 400 });
      const waiting = server.post(TEXT, { prompt: "Emma", max_tokens: 3 });
      let refused = await server.post(TEXT, { prompt: "Emma", max_tokens: 3 });
      // The one that waits may have come second.
      if (refused.status === 200) refused = await waiting;
      else expect((await waiting).status).toBe(200);
      expect([refused.status, refused.headers["retry-after"], refused.json.error]).toEqual([
        429,
        "1",
        {
          message: "1 requests are answered and 1 wait already; try again later",
          type: "rate_limit_error",
          param: null,
          code: "queue_full",
        },
      ]);
      expect(await first.ended).toMatch(/data: \[DONE\]\n\n$/);
      expect((await server.post(TEXT, { prompt: "Emma", max_tokens: 3 })).status).toBe(200);
    });
  });
});

test("the time limit cuts an answer, whole or in a stream, and one that waits", async () => {
  await withServer(["--slots", "1", "--timeout", "1", "--ctx", "200000"], async (server) => {
    const startMs = performance.now();
    const stream = await streaming(server);
    const whole = await server.post(TEXT, { ...LONG, stream: false });
    expect(finishOf(await stream.ended)).toBe("length");
    expect(whole.json.choices[0]).toMatchObject({ finish_reason: "length" });
    expect(performance.now() - startMs).toBeLessThan(6000);
    const next = await server.post(TEXT, { prompt: "Emma", max_tokens: 3 });
    expect(next.json.usage.completion_tokens).toBe(3);
  });
});

describe("a signal", () => {
  test("lets answers end, takes no more, and ends the server with 0", async () => {
    const server = await startServer(["--ctx", "4000"]);
    const stream = await streaming(server, { ...LONG, max_tokens: 1500 });
    const ended = server.stop();
    expect(finishOf(await stream.ended)).toBe("length");
    expect(await stream.ended).toMatch(/data: \[DONE\]\n\n$/);
    expect(await ended).toMatchObject({ code: 0, signal: null });
    await expect(server.get("/health")).rejects.toThrow("ECONNREFUSED");
  });

  test("cuts answers that take longer than ten seconds", async () => {
    const server = await startServer(["--ctx", "200000"]);
    const stream = await streaming(server);
    const startMs = performance.now();
    const ended = server.stop("SIGINT");
    expect(finishOf(await stream.ended)).toBe("length");
    expect(await ended).toMatchObject({ code: 0, signal: null });
    expect(performance.now() - startMs).toBeGreaterThan(9000);
    expect(performance.now() - startMs).toBeLessThan(15_000);
  });

  test("that comes twice ends it at once", async () => {
    for (const [first, second] of [
      ["SIGTERM", "SIGTERM"],
      ["SIGINT", "SIGINT"],
      ["SIGINT", "SIGTERM"],
    ] as const) {
      const server = await startServer(["--ctx", "200000"]);
      const stream = await streaming(server);
      stream.ended.catch(() => undefined);
      server.kill(first);
      await new Promise((resolve) => setTimeout(resolve, 200));
      const startMs = performance.now();
      const { code, signal } = await server.stop(second);
      expect(code === 1 || signal === second).toBe(true);
      expect(performance.now() - startMs).toBeLessThan(2000);
    }
  });
});

test("a port that is taken is an error that names it", async () => {
  await withServer([], async (server) => {
    const { code, err } = lutra(["serve", "--port", `${server.port}`]);
    expect(code).toBe(1);
    expect(err).toBe(
      `lutra: cannot listen on 127.0.0.1 port ${server.port}: listen EADDRINUSE: address already in use 127.0.0.1:${server.port}\n`,
    );
  });
});
