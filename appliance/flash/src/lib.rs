//! Puts an image onto the disks of a rented server.
