import { defineConfig } from "vitest/config";

const usual = {
  root: new URL("..", import.meta.url).pathname,
  testTimeout: 120_000,
  hookTimeout: 300_000,
} as const;
const SIDE_BY_SIDE = ["ladder", "lutcore", "model", "native", "sim"].map((folder) => `test/${folder}/**/*.test.ts`);

// Files of what is pure run two at a time, then the others one by one: these use both cores themselves, and memory and
// processes are measured in some.
const config: ReturnType<typeof defineConfig> = defineConfig({
  test: {
    ...usual,
    reporters: ["default", ["json", { outputFile: "build/test-results.json" }]],
    projects: [
      { test: { ...usual, name: "pure", include: SIDE_BY_SIDE, maxWorkers: 2, sequence: { groupOrder: 0 } } },
      {
        test: {
          ...usual,
          name: "machine",
          include: ["test/**/*.test.ts"],
          exclude: ["**/node_modules/**", ...SIDE_BY_SIDE],
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
export default config;
