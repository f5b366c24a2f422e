//! Request bodies: received within limits, and decompressed within the same limits.
//!
//! A delivery counts as in progress only once its body has arrived, so that slow senders hold up nobody. What they have
//! sent, and what it decompresses to, takes up part of a [`Room`] of bounded size until the delivery is answered.

use std::{
    collections::HashMap,
    io::{self, Read},
    num::NonZero,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use flate2::{
    bufread::GzDecoder,
    read::{DeflateDecoder, ZlibDecoder},
};
use futures::StreamExt;
use tokio::sync::Semaphore;

use super::Shared;
use crate::error::ApiError;

/// How many times larger a body may become by decompression. Batches of events shrink to a tenth or a thirtieth: each event has an
/// id and an address of its own. Deflate alone goes up to 1,032, so that strangers could have millions of bytes handled for the
/// price of a few thousand.
const MAX_RATIO: usize = 100;

/// Size up to which the ratio does not matter: what a small body costs is of no use to strangers.
const MIN_RATED_BYTES: usize = 64 * 1024;

/// The first bytes of each body, which never count against the room: more than one event of any provider takes. If
/// every connection sends a body, these are 64 MiB.
const FREE_BYTES: usize = 16 * 1024;

/// Number of full-length bodies that fit into the room: 320 MiB at the default length, a third of the memory that the
/// deployment gives the host.
const BODIES_IN_ROOM: usize = 64;

/// Number of providers that fill the room together, so that a single one leaves space for the others.
const PROVIDERS_IN_ROOM: usize = 4;

/// Memory budget for bodies in progress, beyond the first bytes of each.
pub(crate) struct Room {
    bytes: usize,
    /// Bytes taken, by provider. Only slugs of installed plugins are used as keys.
    taken: Mutex<HashMap<String, usize>>,
    /// Limits how many bodies are decompressed at once: one per core. More would hold threads that plugins need,
    /// without finishing sooner.
    unpacking: Arc<Semaphore>,
}

impl Room {
    /// Creates the room for bodies of at most this many bytes.
    pub(crate) fn for_bodies_of(max_body_bytes: usize) -> Self {
        Self {
            bytes: BODIES_IN_ROOM * max_body_bytes,
            taken: Mutex::default(),
            unpacking: Arc::new(Semaphore::new(
                thread::available_parallelism().map_or(1, NonZero::get),
            )),
        }
    }

    /// Takes space for more of a provider's bytes, if there is any.
    fn take(&self, provider: &str, more: usize) -> bool {
        let mut taken = self.taken();
        let of_all: usize = taken.values().sum();
        let of_provider = taken.get(provider).copied().unwrap_or_default();
        if of_all + more > self.bytes || of_provider + more > self.bytes / PROVIDERS_IN_ROOM {
            return false;
        }
        taken.insert(provider.to_owned(), of_provider + more);
        true
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, HashMap<String, usize>> {
        // No panic is possible while it is held.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The space taken by one body; released when the delivery is answered, or when its body fails to arrive.
pub(super) struct Place {
    room: Arc<Room>,
    provider: String,
    bytes: usize,
}

impl Place {
    /// Takes as much space as a body of this length needs.
    fn grow(&mut self, body_bytes: usize) -> bool {
        let more = body_bytes.saturating_sub(FREE_BYTES).saturating_sub(self.bytes);
        let has_room = more == 0 || self.room.take(&self.provider, more);
        if has_room {
            self.bytes += more;
        }
        has_room
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(taken) = self.room.taken().get_mut(&self.provider) {
            *taken -= self.bytes;
        }
    }
}

/// A body as it was sent.
pub(super) struct Received {
    bytes: Vec<u8>,
    encoding: Option<Encoding>,
    place: Place,
}

/// Receives a body for this provider. Temporary failures are answered with `unavailable`: some providers never repeat a
/// delivery that is answered with 4xx.
pub(super) async fn receive(
    app: &Shared,
    provider: &str,
    unavailable: StatusCode,
    headers: &HeaderMap,
    body: Body,
) -> Result<Received, ApiError> {
    let encoding = encoding(headers)?;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > app.max_body_bytes) {
        listener::discard(headers, body, app.body_timeout).await;
        return Err(ApiError::body_too_large(app.max_body_bytes));
    }
    let mut place = Place {
        room: Arc::clone(&app.room),
        provider: provider.to_owned(),
        bytes: 0,
    };
    let collect = collect(announced, body, app.max_body_bytes, &mut place, unavailable);
    let bytes = tokio::time::timeout(app.body_timeout, collect).await;
    let bytes = bytes.map_err(|_elapsed| {
        let message = "the body did not arrive in time: send the delivery again";
        ApiError::new(unavailable, "body_timed_out", message).retry_after(1)
    })??;
    Ok(Received {
        bytes,
        encoding,
        place,
    })
}

impl Received {
    /// Returns the body without its encoding, and its place in the room, to be kept as long as the body. Never holds
    /// more than the limit.
    pub(super) async fn decompressed(
        self,
        limit: usize,
        unavailable: StatusCode,
    ) -> Result<(Vec<u8>, Place), ApiError> {
        let Self {
            bytes,
            encoding,
            mut place,
        } = self;
        let Some(encoding) = encoding.filter(|_| !bytes.is_empty()) else {
            return Ok((bytes, place));
        };
        let turn = Arc::clone(&place.room.unpacking).acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        // Decompressing up to the limit takes milliseconds.
        let work = move || {
            let decompressed = decompress(&bytes, encoding, limit, &mut place, unavailable)?;
            drop(turn);
            Ok((decompressed, place))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(decompressed) => decompressed,
            Err(failure) => Err(if failure.is_panic() {
                ApiError::panicked()
            } else {
                ApiError::timed_out()
            }),
        }
    }
}

async fn collect(
    announced: Option<usize>,
    body: Body,
    limit: usize,
    place: &mut Place,
    unavailable: StatusCode,
) -> Result<Vec<u8>, ApiError> {
    // A sender that announces a large body has not sent it yet.
    let mut collected = Vec::with_capacity(announced.unwrap_or(0).min(FREE_BYTES));
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            let message = "the connection ended before the body was complete: send the delivery again";
            ApiError::new(unavailable, "body_incomplete", message)
        })?;
        let length = collected.len() + chunk.len();
        if length > limit {
            return Err(ApiError::body_too_large(limit));
        }
        if !place.grow(length) {
            return Err(ApiError::overloaded(unavailable));
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

/// Returns the encoding of a body, if it has one. Nobody is known to apply two.
fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, ApiError> {
    let unsupported = || {
        let message =
            "the body's encoding is not supported: send it plain, or with one of `gzip` and `deflate`";
        ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "encoding_unsupported",
            message,
        )
    };
    let mut encoding = None;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        for name in value.to_str().map_err(|_| unsupported())?.split(',') {
            let named = match name.trim().to_ascii_lowercase().as_str() {
                "" | "identity" => continue,
                "gzip" | "x-gzip" => Encoding::Gzip,
                "deflate" => Encoding::Deflate,
                _ => return Err(unsupported()),
            };
            if encoding.replace(named).is_some() {
                return Err(unsupported());
            }
        }
    }
    Ok(encoding)
}

fn decompress(
    body: &[u8],
    encoding: Encoding,
    limit: usize,
    place: &mut Place,
    unavailable: StatusCode,
) -> Result<Vec<u8>, ApiError> {
    let rated = (body.len() * MAX_RATIO).max(MIN_RATED_BYTES);
    let most = limit.min(rated);
    let decompressed = match encoding {
        Encoding::Gzip => read_capped(GzipMembers::of(body), most, place),
        // By the standard it is zlib; some clients send the bare stream.
        Encoding::Deflate => match read_capped(ZlibDecoder::new(body), most, place) {
            Err(Unread::Invalid) => read_capped(DeflateDecoder::new(body), most, place),
            read => read,
        },
    };
    match decompressed {
        Ok(bytes) if bytes.len() <= most => Ok(bytes),
        Ok(_) if most < limit => {
            let message =
                format!("the body decompresses to more than {MAX_RATIO} times its size: send it plain");
            Err(ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                message,
            ))
        }
        Ok(_) => Err(ApiError::body_too_large(limit)),
        Err(Unread::NoRoom) => Err(ApiError::overloaded(unavailable)),
        Err(Unread::Invalid) => {
            let message = "the body is not compressed as its header `content-encoding` says";
            Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "encoding_invalid",
                message,
            ))
        }
    }
}

