//! Compiled plugins of every released contract, run in today's host.

use std::{fs, path::Path, time::SystemTime};

use event::Timestamp;
use host::{
    cases::{Case, run_case},
    plugin::{Limits, Plugins},
};
use integration_tests::repository;

#[tokio::test]
async fn golden_plugins_load_and_answer_as_they_did() {
    let mut versions = 0;
    for folder in fs::read_dir(repository().join("tests/golden")).expect("they are there") {
        let folder = folder.expect("they are there").path();
        if !folder.is_dir() {
            continue;
        }
        versions += 1;
        let mut components = 0;
        for file in fs::read_dir(&folder).expect("a folder") {
            let file = file.expect("a folder").path();
            if file.extension().is_some_and(|extension| extension == "wasm") {
                components += 1;
                answers_as_it_did(&file).await;
            }
        }
        assert!(
            components >= 2,
            "{} components in {}",
            components,
            folder.display()
        );
    }
    assert!(versions >= 1, "no golden plugins");
}

async fn answers_as_it_did(file: &Path) {
    let folder = file.parent().expect("a file is in a folder");
    let contract = folder
        .file_name()
        .expect("a version")
        .to_string_lossy()
        .into_owned();
    let slug = file.file_stem().expect("a slug").to_string_lossy().into_owned();
    let limits = Limits::default();
    let (plugin, examination) =
        Plugins::examine(file, &limits).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert_eq!(examination.contract, contract);
    assert_eq!(plugin.descriptor().slug, slug);
    let mut events = 0;
    let cases = fs::read_dir(folder.join("cases").join(&slug)).expect("its cases are beside it");
    for case in cases {
        let path = case.expect("its cases are beside it").path();
        let case = Case::from_json(&fs::read(&path).expect("a case is readable")).expect("a case is one");
        let result = run_case(&plugin, &case, Timestamp::from(SystemTime::now())).await;
        assert!(result.pass, "{}: {:?}", path.display(), result.diff);
        events += case.expect.events.map_or(0, |events| events.len());
    }
    assert!(events > 0, "no case of `{slug}` gives an event");
}
