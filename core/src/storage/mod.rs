//! Bytes on a device.
