//! What happens to the packets from one host to another. Everything random is drawn from the seed of the link:
//! the n-th packet under a rule has the same fate in each run. Knows no socket and no clock.

use std::{
    fmt,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// How much later than its turn a reordered packet arrives: between these.
const OVERTAKEN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

/// How long a packet may wait for a link of limited bandwidth. Those that would wait longer are lost.
const QUEUE_MAX: Duration = Duration::from_secs(1);

/// The rule of a link. The default disturbs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkRule {
    /// Whether nothing passes.
    pub cut: Option<Cut>,
    /// How long a packet takes.
    pub delay: Option<Delay>,
    /// The share of packets that are lost, from 0 to 1.
    pub loss: f64,
    /// The share that arrives twice.
    pub duplication: f64,
    /// The share that later ones overtake. The others arrive in order, whatever their delays.
    pub reordering: f64,
    /// The share of which a bit of the payload is flipped, with a right checksum.
    pub corruption: f64,
    /// How many bits pass in a second.
    pub bits_per_second: Option<u64>,
}

impl fmt::Display for LinkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match self.cut {
            Some(Cut::BlackHole) => parts.push("cut".to_owned()),
            Some(Cut::Refuse) => parts.push("refused".to_owned()),
            None => {}
        }
        match self.delay {
            Some(Delay::Uniform { shortest, longest }) if shortest == longest => {
                parts.push(format!("{shortest:.1?} late"));
            }
            Some(Delay::Uniform { shortest, longest }) => {
                parts.push(format!("{shortest:.1?} to {longest:.1?} late"));
            }
            Some(Delay::Exponential { shortest, mean }) => {
                parts.push(format!("{:.1?} late on average", shortest + mean));
            }
            None => {}
        }
        let shares = [
            (self.loss, "lost"),
            (self.duplication, "repeated"),
            (self.reordering, "reordered"),
            (self.corruption, "corrupted"),
        ];
        let shares = shares.into_iter().filter(|(share, _)| *share > 0.0);
        parts.extend(shares.map(|(share, what)| format!("{:.0} % {what}", share * 100.0)));
        if let Some(bits_per_second) = self.bits_per_second {
            parts.push(format!("{bits_per_second} bit/s"));
        }
        f.write_str(if parts.is_empty() { "undisturbed" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// How a link is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Packets disappear.
    BlackHole,
    /// Packets disappear, and TCP segments are answered with a reset.
    Refuse,
}

/// A distribution of delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// Each delay between the two is equally likely.
    Uniform {
        /// The shortest.
        shortest: Duration,
        /// The longest.
        longest: Duration,
    },
    /// Most delays are near the shortest, and few are long.
    Exponential {
        /// The shortest.
        shortest: Duration,
        /// The mean of what is added to it.
        mean: Duration,
    },
}

impl Delay {
    /// The same delay for all packets.
    #[must_use]
    pub fn constant(delay: Duration) -> Self {
        Delay::Uniform { shortest: delay, longest: delay }
    }

    fn draw(self, rng: &mut ChaCha8Rng) -> Duration {
        let share: f64 = rng.random();
        match self {
            Delay::Uniform { shortest, longest } => {
                shortest + longest.saturating_sub(shortest).mul_f64(share)
            }
            Delay::Exponential { shortest, mean } => shortest + mean.mul_f64(-(1.0 - share).ln()),
        }
    }
}

/// How many packets of a link had which fate, since the network was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// They arrived, undisturbed or not.
    pub delivered: u64,
    /// They met a cut.
    pub cut: u64,
    /// They were lost.
    pub lost: u64,
    /// They arrived twice.
    pub duplicated: u64,
    /// Later ones overtook them.
    pub reordered: u64,
    /// A bit was flipped.
    pub corrupted: u64,
    /// They arrived later than at once.
    pub delayed: u64,
    /// They had to wait too long for the bandwidth.
    pub overflowed: u64,
}

