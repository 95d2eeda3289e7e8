/**
 * What a caller can do about an error.
 *
 * - `retriable`: the same call may succeed later; nothing was done, or it is safe to repeat.
 * - `fenced`: somebody newer has taken over (epoch, generation, owner of a log); stop and open anew.
 * - `outOfRange`: the offset is not there (below the start, above the end); choose another.
 * - `notFound`: what the message names is not there.
 * - `alreadyExists`: what was to be created is there already.
 * - `denied`: authentication or authorization was refused.
 * - `invalid`: the call, option or argument is wrong; correct it.
 * - `unsupported`: this broker, version or platform cannot; the message says what can.
 * - `corrupt`: bytes that are not what they claim.
 * - `full`: a disk, quota or buffer limit is reached.
 * - `closed`: the handle was closed or given up; open anew.
 * - `timeout`: the time given to the call ran out.
 * - `internal`: a defect of Ottla; please report it.
 */
export type ErrorKind =
  | 'retriable'
  | 'fenced'
  | 'outOfRange'
  | 'notFound'
  | 'alreadyExists'
  | 'denied'
  | 'invalid'
  | 'unsupported'
  | 'corrupt'
  | 'full'
  | 'closed'
  | 'timeout'
  | 'internal';

/** An error of Ottla. The message is for people; programs ask {@link OttlaError.kind} and {@link OttlaError.retriable}. */
export class OttlaError extends Error {
  /** What a caller can do about it. */
  readonly kind: ErrorKind;
  /** Whether the same call may succeed later. */
  readonly retriable: boolean;

  constructor(kind: ErrorKind, message: string, options: { retriable?: boolean; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'OttlaError';
    this.kind = kind;
    this.retriable = options.retriable ?? kind === 'retriable';
  }
}

/** An error that a broker answered with. Its `name` is Kafka's name of the code, such as `UNKNOWN_TOPIC_OR_PARTITION`. */
export class KafkaError extends OttlaError {
  /** Kafka's code. */
  readonly code: number;

  constructor(
    code: number,
    name: string,
    message: string,
    options: { kind: ErrorKind; retriable?: boolean; cause?: unknown },
  ) {
    super(options.kind, message, options);
    this.name = name;
    this.code = code;
  }
}

/** The parts of an error, as the module hands them over. */
interface Parts {
  kind: ErrorKind;
  message: string;
  retriable: boolean;
  code?: number;
  name?: string;
  cause?: unknown;
}

/** @internal Makes what is thrown. */
export function fromParts({ kind, message, retriable, code, name, cause }: Parts): OttlaError {
  const options = { kind, retriable, cause };
  return code === undefined ? new OttlaError(kind, message, options) : new KafkaError(code, name ?? '', message, options);
}
