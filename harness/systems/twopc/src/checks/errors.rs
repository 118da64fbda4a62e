//! The `error` of an event for a write that this system aborted.

use history::ErrorCode;
use system::protocol::{AbortReason, NoReason, Node};

/// The error text of a write that was aborted for this reason. It begins with an [`ErrorCode`].
#[must_use]
pub fn error_of(reason: &AbortReason) -> String {
    let (code, detail) = match reason {
        AbortReason::Conflict { holder } => (ErrorCode::Conflict, format!("{holder} was first")),
        AbortReason::Refused { by, reason: NoReason::Locked { holder } } => {
            (ErrorCode::Locked, format!("{by} holds the key for {holder}"))
        }
        AbortReason::Refused { by, reason: NoReason::Aborted } => {
            (ErrorCode::Refused, format!("{by} has aborted it"))
        }
        AbortReason::Refused { by, reason: NoReason::Full } => {
            (ErrorCode::Full, format!("{by} has no room"))
        }
        AbortReason::Unavailable { missing } => (ErrorCode::Unavailable, list(missing)),
        AbortReason::Timeout { missing } => (ErrorCode::Timeout, list(missing)),
    };
    format!("{}: {detail}", code.name())
}

/// Names, separated by spaces.
fn list(nodes: &[Node]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use system::protocol::TxnId;

    use super::*;

    #[test]
    fn errors_begin_with_their_code() {
        let error = error_of(&AbortReason::Conflict { holder: TxnId::new(1, 3) });
        assert_eq!(error, "conflict: 1.3 was first");
        assert_eq!(ErrorCode::of(&error), Some(ErrorCode::Conflict));
    }
}
