// Files as the rest of Lutra sees them: a named run of bytes, read by position, and the standard .ladder texts.
// Not here: what the bytes mean (model/gguf.ts, ladder/). Together with app/, open.ts and cpu/native.ts this is all
// that touches the file system; everything else is handed a ByteSource and runs in a page too.

import { closeSync, constants, fstatSync, openSync, readFileSync, readdirSync, readSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** Bytes that are read by position: a file, a download, or an array in memory. */
export interface ByteSource {
  /** For files the absolute path: errors begin with it. */
  readonly name: string;
  /** Bytes in all, as it was when opened. */
  readonly size: number;
  /** Exactly the bytes [offset, offset + length), in memory of their own; throws where there are fewer. */
  read(offset: number, length: number): Uint8Array;
  /** Gives the handle back; reading afterwards throws. Closing twice is no error. */
  close(): void;
}

/** A file that cannot be used: which one, why, and what would work. */
export class FileError extends Error {
  override readonly name = "FileError";
}

/** The one line that a person needs for each of the usual failures; others keep the system's words. */
const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "no such file",
  ENOTDIR: "no such file: a part of the path is not a directory",
  EACCES: "no permission to read it",
  EPERM: "no permission to read it",
  EISDIR: "is a directory; name a file in it",
  EMFILE: "too many files are open",
  ELOOP: "its symbolic links go in a circle",
  ENAMETOOLONG: "the name is too long",
};

function fileError(path: string, error: unknown): FileError {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return new FileError(`${path}: ${REASONS[code] ?? String(error)}`, { cause: error });
}

/**
 * Opens a regular file for positional reads.
 * @throws FileError where it is missing, not readable, a directory or a device.
 */
export function openFile(path: string): ByteSource {
  const name = resolve(path);
  let fd: number | null;
  try {
    // Without O_NONBLOCK, opening a pipe that nobody writes to waits for ever.
    fd = openSync(name, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (error) {
    throw fileError(name, error);
  }
  const stat = fstatSync(fd);
  if (!stat.isFile()) {
    closeSync(fd);
    throw new FileError(`${name}: ${stat.isDirectory() ? REASONS["EISDIR"] : "is not a regular file"}`);
  }
  const size = stat.size;
  return {
    name,
    size,
    read(offset: number, length: number): Uint8Array {
      if (fd === null) throw new FileError(`${name}: read after it was closed`);
      if (!(offset >= 0 && length >= 0 && offset + length <= size)) {
        throw new FileError(`${name}: bytes ${offset} to ${offset + length} wanted; the file has ${size}`);
      }
      const bytes = new Uint8Array(length);
      let done = 0;
      while (done < length) {
        let n: number;
        try {
          n = readSync(fd, bytes, done, length - done, offset + done);
        } catch (error) {
          throw fileError(name, error);
        }
        if (n === 0) {
          throw new FileError(
            `${name}: ends at byte ${offset + done}, but had ${size} bytes when it was opened; ` +
              "leave the file unchanged while it is in use",
          );
        }
        done += n;
      }
      return bytes;
    },
    close(): void {
      if (fd !== null) closeSync(fd);
      fd = null;
    },
  };
}

/** One file of the language, as the resolver takes it. */
export interface SourceText {
  /** The file's name without its folder, for diagnostics: "float.ladder". */
  readonly name: string;
  readonly text: string;
}

/**
 * The `.ladder` files that come with the package, in order of name.
 * @throws FileError where the package's dsl folder is missing.
 */
export function standardTexts(): readonly SourceText[] {
  // This file lies one level below the package's root both as src/files.ts and as dist/files.js.
  const folder = fileURLToPath(new URL("../dsl/", import.meta.url));
  try {
    return readdirSync(folder)
      .filter((name) => name.endsWith(".ladder"))
      .toSorted()
      .map((name) => ({ name, text: readFileSync(folder + name, "utf8") }));
  } catch (error) {
    throw fileError(folder, error);
  }
}
