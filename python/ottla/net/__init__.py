"""What kafka-python keeps under `kafka.net`: authentication."""
