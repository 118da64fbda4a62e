//! The thread through which every packet between two hosts passes.

use std::{
    collections::{BinaryHeap, HashMap},
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::prctl;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read, write},
};

use super::{
    capture::Capture,
    link::{Cut, Fate, Link, LinkCounts, LinkRule},
    packet::{self, Segment},
};

/// How long the thread waits for packets at most. Whether it is late after that shows whether it starved.
const HEARTBEAT: Duration = Duration::from_millis(20);

/// How many packets of a host are taken in a row.
const BATCH: usize = 64;

/// The most bytes of a packet.
const PACKET_BYTES_MAX: usize = 1 << 16;

/// How long a connection that was reset is watched: an end for which the number in the reset was not right
/// says which one is.
const RESET_WATCH: Duration = Duration::from_secs(5);

/// A host as the switch knows it.
#[derive(Debug)]
pub(super) struct Port {
    /// The device of the host.
    pub(super) device: OwnedFd,
    pub(super) address: Ipv4Addr,
}

/// A running switch. Dropping it ends its thread.
pub(super) struct Switch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    addresses: Vec<Ipv4Addr>,
    state: Mutex<State>,
    stopped: AtomicBool,
}

struct State {
    /// The device of each host, which is another one after a power loss.
    devices: Vec<Arc<OwnedFd>>,
    /// How often a device was replaced so far.
    replaced: u64,
    /// Whether each host is without power: it neither sends nor receives.
    is_off: Vec<bool>,
    /// The link from each host to each.
    links: Vec<Link>,
    /// Where connections are, by the ends of each direction.
    flows: HashMap<Ends, Flow>,
    delayed: BinaryHeap<Delayed>,
    /// The number of packets that were delayed so far.
    sequence: u64,
    capture: Option<Capture>,
    longest_stall: Duration,
    /// Why the thread has ended before its time.
    failed: Option<String>,
}

/// The ends of a direction of a connection: from, to.
type Ends = (SocketAddrV4, SocketAddrV4);

/// One direction of a connection.
struct Flow {
    /// The number that follows what was delivered.
    next: u32,
    /// What the sender has received.
    acknowledged: u32,
    /// The sender has said that it sends nothing more.
    has_ended: bool,
    /// The connection was reset, and is watched until then.
    reset_until: Option<Instant>,
}

/// A packet on its way, the one that arrives first being the greatest.
#[derive(PartialEq, Eq)]
struct Delayed {
    at: Instant,
    sequence: u64,
    from: usize,
    to: usize,
    packet: Vec<u8>,
}

impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Switch {
    /// Starts the thread.
    pub(super) fn start(ports: Vec<Port>, seed: u64) -> io::Result<Switch> {
        let count = u32::try_from(ports.len() * ports.len()).map_err(io::Error::other)?;
        let addresses = ports.iter().map(|port| port.address).collect();
        let state = State {
            is_off: vec![false; ports.len()],
            devices: ports.into_iter().map(|port| Arc::new(port.device)).collect(),
            replaced: 0,
            links: (0..count).map(|number| Link::new(seed, number)).collect(),
            flows: HashMap::new(),
            delayed: BinaryHeap::new(),
            sequence: 0,
            capture: None,
            longest_stall: Duration::ZERO,
            failed: None,
        };
        let (state, stopped) = (Mutex::new(state), AtomicBool::new(false));
        let shared = Arc::new(Shared { addresses, state, stopped });
        let running = shared.clone();
        let thread = thread::Builder::new().name("switch".to_owned()).spawn(move || {
            // Otherwise the kernel lets timers be late by 50 us.
            let _ = prctl::set_timerslack(1);
            if let Some(why) = failure_of(|| running.run()) {
                running.lock().failed = Some(why);
            }
        })?;
        Ok(Switch { shared, thread: Some(thread) })
    }

    fn link(&self, from: usize, to: usize) -> usize {
        from * self.shared.addresses.len() + to
    }

    /// From now on these hosts neither send nor receive anything, all from the same moment on.
    pub(super) fn power_off(&self, hosts: impl IntoIterator<Item = usize>) {
        let mut state = self.shared.lock();
        for host in hosts {
            state.is_off[host] = true;
        }
    }

    pub(super) fn is_off(&self, host: usize) -> bool {
        self.shared.lock().is_off[host]
    }

    /// A host has power again, and another device. It knows nothing of the connections that it had.
    pub(super) fn power_on(&self, host: usize, device: OwnedFd) {
        let mut state = self.shared.lock();
        state.devices[host] = Arc::new(device);
        state.replaced += 1;
        state.is_off[host] = false;
        let address = self.shared.addresses[host];
        let is_of = |(from, to): &Ends| *from.ip() == address || *to.ip() == address;
        state.flows.retain(|ends, _| !is_of(ends));
        state.delayed.retain(|packet| packet.from != host && packet.to != host);
    }

    pub(super) fn rule(&self, from: usize, to: usize) -> LinkRule {
        self.shared.lock().links[self.link(from, to)].rule()
    }

    /// Changes the rules of links, all at the same moment.
    pub(super) fn set(&self, rules: impl IntoIterator<Item = ((usize, usize), LinkRule)>) {
        let mut state = self.shared.lock();
        for ((from, to), rule) in rules {
            state.links[self.link(from, to)].set(rule);
        }
    }

    /// Every link disturbs nothing.
    pub(super) fn clear(&self) {
        self.shared.lock().links.iter_mut().for_each(|link| link.set(LinkRule::default()));
    }

    pub(super) fn counts(&self, from: usize, to: usize) -> LinkCounts {
        self.shared.lock().links[self.link(from, to)].counts
    }

    /// How many connections there are between two hosts.
    pub(super) fn connections(&self, one: usize, other: usize) -> usize {
        self.shared.connections(&self.shared.lock(), one, other).len()
    }

    /// Resets every connection between two hosts, at both ends. Returns how many.
    pub(super) fn reset(&self, one: usize, other: usize) -> io::Result<usize> {
        let mut state = self.shared.lock();
        let until = Instant::now() + RESET_WATCH;
        let found = self.shared.connections(&state, one, other);
        for (from, to) in &found {
            for ends in [(*from, *to), (*to, *from)] {
                self.shared.reset_end(&mut state, ends)?;
                if let Some(flow) = state.flows.get_mut(&ends) {
                    flow.reset_until = Some(until);
                }
            }
        }
        Ok(found.len())
    }

    /// Writes every packet to a file from now on, until the capture ends.
    pub(super) fn begin_capture(&self, capture: Capture) {
        self.shared.lock().capture = Some(capture);
    }

    /// Ends the capture. Returns how many packets the file has.
    pub(super) fn end_capture(&self) -> io::Result<u64> {
        let capture = self.shared.lock().capture.take();
        capture.map_or(Ok(0), Capture::finish)
    }

    /// How long the thread was kept from its work, at most.
    pub(super) fn longest_stall(&self) -> Duration {
        self.shared.lock().longest_stall
    }

    /// Why packets are not forwarded any more.
    pub(super) fn failed(&self) -> Option<String> {
        self.shared.lock().failed.clone()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // The thread looks at it with each heartbeat.
        self.shared.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connections between two hosts that were not reset, from the first to the other.
    fn connections(&self, state: &State, one: usize, other: usize) -> Vec<Ends> {
        let [one, other] = [one, other].map(|host| self.addresses[host]);
        let is_one = |(from, to): &Ends| *from.ip() == one && *to.ip() == other;
        let flows = state.flows.iter().filter(|(_, flow)| flow.reset_until.is_none());
        flows.map(|(ends, _)| *ends).filter(is_one).collect()
    }

    fn run(&self) -> io::Result<()> {
        while !self.stopped.load(Ordering::Relaxed) {
            let (devices, replaced) = {
                let state = self.lock();
                (state.devices.clone(), state.replaced)
            };
            self.forward_between(&devices, replaced)?;
        }
        Ok(())
    }

    /// Forwards packets until the switch is stopped or has other devices than these.
    fn forward_between(&self, devices: &[Arc<OwnedFd>], replaced: u64) -> io::Result<()> {
        let by_address: HashMap<Ipv4Addr, usize> =
            self.addresses.iter().copied().zip(0..).collect();
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let polled = devices.iter().map(|device| PollFd::new(device, PollFlags::IN));
        let mut polled: Vec<PollFd<'_>> = polled.collect();
        let mut wait = HEARTBEAT;
        let mut began = Instant::now();
        while !self.stopped.load(Ordering::Relaxed) {
            let timeout = Timespec::try_from(wait).map_err(io::Error::other)?;
            match poll(&mut polled, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            let mut state = self.lock();
            let late = now.saturating_duration_since(began + wait);
            state.longest_stall = state.longest_stall.max(late);
            if state.replaced != replaced {
                // What an old device still sends is not the host's any more.
                return Ok(());
            }
            self.deliver_due(&mut state, now)?;
            for (from, device) in polled.iter().enumerate() {
                if !device.revents().is_empty() {
                    self.take(&mut state, from, &by_address, &mut buffer)?;
                }
            }
            began = Instant::now();
            // Packets that became due meanwhile are delivered at once.
            let due = state.delayed.peek().map(|next| next.at.saturating_duration_since(began));
            wait = due.map_or(HEARTBEAT, |due| due.min(HEARTBEAT));
        }
        Ok(())
    }

    /// Takes the packets that a host has sent.
    fn take(
        &self,
        state: &mut State,
        from: usize,
        by_address: &HashMap<Ipv4Addr, usize>,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        for _ in 0..BATCH {
            let bytes = match read(&*state.devices[from], &mut *buffer) {
                Ok(bytes) => bytes,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let packet = &mut buffer[..bytes];
            // There is nobody else in this network, and no broadcast.
            let to = packet::destination(packet).and_then(|to| by_address.get(&to));
            if let Some(to) = to {
                self.forward(state, (from, *to), packet)?;
            }
        }
        Ok(())
    }

    fn forward(
        &self,
        state: &mut State,
        (from, to): (usize, usize),
        packet: &mut [u8],
    ) -> io::Result<()> {
        let now = Instant::now();
        if state.is_off[from] || state.is_off[to] {
            state.links[from * self.addresses.len() + to].counts.cut += 1;
            return Ok(());
        }
        let segment = packet::segment(packet);
        if let Some(segment) = &segment
            && self.is_reset(state, segment, now)?
        {
            return Ok(());
        }
        let link = &mut state.links[from * self.addresses.len() + to];
        match link.fate(now, packet.len()) {
            Fate::Cut(cut) => {
                if let (Cut::Refuse, Some(segment)) = (cut, segment) {
                    self.refuse(state, &segment)?;
                }
                Ok(())
            }
            Fate::Lost => Ok(()),
            Fate::Arrives { at, twice, corrupted } => {
                if corrupted {
                    let was = packet::corrupt(packet, &mut link.rng);
                    link.counts.corrupted += u64::from(was);
                }
                for _ in 0..=usize::from(twice) {
                    match at {
                        None => self.deliver(state, to, packet)?,
                        Some(at) => {
                            state.sequence += 1;
                            let (sequence, packet) = (state.sequence, packet.to_vec());
                            state.delayed.push(Delayed { at, sequence, from, to, packet });
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// Delivers the delayed packets whose time has come.
    fn deliver_due(&self, state: &mut State, now: Instant) -> io::Result<()> {
        while state.delayed.peek().is_some_and(|next| next.at <= now) {
            let Some(Delayed { from, to, packet, .. }) = state.delayed.pop() else { break };
            let is_off = state.is_off[from] || state.is_off[to];
            let link = &mut state.links[from * self.addresses.len() + to];
            // A cut also hits what is on its way.
            if is_off || link.rule().cut.is_some() {
                link.counts.cut += 1;
                link.counts.delivered = link.counts.delivered.saturating_sub(1);
            } else {
                self.deliver(state, to, &packet)?;
            }
        }
        Ok(())
    }

    fn deliver(&self, state: &mut State, to: usize, packet: &[u8]) -> io::Result<()> {
        if let Some(segment) = packet::segment(packet) {
            note(&mut state.flows, &segment);
        }
        self.put(state, to, packet)
    }

    /// Hands a packet to a host.
    fn put(&self, state: &mut State, to: usize, packet: &[u8]) -> io::Result<()> {
        if state.is_off[to] {
            return Ok(());
        }
        if let Some(capture) = &mut state.capture {
            capture.packet(packet);
        }
        match write(&*state.devices[to], packet) {
            // The host's stack drops what it does not take, as a network card does.
            Ok(_) | Err(Errno::AGAIN | Errno::INVAL | Errno::NOBUFS | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers a segment as a host does that has no such connection.
    fn refuse(&self, state: &mut State, segment: &Segment) -> io::Result<()> {
        if segment.is_reset {
            return Ok(());
        }
        let sequence = segment.acknowledged.unwrap_or(0);
        let packet = packet::reset(segment.to, segment.from, sequence, segment.next);
        self.inject(state, segment.from, &packet)
    }

    /// Whether the segment belongs to a connection that was reset. Then its sender is told so: the segment says
    /// which number it accepts.
    fn is_reset(&self, state: &mut State, segment: &Segment, now: Instant) -> io::Result<bool> {
        let Some(flow) = state.flows.get_mut(&(segment.from, segment.to)) else {
            return Ok(false);
        };
        let Some(until) = flow.reset_until else { return Ok(false) };
        if segment.opens || until < now {
            state.flows.remove(&(segment.from, segment.to));
            return Ok(false);
        }
        self.refuse(state, segment)?;
        Ok(true)
    }

    /// Resets the sender's end of a flow.
    fn reset_end(&self, state: &mut State, (end, peer): Ends) -> io::Result<()> {
        // What was delivered to it is what it has received, unless it has not taken it yet.
        let received = state.flows.get(&(peer, end)).map(|flow| flow.next);
        let own = state.flows.get(&(end, peer));
        let Some(sequence) = received.or(own.map(|flow| flow.acknowledged)) else { return Ok(()) };
        let packet = packet::reset(peer, end, sequence, own.map_or(0, |flow| flow.next));
        self.inject(state, end, &packet)
    }

    /// Sends a forged packet.
    fn inject(&self, state: &mut State, to: SocketAddrV4, packet: &[u8]) -> io::Result<()> {
        let host = self.addresses.iter().position(|address| address == to.ip());
        host.map_or(Ok(()), |host| self.put(state, host, packet))
    }
}

/// Why a thread ends before its time, if it does: nobody waits for it who would see that it panicked.
fn failure_of(run: impl FnOnce() -> io::Result<()>) -> Option<String> {
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(ended) => ended.err().map(|error| error.to_string()),
        Err(message) => {
            let text = message.downcast_ref::<String>().map(String::as_str);
            let text = text.or(message.downcast_ref::<&str>().copied());
            Some(format!("the switch panicked: {}", text.unwrap_or("it does not say why")))
        }
    }
}

/// Takes note of how far a connection is with a segment that is delivered.
fn note(flows: &mut HashMap<Ends, Flow>, segment: &Segment) {
    let key = (segment.from, segment.to);
    if segment.is_reset {
        flows.remove(&key);
        flows.remove(&(segment.to, segment.from));
        return;
    }
    let Segment { next, opens, .. } = *segment;
    let acknowledged = segment.acknowledged.unwrap_or(0);
    if opens {
        flows.insert(key, Flow { next, acknowledged, has_ended: false, reset_until: None });
        return;
    }
    let Some(flow) = flows.get_mut(&key) else { return };
    // What is sent again is not ahead of what was delivered before.
    if next.wrapping_sub(flow.next).cast_signed() > 0 {
        flow.next = next;
    }
    flow.acknowledged = acknowledged;
    flow.has_ended |= segment.ends;
    let back = (segment.to, segment.from);
    if flow.has_ended && flows.get(&back).is_none_or(|flow| flow.has_ended) {
        flows.remove(&key);
        flows.remove(&back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_ends_the_thread_is_told() {
        assert_eq!(failure_of(|| Ok(())), None);
        let error = || Err(io::Error::other("the device is gone"));
        assert_eq!(failure_of(error).as_deref(), Some("the device is gone"));
        let number = 3;
        let panicked = failure_of(|| panic!("no host {number}"));
        assert_eq!(panicked.as_deref(), Some("the switch panicked: no host 3"));
    }
}
