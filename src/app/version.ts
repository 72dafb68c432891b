// The version of this installation.

import { readFileSync } from "node:fs";

import { packageFile } from "../files.ts";

export function packageVersion(): string {
  const { version }: { readonly version: string } = JSON.parse(readFileSync(packageFile("package.json"), "utf8"));
  return version;
}
