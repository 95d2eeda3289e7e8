import { Broker, initSync, setErrors, Stop } from '../build/glue.js';
import { fromParts, OttlaError } from './errors.js';

/** What the rest needs of the glue; its own loader, which would look for a file that is not packed, is left out. */
const glue = { Broker, Stop };

/** @internal The module's own classes. */
export type Glue = typeof glue;

/**
 * Where the WebAssembly module is, or the module itself: only needed where it cannot be found beside the script, or is to be
 * loaded ahead.
 */
export type ModuleSource = URL | string | Response | BufferSource | WebAssembly.Module;

type Find = (source: URL | string | Response | undefined) => Promise<WebAssembly.Module>;

let find: Find | undefined;
let loading: Promise<Glue> | undefined;

/** @internal Each platform's entry says once how the module is found. */
export function setFind(how: Find): void {
  find = how;
}

/** @internal The module, loaded when it is first needed. */
export function module(source?: ModuleSource): Promise<Glue> {
  loading ??= instantiate(source).catch((cause: unknown) => {
    // The next call tries again.
    loading = undefined;
    throw new OttlaError('unsupported', `the WebAssembly module cannot be loaded: ${String(cause)}`, { cause });
  });
  return loading;
}

async function instantiate(source?: ModuleSource): Promise<Glue> {
  let compiled: WebAssembly.Module;
  if (source instanceof WebAssembly.Module) {
    compiled = source;
  } else if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) {
    compiled = await WebAssembly.compile(source);
  } else if (find) {
    compiled = await find(source);
  } else {
    throw new Error('this platform has no loader');
  }
  initSync({ module: compiled });
  setErrors(fromParts);
  return glue;
}

/**
 * Loads the WebAssembly module ahead of its first use, which otherwise does it.
 *
 * @param source Where it is, for pages whose bundler or content policy keeps it elsewhere than beside the script.
 * @example
 * await load(new URL('/assets/ottla.wasm', location.href));
 */
export async function load(source?: ModuleSource): Promise<void> {
  await module(source);
}
