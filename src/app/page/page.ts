// The page: what a person does becomes messages to the worker, and what the worker says is shown. One state at a time
// decides which controls can be used. Not here: models and the GPU (worker.ts).

import { bytes, rate } from "../figures.ts";
import type { Generated } from "../../model/generate.ts";
import type { FromWorker, Machine, ModelFacts, Origin, Request, ToWorker } from "./message.ts";

type State =
  | { readonly kind: "starting" }
  | { readonly kind: "unavailable" }
  | { readonly kind: "empty" }
  | { readonly kind: "loading" }
  | { readonly kind: "ready"; readonly facts: ModelFacts }
  | { readonly kind: "generating"; readonly facts: ModelFacts };

/** The model beside the page (build.mjs). */
const EMBEDDED = "austen-5m-ternary.gguf";
/** Those of `lutra run` that the page does not ask for. */
const FILTERS = { topK: 40, topP: 0.95, minP: 0.05, repeatPenalty: 1 } as const;
/** A worker that has not stopped by then is ended, and its model with it. */
const STOP_MS = 700;

const view = {
  status: element("status", HTMLElement),
  progress: element("progress", HTMLProgressElement),
  failure: element("failure", HTMLElement),
  open: element("open", HTMLFormElement),
  embedded: element("embedded", HTMLButtonElement),
  files: element("files", HTMLInputElement),
  url: element("url", HTMLInputElement),
  fetch: element("fetch", HTMLButtonElement),
  context: element("context", HTMLInputElement),
  facts: element("facts", HTMLElement),
  machine: element("machine", HTMLElement),
  ask: element("ask", HTMLFormElement),
  prompt: element("prompt", HTMLTextAreaElement),
  promptLabel: element("prompt-label", HTMLElement),
  options: element("options", HTMLDetailsElement),
  temperature: element("temperature", HTMLInputElement),
  maxTokens: element("max-tokens", HTMLInputElement),
  seed: element("seed", HTMLInputElement),
  raw: element("raw", HTMLInputElement),
  generate: element("generate", HTMLButtonElement),
  stop: element("stop", HTMLButtonElement),
  speed: element("speed", HTMLElement),
  text: element("text", HTMLElement),
};

