//! Compares the SDK's form decoder with `form_urlencoded`, and its reader of multipart forms with what was written.

use sendflowr_plugin_sdk::{Form, Header, Request, form::decode_pairs};

/// Reads the bytes as a form of either kind.
pub fn run(bytes: &[u8]) {
    let theirs: Vec<(String, String)> = form_urlencoded::parse(bytes).into_owned().collect();
    assert_eq!(decode_pairs(bytes), theirs);

    // As a field of a form that is built here, and must be read back.
    let text = String::from_utf8_lossy(bytes);
    if !format!("\r\n{text}").contains("\r\n--b0undary") {
        let body = format!(
            "--b0undary\r\nContent-Disposition: form-data; name=\"field\"\r\n\r\n{text}\r\n--b0undary--\r\n"
        );
        let form =
            read("multipart/form-data; boundary=b0undary", body.as_bytes()).expect("it is well formed");
        assert_eq!(form, [("field".to_owned(), text.into_owned())]);
    }
    // As a form as they are: the first line is the content type.
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(bytes.len());
    let content_type = String::from_utf8_lossy(&bytes[..end]);
    read(content_type.trim_end(), bytes.get(end + 1..).unwrap_or_default());
}

fn read(content_type: &str, body: &[u8]) -> Option<Vec<(String, String)>> {
    let form = Form::of(&Request {
        method: "POST".to_owned(),
        path: String::new(),
        query: String::new(),
        headers: vec![Header {
            name: "content-type".to_owned(),
            value: content_type.to_owned(),
        }],
        body: body.to_vec(),
        received_at_ms: 0,
        settings: Vec::new(),
        secrets: Vec::new(),
    });
    form.ok().map(|form| form.fields().to_vec())
}
