// The entry for browsers, workers and bundlers.
import { setFind } from './module.js';

setFind(async (source) => {
  const response = source instanceof Response ? source : await fetch(source ?? new URL('./ottla.wasm', import.meta.url));
  if (!response.ok) {
    throw new Error(`${response.url} answered ${response.status} ${response.statusText}`);
  }
  // Compiling while it arrives needs the right media type, which small servers do not know.
  const type = response.headers.get('Content-Type') ?? '';
  return type.startsWith('application/wasm')
    ? WebAssembly.compileStreaming(response)
    : WebAssembly.compile(await response.arrayBuffer());
});

export * from './index.js';
