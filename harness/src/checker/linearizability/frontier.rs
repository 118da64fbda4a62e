//! Tier 2: decides any history of one key by following the set of everything that may be true,
//! event by event. Memory is that set alone. Knows registers with put, del, get, cas and append;
//! nothing of how operations were recorded.
//!
//! A *configuration* is a state that the key may have, with the operations under way that have
//! already taken effect, and how many of each class of indeterminate ones. Just-in-time
//! linearization (Lowe 2017): a configuration is expanded only when an operation returns that has
//! not taken effect in it, and only until it has. Reductions, all exact:
//!
//! - A matching read takes effect at once: it changes nothing.
//! - Equal indeterminate operations are a class with a count.
//! - Of equal operations under way the one that returns first takes effect first; an indeterminate
//!   one only when no equal one that returns is left. An append that can be buried (below) is not
//!   equal to one that cannot: the one is easily got rid of, the other has to be seen.
//! - *Burying*: a blind write (or append) that nobody sees may as well have happened just before a
//!   blind write that took effect while it was under way. So no such choice is made when that
//!   write takes effect; the configuration remembers when it last did, and a write that was
//!   invoked before may return without further ado.
//! - A write takes effect before its return is due only if somebody under way can see it.
//! - A state that nobody can see any more is as good as any other such state.
//! - A configuration that can do all that another can is kept, and the other is not.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::slots::Slots;

/// The time of what never comes.
pub const OPEN: u32 = u32::MAX;

/// What an operation does, in terms of numbered states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Makes the state this, whatever it was.
    Write(u32),
    /// Found this state.
    Read(u32),
    /// Found the first state and made it the second.
    Cas(u32, u32),
    /// Found that the state was not this one.
    Differs(u32),
    /// Appended this text to the state's.
    Append(u32),
}

impl Step {
    /// Whether it changes nothing.
    fn looks_only(self) -> bool {
        matches!(self, Step::Read(_) | Step::Differs(_))
    }

    /// Whether it can happen in every state, and answers nothing.
    fn can_be_buried(self) -> bool {
        matches!(self, Step::Write(_) | Step::Append(_))
    }
}

/// An operation on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    /// The place of its invocation among the events of the key.
    pub invoked: u32,
    /// The place of its return; [`OPEN`] if there is none, and it may or may not have happened.
    pub returned: u32,
    /// What it does.
    pub step: Step,
}

/// The states of a key. State 0 is the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// The texts of the states, for appends only.
    texts: Vec<Box<[u8]>>,
    numbers: HashMap<Box<[u8]>, u32>,
}

impl States {
    /// States whose texts matter: the first is the empty one.
    #[must_use]
    pub fn with_texts() -> Self {
        let mut states = States::default();
        states.number(b"");
        states
    }

    /// The number of the state with this text.
    ///
    /// # Panics
    /// If there are 2^32 states.
    pub fn number(&mut self, text: &[u8]) -> u32 {
        if let Some(number) = self.find(text) {
            return number;
        }
        let number = u32::try_from(self.texts.len()).expect("fewer states than 2^32");
        self.texts.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }

    fn find(&self, text: &[u8]) -> Option<u32> {
        self.numbers.get(text).copied()
    }

    /// The text of a state.
    #[must_use]
    pub fn text(&self, state: u32) -> Option<&[u8]> {
        self.texts.get(state as usize).map(|text| &**text)
    }

    /// The text of a state with another's after it.
    fn appended(&self, state: u32, text: u32) -> Vec<u8> {
        [&*self.texts[state as usize], &*self.texts[text as usize]].concat()
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Linearizable. If an order was asked for: the operations that took effect, in an order that
    /// shows it.
    Valid(Vec<u32>),
    /// Not linearizable: the operation whose return ends the shortest bad prefix, and the states
    /// that were possible just before.
    Invalid {
        /// The operation, by its place.
        breaks_at: u32,
        /// The states, in order; none is [`DEAD`].
        states: Vec<u32>,
    },
    /// So many configurations are more than the bound allows.
    TooMany(usize),
    /// The time was up.
    Late(Duration),
}

/// Any state that nobody can see any more.
pub const DEAD: u32 = u32::MAX;

/// What may be true.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Config {
    state: u32,
    /// The event at which a blind write last took effect, plus one: what was invoked before this
    /// can be buried.
    buries: u32,
    /// The operations under way that have taken effect, by slot.
    done: Slots,
    /// How many of each class of indeterminate operations have, without trailing zeros.
    used: Vec<u32>,
    /// Where its history ends in the trail.
    trail: u32,
}

