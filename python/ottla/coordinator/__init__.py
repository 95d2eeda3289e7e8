"""What kafka-python keeps under `kafka.coordinator`: the assignors."""
