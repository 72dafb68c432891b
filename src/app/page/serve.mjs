// Serves the page on this computer, to this computer alone: 127.0.0.1, which browsers trust with WebGPU as they do https.
//   node src/app/page/serve.mjs [--port n]    n = 0: any that is free
// What is served are the files that the build gives, from memory: no request reaches the file system.

import { createServer } from "node:http";
import process from "node:process";
import { parseArgs } from "node:util";
import { pageFiles } from "./build.mjs";

const HOST = "127.0.0.1";
const PORT = "8137";

/** By the ending of a name. @type {Readonly<Record<string, string>>} */
const TYPES = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  mjs: "text/javascript; charset=utf-8",
  txt: "text/plain; charset=utf-8",
  gguf: "application/octet-stream",
};

/** @param {string} message @returns {never} */
function fail(message) {
  console.error(`lutra: ${message}`);
  process.exit(1);
}

function portOf() {
  try {
    const { values } = parseArgs({ options: { port: { type: "string", default: PORT } } });
    const port = /^\d{1,5}$/.test(values.port) ? Number(values.port) : Number.NaN;
    return port <= 65_535
      ? port
      : fail(`--port: ${JSON.stringify(values.port)}; a whole number from 0 to 65535 is needed`);
  } catch (error) {
    return fail(
      `${error instanceof Error ? error.message.split(". ")[0] : String(error)}; only --port <n> can be given`,
    );
  }
}

const port = portOf();
const files = await pageFiles().catch((error) => fail(`the page was not built: ${error.message}`));

const server = createServer(({ method, url = "/" }, response) => {
  const [path = "/"] = url.split("?");
  const name = path === "/" ? "index.html" : path.slice(1);
  const bytes = files.get(name);
  response.setHeader("X-Content-Type-Options", "nosniff");
  response.setHeader("Cache-Control", "no-cache");
  if (method !== "GET" && method !== "HEAD") {
    response.writeHead(405, { Allow: "GET, HEAD", "Content-Type": TYPES.txt }).end("only GET and HEAD are answered\n");
  } else if (bytes === undefined) {
    response.writeHead(404, { "Content-Type": TYPES.txt }).end("there is no such file; the page is at /\n");
  } else {
    const type = TYPES[name.slice(name.lastIndexOf(".") + 1)] ?? TYPES.gguf;
    response.writeHead(200, { "Content-Type": type, "Content-Length": bytes.length });
    response.end(method === "HEAD" ? undefined : bytes);
  }
});

server.on("error", (error) => {
  const isTaken = "code" in error && error.code === "EADDRINUSE";
  fail(
    isTaken
      ? `port ${port} of ${HOST} is in use; npm run page -- --port ${port === 65_535 ? PORT : port + 1} takes another, --port 0 any`
      : `${HOST}:${port}: ${error.message}`,
  );
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));
server.listen(port, HOST, () => {
  const address = server.address();
  const at = typeof address === "object" && address !== null ? address.port : port;
  console.log(`http://${HOST}:${at}/  (Ctrl-C stops)`);
});
