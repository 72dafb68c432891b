// Files as byte sources and sinks: exact bytes, and one clear line for each way in which a file cannot be used.

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { createFile, FileError, openFile, readLadder, standardTexts } from "../src/files.ts";

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

describe("a new file", () => {
  const fresh = (name: string): string => {
    const path = join(folder, name);
    mkdirSync(path);
    return path;
  };

  test("appears whole when it is complete, in place of one of that name, and leaves nothing else", () => {
    const own = fresh("whole");
    const path = join(own, "out");
    writeFileSync(path, "old");
    const sink = createFile(path, 6, []);
    sink.write(new TextEncoder().encode("new"));
    expect(readFileSync(path, "utf8")).toBe("old");
    sink.write(new TextEncoder().encode("er"));
    sink.commit();
    expect([sink.name, readFileSync(path, "utf8"), readdirSync(own)]).toEqual([path, "newer", ["out"]]);
    sink.abandon();
    expect(readFileSync(path, "utf8")).toBe("newer");
    expect(() => sink.write(new Uint8Array(1))).toThrow(new FileError(`${path}: written after it was closed`));
  });

  test("that is abandoned was never there", () => {
    const own = fresh("abandoned");
    const sink = createFile(join(own, "out"), 3, []);
    sink.write(new Uint8Array(3));
    expect(readdirSync(own)).toHaveLength(1);
    sink.abandon();
    sink.abandon();
    expect(readdirSync(own)).toEqual([]);
  });

  test("takes the place of what a link points to", () => {
    const own = fresh("linked");
    writeFileSync(join(own, "target"), "old");
    symlinkSync("target", join(own, "link"));
    const sink = createFile(join(own, "link"), 3, []);
    sink.write(new TextEncoder().encode("new"));
    sink.commit();
    expect([sink.name, readFileSync(join(own, "target"), "utf8")]).toEqual([join(own, "target"), "new"]);
  });

  test("is refused in one line where it cannot be", () => {
    const own = fresh("refused");
    const input = join(own, "in");
    writeFileSync(input, "x");
    symlinkSync("in", join(own, "alias"));
    const refusal = (path: string, size = 1): unknown => {
      try {
        return createFile(path, size, [input]);
      } catch (error) {
        return error instanceof FileError ? error.message : error;
      }
    };
    expect(refusal(input)).toBe(`${input}: is the input too; name another file for the output`);
    expect(refusal(join(own, "alias"))).toBe(`${own}/alias: is the input too; name another file for the output`);
    expect(refusal(own)).toBe(`${own}: is a directory; name a file in it`);
    expect(refusal("/dev/null")).toBe("/dev/null: is not a regular file; name a new file");
    expect(refusal(join(own, "none/out"))).toBe(`${own}/none/out: there is no folder ${own}/none; make it first`);
    expect(refusal(join(input, "out"))).toMatch(/^\S+in\/out: there is no folder \S+in; make it first$/);
    expect(refusal(join(own, "out"), 2 ** 60)).toMatch(
      /^\S+\/out: 1152921504606847000 bytes are needed, and its disk has \d+ left$/,
    );
    expect(refusal("/proc/out")).toMatch(/^\/proc\/out: .+$/);
    expect(readdirSync(own).toSorted()).toEqual(["alias", "in"]);
    expect(existsSync(join(own, "out"))).toBe(false);
  });
});

test("a .ladder file is text of at most 1 MiB", () => {
  const path = join(folder, "own.ladder");
  writeFileSync(path, "block\n");
  expect(readLadder(path)).toEqual({ name: "own.ladder", text: "block\n" });
  writeFileSync(path, Buffer.of(0x61, 0xff));
  expect(() => readLadder(path)).toThrow(new FileError(`${path}: bytes that are no UTF-8; a .ladder file is text`));
  writeFileSync(path, " ".repeat(2 ** 20 + 1));
  expect(() => readLadder(path)).toThrow(new FileError(`${path}: 1048577 bytes; a .ladder file has at most 1048576`));
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
