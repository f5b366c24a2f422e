//! Sends texts of every length through a compiled plugin: there, the SDK reads and copies them in blocks, with instructions that
//! its own tests, compiled for this machine, do not have.

use std::{fmt::Write, sync::Arc};

use host::plugin::{
    Limits, Plugins,
    types::{Outcome, Request},
};
use integration_tests::plugins;

/// Longer than every size that has code of its own.
const LENGTHS: usize = 200;

fn request(body: Vec<u8>) -> Request {
    Request {
        method: "POST".to_owned(),
        path: "/webhooks/sendgrid".to_owned(),
        query: String::new(),
        headers: Vec::new(),
        body,
        received_at_ms: 1_760_000_000_000,
        settings: Vec::new(),
        secrets: Vec::new(),
    }
}

#[test]
fn texts_of_every_length_come_out_as_they_went_in() {
    let plugin = Plugins::load_file(&plugins().join("sendgrid.wasm"), &Limits::default()).expect("it loads");
    let mut texts = Vec::new();
    for length in 0..LENGTHS {
        let distinct: String = (0..length)
            .map(|place| char::from(b'a' + (place % 26) as u8))
            .collect();
        texts.push((distinct.clone(), distinct.clone()));
        texts.push((format!("{distinct}é"), format!("{distinct}é")));
        texts.push((format!("é{distinct}"), format!("é{distinct}")));
        // As JSON, and its meaning.
        texts.push((
            format!("{distinct}\\\"{distinct}"),
            format!("{distinct}\"{distinct}"),
        ));
    }
    let mut body = String::from("[");
    for (written, _) in &texts {
        let comma = if body.len() > 1 { "," } else { "" };
        let _ = write!(
            body,
            r#"{comma}{{"email":"ann@example.com","timestamp":1760000000,"event":"open","n{written}":"{written}"}}"#
        );
    }
    body.push(']');
    let measured = plugin
        .measure(&Arc::new(request(body.into_bytes())))
        .expect("it answers");
    let Ok(Outcome::Events(batch)) = measured.outcome else {
        panic!("{:?}", measured.outcome);
    };
    assert_eq!(batch.events.len(), texts.len());
    for (event, (_, text)) in batch.events.iter().zip(&texts) {
        let [pair] = &event.metadata[..] else {
            panic!("{event:?}");
        };
        assert_eq!((&pair.name, &pair.value), (&format!("n{text}"), text));
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_wherever_they_stand() {
    let plugin = Plugins::load_file(&plugins().join("sendgrid.wasm"), &Limits::default()).expect("it loads");
    for place in 0..LENGTHS {
        for bytes in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80"] {
            let mut body = vec![b'['; 1];
            body.extend(vec![b' '; place]);
            body.extend(bytes);
            body.extend(vec![b' '; 70]);
            body.push(b']');
            let outcome = plugin
                .measure(&Arc::new(request(body)))
                .expect("it answers")
                .outcome;
            let told = format!("{outcome:?}");
            assert!(told.contains("the body is not UTF-8"), "{place}: {told}");
        }
    }
}
