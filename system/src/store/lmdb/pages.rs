//! Looks through an LMDB data file before it is mapped into memory: LMDB trusts its pages, and a
//! file that is cut short or damaged would end the process by a signal instead of an error. Knows
//! the layout of LMDB's pages (data version 1, 64 bits) and nothing of what the rows mean.

use std::{
    fmt::Display, fs::File, io::ErrorKind, ops::RangeInclusive, os::unix::fs::FileExt as _,
    path::Path,
};

use super::super::StoreError;

/// LMDB takes the operating system's page size, within these bounds.
const PAGE_BYTES: RangeInclusive<u32> = 256..=32768;
/// Both of the first pages describe the whole; the one of the later transaction counts.
const META_PAGES: u64 = 2;
/// What a meta page takes, with its header.
const META_BYTES: usize = 152;
/// What every page begins with: its number, a pad, its kind, its bounds.
const HEADER_BYTES: usize = 16;
/// What every node of a tree begins with.
const NODE_BYTES: usize = 8;
/// What describes a tree: in a meta page, and as the row of a named table.
const TREE_BYTES: usize = 48;
/// The root of an empty tree.
const NO_PAGE: u64 = u64::MAX;

/// LMDB follows no tree that is deeper.
const DEPTH_MAX: u16 = 32;

const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
const META: u16 = 0x08;

/// The data of the node lie in overflow pages.
const BIG: u16 = 0x01;
/// The data of the node describe a named table.
const TABLE: u16 = 0x02;

/// Checks that a data file is LMDB's and whole: the meta pages, and every page that a transaction
/// could come to: that it is there, is of the kind that its parent expects, that its nodes lie
/// inside of it, that no page is used twice, and that none in use is taken for free. Reads all pages
/// but those of long values.
///
/// The file may be shorter than the last page that LMDB ever used: pages that were freed in the
/// transaction that took them are never written. So what is missing must be free.
///
/// # Errors
/// Says what is wrong with the file, or that it cannot be read.
pub(super) fn inspect(path: &Path) -> Result<(), StoreError> {
    let io = |doing| move |source| StoreError::Io { path: path.to_owned(), doing, source };
    let file = File::open(path).map_err(io("cannot open the data file"))?;
    let len = file.metadata().map_err(io("cannot look at the data file"))?.len();

    let meta = Meta::newest(&file, path, len)?;
    let pages = len / u64::from(meta.page_bytes);
    let mut walk = Walk {
        file: &file,
        path,
        len,
        page_bytes: meta.page_bytes as usize,
        pages,
        seen: vec![0; usize::try_from(pages / 64 + 1).unwrap_or(usize::MAX)],
        last: 0,
        free: Vec::new(),
    };
    walk.tree(&meta.free, Kind::FreePages)?;
    walk.tree(&meta.main, Kind::Rows)?;
    walk.account(meta.last_page)
}

/// What of a meta page matters here.
struct Meta {
    page_bytes: u32,
    free: Tree,
    main: Tree,
    last_page: u64,
    transaction: u64,
}

/// A B+tree: where it begins, and what it should hold.
#[derive(Clone, Copy)]
struct Tree {
    flags: u16,
    depth: u16,
    sizes: Sizes,
    root: u64,
}

/// How much a tree holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sizes {
    branch_pages: u64,
    leaf_pages: u64,
    overflow_pages: u64,
    rows: u64,
}