/// The fate of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It meets a cut.
    Cut(Cut),
    /// It disappears.
    Lost,
    /// It arrives.
    Arrives {
        /// When. `None`: at once.
        at: Option<Instant>,
        /// Whether it arrives twice.
        twice: bool,
        /// Whether a bit of it is flipped.
        corrupted: bool,
    },
}

/// The packets from one host to another.
pub(super) struct Link {
    rule: LinkRule,
    pub(super) counts: LinkCounts,
    pub(super) rng: ChaCha8Rng,
    seed: u64,
    /// What tells the links of a network apart.
    number: u32,
    /// How often the rule has changed.
    changes: u32,
    /// When the last packet arrives: later ones do not arrive before, unless they are reordered.
    last: Option<Instant>,
    /// When the bandwidth is free again.
    free: Option<Instant>,
}

impl Link {
    /// A link that disturbs nothing. `number` tells the links of a network apart.
    pub(super) fn new(seed: u64, number: u32) -> Self {
        let (rule, counts) = (LinkRule::default(), LinkCounts::default());
        let rng = stream(seed, number, 0);
        Link { rule, counts, rng, seed, number, changes: 0, last: None, free: None }
    }

    pub(super) fn rule(&self) -> LinkRule {
        self.rule
    }

    /// Changes the rule. What was drawn under the one before does not matter any more: how many packets it met
    /// is not in the seed.
    pub(super) fn set(&mut self, rule: LinkRule) {
        if rule != self.rule {
            self.rule = rule;
            self.changes = self.changes.wrapping_add(1);
            self.rng = stream(self.seed, self.number, self.changes);
            self.free = None;
        }
    }

    /// Decides what becomes of a packet that is sent now.
    pub(super) fn fate(&mut self, now: Instant, bytes: usize) -> Fate {
        let rule = self.rule;
        if let Some(cut) = rule.cut {
            self.counts.cut += 1;
            return Fate::Cut(cut);
        }
        if rule == LinkRule::default() && self.last.is_none_or(|last| last <= now) {
            self.counts.delivered += 1;
            return Fate::Arrives { at: None, twice: false, corrupted: false };
        }
        // All of them are drawn for each packet, so that one does not move the others.
        let [lost, twice, overtaken, corrupted] =
            [rule.loss, rule.duplication, rule.reordering, rule.corruption]
                .map(|share| self.rng.random::<f64>() < share);
        let late = self.rng.random_range(OVERTAKEN.0..OVERTAKEN.1);
        let delay = rule.delay.map_or(Duration::ZERO, |delay| delay.draw(&mut self.rng));
        if lost {
            self.counts.lost += 1;
            return Fate::Lost;
        }
        let Some(sent) = self.transmit(now, bytes) else {
            self.counts.overflowed += 1;
            return Fate::Lost;
        };
        let turn = (sent + delay).max(self.last.unwrap_or(now));
        let at = if overtaken { turn + late } else { turn };
        if !overtaken {
            self.last = Some(turn);
        }
        self.counts.delivered += 1;
        self.counts.duplicated += u64::from(twice);
        self.counts.reordered += u64::from(overtaken);
        self.counts.delayed += u64::from(at > now);
        Fate::Arrives { at: (at > now).then_some(at), twice, corrupted }
    }

    /// When a packet has passed the link's bandwidth. `None` if it would wait too long.
    fn transmit(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let Some(bits_per_second) = self.rule.bits_per_second else { return Some(now) };
        let free = self.free.unwrap_or(now).max(now);
        if free - now > QUEUE_MAX {
            return None;
        }
        let nanoseconds = bytes as u64 * 8 * 1_000_000_000 / bits_per_second.max(1);
        let sent = free + Duration::from_nanos(nanoseconds);
        self.free = Some(sent);
        Some(sent)
    }
}

