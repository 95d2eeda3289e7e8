"""Stands on `sys.path` where `ottla.install_as_kafka()` put it, for processes that are spawned; becomes `ottla`."""

import ottla

ottla.install_as_kafka()
