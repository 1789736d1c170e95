import react from "@vitejs/plugin-react";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

// What the built files are made of. A test of the console compares it, so that no source changes without a build.
const sources = ["index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", "public", "src"];

function files(path: string): string[] {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path).flatMap((name) => files(join(path, name)));
}

function fingerprint(): Plugin {
  return {
    name: "fingerprint",
    apply: "build",
    closeBundle() {
      const sum = createHash("sha256");
      for (const file of sources.flatMap(files).sort()) sum.update(file + "\0").update(readFileSync(file)).update("\0");
      writeFileSync("../console/sources.sha256", sum.digest("hex") + "\n");
    },
  };
}

// The built files are committed in ../console/dist and keep their names, so that a branch's build does not rename them.
export default defineConfig({
  base: "./",
  plugins: [react(), fingerprint()],
  build: {
    outDir: "../console/dist",
    license: { fileName: "licences.md" },
    emptyOutDir: true,
    assetsInlineLimit: 0, // no data: URLs, which the content policy does not allow everywhere
    modulePreload: { polyfill: false }, // it would be an inline script
    chunkSizeWarningLimit: 700,
    rollupOptions: {
      output: {
        entryFileNames: "assets/[name].js",
        chunkFileNames: "assets/[name].js",
        assetFileNames: "assets/[name][extname]",
      },
    },
  },
});
