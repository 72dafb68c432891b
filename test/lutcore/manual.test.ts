import { expect, test } from "vitest";

import { manual } from "./manual.ts";

test("src/lutcore/README.md is what the table of instructions says today", async () => {
  await expect(manual()).toMatchFileSnapshot("../../src/lutcore/README.md");
});
