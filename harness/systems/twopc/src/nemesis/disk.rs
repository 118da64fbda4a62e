//! The actions against the nodes' disks other than power loss: disks that are full, fail, are slow or hang,
//! and bits that flip.

use std::time::Duration;

use history::{
    NemesisEvent,
    nemesis::{self, DiskRestored, ForbiddenStart, InDoubt, Injected, InjectionKind, ReturnKind},
};
use lab::disk::{Access, DiskFault, Side};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use system::{
    node::Role,
    protocol::{Node, TxnId},
};
use tokio::time::{Instant, timeout};

use super::{Nemesis, NemesisError, millis, trigger::Miss};
use crate::{
    disk::{DiskPoint, RottenEntry, flip_back, flip_bits},
    faults::{DiskFaultEnding, FaultAction, FaultName, Injection, Rot, Trigger},
};

/// How long a node that was started after errors of its disk has to sync its WAL, before its power fails anyway.
const SYNC_DEADLINE: Duration = Duration::from_secs(2);

/// The text of every refusal of a store that is not what the node has written, in part.
const REFUSALS: [&str; 8] = [
    "the store is damaged",
    "the file is truncated",
    "the data file of store",
    "this file belongs to store",
    "not an LMDB file",
    "the store has format",
    "another application",
    "does not belong to a store",
];

