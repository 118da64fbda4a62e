//! Faults of the membership: a node is replaced by an empty one, or another node is made the leader. How a
//! system does that, only the system knows; it is asked to.

use history::{NemesisEvent, nemesis::InjectionKind};

use super::{Nemesis, NemesisError, Victims, injected};
use crate::{
    fault::{Fault, FaultAction},
    node::NodeName,
    system::MemberChange,
};

impl Nemesis<'_> {
    /// Changes what these nodes are in the cluster, one after the other.
    pub(super) async fn change_members(
        &self,
        fault: &Fault,
        victims: &Victims,
    ) -> Result<(), NemesisError> {
        for node in &victims.nodes {
            let kind = match fault.action {
                FaultAction::Promote => InjectionKind::Promote,
                _ => InjectionKind::Replace,
            };
            let fields = injected(fault, Some(node), victims);
            self.events.record(NemesisEvent::Injected(kind, Box::new(fields)))?;
            let changed = match kind {
                InjectionKind::Promote => {
                    self.cluster.system().change_member(MemberChange::Promote, node).await
                }
                _ => self.replace(node).await?,
            };
            if let Err(why) = changed {
                self.missed(fault, victims, Some(node), why)?;
            }
        }
        Ok(())
    }

    /// Removes a node from the cluster, and adds it again without its data. The inner error is the refusal to
    /// remove it.
    async fn replace(&self, node: &NodeName) -> Result<Result<(), String>, NemesisError> {
        let removed = self.cluster.remove_member(node).await;
        if removed.is_ok() {
            self.cluster.add_member(node).await?;
        }
        self.returned(node)?;
        Ok(removed)
    }
}
