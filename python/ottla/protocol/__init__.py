"""What programs import from kafka-python's `kafka.protocol`: two enumerations. The protocol itself is the core's."""
