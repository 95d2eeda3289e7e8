//! Moving record batches.