fn stream(seed: u64, number: u32, changes: u32) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(number) << 32 | u64::from(changes));
    rng
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn fates(seed: u64, rule: LinkRule, count: usize) -> Vec<(Fate, Instant)> {
        let mut link = Link::new(seed, 3);
        link.set(rule);
        let start = Instant::now();
        let sent = (0..count).map(|n| start + MILLISECOND * u32::try_from(n).unwrap_or(0));
        sent.map(|now| (link.fate(now, 100), now)).collect()
    }

    /// The fates as they depend on the seed alone.
    fn relative(fates: &[(Fate, Instant)]) -> Vec<Option<(Duration, bool, bool)>> {
        let relative = fates.iter().map(|(fate, sent)| match fate {
            Fate::Arrives { at, twice, corrupted } => {
                Some((at.map_or(Duration::ZERO, |at| at - *sent), *twice, *corrupted))
            }
            _ => None,
        });
        relative.collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_fates_and_another_one_others() {
        let rule = LinkRule {
            delay: Some(Delay::Exponential { shortest: MILLISECOND, mean: MILLISECOND * 3 }),
            loss: 0.1,
            duplication: 0.1,
            reordering: 0.1,
            corruption: 0.1,
            ..LinkRule::default()
        };
        let fates = |seed| relative(&fates(seed, rule, 1000));
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
    }

    #[test]
    fn a_rule_is_told_in_words() {
        let delay = Some(Delay::Uniform { shortest: MILLISECOND, longest: MILLISECOND * 20 });
        let rule = LinkRule { delay, loss: 0.1, corruption: 0.25, ..LinkRule::default() };
        assert_eq!(rule.to_string(), "1.0ms to 20.0ms late, 10 % lost, 25 % corrupted");
        assert_eq!(LinkRule::default().to_string(), "undisturbed");
        let (cut, bits_per_second) = (Some(Cut::Refuse), Some(8000));
        let rule = LinkRule { cut, bits_per_second, ..LinkRule::default() };
        assert_eq!(rule.to_string(), "refused, 8000 bit/s");
    }

    #[test]
    fn one_share_does_not_move_the_others() {
        let only_loss = LinkRule { loss: 0.2, ..LinkRule::default() };
        let more = LinkRule { duplication: 0.5, corruption: 0.5, ..only_loss };
        let lost = |rule| -> Vec<bool> {
            relative(&fates(7, rule, 1000)).iter().map(Option::is_none).collect()
        };
        assert_eq!(lost(only_loss), lost(more));
    }

    #[test]
    fn packets_arrive_in_order_unless_they_are_reordered() {
        let delay = Some(Delay::Uniform { shortest: MILLISECOND, longest: MILLISECOND * 20 });
        let arrivals = |reordering| {
            let rule = LinkRule { delay, reordering, ..LinkRule::default() };
            let fates = fates(7, rule, 1000).into_iter().filter_map(|(fate, _)| match fate {
                Fate::Arrives { at, .. } => at,
                _ => None,
            });
            fates.collect::<Vec<_>>()
        };
        assert!(arrivals(0.0).is_sorted());
        assert!(!arrivals(0.2).is_sorted());
    }

    #[test]
    fn a_link_of_limited_bandwidth_sends_one_packet_after_the_other_and_loses_what_waits_long() {
        let rule = LinkRule { bits_per_second: Some(8_000), ..LinkRule::default() };
        let mut link = Link::new(7, 0);
        link.set(rule);
        let now = Instant::now();
        let arrivals: Vec<Fate> = (0..12).map(|_| link.fate(now, 100)).collect();
        let at = |n: u32| {
            let at = Some(now + Duration::from_millis(100) * n);
            Fate::Arrives { at, twice: false, corrupted: false }
        };
        assert_eq!(arrivals[..11], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11].map(at));
        assert_eq!((arrivals[11], link.counts.overflowed), (Fate::Lost, 1));
    }

    #[test]
    fn a_rule_that_ends_lets_nothing_overtake_what_is_on_its_way() {
        let mut link = Link::new(7, 0);
        let delay = Some(Delay::constant(MILLISECOND * 50));
        link.set(LinkRule { delay, ..LinkRule::default() });
        let now = Instant::now();
        link.fate(now, 100);
        link.set(LinkRule::default());
        let Fate::Arrives { at, .. } = link.fate(now, 100) else { panic!("nothing is lost") };
        assert_eq!(at, Some(now + MILLISECOND * 50));
    }
}
