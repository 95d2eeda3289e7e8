// Makes pkg/ of build/ (what wasm-bindgen wrote) and js/ (the face): `node package.mjs wasm-dev|wasm`. Called by scripts/wasm.
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import * as esbuild from 'esbuild';

const here = import.meta.dirname;
const profile = process.argv[2];
const bin = (name, file) => join(dirname(createRequire(import.meta.url).resolve(`${name}/package.json`)), file);
const node = (...args) => execFileSync(process.execPath, args, { cwd: here, stdio: 'inherit' });

// The module. Without its features named one by one, wasm-opt writes what Node 20 cannot read.
const features = [
  'bulk-memory',
  'bulk-memory-opt',
  'multivalue',
  'mutable-globals',
  'nontrapping-float-to-int',
  'reference-types',
  'sign-ext',
].map((feature) => `--enable-${feature}`);
mkdirSync(join(here, 'pkg/cjs'), { recursive: true });
if (profile === 'wasm') {
  node(bin('binaryen', 'bin/wasm-opt'), '-O3', ...features, 'build/glue_bg.wasm', '-o', 'pkg/ottla.wasm');
} else {
  cpSync(join(here, 'build/glue_bg.wasm'), join(here, 'pkg/ottla.wasm'));
}

// Types: once for modules, once for CommonJS, as TypeScript wants them.
node(bin('typescript', 'bin/tsc'), '-p', 'tsconfig.json');
for (const file of readdirSync(join(here, 'pkg/types'))) {
  cpSync(join(here, 'pkg/types', file), join(here, 'pkg/cjs', file));
}
writeFileSync(join(here, 'pkg/cjs/package.json'), '{ "type": "commonjs" }\n');

// One file for browsers, workers and bundlers; one for Node, with a module that exports the same objects.
// The names of classes are seen in consoles.
const shared = { bundle: true, keepNames: true, target: 'es2022', legalComments: 'none', logLevel: 'warning', absWorkingDir: here };
await esbuild.build({ ...shared, entryPoints: ['js/browser.ts'], outfile: 'pkg/ottla.js', format: 'esm', platform: 'browser' });
await esbuild.build({
  ...shared,
  entryPoints: ['js/node.ts'],
  outfile: 'pkg/cjs/index.js',
  format: 'cjs',
  platform: 'node',
  // Only in the part of the glue that looks for the module by itself, which is not used.
  define: { 'import.meta.url': 'undefined' },
});
const names = Object.keys(createRequire(import.meta.url)('./pkg/cjs/index.js')).sort();
writeFileSync(
  join(here, 'pkg/node.mjs'),
  `import ottla from './cjs/index.js';\n\nexport const { ${names.join(', ')} } = ottla;\n`,
);

const bytes = readFileSync(join(here, 'pkg/ottla.wasm'));
const kib = (count) => `${(count / 1024).toFixed(0)} KiB`;
console.error(`wasm: pkg/ottla.wasm ${kib(bytes.length)}, ${kib(gzipSync(bytes, { level: 9 }).length)} gzipped`);
