// What people see: progress and notes on stderr, tables, JSON, numbers in a form that reads well, and text of files and
// models in a form that a terminal may get. Not here: what is said (each command's own file).

import process from "node:process";

/** A bar is only worth its flicker when one has to wait. */
const SHOW_AFTER_MS = 2000;
const REDRAW_MS = 100;
const BAR_WIDTH = 30;

export interface Progress {
  /** `detail` is shown behind the bar. */
  update(done: number, total: number, detail?: string): void;
  /** Removes the bar from the screen. */
  clear(): void;
}

/** A progress bar that appears after two seconds, and only where stderr is a terminal. */
export function makeProgress(label: string): Progress {
  const startMs = performance.now();
  let drawnMs = -Infinity;
  return {
    update(done, total, detail = "") {
      const nowMs = performance.now();
      if (!process.stderr.isTTY || nowMs - startMs < SHOW_AFTER_MS || nowMs - drawnMs < REDRAW_MS) return;
      drawnMs = nowMs;
      const share = total === 0 ? 1 : done / total;
      const bar = "#".repeat(Math.round(share * BAR_WIDTH)).padEnd(BAR_WIDTH, ".");
      process.stderr.write(`\r\x1b[K${label} [${bar}] ${Math.floor(share * 100)} % ${detail}`);
    },
    clear() {
      if (drawnMs !== -Infinity) process.stderr.write("\r\x1b[K");
      drawnMs = -Infinity;
    },
  };
}

/** One line for the person on stderr that is no error. */
export function note(text: string): void {
  process.stderr.write(`note: ${text}\n`);
}

/** Text in the dim style of the terminal, or as it is where NO_COLOR asks for that. */
export function dim(text: string): string {
  return process.env["NO_COLOR"] ? text : `\x1b[2m${text}\x1b[22m`;
}

/** Text of a model as a terminal may get it: no control characters but tab and line feed, for they could do anything. */
export function harmless(text: string): string {
  // oxlint-disable-next-line no-control-regex -- they are what must not reach a terminal
  return text.replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd");
}

/** Text of a file or an argument, for one line: control characters, C1 too, are shown as escapes, and not obeyed. */
export function escaped(text: string): string {
  // oxlint-disable-next-line no-control-regex -- they are what must not reach a terminal
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, (c) =>
    // JSON has escapes for those below the space only.
    c < " " ? JSON.stringify(c).slice(1, -1) : `\\u00${c.charCodeAt(0).toString(16)}`,
  );
}

/** One line of JSON on stdout, which is for programs, but safe on a terminal too. */
export function printJson(value: object): void {
  process.stdout.write(`${escaped(JSON.stringify(value))}\n`);
}

/** Most memory that the process has held, in MiB. */
export function peakMib(): number {
  return process.resourceUsage().maxRSS / 1024; // maxRSS is in KiB on every system
}

/** Rows as lines with aligned columns; cells that are numbers, and what stands over them, to the right. */
export function table(rows: readonly (readonly (string | number)[])[]): string {
  const widths = (rows[0] ?? []).map((_, c) => Math.max(...rows.map((row) => String(row[c]).length)));
  const last = rows.at(-1) ?? [];
  const cell = (value: string | number, c: number): string =>
    typeof last[c] === "number" ? String(value).padStart(widths[c] ?? 0) : String(value).padEnd(widths[c] ?? 0);
  return rows.map((row) => `${row.map(cell).join("  ").trimEnd()}\n`).join("");
}
