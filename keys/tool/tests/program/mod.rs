//! The program, and what it said.

use std::process::{Command, Output};

pub(crate) fn keys(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_postkeep-keys")).args(arguments).output().unwrap()
}

/// The same, with `input` on its standard input.
#[allow(dead_code)]
pub(crate) fn keys_fed(arguments: &[&str], input: &[u8]) -> Output {
    use std::io::Write as _;
    use std::process::Stdio;

    let mut child = Command::new(env!("CARGO_BIN_EXE_postkeep-keys"));
    let child = child.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
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
