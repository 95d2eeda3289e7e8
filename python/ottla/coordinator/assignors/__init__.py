"""How a group shares the partitions out."""
