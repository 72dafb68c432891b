// Waiting that ends when the user says so. Work in native code cannot be called back; it can be left alone.

/** What is used of an AbortSignal; spelled out, so that the types of the package need neither Node's nor the DOM's. */
export interface Interruption {
  readonly aborted: boolean;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

/** The work's result, or "aborted" as soon as the signal says so; what becomes of the work then is ignored. */
export async function unlessAborted<T>(work: Promise<T>, signal: Interruption | undefined): Promise<T | "aborted"> {
  if (signal === undefined) return work;
  let interrupt = (): void => undefined;
  const aborted = new Promise<"aborted">((resolve) => {
    interrupt = (): void => resolve("aborted");
    if (signal.aborted) interrupt();
    signal.addEventListener("abort", interrupt);
  });
  try {
    return await Promise.race([aborted, work]);
  } finally {
    signal.removeEventListener("abort", interrupt);
    work.catch(() => undefined);
  }
}
