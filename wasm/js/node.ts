// The entry for Node, bundled as CommonJS; node.mjs exports the same objects, so that there is one module in a process.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setHold } from './alive.js';
import { setFind } from './module.js';

setFind(async (source) => {
  if (source instanceof Response) {
    return WebAssembly.compile(await source.arrayBuffer());
  }
  return WebAssembly.compile(await readFile(source ?? join(__dirname, '..', 'ottla.wasm')));
});

// The module's timers do not keep a process running (src/clock.rs); a call under way does, by this one.
let timer: NodeJS.Timeout | undefined;
setHold((hold) => {
  if (hold) {
    timer = timer?.ref() ?? setInterval(() => {}, 2 ** 31 - 1);
  } else {
    timer?.unref();
  }
});

export * from './index.js';
