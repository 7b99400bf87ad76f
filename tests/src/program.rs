//! Other programs: run to their end, with an error that says which one failed and what it said.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::server::Output;

/// Runs a program to its end, with nothing on its standard input, whatever its exit status.
pub fn run<S: AsRef<OsStr>>(argv: &[S]) -> Result<Output> {
    run_with_input(argv, b"")
}

/// Runs a program to its end with `input` on its standard input, whatever its exit status.
pub fn run_with_input<S: AsRef<OsStr>>(argv: &[S], input: &[u8]) -> Result<Output> {
    let (name, arguments) = argv.split_first().context("no program named")?;
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", words(argv)))?;
    // A thread of its own feeds it: a program that answers before it has read all would block us.
    let mut stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Some(mut pipe) = stdin.take() {
                // A program that doesn't read its input closes the pipe; its status tells the rest.
                let _ = pipe.write_all(input);
            }
        });
        child.wait_with_output()
    });
    let output = output.with_context(|| format!("cannot wait for `{}`", words(argv)))?;
    Ok(Output::from(output))
}

/// Runs a program to its end and refuses any exit status but 0.
pub fn must<S: AsRef<OsStr>>(argv: &[S]) -> Result<Output> {
    must_with_input(argv, b"")
}

/// As [`must`], with `input` on its standard input.
pub fn must_with_input<S: AsRef<OsStr>>(argv: &[S], input: &[u8]) -> Result<Output> {
    let output = run_with_input(argv, input)?;
    if !output.succeeded() {
        bail!("`{}` failed (exit {}): {}", words(argv), output.code, output.stderr_text().trim());
    }
    Ok(output)
}

fn words<S: AsRef<OsStr>>(argv: &[S]) -> String {
    let words: Vec<_> = argv.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_named_with_its_words() {
        let error = must(&["sh", "-c", "echo no disk >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("no disk"), "{error}");
    }

    #[test]
    fn input_larger_than_a_pipe_is_passed_whole() {
        let input = vec![b'x'; 1 << 20];
        let output = must_with_input(&["cat"], &input).unwrap();
        assert_eq!(output.stdout.len(), input.len());
    }
}
