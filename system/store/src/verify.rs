//! Verifies an LMDB data file before it is mapped. LMDB trusts its pages: a truncated or damaged
//! file would end the process by a signal instead of an error. Knows the page layout of LMDB (data
//! version 1, 64 bits), but not the meaning of the rows.

use std::{
    fmt::Display, fs::File, io::ErrorKind, ops::RangeInclusive, os::unix::fs::FileExt as _,
    path::Path,
};

use crate::StoreError;

/// LMDB uses the page size of the operating system, within these bounds.
const PAGE_BYTES: RangeInclusive<u32> = 256..=32768;
/// The first two pages are meta pages; the one of the later transaction is current.
pub(crate) const META_PAGES: u64 = 2;
/// The size of a meta page with its header.
const META_BYTES: usize = 152;
/// The size of a page header: page number, padding, kind, bounds.
const HEADER_BYTES: usize = 16;
/// The size of a node header.
const NODE_BYTES: usize = 8;
/// The size of a tree descriptor, in a meta page or as the row of a named table.
const TREE_BYTES: usize = 48;
/// The root of an empty tree.
const NO_PAGE: u64 = u64::MAX;

/// The maximum depth of a tree that LMDB accepts.
const DEPTH_MAX: u16 = 32;

const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
const META: u16 = 0x08;

/// The node's data is in overflow pages.
const BIG: u16 = 0x01;
/// The node's data describes a named table.
const TABLE: u16 = 0x02;

/// Checks the meta pages and every page that a transaction could reach: it exists, has the kind
/// that its parent expects, contains all of its nodes, is used once, and is not in the free list.
/// Reads every page except those of long values.
///
/// The file may end before the last page that LMDB ever allocated: a page that is freed in the
/// transaction that allocated it is never written. So every page beyond the end must be free.
///
/// # Errors
/// The file is damaged or truncated, is not an LMDB file, or cannot be read.
pub(crate) fn verify(path: &Path) -> Result<(), StoreError> {
    let io = |doing| move |source| StoreError::Io { path: path.to_owned(), doing, source };
    let file = File::open(path).map_err(io("cannot open the data file"))?;
    let len = file.metadata().map_err(io("cannot inspect the data file"))?.len();

    let meta = Meta::newest(&file, path, len)?;
    let pages = len / u64::from(meta.page_bytes);
    let mut walker = Walker {
        file: &file,
        path,
        len,
        page_bytes: meta.page_bytes as usize,
        pages,
        seen: vec![0; usize::try_from(pages / 64 + 1).unwrap_or(usize::MAX)],
        last: 0,
        free: Vec::new(),
    };
    walker.tree(&meta.free, Kind::FreePages)?;
    walker.tree(&meta.main, Kind::Rows)?;
    walker.check_page_use(meta.last_page)
}

/// The fields of a meta page that verification needs.
struct Meta {
    page_bytes: u32,
    free: Tree,
    main: Tree,
    last_page: u64,
    transaction: u64,
}

/// A B+tree descriptor.
#[derive(Clone, Copy)]
struct Tree {
    flags: u16,
    depth: u16,
    sizes: Sizes,
    root: u64,
}

/// The page and row counts of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sizes {
    branch_pages: u64,
    leaf_pages: u64,
    overflow_pages: u64,
    rows: u64,
}

/// The content of a tree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Lists of free pages.
    FreePages,
    /// Rows of tables, and named tables.
    Rows,
}

impl Tree {
    fn parse(bytes: &[u8]) -> Tree {
        Tree {
            flags: u16_at(bytes, 4),
            depth: u16_at(bytes, 6),
            sizes: Sizes {
                branch_pages: u64_at(bytes, 8),
                leaf_pages: u64_at(bytes, 16),
                overflow_pages: u64_at(bytes, 24),
                rows: u64_at(bytes, 32),
            },
            root: u64_at(bytes, 40),
        }
    }
}

