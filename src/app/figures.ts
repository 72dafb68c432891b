// Figures as people read them, at a command line and in a page alike. Not here: where they are shown (terminal.ts, page/).

/** Bytes in the largest unit that leaves at least one: "93.8 MiB". */
export function bytes(count: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, count)) / 10));
  return `${power === 0 ? count : (count / 1024 ** power).toFixed(1)} ${units[power]}`;
}

/** Tokens per second with three significant digits; "-" where it is not known. */
export function rate(tps: number | null): string {
  return tps === null ? "-" : tps >= 100 ? tps.toFixed(0) : tps.toPrecision(3);
}
