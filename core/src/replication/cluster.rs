//! A cluster as a source.
