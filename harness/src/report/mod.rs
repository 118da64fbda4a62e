//! What people look at after a run.

pub mod summary;