/// An operation under way that will return.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    slot: usize,
    place: u32,
    op: Operation,
}

/// Equal indeterminate operations.
#[derive(Clone, Debug)]
struct Class {
    step: Step,
    /// Those that were invoked, by their places.
    members: Vec<u32>,
}

/// A link of the chain that is a configuration's history.
#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    place: u32,
    /// It happened just before the last blind write.
    buried: bool,
}

const NO_LINK: u32 = u32::MAX;

/// What a configuration takes at most, about, in bytes, with up to a dozen classes. In a table that
/// is about to grow it takes 220 (measured: 1.6 million of them, and 220 thousand); of these 83 are
/// its place in the table. A table that has just grown has two places for each, and while it grows
/// the old one is still there.
pub const CONFIGURATION_BYTES: usize = 384;

/// What is spent while an operation returns.
struct Budget<'l> {
    limits: &'l Limits,
    clock: super::Clock,
}

impl Budget<'_> {
    /// Why it must not go on, with so much in memory.
    fn spent(&mut self, configurations: usize) -> Option<Stop> {
        if configurations > self.limits.configurations {
            return Some(Stop::TooMany);
        }
        self.clock.is_up().then_some(Stop::Late)
    }
}

/// What may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Configurations at a time, of [`CONFIGURATION_BYTES`] each: a larger one counts for several.
    pub configurations: usize,
    /// Time.
    pub time: Duration,
}

impl Default for Limits {
    /// A million configurations, which is 384 MiB at most, and a minute.
    fn default() -> Self {
        Limits { configurations: 1 << 20, time: Duration::from_secs(60) }
    }
}

/// Decides the history of one key. Operations are in the order of their invocations; reads have
/// returned. With `order`, a valid answer comes with an order of the operations.
#[must_use]
pub fn check(
    operations: &[Operation],
    states: &mut States,
    limits: &Limits,
    order: bool,
) -> Answer {
    let needs = Needs::new(operations, states);
    let mut frontier = Frontier::new(operations, states, needs, order);
    match frontier.run(limits, |_, _| {}) {
        None => Answer::Valid(if order { frontier.order() } else { Vec::new() }),
        Some((place, Stop::Empty(states))) => Answer::Invalid { breaks_at: place, states },
        Some((_, Stop::TooMany)) => Answer::TooMany(limits.configurations),
        Some((_, Stop::Late)) => Answer::Late(limits.time),
    }
}

/// What a key can have held when each operation had returned, for telling people: by the places of
/// the operations, in the order of their returns, up to the first that is impossible. What is under
/// way then, and was seen by nobody, may change it yet. None if it would take more than the limits
/// allow.
pub(super) fn held(
    operations: &[Operation],
    states: &mut States,
    limits: &Limits,
) -> Option<Vec<(u32, Vec<u32>)>> {
    let needs = Needs { for_ever: true, ..Needs::new(operations, states) };
    let mut frontier = Frontier::new(operations, states, needs, false);
    let mut held = Vec::new();
    let stopped = frontier.run(limits, |place, configs| {
        let mut states: Vec<u32> = configs.iter().map(|config| config.state).collect();
        states.sort_unstable();
        states.dedup();
        held.push((place, states));
    });
    matches!(stopped, None | Some((_, Stop::Empty(_)))).then_some(held)
}

enum Stop {
    /// Nothing is possible; these states were just before.
    Empty(Vec<u32>),
    TooMany,
    Late,
}

