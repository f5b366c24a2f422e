//! Bodies: read within limits, decompressed within the same limits.

use std::io::{self, Read};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use futures::StreamExt;

use super::Shared;
use crate::error::ApiError;

/// Encodings one over the other. One is what anybody uses.
const MAX_ENCODINGS: usize = 2;

/// The whole body, decompressed. Never holds more than the limit.
pub(super) async fn read(app: &Shared, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, ApiError> {
    let limit = app.max_body_bytes;
    let encodings = encodings(headers)?;
    let read = tokio::time::timeout(app.body_timeout, collect(headers, body, limit)).await;
    let body = read.map_err(|_elapsed| {
        let message = "the body did not arrive in time";
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timed_out", message)
    })??;
    if encodings.is_empty() || body.is_empty() {
        return Ok(body);
    }
    // A few bytes may decompress to the limit, which takes milliseconds.
    match tokio::task::spawn_blocking(move || decompress(body, &encodings, limit)).await {
        Ok(decompressed) => decompressed,
        Err(failure) => Err(if failure.is_panic() {
            ApiError::panicked()
        } else {
            ApiError::timed_out()
        }),
    }
}

async fn collect(headers: &HeaderMap, body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > limit) {
        return Err(ApiError::body_too_large(limit));
    }
    let mut collected = Vec::with_capacity(announced.unwrap_or(0));
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                "body_incomplete",
                "the connection ended within the body",
            )
        })?;
        if collected.len() + chunk.len() > limit {
            return Err(ApiError::body_too_large(limit));
        }
        collected.extend_from_slice(&chunk);
    }
    Ok(collected)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Deflate,
}

/// The encodings of a body in the order in which they were applied.
fn encodings(headers: &HeaderMap) -> Result<Vec<Encoding>, ApiError> {
    let unsupported = || {
        let message = "the body's encoding is not supported: send it plain, or as `gzip` or `deflate`";
        ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "encoding_unsupported",
            message,
        )
    };
    let mut encodings = Vec::new();
    for value in headers.get_all(header::CONTENT_ENCODING) {
        for name in value.to_str().map_err(|_| unsupported())?.split(',') {
            match name.trim().to_ascii_lowercase().as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" => encodings.push(Encoding::Gzip),
                "deflate" => encodings.push(Encoding::Deflate),
                _ => return Err(unsupported()),
            }
        }
    }
    if encodings.len() > MAX_ENCODINGS {
        Err(unsupported())
    } else {
        Ok(encodings)
    }
}

fn decompress(mut body: Vec<u8>, encodings: &[Encoding], limit: usize) -> Result<Vec<u8>, ApiError> {
    for encoding in encodings.iter().rev() {
        let decompressed = match encoding {
            Encoding::Gzip => read_capped(MultiGzDecoder::new(body.as_slice()), limit),
            // By the book it is zlib; some clients send the bare stream.
            Encoding::Deflate => read_capped(ZlibDecoder::new(body.as_slice()), limit)
                .or_else(|_| read_capped(DeflateDecoder::new(body.as_slice()), limit)),
        };
        let decompressed = decompressed.map_err(|_| {
            let message = "the body is not compressed as its header `content-encoding` says";
            ApiError::new(StatusCode::BAD_REQUEST, "encoding_invalid", message)
        })?;
        if decompressed.len() > limit {
            return Err(ApiError::body_too_large(limit));
        }
        body = decompressed;
    }
    Ok(body)
}

/// Reads up to one byte more than the limit.
fn read_capped(reader: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn undoes_what_the_header_says() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(b"hello").unwrap();
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
        bare.write_all(b"hello").unwrap();
        let undone = |body, encodings: &[Encoding]| decompress(body, encodings, 100).unwrap();
        assert_eq!(undone(gzip(b"hello"), &[Encoding::Gzip]), b"hello");
        assert_eq!(undone(zlib.finish().unwrap(), &[Encoding::Deflate]), b"hello");
        assert_eq!(undone(bare.finish().unwrap(), &[Encoding::Deflate]), b"hello");
        assert_eq!(
            undone(gzip(&gzip(b"hello")), &[Encoding::Gzip, Encoding::Gzip]),
            b"hello"
        );
        let error = decompress(b"hello".to_vec(), &[Encoding::Gzip], 100).unwrap_err();
        assert_eq!(error.code, "encoding_invalid");
    }

    #[test]
    fn stops_at_the_limit() {
        let bomb = gzip(&vec![0; 1_000_000]);
        assert!(bomb.len() < 2000);
        assert_eq!(
            decompress(bomb, &[Encoding::Gzip], 1000).unwrap_err().status,
            StatusCode::PAYLOAD_TOO_LARGE
        );
        assert_eq!(
            decompress(gzip(&[0; 1000]), &[Encoding::Gzip], 1000)
                .unwrap()
                .len(),
            1000
        );
    }
}
