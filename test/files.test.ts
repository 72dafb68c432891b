// Files as byte sources: exact bytes, and one clear line for each way in which a file cannot be used.

import { mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

import { FileError, openFile, standardTexts } from "../src/files.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "lutra-files-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

test("a file gives the bytes that are asked for", () => {
  const path = join(folder, "bytes");
  writeFileSync(
    path,
    Uint8Array.from({ length: 100 }, (_, i) => i),
  );
  const file = openFile(path);
  expect([file.name, file.size]).toEqual([path, 100]);
  expect([...file.read(10, 3)]).toEqual([10, 11, 12]);
  expect(file.read(100, 0)).toHaveLength(0);
  expect(() => file.read(99, 2)).toThrow(new FileError(`${path}: bytes 99 to 101 wanted; the file has 100`));
  expect(() => file.read(-1, 2)).toThrow(new FileError(`${path}: bytes -1 to 1 wanted; the file has 100`));
  file.close();
  file.close();
  expect(() => file.read(0, 1)).toThrow(new FileError(`${path}: read after it was closed`));
});

test("a file that shrinks while it is in use is said to have shrunk", () => {
  const path = join(folder, "shrinks");
  writeFileSync(path, new Uint8Array(100));
  const file = openFile(path);
  truncateSync(path, 40);
  expect(() => file.read(30, 20)).toThrow(
    new FileError(
      `${path}: ends at byte 40, but had 100 bytes when it was opened; leave the file unchanged while it is in use`,
    ),
  );
  file.close();
});

test("what is no readable file is refused in one line", () => {
  symlinkSync("circle", join(folder, "circle"));
  expect(() => openFile(join(folder, "none"))).toThrow(new FileError(`${folder}/none: no such file`));
  expect(() => openFile(folder)).toThrow(new FileError(`${folder}: is a directory; name a file in it`));
  expect(() => openFile("/dev/null")).toThrow(new FileError("/dev/null: is not a regular file"));
  expect(() => openFile(join(folder, "bytes", "x"))).toThrow(
    new FileError(`${folder}/bytes/x: no such file: a part of the path is not a directory`),
  );
  expect(() => openFile(join(folder, "circle"))).toThrow(
    new FileError(`${folder}/circle: its symbolic links go in a circle`),
  );
});

test("the standard texts are the package's own, by name", () => {
  const texts = standardTexts();
  expect(texts.length).toBeGreaterThan(0);
  expect(texts.map(({ name }) => name)).toEqual(texts.map(({ name }) => name).toSorted());
  for (const { name, text } of texts) {
    expect(name).toMatch(/^[a-z0-9]+\.ladder$/);
    expect(text.length).toBeGreaterThan(0);
  }
});
