/** How long a call may wait, and what ends it early. */
export interface Waiting {
  /** The longest time to wait, in milliseconds. */
  timeoutMs?: number;
  /** Ends the waiting: the call rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** @internal The promise's outcome, or the signal's reason if that comes first. */
export function aborted<T>(signal: AbortSignal | undefined, promise: Promise<T>): Promise<T> {
  if (!signal) {
    return promise;
  }
  return new Promise<T>((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    if (signal.aborted) {
      // What the promise brings is nobody's any more.
      promise.catch(() => {});
      abort();
      return;
    }
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
