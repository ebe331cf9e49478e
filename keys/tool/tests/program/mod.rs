//! The program, and what it said.

use std::process::{Command, Output};

pub(crate) fn keys(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_postkeep-keys")).args(arguments).output().unwrap()
}

pub(crate) fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What was said to a command that ended with `code`, and printed nothing that might be taken for a result.
pub(crate) fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}
