// Several files into one folder: they appear whole, the last one last, and none before all are written.
// Not here: single files (files.ts), whether what is there may be replaced, which each command decides.

import { join } from "node:path";

import { createFile, type FileSink } from "../files.ts";

/**
 * Writes the files into a folder that is there, in their order.
 * @param inputs files that must not be replaced, since they are read
 * @throws FileError as `createFile`
 */
export function writeAll(
  folder: string,
  files: readonly { readonly name: string; readonly text: string }[],
  inputs: readonly string[],
): void {
  const sinks: FileSink[] = [];
  try {
    for (const { name, text } of files) {
      const content = Buffer.from(text);
      const sink = createFile(join(folder, name), content.length, inputs);
      sinks.push(sink);
      sink.write(content);
    }
    for (const sink of sinks) sink.commit();
  } finally {
    for (const sink of sinks) sink.abandon();
  }
}