struct Frontier<'a> {
    configs: Vec<Config>,
    /// In the order of their returns.
    under_way: Vec<UnderWay>,
    /// Slots that were used and are free again, and how many there are in all.
    free_slots: Vec<usize>,
    slots: usize,
    /// The reads under way of each state.
    readers: HashMap<u32, Slots>,
    /// All operations under way that only look, that can be buried, and the others.
    looking: Slots,
    buriable: Slots,
    others: Slots,
    classes: Vec<Class>,
    class_of: HashMap<Step, usize>,
    needs: Needs,
    states: &'a mut States,
    /// Some operation of the history is a [`Step::Differs`].
    differs: bool,
    links: Option<Vec<Link>>,
    operations: &'a [Operation],
    /// Some operation of the history sees more than whole states, or changes what it sees.
    sharp: bool,
}

/// Until when somebody may still see a state.
struct Needs {
    /// For each state that is looked for: the last return of an operation that looks for it.
    last: HashMap<u32, u32>,
    /// With appends: the texts that are looked for, sorted, with the greatest return of each
    /// power-of-two run of them.
    texts: Vec<Box<[u8]>>,
    runs: Vec<Vec<u32>>,
    /// What was found out about states before.
    known: HashMap<u32, u32>,
    /// Every state counts as one that somebody may see.
    for_ever: bool,
}

impl Needs {
    fn new(operations: &[Operation], states: &States) -> Self {
        let mut last: HashMap<u32, u32> = HashMap::new();
        let mut appends = false;
        for op in operations {
            match op.step {
                Step::Read(state) | Step::Cas(state, _) | Step::Differs(state) => {
                    let until = last.entry(state).or_default();
                    *until = (*until).max(op.returned);
                }
                Step::Append(_) => appends = true,
                Step::Write(_) => {}
            }
        }
        let mut texts = Vec::new();
        let mut runs = Vec::new();
        if appends {
            let mut wanted: Vec<(Box<[u8]>, u32)> = last
                .iter()
                .map(|(state, until)| (states.texts[*state as usize].clone(), *until))
                .collect();
            wanted.sort_unstable();
            let (sorted, mut run): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
            texts = sorted;
            let mut width = 1;
            while !run.is_empty() {
                let wider = (0..run.len().saturating_sub(width))
                    .map(|at| run[at].max(run[at + width]))
                    .collect();
                runs.push(std::mem::replace(&mut run, wider));
                width *= 2;
            }
        }
        Needs { last, texts, runs, known: HashMap::new(), for_ever: false }
    }

    /// The last time at which somebody may see the state, itself or with something appended.
    fn until(&mut self, state: u32, states: &States) -> u32 {
        if self.for_ever {
            return OPEN;
        }
        if self.texts.is_empty() {
            return self.last.get(&state).copied().unwrap_or(0);
        }
        if let Some(until) = self.known.get(&state) {
            return *until;
        }
        let until = self.text_until(&states.texts[state as usize]);
        self.known.insert(state, until);
        until
    }

    /// The same of a text, where texts matter.
    fn text_until(&self, text: &[u8]) -> u32 {
        if self.for_ever {
            return OPEN;
        }
        let from = self.texts.partition_point(|other| **other < *text);
        let count = self.texts[from..].partition_point(|other| other.starts_with(text));
        match count.checked_ilog2() {
            None => 0,
            Some(power) => {
                let run = &self.runs[power as usize];
                run[from].max(run[from + count - (1 << power)])
            }
        }
    }
}

impl<'a> Frontier<'a> {
    fn new(operations: &'a [Operation], states: &'a mut States, needs: Needs, order: bool) -> Self {
        let first = Config {
            state: 0,
            buries: 0,
            done: Slots::default(),
            used: Vec::new(),
            trail: NO_LINK,
        };
        Frontier {
            configs: vec![first],
            under_way: Vec::new(),
            free_slots: Vec::new(),
            slots: 0,
            readers: HashMap::new(),
            looking: Slots::default(),
            buriable: Slots::default(),
            others: Slots::default(),
            classes: Vec::new(),
            class_of: HashMap::new(),
            needs,
            states,
            differs: operations.iter().any(|op| matches!(op.step, Step::Differs(_))),
            links: order.then(Vec::new),
            operations,
            sharp: operations.iter().any(|op| !matches!(op.step, Step::Read(_) | Step::Write(_))),
        }
    }