impl Meta {
    /// The current meta page.
    fn newest(file: &File, path: &Path, len: u64) -> Result<Meta, StoreError> {
        let not_lmdb = |why: String| StoreError::NotLmdb { file: path.to_owned(), why };
        if len < META_BYTES as u64 {
            return Err(not_lmdb(format!("it has {len} bytes, fewer than a meta page")));
        }
        let first = Meta::read(file, path, 0)?;
        let second = match &first {
            Ok(meta) => {
                let page_bytes = u64::from(meta.page_bytes);
                let want = page_bytes * META_PAGES;
                if len < want {
                    return Err(StoreError::Truncated {
                        file: path.to_owned(),
                        len,
                        page: 1,
                        want,
                    });
                }
                Meta::read(file, path, page_bytes)?
            }
            // A damaged first page does not tell the page size, so try each for the second.
            Err(_) => {
                let mut second = Err("cannot be found".to_owned());
                for page_bytes in PAGE_BYTES.filter(|bytes| bytes.is_power_of_two()) {
                    second = second.or(Meta::read(file, path, page_bytes.into())?);
                }
                second
            }
        };
        let (first, second) = match (first, second) {
            (Ok(first), Ok(second)) => (first, second),
            (Err(first), Err(second)) => {
                return Err(not_lmdb(format!(
                    "both meta pages are invalid: the first {first}, the second {second}"
                )));
            }
            // The intact one may be older than the last commit, so it must not be used.
            (Err(what), Ok(_)) => return Err(damaged(path, format!("the first meta page {what}"))),
            (Ok(_), Err(what)) => {
                return Err(damaged(path, format!("the second meta page {what}")));
            }
        };
        // Commits alternate between the two: the first page has the even transactions.
        match (first.transaction, second.transaction) {
            (0, 0) => Ok(first),
            (even, odd) if even % 2 == 0 && even.checked_add(1) == Some(odd) => Ok(second),
            (even, odd) if even % 2 == 0 && odd.checked_add(1) == Some(even) => Ok(first),
            (even, odd) => Err(damaged(
                path,
                format!(
                    "the meta pages have the transactions {even} and {odd}, which are not consecutive"
                ),
            )),
        }
    }

    /// Reads one meta page; the inner error says what is wrong with it.
    fn read(file: &File, path: &Path, at: u64) -> Result<Result<Meta, String>, StoreError> {
        let mut bytes = [0; META_BYTES];
        match file.read_exact_at(&mut bytes, at) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Ok(Err("is truncated".to_owned()));
            }
            Err(source) => {
                let doing = "cannot read a meta page";
                return Err(StoreError::Io { path: path.to_owned(), doing, source });
            }
            Ok(()) => {}
        }
        let page_bytes = u32_at(&bytes, 40);
        let (magic, version) = (u32_at(&bytes, 16), u32_at(&bytes, 20));
        Ok(if magic != MAGIC {
            Err(format!("has the magic number {magic:08x} instead of {MAGIC:08x}"))
        } else if version != DATA_VERSION {
            Err(format!("has data version {version} instead of {DATA_VERSION}"))
        } else if u16_at(&bytes, 10) != META {
            Err("is not marked as a meta page".to_owned())
        } else if !page_bytes.is_power_of_two() || !PAGE_BYTES.contains(&page_bytes) {
            Err(format!("has an invalid page size of {page_bytes} bytes"))
        } else {
            Ok(Meta {
                page_bytes,
                free: Tree::parse(&bytes[40..]),
                main: Tree::parse(&bytes[40 + TREE_BYTES..]),
                last_page: u64_at(&bytes, 136),
                transaction: u64_at(&bytes, 144),
            })
        })
    }
}

/// Walks through every tree of a file.
struct Walker<'a> {
    file: &'a File,
    path: &'a Path,
    len: u64,
    page_bytes: usize,
    /// The number of whole pages in the file.
    pages: u64,
    /// A bit for each page that was reached.
    seen: Vec<u64>,
    /// The highest page number that was reached.
    last: u64,
    /// The free pages.
    free: Vec<u64>,
}

