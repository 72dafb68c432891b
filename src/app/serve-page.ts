// A plain chat page, served at /: one file of HTML without anything from elsewhere, for a look at a model.
// Not here: the API that it talks to, which is every client's (serve-http.ts).

import { createHash } from "node:crypto";

const STYLE = `
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 44rem; margin: 0 auto; padding: 1rem; display: flex; flex-direction: column; min-height: 100vh; box-sizing: border-box; }
h1 { font-size: 1.1rem; margin: 0 0 1rem; }
ol { list-style: none; padding: 0; margin: 0; flex: 1; }
li { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 1rem; }
li.user { border-left: 3px solid; padding-left: .7rem; opacity: .8; }
li.error { color: #b3261e; }
form { display: flex; gap: .5rem; position: sticky; bottom: 0; padding: .5rem 0; background: Canvas; }
textarea { flex: 1; font: inherit; padding: .4rem; }
button, input { font: inherit; }
`;

const SCRIPT = `
const list = document.querySelector("ol");
const form = document.querySelector("form");
const input = document.querySelector("textarea");
const [send, stop, reset] = document.querySelectorAll("button");
let messages = [];
let controller = null;
let key = sessionStorage.getItem("key");

function add(kind, text) {
  const item = document.createElement("li");
  item.className = kind;
  item.textContent = text;
  list.append(item);
  item.scrollIntoView({ block: "end" });
  return item;
}

async function ask() {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    signal: controller.signal,
    headers: { "content-type": "application/json", ...(key && { authorization: "Bearer " + key }) },
    body: JSON.stringify({ messages, stream: true }),
  });
  if (response.status === 401) {
    key = prompt("API key");
    if (key === null) throw new Error("an API key is needed");
    sessionStorage.setItem("key", key);
    return ask();
  }
  if (!response.ok) throw new Error((await response.json()).error.message);
  return response;
}

async function answer() {
  controller = new AbortController();
  stop.disabled = false;
  send.disabled = true;
  let text = "";
  let item = null;
  try {
    const response = await ask();
    item = add("assistant", "");
    let rest = "";
    for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + part).split("\\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        const chunk = JSON.parse(line.slice(6));
        if (chunk.error) throw new Error(chunk.error.message);
        text += chunk.choices[0]?.delta.content ?? "";
        item.textContent = text;
        item.scrollIntoView({ block: "end" });
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") add("error", error.message);
  }
  if (text === "") messages.pop();
  else messages.push({ role: "assistant", content: text });
  stop.disabled = true;
  send.disabled = false;
  input.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = input.value.trim();
  if (text === "" || send.disabled) return;
  input.value = "";
  messages.push({ role: "user", content: text });
  add("user", text);
  answer();
});
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
stop.addEventListener("click", () => controller?.abort());
reset.addEventListener("click", () => {
  controller?.abort();
  messages = [];
  list.replaceChildren();
});
`;

export const CHAT_PAGE: string = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Lutra</title>
<style>${STYLE}</style>
<h1>Lutra</h1>
<ol aria-live="polite"></ol>
<form>
<textarea rows="2" aria-label="Message" placeholder="Enter sends, Shift-Enter begins a line" autofocus></textarea>
<button type="submit">Send</button>
<button type="button" disabled>Stop</button>
<button type="button">Reset</button>
</form>
<script type="module">${SCRIPT}</script>
</html>
`;

const hashOf = (text: string): string => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

/** The page may run what is in it, and ask this server; nothing else. */
export const CHAT_PAGE_POLICY: string =
  `default-src 'none'; script-src ${hashOf(SCRIPT)}; style-src ${hashOf(STYLE)}; connect-src 'self'; ` +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
