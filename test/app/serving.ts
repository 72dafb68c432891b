// A server of the built program as a child process, and requests to it as bytes, below any client library.

import { type IncomingHttpHeaders, request } from "node:http";
import { connect } from "node:net";

import { startLutra } from "./lutra.ts";

export interface Serving {
  readonly url: string;
  readonly port: number;
  /** Sends a signal, SIGTERM if not said otherwise, and waits for the end. */
  stop(signal?: NodeJS.Signals): ReturnType<typeof startLutra>["ended"];
  kill(signal: NodeJS.Signals): void;
  /** A JSON body, or one that is sent as it is. */
  post(path: string, body: object | string | Uint8Array, headers?: Readonly<Record<string, string>>): Promise<Reply>;
  get(path: string, headers?: Readonly<Record<string, string>>): Promise<Reply>;
  /** Sends these bytes on a connection of their own, and then what `more` gives each 50 ms; what comes back. */
  raw(bytes: string, more?: () => string): Promise<{ readonly text: string; readonly ms: number }>;
}

export interface Reply {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** The text as JSON; asked for where it is. */
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into answers of many forms
  readonly json: any;
}

/** `lutra serve` on a free port, listening. */
export async function startServer(args: readonly string[]): Promise<Serving> {
  const { child, ended } = startLutra(["serve", ...args, "--port", "0"]);
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout.once("data", (line: Buffer) => resolve(String(line).trim()));
    void ended.then(({ code, err }) => reject(new Error(`lutra serve ended with ${code}: ${err}`)));
  });
  const port = Number(new URL(url).port);
  const send = (
    method: string,
    path: string,
    body: string | Uint8Array,
    headers: Readonly<Record<string, string>>,
  ): Promise<Reply> =>
    new Promise((resolve, reject) => {
      const options = { host: "127.0.0.1", port, path, method, headers, agent: false } as const;
      const sent = request(options, (response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (part: string) => (text += part));
        response.on("end", () => {
          const { statusCode: status = 0, headers: got } = response;
          resolve({
            status,
            headers: got,
            text,
            get json() {
              return JSON.parse(text);
            },
          });
        });
        response.on("error", reject);
      });
      sent.on("error", reject);
      sent.end(body);
    });
  return {
    url,
    port,
    stop(signal = "SIGTERM") {
      child.kill(signal);
      return ended;
    },
    kill: (signal) => void child.kill(signal),
    post: (path, body, headers = {}) =>
      send("POST", path, typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body), headers),
    get: (path, headers = {}) => send("GET", path, "", headers),
    raw(bytes, more) {
      const startMs = performance.now();
      return new Promise((resolve) => {
        const socket = connect(port, "127.0.0.1");
        let text = "";
        const timer = more && setInterval(() => socket.write(more()), 50);
        socket.on("data", (part) => (text += String(part)));
        socket.on("error", () => undefined); // it closes too
        socket.on("close", () => {
          clearInterval(timer);
          resolve({ text, ms: performance.now() - startMs });
        });
        socket.write(bytes);
      });
    },
  };
}