/// Why a compressed body was not decompressed.
enum Unread {
    Invalid,
    NoRoom,
}

impl From<io::Error> for Unread {
    fn from(_: io::Error) -> Self {
        Self::Invalid
    }
}

/// Most members of a gzip body. Clients send one; the format allows any number, of which a quarter of a million that are empty fit
/// into a body, end at no other limit, and take the better part of a second.
const MOST_MEMBERS: u32 = 16;

/// Decompresses the members of a gzip body, one after the other.
struct GzipMembers<'a> {
    member: GzDecoder<&'a [u8]>,
    left: u32,
}

impl<'a> GzipMembers<'a> {
    fn of(body: &'a [u8]) -> Self {
        Self {
            member: GzDecoder::new(body),
            left: MOST_MEMBERS,
        }
    }
}

impl Read for GzipMembers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.member.read(buffer)?;
            let rest = *self.member.get_ref();
            if read > 0 || buffer.is_empty() || rest.is_empty() {
                return Ok(read);
            }
            self.left -= 1;
            if self.left == 0 {
                return Err(io::Error::other("too many members"));
            }
            self.member = GzDecoder::new(rest);
        }
    }
}

/// Reads up to one byte more than the limit, as long as the room has space for it.
fn read_capped(reader: impl Read, limit: usize, place: &mut Place) -> Result<Vec<u8>, Unread> {
    let mut reader = reader.take(limit as u64 + 1);
    let mut bytes = Vec::new();
    loop {
        // In pieces of the free size, so that a body that fits into it checks the room once.
        let read = reader.by_ref().take(FREE_BYTES as u64).read_to_end(&mut bytes)?;
        if read == 0 {
            return Ok(bytes);
        }
        if !place.grow(bytes.len()) {
            return Err(Unread::NoRoom);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::*;

    fn place_in(room: &Arc<Room>, provider: &str) -> Place {
        Place {
            room: Arc::clone(room),
            provider: provider.to_owned(),
            bytes: 0,
        }
    }

    /// Decompresses with enough space in the room.
    fn unpacked(body: &[u8], encoding: Encoding, limit: usize) -> Result<Vec<u8>, ApiError> {
        let room = Arc::new(Room::for_bodies_of(limit));
        let mut place = place_in(&room, "a");
        decompress(body, encoding, limit, &mut place, StatusCode::SERVICE_UNAVAILABLE)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_provider_gets_a_part_of_the_room_and_all_of_them_no_more_than_there_is() {
        let room = Arc::new(Room::for_bodies_of(100));
        let place = |provider| place_in(&room, provider);
        let mut first = place("a");
        assert!(first.grow(FREE_BYTES), "the first bytes are free");
        assert!(first.grow(FREE_BYTES + 1600));
        assert!(!first.grow(FREE_BYTES + 1601));
        assert!(!place("a").grow(FREE_BYTES + 1));
        assert!(place("a").grow(FREE_BYTES));
        let mut others = [place("b"), place("c"), place("d")];
        for other in &mut others {
            assert!(other.grow(FREE_BYTES + 1600));
        }
        assert!(!place("e").grow(FREE_BYTES + 1));
        drop(first);
        assert!(place("e").grow(FREE_BYTES + 1600));
        assert!(place("a").grow(FREE_BYTES + 1600));
    }

    #[test]
    fn undoes_what_the_header_says() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(b"hello").unwrap();
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
        bare.write_all(b"hello").unwrap();
        let undone = |body: Vec<u8>, encoding| unpacked(&body, encoding, 100).unwrap();
        assert_eq!(undone(gzip(b"hello"), Encoding::Gzip), b"hello");
        assert_eq!(undone(zlib.finish().unwrap(), Encoding::Deflate), b"hello");
        assert_eq!(undone(bare.finish().unwrap(), Encoding::Deflate), b"hello");
        let error = unpacked(b"hello", Encoding::Gzip, 100).unwrap_err();
        assert_eq!(error.code, "encoding_invalid");
    }

    #[test]
    fn a_gzip_body_may_have_some_members() {
        let most = usize::try_from(MOST_MEMBERS).unwrap();
        let of = |members| unpacked(&gzip(b"hi").repeat(members), Encoding::Gzip, 100);
        assert_eq!(of(most).unwrap(), b"hi".repeat(most));
        assert_eq!(of(most + 1).unwrap_err().code, "encoding_invalid");
        let trailing = [gzip(b"hi"), b"rest".to_vec()].concat();
        let error = unpacked(&trailing, Encoding::Gzip, 100).unwrap_err();
        assert_eq!(error.code, "encoding_invalid");
    }

    #[test]
    fn stops_at_the_limit() {
        let bomb = gzip(&vec![0; 1_000_000]);
        assert!(bomb.len() < 2000);
        assert_eq!(
            unpacked(&bomb, Encoding::Gzip, 1000).unwrap_err().status,
            StatusCode::PAYLOAD_TOO_LARGE
        );
        assert_eq!(
            unpacked(&gzip(&[0; 1000]), Encoding::Gzip, 1000).unwrap().len(),
            1000
        );
    }

    #[test]
    fn stops_at_a_ratio_that_no_events_reach() {
        let limit = 5_000_000;
        let of_zeros = |length| unpacked(&gzip(&vec![0; length]), Encoding::Gzip, limit);
        assert_eq!(of_zeros(MIN_RATED_BYTES).unwrap().len(), MIN_RATED_BYTES);
        let error = of_zeros(1_000_000).unwrap_err();
        assert_eq!(
            (error.status, error.code),
            (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large")
        );
        assert!(error.message().contains("100 times"), "{}", error.message());
        let events: String = (0..10_000)
            .map(|n| {
                format!(
                    "{{\"event\":\"delivered\",\"email\":\"user{n}@example.com\",\"sg_event_id\":\"{n:x}\"}},"
                )
            })
            .collect();
        let packed = gzip(events.as_bytes());
        assert!(
            events.len() > 5 * packed.len(),
            "{} of {}",
            packed.len(),
            events.len()
        );
        assert_eq!(
            unpacked(&packed, Encoding::Gzip, limit).unwrap(),
            events.as_bytes()
        );
    }
}