/// What the rows of a tree are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Lists of pages that are free.
    FreePages,
    /// Rows of tables, and tables.
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
    /// The meta page that counts.
    fn newest(file: &File, path: &Path, len: u64) -> Result<Meta, StoreError> {
        let not_lmdb = |why: String| StoreError::NotLmdb { file: path.to_owned(), why };
        if len < META_BYTES as u64 {
            return Err(not_lmdb(format!("it has {len} bytes, less than a meta page")));
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
            // A damaged first page does not tell where the second is.
            Err(_) => {
                let mut second = Err("is not found".to_owned());
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
                    "both of its meta pages are bad: the first {first}, the second {second}"
                )));
            }
            // The other one may be older than the last commit, so it must not be trusted.
            (Err(what), Ok(_)) => return Err(damaged(path, format!("the first meta page {what}"))),
            (Ok(_), Err(what)) => {
                return Err(damaged(path, format!("the second meta page {what}")));
            }
        };
        // Commits write the two in turn: the first page has the even ones.
        match (first.transaction, second.transaction) {
            (0, 0) => Ok(first),
            (even, odd) if even % 2 == 0 && even.checked_add(1) == Some(odd) => Ok(second),
            (even, odd) if even % 2 == 0 && odd.checked_add(1) == Some(even) => Ok(first),
            (even, odd) => Err(damaged(
                path,
                format!("the meta pages are of transactions {even} and {odd}, which never follow"),
            )),
        }
    }

    /// One meta page, or what is wrong with it.
    fn read(file: &File, path: &Path, at: u64) -> Result<Result<Meta, String>, StoreError> {
        let mut bytes = [0; META_BYTES];
        match file.read_exact_at(&mut bytes, at) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Ok(Err("is cut off".to_owned()));
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
            Err(format!("has {magic:08x} where {MAGIC:08x} should be"))
        } else if version != DATA_VERSION {
            Err(format!("is of data version {version} instead of {DATA_VERSION}"))
        } else if u16_at(&bytes, 10) != META {
            Err("is not marked as one".to_owned())
        } else if !page_bytes.is_power_of_two() || !PAGE_BYTES.contains(&page_bytes) {
            Err(format!("says that a page has {page_bytes} bytes"))
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

/// A walk through all trees of a file.
struct Walk<'a> {
    file: &'a File,
    path: &'a Path,
    len: u64,
    page_bytes: usize,
    /// How many whole pages the file has.
    pages: u64,
    /// A bit for each page that was come to.
    seen: Vec<u64>,
    /// The last page that was come to.
    last: u64,
    /// The pages that are free.
    free: Vec<u64>,
}

