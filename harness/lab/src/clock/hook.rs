//! The code that answers instead of the vDSO: it makes the system call, and shifts the time that the kernel
//! says. Bytes, as an assembler gives them for the listing beside them.

/// What is wrong with the clock, as the hook reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HookData {
    /// Added to the time, in nanoseconds.
    pub(super) jump_ns: i64,
    /// The true time from which on the clock drifts, in nanoseconds since 1970.
    pub(super) anchor_ns: i64,
    /// How much is added for a nanosecond that has passed since, in units of 2^-32.
    pub(super) rate: i64,
}

impl HookData {
    /// The words, in the order in which the code expects them.
    fn words(self) -> [i64; 3] {
        [self.jump_ns, self.anchor_ns, self.rate]
    }
}

/// The size of [`HookData`], which the code follows.
pub(super) const DATA_BYTES: usize = 24;

/// Where the code for each function begins.
pub(super) const CLOCK_GETTIME: usize = 0x18;
pub(super) const GETTIMEOFDAY: usize = 0x4b;
pub(super) const TIME: usize = 0x87;

/// The code. Its only references are to itself and to the data before it, relative to the instruction.
#[rustfmt::skip]
const CODE: &[u8] = &[
    // clock_gettime(edi = clock, rsi = result)
    0xb8, 0xe4, 0x00, 0x00, 0x00,             // 18: mov    eax, 228          clock_gettime
    0x0f, 0x05,                               // 1d: syscall
    0x85, 0xc0,                               // 1f: test   eax, eax
    0x75, 0x27,                               // 21: jne    4a                an error is the caller's
    0x85, 0xff,                               // 23: test   edi, edi
    0x74, 0x0a,                               // 25: je     31                CLOCK_REALTIME
    0x83, 0xff, 0x05,                         // 27: cmp    edi, 5
    0x74, 0x05,                               // 2a: je     31                CLOCK_REALTIME_COARSE
    0x83, 0xff, 0x0b,                         // 2c: cmp    edi, 11
    0x75, 0x19,                               // 2f: jne    4a                not CLOCK_TAI
    0x48, 0x69, 0x06, 0x00, 0xca, 0x9a, 0x3b, // 31: imul   rax, [rsi], 1000000000
    0x48, 0x03, 0x46, 0x08,                   // 38: add    rax, [rsi + 8]
    0xe8, 0x7a, 0x00, 0x00, 0x00,             // 3c: call   bb
    0x48, 0x89, 0x06,                         // 41: mov    [rsi], rax
    0x48, 0x89, 0x56, 0x08,                   // 44: mov    [rsi + 8], rdx
    0x31, 0xc0,                               // 48: xor    eax, eax
    0xc3,                                     // 4a: ret
    // gettimeofday(rdi = result or null, rsi = time zone or null)
    0xb8, 0x60, 0x00, 0x00, 0x00,             // 4b: mov    eax, 96           gettimeofday
    0x0f, 0x05,                               // 50: syscall
    0x85, 0xc0,                               // 52: test   eax, eax
    0x75, 0x30,                               // 54: jne    86
    0x48, 0x85, 0xff,                         // 56: test   rdi, rdi
    0x74, 0x2b,                               // 59: je     86
    0x48, 0x69, 0x07, 0x00, 0xca, 0x9a, 0x3b, // 5b: imul   rax, [rdi], 1000000000
    0x48, 0x69, 0x4f, 0x08, 0xe8, 0x03, 0x00, // 62: imul   rcx, [rdi + 8], 1000
    0x00,
    0x48, 0x01, 0xc8,                         // 6a: add    rax, rcx
    0xe8, 0x49, 0x00, 0x00, 0x00,             // 6d: call   bb
    0x48, 0x89, 0x07,                         // 72: mov    [rdi], rax
    0x89, 0xd0,                               // 75: mov    eax, edx
    0x31, 0xd2,                               // 77: xor    edx, edx
    0xb9, 0xe8, 0x03, 0x00, 0x00,             // 79: mov    ecx, 1000
    0xf7, 0xf1,                               // 7e: div    ecx
    0x48, 0x89, 0x47, 0x08,                   // 80: mov    [rdi + 8], rax
    0x31, 0xc0,                               // 84: xor    eax, eax
    0xc3,                                     // 86: ret
    // time(rdi = result or null). The system call of this name says whole seconds, which cannot be shifted by parts.
    0x57,                                     // 87: push   rdi
    0x48, 0x83, 0xec, 0x10,                   // 88: sub    rsp, 16
    0x48, 0x89, 0xe6,                         // 8c: mov    rsi, rsp
    0xbf, 0x05, 0x00, 0x00, 0x00,             // 8f: mov    edi, 5            CLOCK_REALTIME_COARSE
    0xb8, 0xe4, 0x00, 0x00, 0x00,             // 94: mov    eax, 228          clock_gettime
    0x0f, 0x05,                               // 99: syscall
    0x48, 0x69, 0x04, 0x24, 0x00, 0xca, 0x9a, // 9b: imul   rax, [rsp], 1000000000
    0x3b,
    0x48, 0x03, 0x44, 0x24, 0x08,             // a3: add    rax, [rsp + 8]
    0xe8, 0x0e, 0x00, 0x00, 0x00,             // a8: call   bb
    0x48, 0x83, 0xc4, 0x10,                   // ad: add    rsp, 16
    0x5f,                                     // b1: pop    rdi
    0x48, 0x85, 0xff,                         // b2: test   rdi, rdi
    0x74, 0x03,                               // b5: je     ba
    0x48, 0x89, 0x07,                         // b7: mov    [rdi], rax
    0xc3,                                     // ba: ret
    // shift(rax = true time in ns) gives rax = seconds and rdx = nanoseconds of the wrong time:
    // time + jump + (time - anchor) * rate / 2^32
    0x48, 0x89, 0xc1,                         // bb: mov    rcx, rax
    0x48, 0x2b, 0x05, 0x43, 0xff, 0xff, 0xff, // be: sub    rax, [rip - 0xbd] anchor
    0x48, 0xf7, 0x2d, 0x44, 0xff, 0xff, 0xff, // c5: imul   [rip - 0xbc]      rate
    0x48, 0x0f, 0xac, 0xd0, 0x20,             // cc: shrd   rax, rdx, 32
    0x48, 0x01, 0xc8,                         // d1: add    rax, rcx
    0x48, 0x03, 0x05, 0x25, 0xff, 0xff, 0xff, // d4: add    rax, [rip - 0xdb] jump
    0x31, 0xd2,                               // db: xor    edx, edx
    0xb9, 0x00, 0xca, 0x9a, 0x3b,             // dd: mov    ecx, 1000000000
    0x48, 0xf7, 0xf1,                         // e2: div    rcx
    0xc3,                                     // e5: ret
];

