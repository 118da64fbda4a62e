//! Every command of this program in the documents and in the help is one that it understands.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{CommandFactory as _, Parser as _};

use super::{Cli, help::AFTER_HELP};

/// The documents whose commands are parsed: all of the repository but its list of changes, which has former ones.
fn documents(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("it can be listed").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() && !["target", ".git", "node_modules"].contains(&&*name) {
            documents(&path, found);
        } else if name.ends_with(".md") && name != "CHANGELOG.md" {
            found.push(path);
        }
    }
}

/// The commands of a document: lines of its examples, and code within its sentences, which may be wrapped.
fn commands(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut sentences = String::new();
    let mut is_example = false;
    let joined = document.replace("\\\n", " ");
    for line in joined.lines() {
        if line.trim_start().starts_with("```") {
            is_example = !is_example;
        } else if is_example {
            found.push(line.trim().trim_start_matches("$ ").to_owned());
        } else {
            sentences.push_str(line.trim());
            sentences.push(' ');
        }
    }
    found.extend(sentences.split('`').skip(1).step_by(2).map(str::to_owned));
    found.iter().filter_map(|command| arguments(command)).collect()
}

/// The arguments that a command line gives to this program, if it calls it.
fn arguments(command: &str) -> Option<String> {
    let program = match command.split_once("harness") {
        Some((before, _)) if before.trim_end().ends_with("-p") && before.contains("cargo run") => {
            return command.split_once(" -- ").map(|(_, rest)| rest.to_owned());
        }
        Some(("", rest)) => rest,
        _ => return None,
    };
    program.strip_prefix(' ').map(str::to_owned)
}

/// The words of a command line, up to a comment, a pipe or a redirection.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut is_word) = (String::new(), None, false);
    for c in line.chars().chain([' ']) {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => (quote, is_word) = (Some(c), true),
            (None, ' ') => {
                if is_word || !word.is_empty() {
                    if ["#", "|", ">", "2>", "&&", "&", ";"].contains(&word.as_str()) {
                        return words;
                    }
                    words.push(std::mem::take(&mut word));
                }
                is_word = false;
            }
            (_, c) => word.push(c),
        }
    }
    words
}

/// Whether the words only name a command, as sentences do: `harness check`.
fn is_name(words: &[String]) -> bool {
    let mut command = Cli::command();
    words.iter().all(|word| match command.find_subcommand(word).cloned() {
        Some(found) => {
            command = found;
            true
        }
        None => false,
    })
}

#[test]
fn every_documented_command_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut paths = Vec::new();
    documents(&root, &mut paths);
    let mut texts: Vec<(String, String)> = paths
        .iter()
        .map(|path| (path.display().to_string(), fs::read_to_string(path).expect("it is text")))
        .collect();
    let examples = AFTER_HELP.split_once("Examples:").expect("the help has examples").1;
    texts.push(("the help".to_owned(), format!("```\n{examples}\n```\n{AFTER_HELP}")));
    let (mut parsed, mut wrong) = (0, Vec::new());
    for (name, text) in &texts {
        for command in commands(text) {
            let words = words(&command);
            // `harness ...` stands for any arguments, and a variable of a loop for its values.
            let stands_for_more = |word: &String| ["...", "…"].contains(&&**word);
            let is_open = words.iter().any(|word| stands_for_more(word) || word.starts_with('$'));
            if words.is_empty() || is_open || is_name(&words) {
                continue;
            }
            let all = ["harness".to_owned()].into_iter().chain(words);
            match Cli::try_parse_from(all) {
                // Asking for the help or the version is understood.
                Err(error) if error.use_stderr() => {
                    wrong.push(format!("{name}: harness {command}\n{error}"));
                }
                _ => parsed += 1,
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(parsed > 60, "only {parsed} commands were found");
}

#[test]
fn commands_are_found_in_examples_and_in_sentences() {
    let document = "Use `harness check\nx.edn` or `cargo run`.\n```sh\n$ cargo run -q -p harness -- --seed 1 # one\n\
                    harness sim --seeds \\\n  '0..3' | less\nls\n```\n";
    let found: Vec<Vec<String>> = commands(document).iter().map(|line| words(line)).collect();
    assert_eq!(
        found,
        [vec!["--seed", "1"], vec!["sim", "--seeds", "0..3"], vec!["check", "x.edn"]]
    );
}
