//! A node's standard input, when a harness holds the other end: one command a line, answered on
//! standard output. Knows the commands; what they arm is known elsewhere.

use std::{
    io::{self, BufRead as _},
    sync::Arc,
    thread,
};

use tokio::sync::oneshot;

use super::points::{Points, Role, say};

/// Follows standard input in a thread of its own, so that a point is armed whatever else the node
/// is doing. Says through `ended` when the input has ended.
pub(super) fn listen(
    points: Arc<Points>,
    role: Role,
    ended: oneshot::Sender<()>,
) -> io::Result<()> {
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if let Some(answer) = obey(&points, role, line.trim()) {
                say(&answer);
            }
        }
        // If the node has ended already there is nothing to say.
        let _ = ended.send(());
    })?;
    Ok(())
}

fn obey(points: &Points, role: Role, line: &str) -> Option<String> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("", "") => None,
        ("disarm", "") => {
            points.disarm();
            Some("disarmed".to_owned())
        }
        ("arm", point) => Some(match points.arm(point, role) {
            Ok(()) => format!("armed {point}"),
            Err(why) => format!("bad {point} {why}"),
        }),
        _ => Some(format!("bad {line} no command: want arm POINT, or disarm")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_answered() {
        let points = Points::default();
        let obey = |line: &str| obey(&points, Role::Master, line);
        let point = "master:after-persist:commit";
        assert_eq!(obey(&format!("arm {point}")), Some(format!("armed {point}")));
        assert_eq!(obey("disarm"), Some("disarmed".into()));
        assert_eq!(obey(""), None);
        let bad = obey("arm master:after-persist:comit").expect("answers");
        assert!(bad.starts_with("bad master:after-persist:comit 'comit' is no"), "{bad}");
        assert!(obey("arm").expect("answers").starts_with("bad "));
        assert!(obey("dance").expect("answers").starts_with("bad dance no command"));
    }
}
