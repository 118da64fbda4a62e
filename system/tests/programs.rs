//! The programs as they are shipped: without the feature `test-hooks`, no flag can weaken them.

#[cfg(not(feature = "test-hooks"))]
mod shipped {
    use std::process::{Command, Output};

    const NODES: [&str; 2] = [env!("CARGO_BIN_EXE_master"), env!("CARGO_BIN_EXE_replica")];
    const HOOKS: [&str; 5] = ["--break", "--journal", "--arm", "--control", "--parent"];

    fn run(program: &str, args: &[&str]) -> Output {
        Command::new(program).args(args).output().expect("the program starts")
    }

    #[test]
    fn help_shows_no_test_hooks() {
        for program in NODES {
            let help = run(program, &["--help"]);
            assert!(help.status.success());
            let help = String::from_utf8(help.stdout).expect("text");
            assert!(help.contains("--bootstrap"), "{help}");
            assert!(HOOKS.iter().all(|flag| !help.contains(flag)), "{help}");
        }
    }

    #[test]
    fn test_hooks_are_unknown_flags() {
        for program in NODES {
            for flag in HOOKS {
                let output = run(program, &[flag, "1"]);
                assert_eq!(output.status.code(), Some(2));
                let stderr = String::from_utf8(output.stderr).expect("text");
                assert!(stderr.contains(&format!("unexpected argument '{flag}'")), "{stderr}");
            }
        }
    }
}

#[cfg(feature = "test-hooks")]
#[test]
#[ignore = "tests programs without the feature test-hooks: cargo test -p system --test programs"]
fn shipped() {}
