//! The vDSO of this machine: where its functions begin, and where it has room. It is an ELF file that the kernel
//! maps into every process, the same for all of 64 bits.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
};

use nix::unistd::Pid;

use super::hook;

/// A jump: its first byte, and a distance of 32 bits.
pub(super) const JUMP_BYTES: usize = 5;
const JUMP: u8 = 0xe9;

/// The kinds of program headers and of entries of the dynamic table that are read.
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_NULL: u64 = 0;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;

/// The size of a symbol.
const SYMBOL_BYTES: usize = 24;

/// The functions that are replaced, and where the code that replaces each begins in the hook.
const FUNCTIONS: [(&str, usize); 3] = [
    ("__vdso_clock_gettime", hook::CLOCK_GETTIME),
    ("__vdso_gettimeofday", hook::GETTIMEOFDAY),
    ("__vdso_time", hook::TIME),
];

/// A function of the vDSO that is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where it begins, from the start of the vDSO.
    pub(super) offset: usize,
    /// What is there.
    pub(super) original: [u8; JUMP_BYTES],
    /// What is put there: a jump to the hook.
    pub(super) jump: [u8; JUMP_BYTES],
}

/// The vDSO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vdso {
    /// How many bytes are mapped.
    pub(super) size: usize,
    /// Its first bytes, which tell it from another one.
    pub(super) header: [u8; 64],
    pub(super) entries: Vec<Entry>,
    /// Where the hook goes, from the start.
    pub(super) hook: usize,
}

impl Vdso {
    /// That of this process.
    ///
    /// # Errors
    /// It has none, or one that is not understood; in words.
    pub(super) fn own() -> Result<Vdso, String> {
        let pid = Pid::this();
        let range = mapping(pid).map_err(|error| format!("/proc: {error}"))?;
        let range = range.ok_or("this kernel maps no vDSO into processes")?;
        let mut image = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
        let read = memory(pid).and_then(|memory| memory.read_exact_at(&mut image, range.start));
        read.map_err(|error| format!("its vDSO cannot be read: {error}"))?;
        Vdso::parse(&image).ok_or_else(|| "the vDSO of this kernel is not understood".to_owned())
    }

    /// Reads an image, as it is in memory. `None` if it is not understood, or has no room.
    fn parse(image: &[u8]) -> Option<Vdso> {
        let header: [u8; 64] = image.get(..64)?.try_into().ok()?;
        let mut used = 0;
        let mut dynamic = None;
        let (first, bytes, count) = (word(image, 32)?, half(image, 54)?, half(image, 56)?);
        for number in 0..count {
            let at = first + number * bytes;
            let (offset, file_bytes) = (word(image, at + 8)?, word(image, at + 32)?);
            match u32::try_from(double(image, at)?).ok()? {
                PT_LOAD => used = used.max(offset.checked_add(file_bytes)?),
                PT_DYNAMIC => dynamic = Some(offset),
                _ => {}
            }
        }
        // Behind what is loaded there are only the headers of sections, which nobody reads in memory.
        let hook = used.checked_next_multiple_of(16)?;
        (hook + hook::BYTES <= image.len()).then_some(())?;
        let entries = FUNCTIONS.iter().map(|(name, code)| {
            let offset = symbol(image, dynamic?, name)?;
            let original = image.get(offset..offset + JUMP_BYTES)?.try_into().ok()?;
            // Relative to what follows the jump.
            let target =
                i32::try_from(hook + code).ok()? - i32::try_from(offset + JUMP_BYTES).ok()?;
            let mut jump = [JUMP; JUMP_BYTES];
            jump[1..].copy_from_slice(&target.to_le_bytes());
            Some(Entry { offset, original, jump })
        });
        let entries = entries.collect::<Option<Vec<Entry>>>()?;
        Some(Vdso { size: image.len(), header, entries, hook })
    }
}

/// Where a symbol is.
fn symbol(image: &[u8], dynamic: usize, name: &str) -> Option<usize> {
    let (mut names, mut symbols, mut hash) = (None, None, None);
    for at in (dynamic..).step_by(16) {
        let value = word(image, at + 8)?;
        match word(image, at)? as u64 {
            DT_NULL => break,
            DT_HASH => hash = Some(value),
            DT_STRTAB => names = Some(value),
            DT_SYMTAB => symbols = Some(value),
            _ => {}
        }
    }
    let (names, symbols) = (names?, symbols?);
    // Without a hash table of the old kind, the symbols end where the names begin, as linkers lay them out.
    let count = match hash {
        Some(hash) => double(image, hash + 4)?,
        None => names.checked_sub(symbols)? / SYMBOL_BYTES,
    };
    (0..count).map(|number| symbols + number * SYMBOL_BYTES).find_map(|at| {
        let start = names + double(image, at)?;
        let found = image.get(start..start + name.len() + 1)?;
        let is_it = found.strip_suffix(&[0]) == Some(name.as_bytes());
        is_it.then(|| word(image, at + 8)).flatten().filter(|offset| *offset != 0)
    })
}

fn half(image: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?).into())
}

fn double(image: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?)).ok()
}

fn word(image: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(image.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok()
}

/// Where the vDSO of a process is. `None` if it has none, as after its end.
pub(super) fn mapping(pid: Pid) -> io::Result<Option<Range<u64>>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"));
    Ok(line.and_then(|line| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        Some(address(start)?..address(end)?)
    }))
}

/// The memory of a process.
pub(super) fn memory(pid: Pid) -> io::Result<File> {
    File::open(format!("/proc/{pid}/mem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vdso_of_this_machine_is_understood() {
        let vdso = Vdso::own().expect("this machine has one");
        assert_eq!(vdso.entries.len(), FUNCTIONS.len());
        for entry in &vdso.entries {
            assert_ne!(entry.original[0], JUMP, "it is already replaced");
            assert!(entry.offset + JUMP_BYTES <= vdso.hook);
        }
    }

    #[test]
    fn what_is_no_vdso_is_not_understood() {
        let pid = Pid::this();
        let range = mapping(pid).expect("/proc").expect("a vDSO");
        let mut image = vec![0; (range.end - range.start) as usize];
        memory(pid).and_then(|memory| memory.read_exact_at(&mut image, range.start)).expect("read");
        assert!(Vdso::parse(&image).is_some());
        let hook = Vdso::own().expect("it is understood").hook;
        assert_eq!(Vdso::parse(&image[..hook + hook::BYTES - 1]), None, "there is no room");
        let at = image.windows(11).position(|part| part == b"__vdso_time").expect("its name");
        image[at] = b'X';
        assert_eq!(Vdso::parse(&image), None, "a function is missing");
        assert_eq!(Vdso::parse(&[0; 64]), None);
        assert_eq!(Vdso::parse(b"\x7fELF"), None);
    }
}
