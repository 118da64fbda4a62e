//! The name of a node.

use std::{fmt, sync::Arc};

/// The name of a node of the system under test, such as `r1`. The lab attaches no meaning to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// A node of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        NodeName(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
