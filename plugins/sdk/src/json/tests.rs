use super::*;
use crate::time;

fn parse(text: &str) -> Document<'_> {
    Document::parse(text.as_bytes()).unwrap()
}

#[test]
fn numbers_survive_digit_by_digit() {
    let document = parse(r#"{"id": 84345317653491230123456789, "price": 1.50, "e": -1E+5, "zero": 0}"#);
    let root = document.root();
    assert_eq!(root.text("id").as_deref(), Some("84345317653491230123456789"));
    assert_eq!(root.text("price").as_deref(), Some("1.50"));
    assert_eq!(root.get("e").to_metadata().as_deref(), Some("-1E+5"));
    assert_eq!((root.text("zero").as_deref(), root.id("zero")), (Some("0"), None));
}

#[test]
fn missing_null_and_blank_read_alike() {
    let document = parse(r#"{"null": null, "blank": "  ", "list": [], "text": "x"}"#);
    let root = document.root();
    for name in ["null", "blank", "list", "absent"] {
        assert_eq!(root.text(name), None, "{name}");
        assert_eq!(root.str(name), "", "{name}");
    }
    assert!(root.get("absent").get("deeper").element(3).is_null());
    assert!(root.get("text").get("deeper").is_null());
    assert!(root.get("absent").is_missing() && !root.get("null").is_missing());
    assert_eq!(root.first_text(["absent", "blank", "text"]).as_deref(), Some("x"));
    assert_eq!(root.get("blank").string().as_deref(), Some("  "));
}

#[test]
fn a_large_text_of_nothing_but_short_values_is_malformed() {
    let zeros = format!("[{}0]", "0,".repeat(200_000));
    for body in [
        zeros.clone(),
        format!(r#"{{"a":{zeros}}}"#),
        format!(r#"{{{}"":0}}"#, r#""":0,"#.repeat(200_000)),
    ] {
        let malformed = Document::parse(body.as_bytes()).map(|_| ());
        assert!(
            matches!(&malformed, Err(Rejection::Malformed(text)) if text.contains("too many values")),
            "{malformed:?}"
        );
    }
    let inside = for_each_element(format!("[{zeros}]").as_bytes(), |_, _| ());
    assert!(matches!(inside, Err(Rejection::Malformed(_))), "{inside:?}");
    // A text denser than any payload, and a small text of any density.
    let dense = format!("[{}0]", "1234,".repeat(200_000));
    let document = Document::parse(dense.as_bytes()).unwrap();
    assert_eq!(document.root().elements().count(), 200_001);
    // The initial room had to be doubled once, and no more.
    assert_eq!(document.nodes.capacity(), 2 * (dense.len() / 8));
    let small = format!("[{}0]", "0,".repeat(60_000));
    assert!(Document::parse(small.as_bytes()).is_ok());
}

#[test]
fn escapes_are_decoded() {
    let document = parse(r#"{"a\u0062": "\"\\\/\b\f\n\r\t\u00fc\ud83d\ude00 \ud83d \ude00x\u0000"}"#);
    let text = document.root().text("ab").unwrap();
    assert_eq!(text, "\"\\/\u{8}\u{c}\n\r\tü😀 \u{fffd} \u{fffd}x\0");
}

#[test]
fn strings_end_where_they_end_at_every_alignment() {
    for length in 0..40 {
        let plain = "é".repeat(length / 2) + &"x".repeat(length % 2);
        let escaped = plain.clone() + "\\\"" + &plain;
        let text = format!(r#"["{plain}","{escaped}",1]"#);
        let document = parse(&text);
        let strings: Vec<_> = document
            .root()
            .elements()
            .map(|value| value.string().unwrap_or_default())
            .collect();
        assert_eq!(
            strings,
            [plain.clone(), format!("{plain}\"{plain}"), String::new()]
        );
    }
}

#[test]
fn the_last_of_a_repeated_name_counts() {
    assert_eq!(
        parse(r#"{"a": 1, "b": {"a": 9}, "\u0061": 2}"#)
            .root()
            .text("a")
            .as_deref(),
        Some("2")
    );
}

#[test]
fn lists_flags_and_times() {
    let document = parse(
        r#"{"one": "x", "many": ["a", 5, "", null, {"b": 1}, "c"], "no": {}, "t": "TRUE", "f": false,
            "at": 1529006854.329574, "text": "1529006854"}"#,
    );
    let root = document.root();
    assert_eq!(root.list("one"), ["x"]);
    assert_eq!(root.list("many"), ["a", "5", "c"]);
    assert_eq!(root.list("no"), [""; 0]);
    assert!(root.is_true("t") && !root.is_true("f") && !root.is_true("one"));
    assert_eq!(root.get("f").as_bool(), Some(false));
    assert_eq!(root.time("at", time::seconds), Some(1_529_006_854_329));
    assert_eq!(root.time("text", time::seconds), Some(1_529_006_854_000));
    assert_eq!(root.time("many", time::seconds), None);
}

#[test]
fn metadata_is_text() {
    let document = parse(
        "{\"s\": \" as is \", \"n\": 1.50, \"b\": true, \"z\": null, \"e\": \"\",
          \"o\": { \"x\" : [ 1 , \"\\u00e9\\/\\u0001\\\"\" , null, { } ] , \"y\" : false }}",
    );
    let pairs: Vec<_> = document
        .root()
        .to_pairs()
        .into_iter()
        .map(|pair| (pair.name, pair.value))
        .collect();
    let expected = [
        ("s", " as is "),
        ("n", "1.50"),
        ("b", "true"),
        ("e", ""),
        ("o", "{\"x\":[1,\"é/\\u0001\\\"\",null,{}],\"y\":false}"),
    ];
    assert_eq!(
        pairs,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!(parse("[1]").root().to_pairs(), []);
}

#[test]
fn agrees_with_another_parser_on_what_is_json() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "[",
        "[1,]",
        "[,1]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\":1 \"b\":2}",
        "01",
        "1.",
        ".1",
        "-",
        "+1",
        "1e",
        "1e+",
        "1.5e-3",
        "-0",
        "nul",
        "nullx",
        "true",
        "tru",
        "\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\u1234\"",
        "\"\t\"",
        "\"a\u{1}bcdefgh\"",
        "\"\u{7f}\"",
        "[1]]",
        "[1] 2",
        "[[[]]]",
        "{\"\":{}}",
        "NaN",
        "'a'",
        "[1,2,3]\r\n",
        "\u{a0}1",
        "[\"a\",\"b]",
        "\"\\",
        "\"\\u12",
    ] {
        let ours = Document::parse(text.as_bytes()).is_ok();
        assert_eq!(
            ours,
            serde_json::from_str::<serde_json::Value>(text).is_ok(),
            "{text:?}"
        );
    }
}

#[test]
fn every_prefix_and_every_changed_byte_is_read_or_refused() {
    let text = r#"[{"a": "\u00e9\n", "b": [1.5e3, null, true, false, {"c": "d\"é"}], "e": -7}, {}, []]"#;
    let touch = |body: &[u8]| {
        if let Ok(document) = Document::parse(body) {
            document.root().to_metadata();
        }
        let _ = for_each_element(body, |_, value| {
            drop((value.to_metadata(), value.to_list(), value.text("b")))
        });
    };
    for end in 0..text.len() {
        touch(&text.as_bytes()[..end]);
        for byte in [b'"', b'\\', b'{', b']', b',', b'u', 0, 0xff] {
            let mut changed = text.as_bytes().to_vec();
            changed[end] = byte;
            touch(&changed);
        }
    }
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(Document::parse(nested(128).as_bytes()).is_ok());
    for depth in [129, 1_000_000] {
        let refused = Document::parse(nested(depth).as_bytes()).unwrap_err();
        assert!(matches!(refused, Rejection::Malformed(text) if text.contains("nested too deeply")));
    }
}

#[test]
fn faults_tell_where_and_never_what() {
    let Err(Rejection::Malformed(text)) = Document::parse(b"{\"email\": ann@example.com}") else {
        panic!()
    };
    assert_eq!(text, "the body is not JSON: a value expected at byte 10");
    assert!(
        matches!(Document::parse(b"\"\xff\""), Err(Rejection::Malformed(text)) if text.contains("UTF-8"))
    );
}

#[test]
fn a_byte_order_mark_is_no_content() {
    assert!(Document::parse(b"\xef\xbb\xbf{}").unwrap().root().is_object());
}

#[test]
fn elements_are_visited_in_order() {
    let mut seen = Vec::new();
    for_each_element(b" [ 1 , {\"a\": [2]} , \"x\" ] ", |index, value| {
        seen.push((index, value.to_metadata()))
    })
    .unwrap();
    let expected = [(0, "1"), (1, "{\"a\":[2]}"), (2, "x")];
    assert_eq!(seen, expected.map(|(index, text)| (index, Some(text.to_owned()))));
}

#[test]
fn an_object_in_a_text_is_metadata() {
    let pairs = |text: &str| pairs_in(text).map(|pairs| pairs.len());
    assert_eq!(pairs(r#"{"a":1,"b":null,"c":"x"}"#), Some(2));
    assert_eq!(pairs("{}"), Some(0));
    for other in ["", "plain", "[1]", r#""{}""#, "{"] {
        assert_eq!(pairs(other), None, "{other}");
    }
}
