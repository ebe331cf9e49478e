//! What a release is made of, and whether it may be installed.
