//! The generated files under `src/generated` match the `.proto` files. They are kept in the
//! repository so that a build needs no compiler for `.proto` files. This test generates them again
//! and compares.
//!
//! After a change of a `.proto` file: `UPDATE_GENERATED=1 cargo test -p proto`.

use std::{env, fs, path::Path};

use prost::Message;

#[test]
fn generated_files_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["kv", "peer", "inspect"].map(|name| format!("twopc/v1/{name}.proto"));
    let descriptors = protox::compile(files, [root.join("proto")]).expect("the files are correct");
    let out = tempfile::tempdir().expect("a directory");
    fs::write(out.path().join("twopc.v1.bin"), descriptors.encode_to_vec()).expect("it is written");
    tonic_prost_build::configure()
        // Keys and values remain slices of the received buffer.
        .bytes(".")
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("the descriptors are correct");
    for name in ["twopc.v1.rs", "twopc.v1.bin"] {
        let new = fs::read(out.path().join(name)).expect("it was generated");
        let kept = root.join("src/generated").join(name);
        if env::var_os("UPDATE_GENERATED").is_some() {
            fs::write(&kept, &new).expect("it is written");
        }
        let same = fs::read(&kept).is_ok_and(|kept| kept == new);
        assert!(same, "{}: stale; run UPDATE_GENERATED=1 cargo test -p proto", kept.display());
    }
}