function element<T extends HTMLElement>(id: string, type: abstract new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} ${id}`);
  return found;
}

let state: State = { kind: "starting" };
/** Whether the worker is to open a model, or has done so; it takes no second one. */
let isUsed = false;
/** What to tell a worker that has not spoken yet: before that it does not listen. */
let waiting: ToWorker[] | null = [];
let worker = startWorker();

function startWorker(): Worker {
  const started = new Worker("worker.js", { type: "module", name: "Lutra" });
  isUsed = false;
  waiting = [];
  started.addEventListener("message", ({ data }: MessageEvent<FromWorker>) => {
    if (started !== worker) return;
    const told = waiting ?? [];
    waiting = null;
    for (const message of told) say(message);
    take(data);
  });
  started.addEventListener("error", ({ message }) => {
    if (started !== worker) return;
    fail(`The worker of this page failed: ${message || "it could not be loaded"}; load the page again.`);
    view.status.textContent = "Models cannot run here.";
    enter({ kind: "unavailable" });
  });
  return started;
}

function say(message: ToWorker): void {
  if (waiting !== null) waiting.push(message);
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has none
  else worker.postMessage(message);
}

// --- what a person does --------------------------------------------------------------------------------------------------

function open(origin: Origin): void {
  if (!view.context.reportValidity()) return;
  if (isUsed) restart();
  isUsed = true;
  fail(null);
  view.facts.hidden = true;
  view.status.textContent = "Opening the model.";
  say({ kind: "open", origin, context: numberIn(view.context) });
  enter({ kind: "loading" });
}

/** A new worker in place of the present one, whatever that is doing. */
function restart(): void {
  worker.terminate();
  worker = startWorker();
}

function generate(facts: ModelFacts): void {
  fail(null);
  const request = requestOf(view);
  view.text.replaceChildren();
  if (!facts.isChat || request.isRaw) {
    const prompt = document.createElement("span");
    prompt.className = "prompt";
    prompt.textContent = request.prompt;
    view.text.append(prompt);
  }
  view.speed.textContent = "";
  view.status.textContent = "Reading the prompt.";
  say({ kind: "generate", request });
  enter({ kind: "generating", facts });
}

function requestOf({ prompt, raw, temperature, maxTokens, seed }: typeof view): Request {
  return {
    prompt: prompt.value,
    isRaw: raw.checked,
    sampling: {
      ...FILTERS,
      temperature: numberIn(temperature) ?? 0,
      seed: seed.value === "" ? crypto.getRandomValues(new BigUint64Array(1))[0]! : BigInt(seed.value),
    },
    maxTokens: numberIn(maxTokens),
  };
}

function numberIn(input: HTMLInputElement): number | null {
  return input.value === "" ? null : input.valueAsNumber;
}

function stop(): void {
  if (state.kind === "loading") {
    restart();
    view.status.textContent = "Stopped. No model is loaded.";
    enter({ kind: "starting" });
  } else if (state.kind === "generating") {
    const stopped = state;
    view.status.textContent = "Stopping.";
    say({ kind: "stop" });
    setTimeout(() => {
      if (state !== stopped) return;
      restart();
      view.facts.hidden = true;
      view.status.textContent = "Stopped. The GPU did not answer in time, so that the model has to be loaded again.";
      enter({ kind: "starting" });
    }, STOP_MS);
  }
}

view.embedded.addEventListener("click", () => open({ kind: "url", url: new URL(EMBEDDED, document.baseURI).href }));
view.files.addEventListener("change", () => {
  const files = [...(view.files.files ?? [])];
  if (files.length > 0) open({ kind: "files", files });
  view.files.value = ""; // so that the same file can be chosen again
});
view.open.addEventListener("submit", (event) => {
  event.preventDefault();
  open({ kind: "url", url: new URL(view.url.value).href });
});
view.ask.addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.kind === "ready") generate(state.facts);
});
// A field that is not seen cannot tell what is wrong with it.
view.ask.addEventListener("invalid", () => (view.options.open = true), { capture: true });
view.stop.addEventListener("click", stop);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && state.kind === "ready") view.ask.requestSubmit();
});

// --- what the worker says ------------------------------------------------------------------------------------------------

function take(message: FromWorker): void {
  switch (message.kind) {
    case "machine":
      showMachine(message.machine);
      if (state.kind !== "starting") return;
      if (!view.status.textContent?.startsWith("Stopped")) view.status.textContent = "No model is loaded.";
      enter({ kind: "empty" });
      return;
    case "unavailable":
      list(view.machine, [["GPU", "none that this page can use"]]);
      view.status.textContent = "Models cannot run here.";
      fail(message.reason);
      enter({ kind: "unavailable" });
      return;
    case "progress": {
      const { what, done, total } = message;
      view.status.textContent = `${what}.`;
      showProgress(done, total);
      return;
    }
    case "opened":
      showFacts(message.facts);
      view.status.textContent = `The model is ready, after ${(message.facts.loadMs / 1000).toFixed(1)} s.`;
      enter({ kind: "ready", facts: message.facts });
      return;
    case "prefill":
      showProgress(message.done, message.total);
      return;
    case "text": {
      if (view.status.textContent === "Reading the prompt.") view.status.textContent = "Writing.";
      const isAtEnd = view.text.scrollTop + view.text.clientHeight >= view.text.scrollHeight - 2;
      // A node for each piece, so that a screen reader is told of what is new alone.
      view.text.append(document.createTextNode(message.text));
      if (isAtEnd) view.text.scrollTop = view.text.scrollHeight;
      view.progress.hidden = true;
      view.speed.textContent = `${rate(message.tps)} tokens/s (${message.tokens})`;
      return;
    }
    case "ended":
      view.text.normalize();
      showEnd(message.generated);
      if (state.kind === "generating") enter({ kind: "ready", facts: state.facts });
      return;
    case "failed":
      fail(message.message);
      view.status.textContent = state.kind === "generating" ? "The text has no end." : "No model is loaded.";
      if (state.kind === "generating") enter({ kind: "ready", facts: state.facts });
      else if (state.kind === "loading") enter({ kind: "empty" });
      return;
  }
}

// --- what is shown -------------------------------------------------------------------------------------------------------

/** Takes up a state; a control that has the focus and can no longer be used gives it to the one that is next. */
function enter(next: State): void {
  const focused = document.activeElement;
  state = next;
  const canOpen = next.kind === "empty" || next.kind === "ready";
  for (const control of [view.embedded, view.files, view.url, view.fetch, view.context]) control.disabled = !canOpen;
  view.generate.disabled = next.kind !== "ready";
  view.stop.disabled = next.kind !== "loading" && next.kind !== "generating";
  if (canOpen || next.kind === "unavailable") view.progress.hidden = true;
  else if (next.kind !== "starting") showProgress(0, null);
  const wasUsed = focused instanceof HTMLElement && focused.matches(":disabled");
  if (wasUsed && !view.stop.disabled) view.stop.focus();
  else if (wasUsed && !view.generate.disabled) view.generate.focus();
  else if (wasUsed && !view.embedded.disabled) view.embedded.focus();
}

function fail(reason: string | null): void {
  view.failure.hidden = reason === null;
  view.failure.textContent = reason;
  if (reason !== null) view.failure.scrollIntoView({ block: "nearest" });
}

function showProgress(done: number, total: number | null): void {
  view.progress.hidden = false;
  if (total === null || total === 0 || done === 0) {
    view.progress.removeAttribute("value");
  } else {
    view.progress.max = total;
    view.progress.value = done;
  }
}

function showMachine({ name, isSoftware, features, bindingBytes }: Machine): void {
  list(view.machine, [
    ["GPU", isSoftware ? `${name}: a program on the CPU, slow` : name],
    ["Features", features.join(", ") || "none of those that help"],
    ["Largest buffer", bytes(bindingBytes)],
  ]);
}

function showFacts(facts: ModelFacts): void {
  list(view.facts, [
    ["Name", facts.name],
    ["Architecture", facts.architecture],
    ["Parameters", `${(facts.parameters / 1e6).toPrecision(4)} M`],
    ["Matrices", facts.types.join(", ")],
    ["Memory", `${bytes(facts.weightBytes)}, and ${bytes(facts.cacheBytes)} for ${facts.context} tokens of context`],
  ]);
  view.facts.hidden = false;
  view.promptLabel.textContent = facts.isChat ? "Message" : "Beginning of the text";
}

function showEnd({ reason, isContextFull, tokens, promptTokens, prefillTps, decodeTps }: Generated): void {
  view.speed.textContent = `${rate(decodeTps)} tokens/s (${tokens.length}); prompt ${rate(prefillTps)} tokens/s (${promptTokens})`;
  view.status.textContent = isContextFull
    ? "Done: the context is full. A larger one, or a shorter prompt, leaves more room."
    : ENDS[reason];
}

const ENDS: Readonly<Record<Generated["reason"], string>> = {
  end: "Done.",
  stop: "Done.",
  length: "Done: as many tokens as were asked for.",
  aborted: "Stopped.",
};

/** Rows of a list of terms. */
function list(parent: HTMLElement, rows: readonly (readonly [term: string, value: string])[]): void {
  parent.replaceChildren(
    ...rows.flatMap(([term, value]) => {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      dt.textContent = term;
      dd.textContent = value;
      return [dt, dd];
    }),
  );
}
