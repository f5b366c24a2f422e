//! Checks that a process that is killed while it works loses nothing that it acknowledged.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use sendflowr_store::{bus::Bus, testing::commit_returned};

use crate::support::{next, open_bus, record};

/// Environment variable with the folder of the process to be killed.
const FOLDER: &str = "STORE_TEST_CRASH_FOLDER";

/// Not a test by itself: appends from eight tasks and reads with commits, printing what was acknowledged, until it is killed.
#[tokio::test]
#[ignore = "run by `killed_in_the_middle_nothing_acknowledged_is_lost` in a process of its own"]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let bus = Arc::new(open_bus(Path::new(&folder)).await);
    let mut tasks = Vec::new();
    for task in 0..8 {
        let bus = Arc::clone(&bus);
        tasks.push(tokio::spawn(async move {
            for n in 0.. {
                let value = format!("{task}-{n}");
                bus.append(vec![record("t", value.as_str())]).await.unwrap();
                println!("\nacknowledged {value}");
            }
        }));
    }
    let mut subscription = bus.subscribe("g", &["t"]).await.unwrap();
    loop {
        let records = subscription.poll(50, Duration::from_millis(100)).await.unwrap();
        commit_returned(subscription.as_mut(), &["t"]).await.unwrap();
        if let Some(last) = records.last() {
            println!("\ncommitted {}", last.position.offset);
        }
    }
}

#[tokio::test]
async fn killed_in_the_middle_nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["crash::child", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    let mut committed = None;
    for line in BufReader::new(process.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(value) = line.strip_prefix("acknowledged ") {
            acknowledged.push(value.to_owned());
        }
        if let Some(offset) = line.strip_prefix("committed ") {
            committed = Some(offset.parse::<u64>().unwrap());
        }
        if acknowledged.len() >= 500 && committed.is_some() {
            // What it still writes into the pipe was acknowledged as well, so the pipe is read to its end.
            process.kill().unwrap();
        }
    }
    process.wait().unwrap();
    assert!(acknowledged.len() >= 500);

    let bus = open_bus(folder.path()).await;
    let mut fresh = bus.subscribe("fresh", &["t"]).await.unwrap();
    let mut times_found: HashMap<String, usize> = HashMap::new();
    while bus.lag("fresh", &["t"]).await.unwrap()[0].records > 0 {
        for record in next(fresh.as_mut()).await {
            *times_found
                .entry(String::from_utf8(record.value).unwrap())
                .or_default() += 1;
        }
        commit_returned(fresh.as_mut(), &["t"]).await.unwrap();
    }
    for value in &acknowledged {
        assert_eq!(times_found.get(value), Some(&1), "{value}");
    }

    // The killed member's lease expires, and its group continues after the last commit that it reported.
    bus.append(vec![record("t", "after")]).await.unwrap();
    let mut successor = bus.subscribe("g", &["t"]).await.unwrap();
    let goes_on_at = next(successor.as_mut()).await[0].position.offset;
    let committed = committed.unwrap();
    assert!(goes_on_at > committed, "{goes_on_at} after {committed}");
}
