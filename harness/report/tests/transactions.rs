//! The kept pages of the kept histories of transactions, one for each anomaly: they are what is rendered today.
//! `PAGES=write cargo test -p report --test transactions` writes them anew.

use std::{env, fs, path::Path};

use checker::{
    Validity,
    file::{FileCheckOptions, check_file},
};

#[test]
fn the_kept_pages_are_up_to_date_and_draw_every_edge() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../histories/golden/transactions");
    let histories = fs::read_dir(&root).expect("it can be listed").filter_map(|entry| {
        let path = entry.expect("it can be listed").path();
        let is_history = path.extension().is_some_and(|extension| extension == "edn");
        let is_twin = path.to_string_lossy().ends_with("-valid.edn");
        (is_history && !is_twin).then_some(path)
    });
    let mut drawn = 0;
    for path in histories {
        let claim = Some("strict-serializable".parse().expect("a level"));
        let options = FileCheckOptions { claim, ..FileCheckOptions::default() };
        let report = check_file(&path, &options).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(report.verdict, Validity::Invalid, "{}", path.display());
        let transactions = report.transactions.expect("it consists of transactions");
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let page = report::transactions::page(&name, report.verdict, &transactions);
        for anomaly in &transactions.anomalies {
            assert!(page.contains(&format!("<h2>{}", anomaly.name)), "{name}: {}", anomaly.name);
            for edge in &anomaly.edges {
                let why = &edge.why.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                // In words, and as the title of its number in the drawing.
                assert!(
                    !why.is_empty() && page.matches(why.as_str()).count() >= 2,
                    "{name}: {why}"
                );
            }
            drawn += anomaly.edges.len();
        }
        let kept = root.join("pages").join(format!("{name}.html"));
        if env::var("PAGES").is_ok_and(|text| text == "write") {
            fs::write(&kept, &page).expect("written");
        }
        let is_same = fs::read_to_string(&kept).is_ok_and(|text| text == page);
        assert!(is_same, "{} is not what is rendered: PAGES=write writes it", kept.display());
    }
    assert!(drawn >= 20, "{drawn} edges");
}
