//! Commands that are run around a run: hooks, the command that asks for the version, readiness commands.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::time::timeout;

/// A program and its arguments, in the directory of the system file.
pub(crate) fn command(words: &[String], home: &Path) -> Command {
    let (program, arguments) = words.split_first().expect("a command is not empty");
    // Paths are relative to the file, and programs are looked up.
    let program =
        if program.contains('/') { home.join(program).into_os_string() } else { program.into() };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(home);
    command
}

/// Runs a command and returns what it prints.
///
/// # Errors
/// It cannot be started, does not succeed, or takes too long; in words.
pub async fn output(command: Command, deadline: Duration) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(deadline, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("cannot start {program}: {error}")),
        Err(_) => return Err(format!("{program} did not end within {deadline:?}")),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("");
    Err(format!("{program} ended with {}: {last}", output.status))
}
