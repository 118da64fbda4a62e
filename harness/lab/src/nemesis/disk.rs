//! The faults of the nodes' disks.

use std::{collections::BTreeMap, time::Duration};

use history::{
    NemesisEvent,
    nemesis::{self, DiskRestored, ForbiddenStart, Injected, InjectionKind, ReturnKind, Returned},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::{Draw, Nemesis, NemesisError, Victims, injected, milliseconds};
use crate::{
    disk::{DiskFault, FlippedBit, LostWrites},
    fault::{Fault, FaultAction, Moment},
    node::NodeName,
};

/// How long a disk is full, or fails: between these.
const FAULTY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(3000));

/// How long a disk hangs: shorter and longer than the timeouts of common systems.
const STALLED: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(5000));

/// How long a sync of a slow disk takes: between these.
const SLOW: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1500));

/// How long before the kill a copy of a disk is made: between these.
const AGE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(3000));

/// How many bits of a disk flip, at most.
const BITS_MAX: usize = 4;

impl Nemesis<'_> {
    /// Injects a fault of disks into these nodes, and undoes it.
    pub(super) async fn inject_into_disks(
        &mut self,
        fault: &Fault,
        victims: &Victims,
        down: Duration,
        second: Option<&Draw>,
    ) -> Result<(), NemesisError> {
        match fault.action {
            FaultAction::PowerLoss => self.power_loss(fault, victims, down).await,
            FaultAction::BitFlip => self.bit_flip(fault, victims).await,
            FaultAction::RestoredCopy => self.restored_copy(fault, victims).await,
            FaultAction::DiskFull => {
                let time = self.between(FAULTY);
                let case = (InjectionKind::DiskFull, DiskFault::Full { free_bytes: 0 });
                self.faulty_disks(fault, victims, case, time, second).await
            }
            FaultAction::DiskError => {
                let time = self.between(FAULTY);
                let (writes, syncs) =
                    [(false, true), (true, false), (true, true)][self.rng.random_range(0..3)];
                let case = (InjectionKind::DiskError, DiskFault::Error { writes, syncs });
                self.faulty_disks(fault, victims, case, time, second).await
            }
            FaultAction::DiskSlow => {
                let (time, seed) = (self.between(FAULTY), self.rng.random());
                let (shortest, longest) = SLOW;
                let case = (InjectionKind::DiskSlow, DiskFault::Slow { shortest, longest, seed });
                self.faulty_disks(fault, victims, case, time, second).await
            }
            _ => {
                let time = self.between(STALLED);
                let case = (InjectionKind::DiskStall, DiskFault::Stall);
                self.faulty_disks(fault, victims, case, time, second).await
            }
        }
    }

    pub(super) fn inject_now(
        &self,
        kind: InjectionKind,
        fields: Injected,
    ) -> Result<(), NemesisError> {
        Ok(self.events.record(NemesisEvent::Injected(kind, Box::new(fields)))?)
    }

    pub(super) async fn start_again(&self, node: &NodeName) -> Result<(), NemesisError> {
        self.cluster.start(node).await?;
        self.returned(node)
    }

    pub(super) fn returned(&self, node: &NodeName) -> Result<(), NemesisError> {
        let returned = Returned { node: Some(node.to_string()), ..Returned::default() };
        Ok(self.events.record(NemesisEvent::Returned(ReturnKind::Restart, returned))?)
    }

    /// Cuts the power of the nodes at the same moment. Each loses all that was not synced, or a part of it.
    async fn power_loss(
        &mut self,
        fault: &Fault,
        victims: &Victims,
        down: Duration,
    ) -> Result<(), NemesisError> {
        let nodes = &victims.nodes;
        let seed = self.rng.random();
        let partial = self.rng.random_bool(0.5).then_some(seed);
        let lost = self.cluster.lose_power(nodes, partial).await?;
        self.inject_now(
            InjectionKind::PowerLoss,
            Injected {
                nodes: nodes.iter().map(ToString::to_string).collect(),
                partial: Some(partial.is_some()),
                dropped: described(&lost),
                down_ms: Some(milliseconds(down)),
                ..injected(fault, nodes.first(), victims)
            },
        )?;
        self.load_ends_within(down).await;
        for node in nodes {
            self.start_again(node).await?;
        }
        Ok(())
    }

    /// Lets the disks of the nodes be faulty for a while. A node that exits is started again.
    async fn faulty_disks(
        &mut self,
        fault: &Fault,
        victims: &Victims,
        (kind, case): (InjectionKind, DiskFault),
        time: Duration,
        second: Option<&Draw>,
    ) -> Result<(), NemesisError> {
        let nodes = &victims.nodes;
        for node in nodes {
            // Recorded before it happens: then the recorded fault contains the real one.
            self.inject_now(
                kind,
                Injected {
                    disk: Some(case.to_string()),
                    duration_ms: Some(milliseconds(time)),
                    ..injected(fault, Some(node), victims)
                },
            )?;
            self.cluster.begin_disk_fault(node, case);
        }
        let began = Instant::now();
        self.load_ends_within(time).await;
        let second = self.second(fault, Moment::During, second, nodes).await?;
        let (action, stopped) = second.unwrap_or((FaultAction::Pause, Vec::new()));
        for node in nodes {
            let held = began.elapsed();
            let may_exit = matches!(case, DiskFault::Full { .. } | DiskFault::Error { .. })
                && !stopped.contains(node);
            let end = self.cluster.end_disk_fault(node, may_exit).await;
            // One that was stopped did not exit because of its disk.
            let exit = end.exit.filter(|_| !stopped.contains(node));
            let (effects, has_exited) = (end.effects.named(), exit.is_some());
            if effects.is_empty() {
                let why = "nobody used the disk in a way that the fault affects".to_owned();
                self.missed(fault, victims, Some(node), why)?;
            }
            self.events.record(NemesisEvent::DiskRestored(DiskRestored {
                fault: Some(fault.name().to_owned()),
                node: Some(node.to_string()),
                held_ms: Some(milliseconds(held)),
                effects,
                exit,
            }))?;
            if has_exited {
                self.start_again(node).await?;
            }
        }
        self.undo(action, &stopped).await
    }

    /// Kills the nodes, flips bits of their disks, and starts them. Those that do not start get their disks
    /// back.
    async fn bit_flip(&mut self, fault: &Fault, victims: &Victims) -> Result<(), NemesisError> {
        for node in &victims.nodes {
            self.cluster.kill(node).await;
            let mut rng = ChaCha8Rng::seed_from_u64(self.rng.random());
            let count = rng.random_range(1..=BITS_MAX);
            let changed = self.cluster.change_disk(node, |image| {
                let mut bits: Vec<FlippedBit> = Vec::new();
                for bit in (0..count).filter_map(|_| image.draw_bit(&mut rng, |_| true)) {
                    // Flipped twice, it would be what it was.
                    if !bits.contains(&bit) {
                        bits.push(bit);
                    }
                }
                image.flip(&bits);
                bits
            });
            let flipped = changed.await?.unwrap_or_default();
            let exit = self.cluster.try_start(node).await?;
            let is_refused = exit.is_some();
            let start = exit.map_or(ForbiddenStart::Admitted, ForbiddenStart::Refused);
            let fields = Injected {
                flipped: flipped.iter().map(recorded).collect(),
                start,
                ..injected(fault, Some(node), victims)
            };
            self.inject_now(InjectionKind::BitFlip, fields)?;
            if flipped.is_empty() {
                let why = "nothing on the disk was synced, so no bit was flipped".to_owned();
                self.missed(fault, victims, Some(node), why)?;
            }
            if is_refused {
                self.cluster.change_disk(node, |image| image.flip(&flipped)).await?;
                self.start_again(node).await?;
            } else {
                self.returned(node)?;
            }
        }
        Ok(())
    }

    /// Copies the disks of the nodes, and after a while kills the nodes and starts them on the copies. Those
    /// that do not start get their own disks back.
    async fn restored_copy(
        &mut self,
        fault: &Fault,
        victims: &Victims,
    ) -> Result<(), NemesisError> {
        let nodes = &victims.nodes;
        let age = self.between(AGE);
        let copy_of = |node: &NodeName| {
            self.cluster.device(node).map(|device| device.with_image(|image| image.snapshot()))
        };
        let copies: Vec<_> = nodes.iter().map(copy_of).collect();
        self.load_ends_within(age).await;
        for (node, copy) in nodes.iter().zip(copies) {
            let Some(copy) = copy else { continue };
            self.cluster.kill(node).await;
            let own = self.cluster.change_disk(node, |image| {
                let (own, is_same) = (image.clone(), image.snapshot().reads_like(&copy));
                image.restore(copy);
                (own, is_same)
            });
            let (own, is_same) = own.await?.unzip();
            let exit = self.cluster.try_start(node).await?;
            let is_refused = exit.is_some();
            let start = exit.map_or(ForbiddenStart::Admitted, ForbiddenStart::Refused);
            let age_ms = Some(milliseconds(age));
            let fields = Injected { age_ms, start, ..injected(fault, Some(node), victims) };
            self.inject_now(InjectionKind::RestoredCopy, fields)?;
            if is_same.unwrap_or(true) {
                let why = "the disk still was as it was when it was copied".to_owned();
                self.missed(fault, victims, Some(node), why)?;
            }
            match own {
                Some(own) if is_refused => {
                    self.cluster.change_disk(node, |image| image.restore(own)).await?;
                    self.start_again(node).await?;
                }
                _ => self.returned(node)?,
            }
        }
        Ok(())
    }
}

fn recorded(bit: &FlippedBit) -> nemesis::FlippedBit {
    nemesis::FlippedBit { file: bit.file.clone(), offset: bit.offset, bit: bit.bit }
}

fn described(lost: &BTreeMap<NodeName, LostWrites>) -> BTreeMap<String, nemesis::LostWrites> {
    let each = lost.iter().map(|(node, lost)| {
        let pages = lost.pages.iter().map(|(file, pages)| (file.clone(), *pages as u64)).collect();
        let (entries, kept) = (lost.entries as u64, lost.kept as u64);
        (node.to_string(), nemesis::LostWrites { pages, entries, kept })
    });
    each.collect()
}