    /// Goes through all events, telling the configurations after each return; the operation whose
    /// return stopped it, if one did.
    fn run(
        &mut self,
        limits: &Limits,
        mut each: impl FnMut(u32, &[Config]),
    ) -> Option<(u32, Stop)> {
        let mut budget = Budget { limits, clock: super::Clock::new(limits.time) };
        let mut returns: Vec<(u32, u32)> = (0_u32..)
            .zip(self.operations)
            .filter(|(_, op)| op.returned != OPEN)
            .map(|(place, op)| (op.returned, place))
            .collect();
        returns.sort_unstable();
        let mut next = 0;
        for (returned, place) in returns {
            while let Some(op) = self.operations.get(next)
                && op.invoked < returned
            {
                self.invoke(u32::try_from(next).expect("places fit in 32 bits"), *op);
                next += 1;
            }
            if let Some(stop) = self.returned(place, &mut budget) {
                return Some((place, stop));
            }
            each(place, &self.configs);
        }
        None
    }

    fn kinds(&mut self, step: Step) -> &mut Slots {
        if step.looks_only() {
            &mut self.looking
        } else if step.can_be_buried() {
            &mut self.buriable
        } else {
            &mut self.others
        }
    }

    fn invoke(&mut self, place: u32, op: Operation) {
        if op.returned == OPEN {
            let class = *self.class_of.entry(op.step).or_insert_with(|| {
                self.classes.push(Class { step: op.step, members: Vec::new() });
                self.classes.len() - 1
            });
            self.classes[class].members.push(place);
            return;
        }
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        });
        let under_way = UnderWay { slot, place, op };
        let at = self.under_way.partition_point(|other| other.op.returned < op.returned);
        self.under_way.insert(at, under_way);
        self.kinds(op.step).insert(slot);
        let sees: Box<dyn Fn(u32) -> bool> = match op.step {
            Step::Read(state) => {
                self.readers.entry(state).or_default().insert(slot);
                Box::new(move |now| now == state)
            }
            Step::Differs(state) => Box::new(move |now| now != state),
            _ => return,
        };
        for config in &mut self.configs {
            if sees(config.state) {
                config.done.insert(slot);
                link(&mut self.links, config, place, false);
            }
        }
    }

    /// An operation returns: every configuration in which it has not taken effect goes on until it
    /// has, or is dropped.
    fn returned(&mut self, place: u32, budget: &mut Budget<'_>) -> Option<Stop> {
        let at = self.under_way.iter().position(|other| other.place == place);
        let target = self.under_way[at.expect("it was invoked")];
        let mut next = Kept::default();
        let mut seen: HashSet<Config> = HashSet::new();
        let before = std::mem::take(&mut self.configs);
        for config in &before {
            if config.done.has(target.slot) {
                self.keep(config.clone(), &target, &mut next);
                continue;
            }
            let stop = self.expand(config.clone(), &target, &mut seen, &mut next, budget);
            if stop.is_some() {
                return stop;
            }
        }
        self.forget(&target);
        // What nobody can see after this event is all one.
        let mut died = false;
        for config in next.by_state.iter_mut().flat_map(|(_, configs)| configs) {
            if config.state != DEAD
                && self.needs.until(config.state, self.states) <= target.op.returned
            {
                config.state = DEAD;
                died = true;
            }
        }
        if died {
            let mut kept = Kept::default();
            for config in next.by_state.into_iter().flat_map(|(_, configs)| configs) {
                self.add(config, &mut kept);
            }
            next = kept;
        }
        self.configs = next.by_state.into_iter().flat_map(|(_, configs)| configs).collect();
        if !self.configs.is_empty() {
            return None;
        }
        let mut states: Vec<u32> = before.iter().map(|config| config.state).collect();
        states.retain(|state| *state != DEAD);
        states.sort_unstable();
        states.dedup();
        Some(Stop::Empty(states))
    }

    /// An operation is under way no longer.
    fn forget(&mut self, target: &UnderWay) {
        self.under_way.retain(|other| other.place != target.place);
        self.free_slots.push(target.slot);
        self.kinds(target.op.step).remove(target.slot);
        if let Step::Read(state) = target.op.step
            && let Some(readers) = self.readers.get_mut(&state)
        {
            readers.remove(target.slot);
            if *readers == Slots::default() {
                self.readers.remove(&state);
            }
        }
    }

    /// A configuration in which the target has taken effect.
    fn keep(&self, mut config: Config, target: &UnderWay, next: &mut Kept) {
        config.done.remove(target.slot);
        self.add(config, next);
    }

    fn add(&self, config: Config, kept: &mut Kept) {
        kept.add(config, &self.under_way, [&self.looking, &self.buriable, &self.others]);
    }

    /// So many configurations of the usual size take as much memory as these many take now.
    fn weight(&self, configurations: usize) -> usize {
        let usual = size_of::<Config>();
        let more = self.classes.len() * size_of::<u32>() + self.slots / 8;
        let links = self.links.as_ref().map_or(0, Vec::len) * size_of::<Link>();
        configurations * (usual + more) / usual + links / CONFIGURATION_BYTES
    }

    /// Lets the target take effect in every way that may matter; why it did not, if it took too
    /// much.
    fn expand(
        &mut self,
        config: Config,
        target: &UnderWay,
        seen: &mut HashSet<Config>,
        next: &mut Kept,
        budget: &mut Budget<'_>,
    ) -> Option<Stop> {
        let step = target.op.step;
        if step.can_be_buried() && target.op.invoked < config.buries {
            let mut buried = config.clone();
            link(&mut self.links, &mut buried, target.place, true);
            self.keep(buried, target, next);
            // Seen by nobody, it is best buried.
            if let Step::Write(state) = step
                && !self.differs
                && self.needs.until(state, self.states) <= target.op.returned
            {
                return None;
            }
        }
        let mut stack = vec![config];
        while let Some(config) = stack.pop() {
            let stop = budget.spent(self.weight(seen.len() + stack.len() + next.count));
            if stop.is_some() {
                return stop;
            }
            // The trail tells how a configuration came to be, not what it is.
            if !seen.insert(Config { trail: NO_LINK, ..config.clone() }) {
                continue;
            }
            if let Some(after) = self.after(&config, target.op.step, target.op.returned) {
                let mut after = after;
                after.done.insert(target.slot);
                link(&mut self.links, &mut after, target.place, false);
                self.settle(&mut after);
                self.keep(after, target, next);
            }
            self.others_first(&config, target, &mut stack, next);
        }
        None
    }

    /// Everything else that can take effect next and that somebody can see.
    fn others_first(
        &mut self,
        config: &Config,
        target: &UnderWay,
        stack: &mut Vec<Config>,
        next: &mut Kept,
    ) {
        let now = target.op.returned;
        // With appends: and whether it can be buried.
        let step = target.op.step;
        let mut tried: Vec<(Step, bool)> = vec![(step, false), (step, true)];
        for at in 0..self.under_way.len() {
            let UnderWay { slot, place, op } = self.under_way[at];
            let easy = matches!(op.step, Step::Append(_)) && op.invoked < config.buries;
            if config.done.has(slot) || op.step.looks_only() || tried.contains(&(op.step, easy)) {
                continue;
            }
            tried.push((op.step, easy));
            let Some(mut after) = self.after(config, op.step, now) else { continue };
            if !self.visible(config, &after, op.step, now) {
                continue;
            }
            after.done.insert(slot);
            link(&mut self.links, &mut after, place, false);
            self.go_on(after, target, stack, next);
        }
        for class in 0..self.classes.len() {
            let Class { step, members } = &self.classes[class];
            let step = *step;
            let used = config.used.get(class).copied().unwrap_or(0) as usize;
            let Some(&place) = members.get(used) else { continue };
            if tried.iter().any(|(other, _)| *other == step) {
                continue;
            }
            let Some(mut after) = self.after(config, step, now) else { continue };
            if !self.visible(config, &after, step, now) {
                continue;
            }
            if after.used.len() <= class {
                after.used.resize(class + 1, 0);
            }
            after.used[class] += 1;
            link(&mut self.links, &mut after, place, false);
            self.go_on(after, target, stack, next);
        }
    }

    fn go_on(
        &mut self,
        mut after: Config,
        target: &UnderWay,
        stack: &mut Vec<Config>,
        next: &mut Kept,
    ) {
        self.settle(&mut after);
        if after.done.has(target.slot) {
            self.keep(after, target, next);
        } else {
            stack.push(after);
        }
    }

    /// The configuration after a step, if it is possible.
    fn after(&mut self, config: &Config, step: Step, now: u32) -> Option<Config> {
        let mut after = config.clone();
        match step {
            Step::Write(state) => {
                after.state = state;
                after.buries = now;
            }
            Step::Cas(from, to) if config.state == from => after.state = to,
            Step::Append(_) if config.state == DEAD => {}
            Step::Append(text) => {
                let text = self.states.appended(config.state, text);
                // A text that nobody can see any more is not worth a number.
                let until = match self.states.find(&text) {
                    Some(state) => self.needs.until(state, self.states),
                    None => self.needs.text_until(&text),
                };
                after.state = if until >= now { self.states.number(&text) } else { DEAD };
            }
            Step::Read(state) if config.state == state => {}
            Step::Differs(state) if config.state != state => {}
            Step::Cas(..) | Step::Read(_) | Step::Differs(_) => return None,
        }
        Some(after)
    }

    /// Whether somebody under way can see the state after a step, or what it makes possible.
    fn visible(&mut self, before: &Config, after: &Config, step: Step, now: u32) -> bool {
        let state = after.state;
        if let Some(readers) = self.readers.get(&state)
            && !readers.within(&before.done, readers)
        {
            return true;
        }
        if !self.sharp {
            return false;
        }
        let alive = state != DEAD && self.needs.until(state, self.states) >= now;
        // A cas cannot be buried: it has to happen where its state is, seen or not.
        if matches!(step, Step::Cas(..)) || alive && matches!(step, Step::Append(_)) {
            return true;
        }
        let sees = |step: Step| match step {
            Step::Cas(from, _) => from == state,
            Step::Append(_) => alive,
            Step::Differs(other) => other == before.state && other != state,
            Step::Read(_) | Step::Write(_) => false,
        };
        self.under_way.iter().any(|other| sees(other.op.step) && !before.done.has(other.slot))
            || self.classes.iter().any(|class| sees(class.step))
    }

    /// Everything that sees what it saw takes effect at once.
    fn settle(&mut self, config: &mut Config) {
        if self.links.is_some() {
            for at in 0..self.under_way.len() {
                let UnderWay { slot, place, op } = self.under_way[at];
                let sees = match op.step {
                    Step::Read(state) => state == config.state,
                    Step::Differs(state) => state != config.state,
                    _ => false,
                };
                if sees && !config.done.has(slot) {
                    config.done.insert(slot);
                    link(&mut self.links, config, place, false);
                }
            }
            return;
        }
        if let Some(readers) = self.readers.get(&config.state) {
            config.done.insert_all(readers);
        }
        if self.differs {
            for UnderWay { slot, op, .. } in &self.under_way {
                if matches!(op.step, Step::Differs(state) if state != config.state) {
                    config.done.insert(*slot);
                }
            }
        }
    }

    /// An order of all that took effect.
    fn order(&self) -> Vec<u32> {
        let links = self.links.as_deref().unwrap_or_default();
        let mut chain = Vec::new();
        let mut at = self.configs.first().map_or(NO_LINK, |config| config.trail);
        while at != NO_LINK {
            let link = links[at as usize];
            chain.push((link.place, link.buried));
            at = link.before;
        }
        // From the end: what is buried waits for the blind write that it comes just before.
        let mut order = Vec::with_capacity(chain.len());
        let mut waiting: Vec<u32> = Vec::new();
        for (place, buried) in chain {
            if buried {
                waiting.push(place);
                continue;
            }
            order.push(place);
            if matches!(self.operations[place as usize].step, Step::Write(_)) {
                order.append(&mut waiting);
            }
        }
        order.reverse();
        order
    }
}

