//! What a box is told when it is flashed.
