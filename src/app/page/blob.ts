// Models as a page has them: files that a person chose, and downloads, which the browser keeps on disk where they are
// large. Read by position and at once, as the rest of Lutra reads; that is possible in a worker only.
// Not here: what the bytes mean (model/gguf.ts).

import type { ByteSource } from "../../files.ts";

/** Of a worker; the types of the DOM, which the page needs, do not have it. */
declare const FileReaderSync: new () => { readAsArrayBuffer(blob: Blob): ArrayBuffer };

/** Handed to the browser's storage in pieces of this size, so that memory holds no more than one. */
const PIECE_BYTES = 2 ** 24;
/** Of a GGUF file; what begins otherwise is not downloaded to its end. */
const MAGIC = "GGUF";
/** The loader says what is wrong with a beginning of this size (model/gguf.ts, FIXED_HEADER). */
const BEGINNING_BYTES = 24;

/** The bytes of a blob under a name. */
export function blobSource(name: string, blob: Blob): ByteSource {
  const reader = new FileReaderSync();
  const { size } = blob;
  return {
    name,
    size,
    read(offset, length) {
      if (!(offset >= 0 && length >= 0 && offset + length <= size))
        throw new Error(`${name}: bytes ${offset} to ${offset + length} wanted; the file has ${size}`);
      try {
        return new Uint8Array(reader.readAsArrayBuffer(blob.slice(offset, offset + length)));
      } catch (error) {
        throw new Error(
          `${name}: bytes ${offset} to ${offset + length} cannot be read: the file was changed or removed since it was ` +
            "chosen, or memory does not suffice; choose it again",
          { cause: error },
        );
      }
    },
    close: () => undefined,
  };
}

/**
 * Downloads a model; of what is none, as a web page, only the beginning.
 * @param url absolute
 * @param progress bytes so far and in all; null where the server does not say
 * @throws Error with the address and what would work
 */
export async function download(url: string, progress: (done: number, total: number | null) => void): Promise<Blob> {
  const response = await answerOf(url);
  // Of a compressed answer the header counts other bytes than arrive.
  const length = response.headers.has("content-encoding") ? null : response.headers.get("content-length");
  const total = length === null ? null : Number(length);
  const pieces: Blob[] = [];
  let piece: Uint8Array<ArrayBuffer>[] = [];
  let [held, done] = [0, 0];
  let isChecked = false;
  const keep = (): void => {
    pieces.push(new Blob(piece));
    piece = [];
    held = 0;
  };
  const reader = response.body?.getReader();
  try {
    for (let next = await reader?.read(); next?.value !== undefined; next = await reader?.read()) {
      piece.push(next.value);
      held += next.value.length;
      done += next.value.length;
      if (!isChecked && done >= BEGINNING_BYTES) {
        isChecked = true;
        const beginning = new Blob(piece);
        if ((await beginning.slice(0, MAGIC.length).text()) !== MAGIC) {
          await reader?.cancel();
          return beginning;
        }
      }
      if (held >= PIECE_BYTES) keep();
      progress(done, total);
    }
  } catch (error) {
    throw broken(url, done, total, error);
  }
  keep();
  if (total !== null && done < total) throw broken(url, done, total, null);
  return new Blob(pieces);
}

async function answerOf(url: string): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new Error(
      `${url}: no answer: the address is wrong, there is no connection, or its server does not let other sites' pages ` +
        "read it (CORS); download the file, and choose it here",
      { cause: error },
    );
  }
  if (!response.ok)
    throw new Error(
      `${url}: the server answers ${response.status} ${response.statusText}`.trimEnd() +
        "; the address of the file itself is needed, and one that needs no password",
    );
  return response;
}

function broken(url: string, done: number, total: number | null, cause: unknown): Error {
  const size = total === null ? `${done} bytes` : `${done} of ${total} bytes`;
  return new Error(`${url}: the download broke off after ${size}; try again, or download the file and choose it here`, {
    cause,
  });
}
