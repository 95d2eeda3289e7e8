// Living with the platform's event loop: keeping a process running while somebody waits, and letting others have a turn.

let waiting = 0;
let hold: (hold: boolean) => void = () => {};

/** @internal The platform's entry says how a process is kept running. */
export function setHold(how: (hold: boolean) => void): void {
  hold = how;
}

/** @internal Somebody waits: the process keeps running until as many have left as have entered. */
export function enter(): void {
  waiting += 1;
  if (waiting === 1) {
    hold(true);
  }
}

/** @internal */
export function leave(): void {
  waiting -= 1;
  if (waiting === 0) {
    hold(false);
  }
}

/** @internal Keeps the process running until `promise` is settled. */
export async function alive<T>(promise: Promise<T>): Promise<T> {
  enter();
  try {
    return await promise;
  } finally {
    leave();
  }
}

/** How long the module may go on in microtasks alone before timers, rendering and input get a turn. */
const MAX_HOG_MS = 8;

let lastTurn = performance.now();

/** @internal Whether it is time to let others have a turn. */
export function isDue(): boolean {
  return performance.now() - lastTurn > MAX_HOG_MS;
}

/** @internal Goes on with `next` after everybody else has had a turn. */
export const later: (next: () => void) => void = (() => {
  const turned = (next: () => void) => (): void => {
    lastTurn = performance.now();
    next();
  };
  if (typeof setImmediate === 'function') {
    return (next) => void setImmediate(turned(next));
  }
  const queue: Array<() => void> = [];
  // Timers would wait four milliseconds each when they are nested.
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => queue.shift()?.();
  return (next) => {
    queue.push(turned(next));
    port2.postMessage(null);
  };
})();

/** @internal Lets others have a turn if it is time to. */
export async function breathe(): Promise<void> {
  if (isDue()) {
    await new Promise<void>(later);
  }
}
