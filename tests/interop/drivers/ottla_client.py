"""Ottla's Python client: kafka-python's driver, unchanged, with `kafka` from Ottla."""

from __future__ import annotations

import ottla

ottla.install_as_kafka()

import kafka_python  # noqa: E402 (it imports kafka, which is to be Ottla)
from common import main  # noqa: E402

assert vars(kafka_python)["KafkaProducer"] is ottla.KafkaProducer, "the driver runs on kafka-python"

if __name__ == "__main__":
    main(kafka_python.STEPS)
