// Files as the rest of Lutra sees them: a named run of bytes, read by position; a new file that appears whole or not at
// all; and .ladder texts, the standard ones and a person's own.
// Not here: what the bytes mean (model/gguf.ts, ladder/). Together with app/, open.ts and cpu/native.ts this is all
// that touches the file system; everything else is handed a ByteSource and runs in a page too.

import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  readdirSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  statfsSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
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

/** A file that is being written; nobody sees it under its name before `commit`. */
export interface FileSink {
  /** Absolute path that the file will have. */
  readonly name: string;
  /** Appends all the bytes. */
  write(bytes: Uint8Array): void;
  /** Makes the file durable and gives it its name, in place of a file that had it. */
  commit(): void;
  /** Takes away what has been written; no error after `commit`, or twice. */
  abandon(): void;
}

/** As REASONS, for writing. */
const WRITE_REASONS: Readonly<Record<string, string>> = {
  EACCES: "no permission to write there",
  EPERM: "no permission to write there",
  ENOTDIR: "a part of the path is not a directory",
  EROFS: "its file system can only be read",
  ENOSPC: "no space is left on its disk",
  EDQUOT: "your share of its disk is used up",
  EFBIG: "the file is larger than the system allows",
  EIO: "its disk reports an error",
  EMFILE: REASONS["EMFILE"]!,
  ENAMETOOLONG: REASONS["ENAMETOOLONG"]!,
};

function writeError(path: string, error: unknown): FileError {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return new FileError(`${path}: ${WRITE_REASONS[code] ?? String(error)}; nothing was written`, { cause: error });
}

function statOf(path: string): Stats | null {
  return statSync(path, { throwIfNoEntry: false }) ?? null;
}

/**
 * Begins a file of `size` bytes: under a name of its own in the folder of `path`, until it is complete.
 * @param inputs files that are read meanwhile; none of them can be the output
 * @throws FileError where `path` is a folder or an input, its folder is missing or not writable, or its disk is full
 */
export function createFile(path: string, size: number, inputs: readonly string[]): FileSink {
  let name = resolve(path);
  let part: string;
  let fd: number | null;
  try {
    const named = dirname(name);
    if (statOf(named)?.isDirectory() !== true)
      throw new FileError(`${name}: there is no folder ${named}; make it first`);
    const old = statOf(name);
    if (old !== null) {
      if (old.isDirectory()) throw new FileError(`${name}: ${REASONS["EISDIR"]}`);
      if (!old.isFile()) throw new FileError(`${name}: is not a regular file; name a new file`);
      const isOld = (input: string): boolean => {
        const stat = statOf(input);
        return stat?.dev === old.dev && stat.ino === old.ino;
      };
      if (inputs.some(isOld)) throw new FileError(`${name}: is the input too; name another file for the output`);
      name = realpathSync(name);
    }
    const folder = dirname(name);
    const { bavail, bsize } = statfsSync(folder);
    if (bavail * bsize < size)
      throw new FileError(`${name}: ${size} bytes are needed, and its disk has ${bavail * bsize} left`);
    part = join(folder, `.lutra-${crypto.randomUUID().slice(0, 8)}.part`);
    fd = openSync(part, "wx");
  } catch (error) {
    throw error instanceof FileError ? error : writeError(name, error);
  }
  const abandon = (): void => {
    if (fd === null) return;
    closeSync(fd);
    fd = null;
    rmSync(part, { force: true });
  };
  const guarded = (act: (fd: number) => void): void => {
    if (fd === null) throw new FileError(`${name}: written after it was closed`);
    try {
      act(fd);
    } catch (error) {
      abandon();
      throw writeError(name, error);
    }
  };
  return {
    name,
    abandon,
    write: (bytes) =>
      guarded((open) => {
        for (let done = 0; done < bytes.length;) done += writeSync(open, bytes, done);
      }),
    commit: () =>
      guarded((open) => {
        fsyncSync(open);
        renameSync(part, name);
        closeSync(open);
        fd = null;
        syncFolder(dirname(name));
      }),
  };
}

/** A name is durable when its folder is; where the system has no such thing, as on Windows, there is nothing to do. */
function syncFolder(folder: string): void {
  let fd: number;
  try {
    fd = openSync(folder, "r");
  } catch {
    return;
  }
  try {
    fsyncSync(fd);
  } catch {
    // The file has its name and its bytes; that is all that can be promised here.
  } finally {
    closeSync(fd);
  }
}

/** One file of the language, as the resolver takes it. */
export interface SourceText {
  /** The file's name without its folder, for diagnostics: "float.ladder". */
  readonly name: string;
  readonly text: string;
}

/** The path of what comes with the package, by its name in the package's root: the nearest folder with a package.json. */
export function packageFile(name: string): string {
  let [root, above] = [".", ".."].map((at) => new URL(at, import.meta.url)) as [URL, URL];
  while (!existsSync(new URL("package.json", root)) && above.href !== root.href)
    [root, above] = [above, new URL("..", above)];
  return fileURLToPath(new URL(name, root));
}

/**
 * The `.ladder` files that come with the package, in order of name.
 * @throws FileError where the package's dsl folder is missing.
 */
export function standardTexts(): readonly SourceText[] {
  const folder = packageFile("dsl/");
  try {
    return readdirSync(folder)
      .filter((name) => name.endsWith(".ladder"))
      .toSorted()
      .map((name) => ({ name, text: readFileSync(folder + name, "utf8") }));
  } catch (error) {
    throw fileError(folder, error);
  }
}

/**
 * The bodies of WGSL modules that come with the package, by name without the ending.
 * @throws FileError where the package's shaders folder is missing.
 */
export function shaderTexts(): ReadonlyMap<string, string> {
  const folder = packageFile("shaders/");
  try {
    const names = readdirSync(folder).filter((name) => name.endsWith(".wgsl"));
    return new Map(names.map((name) => [name.slice(0, -".wgsl".length), readFileSync(folder + name, "utf8")]));
  } catch (error) {
    throw fileError(folder, error);
  }
}

/** As the language allows in one file; more is refused by the resolver, with its own words. */
const MAX_LADDER_BYTES = 2 ** 20;

/**
 * A `.ladder` file of a person's own.
 * @throws FileError where it cannot be read, is no UTF-8, or has more than 1 MiB
 */
export function readLadder(path: string): SourceText {
  const file = openFile(path);
  try {
    if (file.size > MAX_LADDER_BYTES)
      throw new FileError(`${file.name}: ${file.size} bytes; a .ladder file has at most ${MAX_LADDER_BYTES}`);
    const text = new TextDecoder("utf-8", { fatal: true }).decode(file.read(0, file.size));
    return { name: basename(file.name), text };
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new FileError(`${file.name}: bytes that are no UTF-8; a .ladder file is text`, { cause: error });
  } finally {
    file.close();
  }
}
