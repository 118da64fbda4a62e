//! Mistakes that a programmer could make in the store, and that no rule is about. Each has a name, so
//! that a test can make it and see which check detects it. In production none is made.

use std::fmt;

macro_rules! mistakes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal : $does:literal),* $(,)?) => {
        /// One mistake.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mistake { $($(#[$doc])* $variant),* }

        impl Mistake {
            /// Every mistake.
            pub const ALL: &[Mistake] = &[$(Mistake::$variant),*];

            /// The mistake's name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Mistake::$variant => $name),* }
            }

            /// What a store does that makes the mistake.
            #[must_use]
            pub fn does(self) -> &'static str {
                match self { $(Mistake::$variant => $does),* }
            }
        }
    };
}

mistakes! {
    /// Recovery drops the last record of each frame of the WAL that holds several.
    FrameEndForgotten = "frame-end-forgotten": "recovers each frame of the WAL without its last record",
    /// The length of a value is kept in 16 bits.
    ValueLengthInSixteenBits = "value-length-in-16-bits": "reads the length of a value modulo 65,536",
    /// The length of a key is kept in 8 bits.
    KeyLengthInEightBits = "key-length-in-8-bits": "looks keys up by the length modulo 256",
    /// A deleted key that no checkpoint has removed yet is found, without a value.
    DeleteReadAsEmpty = "delete-read-as-empty": "reads an empty value where a key was deleted",
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
