/** A value of an option; Kafka's own spelling of names (`linger.ms`) is read as well. */
export type OptionValue = string | number | boolean | readonly string[] | null | undefined;

/** Options that producer, consumer and admin share: Kafka's names in camelCase, Kafka's defaults and units. */
export interface ClientOptions {
  /** A name for the broker's logs; `'ottla'` by default. */
  clientId?: string;
  /** How long to wait for the answer to a request; 30000 by default. */
  requestTimeoutMs?: number;
  /** The first pause before something is tried again; it doubles from try to try. */
  retryBackoffMs?: number;
  /** The longest pause before something is tried again. */
  retryBackoffMaxMs?: number;
  /** How old what is known of topics may become; 300000 by default. */
  metadataMaxAgeMs?: number;
  /** Whether asking for a topic that is not there creates it, if the broker agrees; true by default. */
  allowAutoCreateTopics?: boolean;
}