impl Nemesis<'_> {
    /// Lets the target's disk be faulty for a while. Returns `None` if nobody noticed.
    pub(super) async fn disk_fault(
        &mut self,
        injection: &Injection,
        mut fields: Injected,
        fault: DiskFault,
        (duration, ending): (Duration, DiskFaultEnding),
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = injection.target;
        if let Some(miss) = self.why_no_disk(injection) {
            self.missed(injection, fields, None, miss.to_string())?;
            return Ok(None);
        }
        let mut in_doubt;
        (fields.in_doubt, in_doubt) = self.observe_in_doubt(None).await;
        fields.disk = Some(fault.to_string());
        fields.duration_ms = Some(millis(duration));
        self.cluster.begin_disk_fault(node, fault);
        self.injected(injection.action.kind(), &fields)?;
        let began = Instant::now();
        self.wait(duration).await;
        let is_killed = ending == DiskFaultEnding::Kill;
        if is_killed {
            self.injected(InjectionKind::Kill, &fields)?;
            self.cluster.kill(node).await;
        }
        let held = began.elapsed();
        let may_exit = matches!(fault, DiskFault::Full { .. } | DiskFault::Error { .. });
        let end = self.cluster.end_disk_fault(node, may_exit).await;
        in_doubt.extend(self.observe_in_doubt(None).await.1);
        let effects = end.effects.named();
        let is_noticed = !effects.is_empty();
        let exit = end.exit.filter(|_| !is_killed);
        let has_exited = exit.is_some();
        self.record(NemesisEvent::DiskRestored(DiskRestored {
            fault: Some(injection.fault.to_string()),
            node: Some(node.to_string()),
            held_ms: Some(millis(held)),
            effects,
            exit,
        }))?;
        match ending {
            DiskFaultEnding::PowerLoss(sync) if has_exited => {
                self.power_loss_after_error(injection, sync, &mut in_doubt).await?;
            }
            _ if is_killed || has_exited => {
                self.cluster.start(node).await?;
                self.returned(ReturnKind::Restart, node, InDoubt::default())?;
            }
            _ => {}
        }
        Ok(is_noticed.then_some(in_doubt))
    }

    /// Starts a node that has ended because of errors of its disk, and cuts its power after one of the first
    /// syncs of its WAL: what the failed sync has given up is lost, and what followed it is not.
    async fn power_loss_after_error(
        &mut self,
        injection: &Injection,
        sync: u32,
        in_doubt: &mut Vec<TxnId>,
    ) -> Result<(), NemesisError> {
        let node = injection.target;
        let point = DiskPoint::of_wal(Role::from(node), Side::After, Access::Sync).occurrence(sync);
        if let Some(device) = self.cluster.device(node) {
            device.arm(point.at);
        }
        self.cluster.start(node).await?;
        self.returned(ReturnKind::Restart, node, InDoubt::default())?;
        let Some(device) = self.cluster.device(node) else { return Ok(()) };
        let is_held = timeout(SYNC_DEADLINE, device.until_reached()).await.is_ok();
        let mut fields = super::described(injection);
        fields.at = (is_held || device.disarm()).then(|| point.to_string());
        let lost = self.cluster.lose_power(&[node], None).await?;
        let more;
        (fields.in_doubt, more) = self.observe_in_doubt(None).await;
        in_doubt.extend(more);
        super::power::describe(&mut fields, &lost, None);
        self.injected(InjectionKind::PowerLoss, &fields)?;
        self.cluster.start(node).await?;
        self.returned(ReturnKind::Restart, node, InDoubt::default())
    }

    /// Flips bits of the key of one entry of a replica, while nobody writes or reads: only the scrub can notice that
    /// the entry is missing.
    ///
    /// # Errors
    /// The node cannot be restarted, or the history cannot be written.
    pub async fn rot_at_rest(&mut self, replica: Node, seed: u64) -> Result<(), NemesisError> {
        let action = FaultAction::BitFlip { rot: Rot::Key, seed };
        let (fault, delay) = (FaultName::BitFlip, Duration::ZERO);
        let injection = Injection::new(fault, delay, replica, Trigger::Now, action);
        let fields = Injected { after_load: true, ..super::described(&injection) };
        self.bit_flip(&injection, fields, Rot::Key, seed).await.map(drop)
    }

    pub(super) fn why_no_disk(&self, injection: &Injection) -> Option<Miss> {
        let node = injection.target;
        let is_running =
            self.cluster.process(node).is_some_and(|it| it.state().exit_status().is_none());
        match self.cluster.device(node) {
            None => Some(Miss::NoDisks),
            Some(_) if !is_running => Some(Miss::NotRunning(node)),
            Some(_) => None,
        }
    }

    /// Kills the target, flips bits of its disk, and starts it. If it refuses the store, the disk comes back
    /// as it was.
    pub(super) async fn bit_flip(
        &mut self,
        injection: &Injection,
        mut fields: Injected,
        rot: Rot,
        seed: u64,
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = injection.target;
        if let Some(miss) = self.why_no_disk(injection) {
            self.missed(injection, fields, None, miss.to_string())?;
            return Ok(None);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let entry = match rot {
            Rot::Value => {
                let dump = self.cluster.deployment().dump(node).await.unwrap_or_default();
                let count = dump.entries.len();
                let entry = (count > 0).then(|| &dump.entries[rng.random_range(0..count)]);
                entry.map(|(key, _, value)| RottenEntry::value(key, value, &mut rng))
            }
            Rot::Key => {
                let dump = self.cluster.deployment().dump(node).await.unwrap_or_default();
                RottenEntry::key(&dump.entries, &mut rng)
            }
            Rot::Wal | Rot::Any => None,
        };
        // After the load nothing is written any more that would replace what another bit belongs to.
        let may_be_other = !fields.after_load;
        self.cluster.kill(node).await;
        let in_doubt;
        (fields.in_doubt, in_doubt) = self.observe_in_doubt(None).await;
        let flipped = self
            .cluster
            .change_disk(node, |image| {
                flip_bits(image, rot, entry.as_ref(), may_be_other, &mut rng)
            })
            .await?
            .unwrap_or_default();
        fields.disk = Some(format!("{rot:?}").to_lowercase());
        let bit = |bit: &lab::disk::FlippedBit| nemesis::FlippedBit {
            file: bit.file.clone(),
            offset: bit.offset,
            bit: bit.bit,
        };
        fields.flipped = flipped.iter().map(bit).collect();
        let exit = self.cluster.try_start(node).await?;
        let is_refused = exit.is_some();
        fields.start = match exit {
            None => ForbiddenStart::Admitted,
            Some(exit) if REFUSALS.iter().any(|words| exit.last_log_line.contains(words)) => {
                ForbiddenStart::Refused(exit)
            }
            Some(exit) => ForbiddenStart::Exited(exit),
        };
        self.injected(InjectionKind::BitFlip, &fields)?;
        if is_refused {
            self.cluster.change_disk(node, |image| flip_back(image, &flipped)).await?;
            self.cluster.start(node).await?;
        }
        self.returned(ReturnKind::Restart, node, InDoubt::default())?;
        Ok((!flipped.is_empty()).then_some(in_doubt))
    }
}
