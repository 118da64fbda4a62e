//! Control of a node by a test, over standard input: one command per line, answered on standard
//! output. Knows the commands, but not what crash points do.

use std::{
    io::{self, BufRead as _},
    sync::Arc,
    thread,
};

use tokio::sync::oneshot;

use super::crash_points::{CrashPoints, Role, print_control_line};

/// Reads standard input in a separate thread, so that a point is armed whatever the node is doing.
/// Reports through `ended` when the input is closed.
pub(super) fn listen(
    points: Arc<CrashPoints>,
    role: Role,
    ended: oneshot::Sender<()>,
) -> io::Result<()> {
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if let Some(answer) = execute(&points, role, line.trim()) {
                print_control_line(&answer);
            }
        }
        // The node may have stopped already.
        let _ = ended.send(());
    })?;
    Ok(())
}

fn execute(points: &CrashPoints, role: Role, line: &str) -> Option<String> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("", "") => None,
        ("disarm", "") => {
            points.disarm();
            Some("disarmed".to_owned())
        }
        ("arm", point) => Some(match points.arm(point, role) {
            Ok(()) => format!("armed {point}"),
            Err(why) => format!("error {point} {why}"),
        }),
        _ => Some(format!("error {line} unknown command: expected arm POINT, or disarm")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_answered() {
        let points = CrashPoints::default();
        let execute = |line: &str| execute(&points, Role::Master, line);
        let point = "master:after-persist:commit";
        assert_eq!(execute(&format!("arm {point}")), Some(format!("armed {point}")));
        assert_eq!(execute("disarm"), Some("disarmed".into()));
        assert_eq!(execute(""), None);
        let error = execute("arm master:after-persist:comit").expect("an answer");
        assert!(
            error.starts_with("error master:after-persist:comit unknown kind 'comit'"),
            "{error}"
        );
        assert!(execute("arm").expect("an answer").starts_with("error "));
        assert!(execute("dance").expect("an answer").starts_with("error dance unknown command"));
    }
}
