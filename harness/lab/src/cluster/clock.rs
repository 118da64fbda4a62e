//! The wall clocks of nodes.

use history::nemesis::ClockShift;
use nix::unistd::Pid;

use super::Cluster;
use crate::{
    clock::{self, ClockChange},
    node::NodeName,
};

impl Cluster {
    /// Makes the clocks of all processes of a node wrong, or right again. The processes that it starts by exec, and
    /// those after its next start, begin with the true clock.
    ///
    /// # Errors
    /// Nothing can be changed at the node, in words.
    pub async fn change_clock(
        &self,
        node: &NodeName,
        shift: Option<ClockShift>,
    ) -> Result<ClockChange, String> {
        let process = self.process(node);
        let process = process.filter(|process| process.state().exit_status().is_none());
        let process = process.ok_or("it had exited before")?;
        // A program without a keeper is a child of this process.
        if !process.is_keeper() {
            return Err("it has no keeper".to_owned());
        }
        let root = Pid::from_raw(process.pid());
        let changing = tokio::task::spawn_blocking(move || clock::change(root, true, shift));
        changing.await.unwrap_or_else(|error| Err(format!("a task failed: {error}")))
    }
}
