// Waiting that ends when the user says so. Work in native code cannot be called back; it can be left alone.

/** The work's result, or "aborted" as soon as the signal says so; what becomes of the work then is ignored. */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T | "aborted"> {
  if (signal === undefined) return work;
  const listening = new AbortController();
  const aborted = new Promise<"aborted">((resolve) => {
    if (signal.aborted) resolve("aborted");
    signal.addEventListener("abort", () => resolve("aborted"), { signal: listening.signal });
  });
  try {
    return await Promise.race([aborted, work]);
  } finally {
    listening.abort();
    work.catch(() => undefined);
  }
}