/// The size of the hook.
pub(super) const BYTES: usize = DATA_BYTES + CODE.len();

/// The hook with its data, as it is written into a process.
pub(super) fn bytes(data: HookData) -> Vec<u8> {
    let mut bytes: Vec<u8> = data.words().iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(CODE);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_where_its_listing_says() {
        let bytes = bytes(HookData { jump_ns: 1, anchor_ns: 2, rate: 3 });
        assert_eq!((bytes.len(), BYTES), (0xe6, 0xe6));
        assert_eq!(
            bytes[..DATA_BYTES],
            [[1, 0, 0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0, 0]].concat()
        );
        // Each function follows the return of the one before it, and is called where it begins.
        for (function, first) in [(CLOCK_GETTIME, 0xb8), (GETTIMEOFDAY, 0xb8), (TIME, 0x57)] {
            assert_eq!(bytes[function], first);
        }
        for function in [GETTIMEOFDAY, TIME, 0xbb] {
            assert_eq!(bytes[function - 1], 0xc3);
        }
        for call in [0x3c, 0x6d, 0xa8] {
            let distance = i32::from_le_bytes(bytes[call + 1..call + 5].try_into().expect("4"));
            assert_eq!((bytes[call], call as i32 + 5 + distance), (0xe8, 0xbb));
        }
    }
}
