//! A file of packets, as tcpdump and Wireshark read them: pcap with nanoseconds, raw IP.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
    time::SystemTime,
};

/// The magic number of a pcap file whose times have nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;

/// The version of the form.
const VERSION: [u16; 2] = [2, 4];

/// Packets begin with their IP header.
const LINKTYPE_RAW: u32 = 101;

/// The most bytes of a packet.
const SNAPSHOT_BYTES: u32 = 1 << 16;

/// A capture in progress.
pub(super) struct Capture {
    file: BufWriter<File>,
    packets: u64,
    failed: Option<io::Error>,
}

impl Capture {
    pub(super) fn create(path: &Path) -> io::Result<Capture> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&MAGIC.to_ne_bytes())?;
        for version in VERSION {
            file.write_all(&version.to_ne_bytes())?;
        }
        for word in [0, 0, SNAPSHOT_BYTES, LINKTYPE_RAW] {
            file.write_all(&word.to_ne_bytes())?;
        }
        Ok(Capture { file, packets: 0, failed: None })
    }

    /// Writes a packet that passes now. An error is reported at the end.
    pub(super) fn packet(&mut self, packet: &[u8]) {
        if self.failed.is_none() {
            self.failed = self.write(packet).err();
            self.packets += 1;
        }
    }

    fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let time = time.unwrap_or_default();
        let bytes = u32::try_from(packet.len()).map_err(io::Error::other)?;
        // The seconds of this form end in 2106.
        for word in [time.as_secs() as u32, time.subsec_nanos(), bytes, bytes] {
            self.file.write_all(&word.to_ne_bytes())?;
        }
        self.file.write_all(packet)
    }

    /// Ends it. Returns how many packets the file has.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        match self.failed {
            Some(error) => Err(error),
            None => self.file.flush().map(|()| self.packets),
        }
    }
}