fn link(links: &mut Option<Vec<Link>>, config: &mut Config, place: u32, buried: bool) {
    if let Some(links) = links {
        let here = u32::try_from(links.len()).expect("fewer links than 2^32");
        links.push(Link { before: config.trail, place, buried });
        config.trail = here;
    }
}

/// The configurations that are kept: none that another can stand for.
#[derive(Default)]
struct Kept {
    /// There are few states at a time.
    by_state: Vec<(u32, Vec<Config>)>,
    count: usize,
}

impl Kept {
    fn add(&mut self, config: Config, under_way: &[UnderWay], kinds: [&Slots; 3]) {
        let Some(at) = self.by_state.iter().position(|(state, _)| *state == config.state) else {
            self.by_state.push((config.state, vec![config]));
            self.count += 1;
            return;
        };
        let rivals = &mut self.by_state[at].1;
        if rivals.iter().any(|rival| stands_for(rival, &config, under_way, kinds)) {
            return;
        }
        let before = rivals.len();
        rivals.retain(|rival| !stands_for(&config, rival, under_way, kinds));
        self.count -= before - rivals.len();
        rivals.push(config);
        self.count += 1;
    }
}

/// Whether `a` can do all that `b`, of the same state, can.
fn stands_for(
    a: &Config,
    b: &Config,
    under_way: &[UnderWay],
    [looking, buriable, others]: [&Slots; 3],
) -> bool {
    // It has seen as much, and cases where order matters are the same.
    if !b.done.within(&a.done, looking)
        || !a.done.within(&b.done, buriable)
        || !a.done.within(&b.done, others)
        || !b.done.within(&a.done, others)
    {
        return false;
    }
    let used = |config: &Config, class: usize| config.used.get(class).copied().unwrap_or(0);
    if (0..a.used.len()).any(|class| used(a, class) > used(b, class)) {
        return false;
    }
    // What is left to it and must happen, it can bury, if the other need not see to it either.
    let same = a.buries >= b.buries && a.done == b.done;
    same || under_way.iter().all(|other| {
        let left = other.op.step.can_be_buried() && !a.done.has(other.slot);
        let eased = b.done.has(other.slot) || other.op.invoked < b.buries;
        !(left && eased) || other.op.invoked < a.buries
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many of every cas between so many states, none of which returns, and then a read of what
    /// nothing writes.
    fn explosion(states: u32, each: u32) -> Vec<Operation> {
        let mut operations = Vec::new();
        let pairs = (0..states).flat_map(|from| (0..states).map(move |to| (from, to)));
        for (from, to) in pairs.filter(|(from, to)| from != to) {
            for _ in 0..each {
                let invoked = u32::try_from(operations.len()).expect("a few");
                let step = Step::Cas(from, to);
                operations.push(Operation { invoked, returned: OPEN, step });
            }
        }
        let invoked = u32::try_from(operations.len()).expect("a few");
        operations.push(Operation { invoked, returned: invoked + 1, step: Step::Read(states) });
        operations
    }

    #[test]
    fn a_single_return_does_not_take_more_than_is_allowed() {
        let operations = explosion(6, 20);
        let few = Limits { configurations: 1000, time: Duration::from_secs(600) };
        let states = &mut States::default();
        assert_eq!(check(&operations, states, &few, false), Answer::TooMany(1000));
        let short = Limits { configurations: usize::MAX / 4096, time: Duration::from_millis(1) };
        assert_eq!(check(&operations, states, &short, false), Answer::Late(short.time));
        // What is small enough is decided.
        let answer = check(&explosion(2, 5), states, &Limits::default(), false);
        assert_eq!(answer, Answer::Invalid { breaks_at: 10, states: vec![0] });
    }
}
