//! Trails: how configurations were reached.

use super::{
    config::Config,
    steps::{Step, TimedStep},
};

/// One operation that took effect, in the linked list that is the trail of a configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) before: u32,
    pub(super) position: u32,
    /// It took effect right before the last blind write.
    pub(super) hidden: bool,
}

/// The end of a trail.
pub(super) const NO_LINK: u32 = u32::MAX;

/// Appends an operation to the trail of a configuration, if trails are kept.
pub(super) fn link(
    links: &mut Option<Vec<Link>>,
    config: &mut Config,
    position: u32,
    hidden: bool,
) {
    if let Some(links) = links {
        let here = u32::try_from(links.len()).expect("fewer links than 2^32");
        links.push(Link { before: config.trail, position, hidden });
        config.trail = here;
    }
}

/// The operations of a trail, in the order in which they took effect.
pub(super) fn order(links: &[Link], mut trail: u32, operations: &[TimedStep]) -> Vec<u32> {
    let mut chain = Vec::new();
    while trail != NO_LINK {
        let link = links[trail as usize];
        chain.push((link.position, link.hidden));
        trail = link.before;
    }
    // From the end: a hidden operation waits for the blind write that it comes right before.
    let mut order = Vec::with_capacity(chain.len());
    let mut hidden: Vec<u32> = Vec::new();
    for (position, is_hidden) in chain {
        if is_hidden {
            hidden.push(position);
            continue;
        }
        order.push(position);
        if matches!(operations[position as usize].step, Step::Write(_)) {
            order.append(&mut hidden);
        }
    }
    order.reverse();
    order
}