impl Walk<'_> {
    /// Checks a tree, and the trees of the named tables in it.
    fn tree(&mut self, tree: &Tree, kind: Kind) -> Result<(), StoreError> {
        // The low flags would make it a table of integers, duplicates or reversed keys.
        if kind == Kind::Rows && tree.flags & 0x7f != 0 {
            return Err(StoreError::NotLmdb {
                file: self.path.to_owned(),
                why: format!("a table has flags {:#x}, which no store uses", tree.flags),
            });
        }
        if tree.depth > DEPTH_MAX {
            return Err(self.damaged(format!("a tree is {} levels deep", tree.depth)));
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

    /// Checks what is below a page, and counts it.
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
            0 => return Err(self.damaged_page(number, "is the root of a tree without levels")),
            1 => (LEAF, &mut sizes.leaf_pages),
            _ => (BRANCH, &mut sizes.branch_pages),
        };
        if page_kind != expected {
            let what = format!("is of kind {page_kind:#x} instead of {expected:#x}");
            return Err(self.damaged_page(number, what));
        }
        *count += 1;
        let (lower, upper) = (u16_at(&page, 12) as usize, u16_at(&page, 14) as usize);
        if lower < HEADER_BYTES || lower % 2 != 0 || lower > upper || upper > self.page_bytes {
            return Err(self.damaged_page(number, format!("has bounds {lower} and {upper}")));
        }
        if lower == HEADER_BYTES {
            return Err(self.damaged_page(number, "is empty"));
        }
        let mut last_key: Option<&[u8]> = None;
        for slot in (HEADER_BYTES..lower).step_by(2) {
            let at = u16_at(&page, slot) as usize;
            let node = page.get(at..).filter(|node| at >= upper && node.len() >= NODE_BYTES);
            let Some(node) = node else {
                return Err(self.damaged_page(number, format!("has a node at {at}")));
            };
            let key_bytes = u16_at(node, 6) as usize;
            let Some(key) = node.get(NODE_BYTES..NODE_BYTES + key_bytes) else {
                return Err(self.damaged_page(number, format!("has a key of {key_bytes} bytes")));
            };
            // The first key of a branch page stands for all lesser ones and may be empty.
            let first_of_branch = depth > 1 && slot == HEADER_BYTES;
            if kind == Kind::Rows && !first_of_branch {
                if key.is_empty() || last_key.is_some_and(|last| last >= key) {
                    return Err(self.damaged_page(number, "has its keys in the wrong order"));
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

    /// Checks where the data of a row of a leaf page lie.
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
            return Err(self.damaged_page(number, format!("has a row of {data_bytes} bytes")));
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
            _ => Err(self.damaged_page(number, format!("has a row with flags {flags:#x}"))),
        }
    }

    /// Checks the pages of a long value, without reading the value, and counts them.
    fn overflow(&mut self, first: u64, data_bytes: usize) -> Result<u64, StoreError> {
        self.visit(first)?;
        let mut header = [0; HEADER_BYTES];
        self.read_page(first, &mut header)?;
        let (kind, pages) = (u16_at(&header, 10), u32_at(&header, 12));
        let want = (HEADER_BYTES + data_bytes).div_ceil(self.page_bytes);
        if kind != OVERFLOW || (pages as usize) < want {
            return Err(self.damaged_page(
                first,
                format!("is of kind {kind:#x}, {pages} long, for a value of {data_bytes} bytes"),
            ));
        }
        for further in 1..u64::from(pages) {
            self.visit(first + further)?;
        }
        Ok(pages.into())
    }

    /// Takes up a list of free pages: how many, then each.
    fn free_pages(&mut self, number: u64, list: &[u8]) -> Result<(), StoreError> {
        let count = list.len() / 8;
        if count == 0 || !list.len().is_multiple_of(8) || u64_at(list, 0) > count as u64 - 1 {
            return Err(self.damaged_page(number, "has a list of free pages that is too short"));
        }
        let count = u64_at(list, 0) as usize;
        self.free.extend((1..=count).map(|at| u64_at(list, at * 8)));
        Ok(())
    }

    /// Checks that no page is both in use and free, that none is beyond the last, and that what the
    /// file lacks is free.
    fn account(&mut self, last_page: u64) -> Result<(), StoreError> {
        if self.last > last_page {
            let last = self.last;
            return Err(
                self.damaged(format!("page {last} is in use, beyond the last, {last_page}"))
            );
        }
        self.free.sort_unstable();
        let mut lacking = self.pages;
        for at in 0..self.free.len() {
            let number = self.free[at];
            let twice = at > 0 && self.free[at - 1] == number;
            let (word, bit) = place(number);
            let used = self.seen.get(word).is_some_and(|seen| seen & bit != 0);
            if twice || used || number < META_PAGES || number > last_page {
                return Err(self.damaged_page(number, "is taken for free"));
            }
            lacking += u64::from(number == lacking);
        }
        if lacking <= last_page { Err(self.truncated(lacking)) } else { Ok(()) }
    }

    /// Reads a page that is come to for the first time.
    fn page(&mut self, number: u64) -> Result<Vec<u8>, StoreError> {
        self.visit(number)?;
        let mut page = vec![0; self.page_bytes];
        self.read_page(number, &mut page)?;
        Ok(page)
    }

    /// Reads the beginning of a page, with its header.
    fn read_page(&self, number: u64, into: &mut [u8]) -> Result<(), StoreError> {
        self.read(number, 0, into)?;
        match u64_at(into, 0) {
            found if found == number => Ok(()),
            found => Err(self.damaged_page(number, format!("says that it is page {found}"))),
        }
    }

    /// Reads what follows some bytes of a page.
    fn read(&self, number: u64, offset: usize, into: &mut [u8]) -> Result<(), StoreError> {
        let at = number * self.page_bytes as u64 + offset as u64;
        self.file.read_exact_at(into, at).map_err(|source| {
            let doing = "cannot read a page";
            StoreError::Io { path: self.path.to_owned(), doing, source }
        })
    }

    /// Notes that a page is in use: it must be there, and in use once.
    fn visit(&mut self, number: u64) -> Result<(), StoreError> {
        if number >= self.pages {
            return Err(self.truncated(number));
        }
        let (word, bit) = place(number);
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

/// The word and the bit of a page.
fn place(number: u64) -> (usize, u64) {
    (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64))
}

fn damaged(path: &Path, what: impl Display) -> StoreError {
    StoreError::Damaged { file: path.to_owned(), what: what.to_string() }
}

// LMDB writes its files in the machine's own byte order.

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().expect("2 bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