impl Walker<'_> {
    /// Checks a tree, and the trees of the named tables in it.
    fn tree(&mut self, tree: &Tree, kind: Kind) -> Result<(), StoreError> {
        // The low flags would select integer keys, duplicates or reversed keys.
        if kind == Kind::Rows && tree.flags & 0x7f != 0 {
            return Err(StoreError::NotLmdb {
                file: self.path.to_owned(),
                why: format!("a table has the unsupported flags {:#x}", tree.flags),
            });
        }
        if tree.depth > DEPTH_MAX {
            return Err(self.damaged(format!("a tree has {} levels", tree.depth)));
        }
        let mut sizes = Sizes::default();
        if tree.root != NO_PAGE {
            self.subtree(tree.root, tree.depth, kind, &mut sizes)?;
        }
        if sizes != tree.sizes {
            let Tree { root, sizes: want, .. } = tree;
            return Err(self
                .damaged(format!("the tree at page {root} holds {sizes:?} instead of {want:?}")));
        }
        Ok(())
    }

    /// Checks a page and everything below it, and adds to the counts.
    fn subtree(
        &mut self,
        number: u64,
        depth: u16,
        kind: Kind,
        sizes: &mut Sizes,
    ) -> Result<(), StoreError> {
        let page = self.page(number)?;
        let page_kind = u16_at(&page, 10);
        let (expected, count) = match depth {
            0 => return Err(self.damaged_page(number, "is the root of a tree of depth 0")),
            1 => (LEAF, &mut sizes.leaf_pages),
            _ => (BRANCH, &mut sizes.branch_pages),
        };
        if page_kind != expected {
            let what = format!("has kind {page_kind:#x} instead of {expected:#x}");
            return Err(self.damaged_page(number, what));
        }
        *count += 1;
        let (lower, upper) = (u16_at(&page, 12) as usize, u16_at(&page, 14) as usize);
        if lower < HEADER_BYTES || lower % 2 != 0 || lower > upper || upper > self.page_bytes {
            return Err(
                self.damaged_page(number, format!("has the invalid bounds {lower} and {upper}"))
            );
        }
        if lower == HEADER_BYTES {
            return Err(self.damaged_page(number, "is empty"));
        }
        let mut last_key: Option<&[u8]> = None;
        for slot in (HEADER_BYTES..lower).step_by(2) {
            let at = u16_at(&page, slot) as usize;
            let node = page.get(at..).filter(|node| at >= upper && node.len() >= NODE_BYTES);
            let Some(node) = node else {
                return Err(
                    self.damaged_page(number, format!("has a node at the invalid offset {at}"))
                );
            };
            let key_bytes = u16_at(node, 6) as usize;
            let Some(key) = node.get(NODE_BYTES..NODE_BYTES + key_bytes) else {
                return Err(self.damaged_page(
                    number,
                    format!("has a key with the invalid length of {key_bytes} bytes"),
                ));
            };
            // The first key of a branch page covers all smaller keys and may be empty.
            let first_of_branch = depth > 1 && slot == HEADER_BYTES;
            if kind == Kind::Rows && !first_of_branch {
                if key.is_empty() || last_key.is_some_and(|last| last >= key) {
                    return Err(self.damaged_page(number, "has keys out of order"));
                }
                last_key = Some(key);
            }
            if depth > 1 {
                let child = u64::from(u32_at(node, 0)) | u64::from(u16_at(node, 4)) << 32;
                self.subtree(child, depth - 1, kind, sizes)?;
            } else {
                self.row(number, node, key_bytes, kind, sizes)?;
                sizes.rows += 1;
            }
        }
        Ok(())
    }

    /// Checks the location of the data of a row in a leaf page.
    fn row(
        &mut self,
        number: u64,
        node: &[u8],
        key_bytes: usize,
        kind: Kind,
        sizes: &mut Sizes,
    ) -> Result<(), StoreError> {
        let data_bytes = u32_at(node, 0) as usize;
        let flags = u16_at(node, 4);
        let data = &node[NODE_BYTES + key_bytes..];
        let inside = if flags & BIG == 0 { data_bytes } else { 8 };
        let Some(data) = data.get(..inside) else {
            return Err(self.damaged_page(
                number,
                format!("has a row with the invalid length of {data_bytes} bytes"),
            ));
        };
        match (kind, flags) {
            (Kind::Rows, 0) => Ok(()),
            (Kind::Rows, TABLE) if data_bytes == TREE_BYTES => {
                self.tree(&Tree::parse(data), Kind::Rows)
            }
            (Kind::Rows, BIG) => {
                sizes.overflow_pages += self.overflow(u64_at(data, 0), data_bytes)?;
                Ok(())
            }
            (Kind::FreePages, 0) => self.free_pages(number, data),
            (Kind::FreePages, BIG) => {
                let first = u64_at(data, 0);
                sizes.overflow_pages += self.overflow(first, data_bytes)?;
                let mut data = vec![0; data_bytes];
                self.read(first, HEADER_BYTES, &mut data)?;
                self.free_pages(first, &data)
            }
            _ => Err(self
                .damaged_page(number, format!("has a row with the unsupported flags {flags:#x}"))),
        }
    }

    /// Checks the overflow pages of a long value without reading the value, and returns their
    /// number.
    fn overflow(&mut self, first: u64, data_bytes: usize) -> Result<u64, StoreError> {
        self.mark_used(first)?;
        let mut header = [0; HEADER_BYTES];
        self.read_page(first, &mut header)?;
        let (kind, pages) = (u16_at(&header, 10), u32_at(&header, 12));
        let want = (HEADER_BYTES + data_bytes).div_ceil(self.page_bytes);
        if kind != OVERFLOW || (pages as usize) < want {
            return Err(self.damaged_page(
                first,
                format!("has kind {kind:#x} and {pages} pages, for a value of {data_bytes} bytes"),
            ));
        }
        for further in 1..u64::from(pages) {
            self.mark_used(first + further)?;
        }
        Ok(pages.into())
    }

    /// Adds a list of free pages: a count, then each page number.
    fn free_pages(&mut self, number: u64, list: &[u8]) -> Result<(), StoreError> {
        let count = list.len() / 8;
        if count == 0 || !list.len().is_multiple_of(8) || u64_at(list, 0) > count as u64 - 1 {
            return Err(self.damaged_page(number, "has a truncated list of free pages"));
        }
        let count = u64_at(list, 0) as usize;
        self.free.extend((1..=count).map(|at| u64_at(list, at * 8)));
        Ok(())
    }

    /// Checks that no page is both in use and free, that none is beyond the last allocated page,
    /// and that every page beyond the end of the file is free.
    fn check_page_use(&mut self, last_page: u64) -> Result<(), StoreError> {
        if self.last > last_page {
            let last = self.last;
            return Err(self.damaged(format!(
                "page {last} is in use, beyond the last allocated page {last_page}"
            )));
        }
        self.free.sort_unstable();
        let mut missing = self.pages;
        for at in 0..self.free.len() {
            let number = self.free[at];
            let twice = at > 0 && self.free[at - 1] == number;
            let (word, bit) = bit_of(number);
            let used = self.seen.get(word).is_some_and(|seen| seen & bit != 0);
            if twice || used || number < META_PAGES || number > last_page {
                return Err(self.damaged_page(number, "is wrongly in the free list"));
            }
            missing += u64::from(number == missing);
        }
        if missing <= last_page { Err(self.truncated(missing)) } else { Ok(()) }
    }

    /// Reads a page that is reached for the first time.
    fn page(&mut self, number: u64) -> Result<Vec<u8>, StoreError> {
        self.mark_used(number)?;
        let mut page = vec![0; self.page_bytes];
        self.read_page(number, &mut page)?;
        Ok(page)
    }

    /// Reads the start of a page and checks its page number.
    fn read_page(&self, number: u64, into: &mut [u8]) -> Result<(), StoreError> {
        self.read(number, 0, into)?;
        match u64_at(into, 0) {
            found if found == number => Ok(()),
            found => Err(self.damaged_page(number, format!("has the page number {found}"))),
        }
    }

    /// Reads from an offset in a page.
    fn read(&self, number: u64, offset: usize, into: &mut [u8]) -> Result<(), StoreError> {
        let at = number * self.page_bytes as u64 + offset as u64;
        self.file.read_exact_at(into, at).map_err(|source| {
            let doing = "cannot read a page";
            StoreError::Io { path: self.path.to_owned(), doing, source }
        })
    }

    /// Marks a page as used: it must exist, and be used once.
    fn mark_used(&mut self, number: u64) -> Result<(), StoreError> {
        if number >= self.pages {
            return Err(self.truncated(number));
        }
        let (word, bit) = bit_of(number);
        if number < META_PAGES || self.seen[word] & bit != 0 {
            return Err(self.damaged_page(number, "is used twice"));
        }
        self.seen[word] |= bit;
        self.last = self.last.max(number);
        Ok(())
    }

    fn truncated(&self, page: u64) -> StoreError {
        let want = page.saturating_add(1).saturating_mul(self.page_bytes as u64);
        StoreError::Truncated { file: self.path.to_owned(), len: self.len, page, want }
    }

    fn damaged(&self, what: impl Display) -> StoreError {
        damaged(self.path, what)
    }

    fn damaged_page(&self, number: u64, what: impl Display) -> StoreError {
        self.damaged(format!("page {number} {what}"))
    }
}

/// The word and the bit of a page in the bit set.
fn bit_of(number: u64) -> (usize, u64) {
    (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64))
}

fn damaged(path: &Path, what: impl Display) -> StoreError {
    StoreError::Damaged { file: path.to_owned(), what: what.to_string() }
}

// LMDB files use the byte order of the machine.

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().expect("2 bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
