import { defineConfig } from "vitest/config";

// Files run one at a time: the native tests use both cores themselves, and memory is measured in some.
const config: ReturnType<typeof defineConfig> = defineConfig({
  test: {
    root: new URL("..", import.meta.url).pathname,
    include: ["test/**/*.test.ts"],
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 300_000,
    reporters: ["default", ["json", { outputFile: "build/test-results.json" }]],
  },
});
export default config;
